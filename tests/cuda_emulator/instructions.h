// Twins of the functions of csrc/cuda/platform.cuh, which documents them.
#pragma once

#include "builtins.h"
#include "simd/number.h"

namespace emulator {

inline void require_aligned(const void* place, std::size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(place) % bytes != 0) fail("%s: %p isn't a multiple of %zu", what, place, bytes);
}

inline void require_shared(const void* place, std::size_t bytes, const char* what) {
  if (!is_shared(place, bytes)) fail("%s: %zu bytes at %p aren't in shared memory", what, bytes, place);
}

inline void move(const Copy& copy) { std::memcpy(copy.to, copy.from, 16); }

// A lane's part of the operands of a product.
struct Operands {
  uint32_t a[4], b[2];
};

}  // namespace emulator

namespace unitok {

template <class Vector>
Vector load_vector(const void* from) {
  emulator::require_aligned(from, sizeof(Vector), "load_vector");
  Vector value;
  std::memcpy(&value, from, sizeof(Vector));
  return value;
}

template <class Vector>
void store_vector(void* to, const Vector& value) {
  emulator::require_aligned(to, sizeof(Vector), "store_vector");
  std::memcpy(to, &value, sizeof(Vector));
  if (sizeof(Vector) == 16 && emulator::is_shared(to, 16)) emulator::self->written.push_back(to);
}

// Copies as late as allowed: until then the memory is poisoned.
inline void copy_async(void* shared, const void* global) {
  emulator::require_aligned(shared, 16, "copy_async");
  emulator::require_aligned(global, 16, "copy_async");
  emulator::require_shared(shared, 16, "copy_async");
  if (emulator::is_shared(global, 1)) emulator::fail("copy_async: the source is in shared memory");
  const uint16_t p = emulator::kPoison;
  const uint16_t nothing[8] = {p, p, p, p, p, p, p, p};
  std::memcpy(shared, nothing, 16);
  emulator::self->copies.push_back({shared, global});
}

inline void copy_async_commit() {
  std::vector<std::size_t>& groups = emulator::self->groups;
  std::size_t closed = 0;
  for (const std::size_t size : groups) closed += size;
  groups.push_back(emulator::self->copies.size() - closed);
}

template <int Pending>
void copy_async_wait() {
  std::vector<std::size_t>& groups = emulator::self->groups;
  std::vector<emulator::Copy>& copies = emulator::self->copies;
  while (groups.size() > Pending) {
    const auto end = copies.begin() + static_cast<std::ptrdiff_t>(groups.front());
    std::for_each(copies.begin(), end, emulator::move);
    for (auto copy = copies.begin(); copy != end; ++copy) emulator::self->written.push_back(copy->to);
    copies.erase(copies.begin(), end);
    groups.erase(groups.begin());
  }
}

inline void multiply_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        emulator::Site site = emulator::Site::here()) {
  emulator::Operands mine;
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  const emulator::Values<emulator::Operands> all(~0u, mine, "multiply_s8", site);
  const int lane = emulator::self->lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    for (int word = 0; word < 8; ++word) {
      const uint32_t of_row = all.of(row % 8 * 4 + word % 4).a[row / 8 + word / 4 * 2];
      const uint32_t of_column = all.of(column * 4 + word % 4).b[word / 4];
      c[i] = __dp4a(static_cast<int>(of_row), static_cast<int>(of_column), c[i]);
    }
  }
}

inline void load_matrices(const void* row, uint32_t (&words)[4], emulator::Site site = emulator::Site::here()) {
  emulator::require_aligned(row, 16, "load_matrices");
  emulator::require_shared(row, 16, "load_matrices");
  const emulator::Values<const void*> rows(~0u, row, "load_matrices", site);
  const int lane = emulator::self->lane();
  for (int i = 0; i < 4; ++i)
    std::memcpy(&words[i], static_cast<const char*>(rows.of(8 * i + lane / 4)) + 4 * (lane % 4), 4);
}

// As far below the root as a device may be, since bounds are computed from it.
inline float rough_sqrt(float x) { return std::sqrt(x) * (1 - 0x1p-23f); }

inline float widen_f16(uint16_t bits) { return from_f16(bits); }
inline uint16_t narrow_f16(float x) { return to_f16(x); }
inline float widen_bf16(uint16_t bits) { return from_bf16(bits); }
inline uint16_t narrow_bf16(float x) { return to_bf16(x); }

}  // namespace unitok

// Twins of the functions of csrc/cuda/platform.cuh, which says what they do.
#pragma once

#include "builtins.h"
#include "number.h"

namespace emulator {

inline void require_aligned(const void* place, std::size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(place) % bytes != 0) fail("%s: %p isn't a multiple of %zu", what, place, bytes);
}

inline void require_shared(const void* place, std::size_t bytes, const char* what) {
  if (!is_shared(place, bytes)) fail("%s: %zu bytes at %p aren't in shared memory", what, bytes, place);
}

inline void move(const Copy& copy) {
  unsigned char bytes[16] = {};
  std::memcpy(bytes, copy.from, static_cast<std::size_t>(copy.bytes));
  std::memcpy(copy.to, bytes, 16);
}

// Lane's part of the operands of a product, and the words of a row or column of theirs.
struct Operands {
  uint32_t a[4], b[2];
};

struct Words {
  uint32_t a[8], b[8];
};

int32_t dot_s8(int32_t total, const Words& words);
float dot_bf16(float total, const Words& words);
float dot_tf32(float total, const Words& words);

template <class T, class Dot>
void multiply(T (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* what, Site site, Dot dot) {
  Operands mine;
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  const Values<Operands> all(~0u, mine, what, site);
  const int lane = self->lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    Words words;
    for (int word = 0; word < 8; ++word) {
      words.a[word] = all.of(row % 8 * 4 + word % 4).a[row / 8 + word / 4 * 2];
      words.b[word] = all.of(column * 4 + word % 4).b[word / 4];
    }
    c[i] = dot(c[i], words);
  }
}

struct MatrixRow {
  uint16_t values[8];
};

template <class Pick>
void load_matrices(uint32_t (&to)[4], const void* row, const char* what, Site site, Pick pick) {
  require_aligned(row, 16, what);
  require_shared(row, 16, what);
  MatrixRow mine;
  std::memcpy(&mine, row, 16);
  const Values<MatrixRow> rows(~0u, mine, what, site);
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto at = [&](int i, int j) { return uint32_t{rows.of(8 * matrix + i).values[j]}; };
    to[matrix] = pick(at, self->lane() / 4, 2 * (self->lane() % 4));
  }
}

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
}

// As late as can be: until then nobody can count on what is there.
inline void copy_async(void* shared, const void* global, int bytes) {
  emulator::require_aligned(shared, 16, "copy_async");
  emulator::require_aligned(global, 16, "copy_async");
  emulator::require_shared(shared, 16, "copy_async");
  if (bytes < 0 || bytes > 16) emulator::fail("copy_async: of 16 bytes %d can't be read", bytes);
  if (bytes > 0 && emulator::is_shared(global, 1)) emulator::fail("copy_async: the source is in shared memory");
  const uint16_t p = emulator::kPoison;
  const uint16_t nothing[8] = {p, p, p, p, p, p, p, p};
  std::memcpy(shared, nothing, 16);
  emulator::self->copies.push_back({shared, global, bytes});
}

inline void copy_async(void* shared, const void* global) { copy_async(shared, global, 16); }

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
    copies.erase(copies.begin(), end);
    groups.erase(groups.begin());
  }
}

inline void named_barrier(int id, int threads, emulator::Site site = emulator::Site::here()) {
  if (id < 1 || id > 15 || threads < 32 || threads % 32 != 0)
    emulator::fail("named_barrier: there is no barrier %d of %d threads", id, threads);
  emulator::meet_block(id, threads, "named_barrier", site);
}

inline void load_matrices(uint32_t (&to)[4], const void* row, emulator::Site site = emulator::Site::here()) {
  emulator::load_matrices(to, row, "load_matrices", site,
                          [](auto at, int i, int j) { return at(i, j) | at(i, j + 1) << 16; });
}

inline void load_matrices_transposed(uint32_t (&to)[4], const void* row, emulator::Site site = emulator::Site::here()) {
  emulator::load_matrices(to, row, "load_matrices_transposed", site,
                          [](auto at, int i, int j) { return at(j, i) | at(j + 1, i) << 16; });
}

inline void multiply_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        emulator::Site site = emulator::Site::here()) {
  emulator::multiply(c, a, b, "multiply_s8", site, emulator::dot_s8);
}

inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          emulator::Site site = emulator::Site::here()) {
  emulator::multiply(c, a, b, "multiply_bf16", site, emulator::dot_bf16);
}

inline void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          emulator::Site site = emulator::Site::here()) {
  emulator::multiply(c, a, b, "multiply_tf32", site, emulator::dot_tf32);
}

inline uint32_t to_tf32(float x) {
  const uint32_t bits = bits_of(x);
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & ~0x1fffu;
}

// As far below the root as a device may come, the more so as bounds are made of it.
inline float rough_sqrt(float x) { return std::sqrt(x) * (1 - 0x1p-23f); }

inline float widen_f16(uint16_t bits) { return from_f16(bits); }
inline uint16_t narrow_f16(float x) { return to_f16(x); }
inline float widen_bf16(uint16_t bits) { return from_bf16(bits); }
inline uint16_t narrow_bf16(float x) { return to_bf16(x); }

}  // namespace unitok

#ifndef UNITOK_ISA

#include "api/residual_decode.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/parallel.h"
#include "search/groups.h"

#define UNITOK_SOURCE "ops/residual_decode.cpp"
#include "simd/each_isa.h"

namespace unitok {

bool residual_decode(const int64_t* codes, int64_t count, int64_t levels, const Rows& codebooks, void* quantized,
                     bool check, int threads) {
  UNITOK_DISPATCH(residual_decode(codes, count, levels, codebooks, quantized, check, threads));
}

void residual_decode_backward(const Rows& gradient, const int64_t* codes, int64_t levels, int64_t codewords,
                              void* by_codebooks, int threads) {
  UNITOK_DISPATCH(residual_decode_backward(gradient, codes, levels, codewords, by_codebooks, threads));
}

}  // namespace unitok

#else

#include "simd/vec.h"
#include "sums/sums.h"

namespace unitok::UNITOK_ISA {

constexpr int64_t kDecodeRows = 1024;  // of a task

template <Float Type>
V load_as(const char* p) {
  if (Type == Float::f16) return load_f16(reinterpret_cast<const uint16_t*>(p));
  if (Type == Float::bf16) return load_bf16(reinterpret_cast<const uint16_t*>(p));
  return load(reinterpret_cast<const float*>(p));
}

// One row: the sum of the codewords (null: adds nothing), one vector of columns after the other.
template <Float Type>
void add_codewords(const char* const* codewords, int64_t levels, int64_t width, char* to) {
  constexpr int64_t kSize = size_of(Type);
  for (int64_t d = 0; d < width; d += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width - d));
    V total = zero();
    for (int64_t level = 0; level < levels; ++level) {
      if (codewords[level] == nullptr) continue;
      const char* const from = codewords[level] + d * kSize;
      total = add(total, lanes == kLanes ? load_as<Type>(from) : load_part(from, Type, lanes));
    }
    if (Type == Float::f32) {
      float* const out = reinterpret_cast<float*>(to) + d;
      lanes == kLanes ? store(out, total) : store_first(out, total, lanes);
    } else {
      float part[kLanes];
      store(part, total);
      narrow(part, Type, lanes, to + d * kSize);
    }
  }
}

template <Float Type>
bool all_finite(const char* values, int64_t count) {
  V check = zero();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) check = fma(load_as<Type>(values + i * size_of(Type)), zero(), check);
  if (i < count) check = fma(load_part(values + i * size_of(Type), Type, static_cast<int>(count - i)), zero(), check);
  return sum(check) == 0;
}

template <Float Type>
bool decode(const int64_t* codes, int64_t count, int64_t levels, const Rows& codebooks, char* quantized, bool check,
            int threads) {
  const int64_t codewords = codebooks.count / levels, width = codebooks.width, bytes = width * size_of(Type);
  const char* const table = codebooks.row(0);
  std::atomic<bool> in_range{true};
  parallel(ceil_div(count, kDecodeRows), threads, [&](int64_t task, int) {
    std::vector<const char*> named(static_cast<std::size_t>(levels));
    bool good = true;
    for (int64_t i = task * kDecodeRows; i < std::min(count, (task + 1) * kDecodeRows); ++i) {
      for (int64_t level = 0; level < levels; ++level) {
        const int64_t code = codes[i * levels + level];
        const bool known = code >= 0 && code < codewords;
        named[static_cast<std::size_t>(level)] = known ? table + (level * codewords + code) * bytes : nullptr;
        good &= known || code == -1;
      }
      add_codewords<Type>(named.data(), levels, width, quantized + i * bytes);
    }
    if (!good) in_range = false;
  });
  return in_range && (!check || all_finite<Type>(table, codebooks.count * width));
}

bool residual_decode(const int64_t* codes, int64_t count, int64_t levels, const Rows& codebooks, void* quantized,
                     bool check, int threads) {
  char* const out = static_cast<char*>(quantized);
  switch (codebooks.type) {
    case Float::f16: return decode<Float::f16>(codes, count, levels, codebooks, out, check, threads);
    case Float::bf16: return decode<Float::bf16>(codes, count, levels, codebooks, out, check, threads);
    default: return decode<Float::f32>(codes, count, levels, codebooks, out, check, threads);
  }
}

void residual_decode_backward(const Rows& gradient, const int64_t* codes, int64_t levels, int64_t codewords,
                              void* by_codebooks, int threads) {
  const int64_t bytes = codewords * gradient.width * size_of(gradient.type);
  for (int64_t level = 0; level < levels; ++level) {
    const Groups groups(codes + level, levels, gradient.count, codewords);
    sum_groups(gradient, groups, gradient.type, static_cast<char*>(by_codebooks) + level * bytes, threads);
  }
}

}  // namespace unitok::UNITOK_ISA

#endif

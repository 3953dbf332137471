// The vectors of one instruction set: V holds kLanes floats, D8 always 8 doubles, so that sums in double precision have
// one order on every set. Each set has the same functions; vec_avx512.h says what they do, and here is what they share.
#ifndef UNITOK_SIMD_VEC_H
#define UNITOK_SIMD_VEC_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd/number.h"
#include "simd/vec_avx2.h"
#include "simd/vec_avx512.h"
#include "simd/vec_generic.h"

namespace unitok::UNITOK_ISA {

inline D8 counting8() {
  constexpr double kNumbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
  return load8(kNumbers);
}

// The sum of the 8 lanes, in one order on every instruction set.
inline double sum(D8 a) {
  double v[8];
  store8(v, a);
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// Exponentials: a = k ln 2 + r with k whole and |r| <= (ln 2) / 2, then a polynomial. The same bits on every
// instruction set, off by at most 2^-23 (float) and 2^-51 (double) of the value. NaN, and values below the limit that
// is applied first, give about the smallest normal number.

// e^a - constant for a <= 87. Where the two cancel, the rest is rounded once. The polynomial is that of Cephes' expf.
inline V exp_less(V a, V constant) {
  const V magic = splat(0x1.8p23f);  // adding it rounds to a whole number
  a = max(a, splat(-87.0f));
  const V k = sub(fma(a, splat(1.44269504088896341f), magic), magic);
  const V r = fnma(k, splat(-2.12194440e-4f), fnma(k, splat(0.693359375f), a));
  V p = splat(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fma(p, r, splat(c));
  const V power = pow2(k);
  return fma(fma(mul(r, r), p, r), power, sub(power, constant));
}

// e^a for a <= 709. The polynomial is Taylor's.
inline D8 exp(D8 a) {
  const D8 magic = splat8(0x1.8p52);
  a = max(a, splat8(-708.0));
  const D8 k = sub(fma(a, splat8(1.44269504088896341), magic), magic);
  const D8 r = fma(k, splat8(-1.90821492927058770e-10), fma(k, splat8(-6.93147180369123816e-1), a));
  D8 p = splat8(1.0 / 479001600);
  for (double c : {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24,
                   1.0 / 6, 0.5, 1.0, 1.0})
    p = fma(p, r, splat8(c));
  return mul(p, pow2(k));
}

// The first n values and zeros; nothing beyond them is read.
template <class T>
inline D8 load8_first(const T* p, int n) {
  T part[8] = {};
  std::memcpy(part, p, static_cast<std::size_t>(n) * sizeof(T));
  return load8(part);
}

// The first n values of any type and zeros; nothing beyond them is read.
inline V load_part(const char* p, Float type, int n) {
  if (type == Float::f32) return load_first(reinterpret_cast<const float*>(p), n);
  uint16_t part[kLanes] = {};
  std::memcpy(part, p, static_cast<std::size_t>(n) * 2);
  return type == Float::f16 ? load_f16(part) : load_bf16(part);
}

// Converts `count` values to float32.
inline void widen(const char* from, Float type, int64_t count, float* to) {
  if (type == Float::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * 4);
    return;
  }
  const uint16_t* half = reinterpret_cast<const uint16_t*>(from);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, type == Float::f16 ? load_f16(half + i) : load_bf16(half + i));
  if (i < count)
    store_first(to + i, load_part(from + 2 * i, type, static_cast<int>(count - i)), static_cast<int>(count - i));
}

// Rounds `count` float32 values to `type`, to nearest, ties to even.
inline void narrow(const float* from, Float type, int64_t count, char* to) {
  if (type == Float::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * 4);
    return;
  }
  uint16_t* half = reinterpret_cast<uint16_t*>(to);
  int64_t i = 0;
  if (type == Float::f16)
    for (; i + kLanes <= count; i += kLanes) store_f16(half + i, load(from + i));
  for (; i < count; ++i) half[i] = type == Float::f16 ? to_f16(from[i]) : to_bf16(from[i]);
}

// Whether all values of a row are finite.
inline bool finite_row(const float* row, int64_t width) {
  V check = zero();
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) check = fma(load(row + d), zero(), check);
  if (d < width) check = fma(load_first(row + d, static_cast<int>(width - d)), zero(), check);
  return sum(check) == 0;
}

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SIMD_VEC_H

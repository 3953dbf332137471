// Vectors as plain loops, which the compiler turns into what the target has (NEON on aarch64). The functions are those
// of vec_avx512.h. Empty on the other levels.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd/number.h"

#if UNITOK_LEVEL == 0 && !defined(UNITOK_SIMD_VEC_GENERIC_H)
#define UNITOK_SIMD_VEC_GENERIC_H

namespace unitok::UNITOK_ISA {

constexpr int kLanes = 8;
struct V {
  float v[kLanes];
};
struct D8 {
  double v[8];
};

#define UNITOK_EACH(type, count, expression)           \
  type r;                                              \
  for (int i = 0; i < count; ++i) r.v[i] = expression; \
  return r

inline V load(const float* p) { UNITOK_EACH(V, kLanes, p[i]); }
inline void store(float* p, V a) { std::memcpy(p, a.v, sizeof a.v); }
inline V load_first(const float* p, int n) { UNITOK_EACH(V, kLanes, i < n ? p[i] : 0.0f); }
inline void store_first(float* p, V a, int n) { std::memcpy(p, a.v, static_cast<std::size_t>(n) * sizeof(float)); }
inline V splat(float x) { UNITOK_EACH(V, kLanes, x); }
inline V zero() { return splat(0.0f); }
inline V add(V a, V b) { UNITOK_EACH(V, kLanes, a.v[i] + b.v[i]); }
inline V sub(V a, V b) { UNITOK_EACH(V, kLanes, a.v[i] - b.v[i]); }
inline V mul(V a, V b) { UNITOK_EACH(V, kLanes, a.v[i] * b.v[i]); }
inline V fma(V a, V b, V c) { UNITOK_EACH(V, kLanes, std::fma(a.v[i], b.v[i], c.v[i])); }
inline V fnma(V a, V b, V c) { UNITOK_EACH(V, kLanes, std::fma(-a.v[i], b.v[i], c.v[i])); }
inline V min(V a, V b) { UNITOK_EACH(V, kLanes, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline V max(V a, V b) { UNITOK_EACH(V, kLanes, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline uint32_t below(V a, V b) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(a.v[i] < b.v[i]) << i;
  return mask;
}
inline uint32_t at_most(V a, V b) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(a.v[i] <= b.v[i]) << i;
  return mask;
}
inline V pow2(V a) { UNITOK_EACH(V, kLanes, float_of(static_cast<uint32_t>(static_cast<int>(a.v[i]) + 127) << 23)); }
template <class T>
inline T sum8(const T* v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
inline float sum(V a) { return sum8(a.v); }
inline float least(V a) { return *std::min_element(a.v, a.v + kLanes); }
inline float most(V a) { return *std::max_element(a.v, a.v + kLanes); }
inline V splice(V a, V b, V keep) {
  UNITOK_EACH(V, kLanes, float_of((bits_of(a.v[i]) & bits_of(keep.v[i])) | (bits_of(b.v[i]) & ~bits_of(keep.v[i]))));
}
inline V pick_below(V a, V b, V if_below, V otherwise) {
  UNITOK_EACH(V, kLanes, a.v[i] < b.v[i] ? if_below.v[i] : otherwise.v[i]);
}
inline V least_of_each(const V* rows) { UNITOK_EACH(V, kLanes, least(rows[i])); }
inline V sum_of_each(const V* rows) { UNITOK_EACH(V, kLanes, sum(rows[i])); }
inline V load_f16(const uint16_t* p) { UNITOK_EACH(V, kLanes, from_f16(p[i])); }
inline void store_f16(uint16_t* p, V a) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_f16(a.v[i]);
}
inline V load_bf16(const uint16_t* p) { UNITOK_EACH(V, kLanes, from_bf16(p[i])); }

inline D8 load8(const double* p) { UNITOK_EACH(D8, 8, p[i]); }
inline D8 load8(const float* p) { UNITOK_EACH(D8, 8, static_cast<double>(p[i])); }
inline void store8(double* p, D8 a) { std::memcpy(p, a.v, sizeof a.v); }
inline D8 splat8(double x) { UNITOK_EACH(D8, 8, x); }
inline D8 zero8() { return splat8(0.0); }
inline D8 add(D8 a, D8 b) { UNITOK_EACH(D8, 8, a.v[i] + b.v[i]); }
inline D8 sub(D8 a, D8 b) { UNITOK_EACH(D8, 8, a.v[i] - b.v[i]); }
inline D8 mul(D8 a, D8 b) { UNITOK_EACH(D8, 8, a.v[i] * b.v[i]); }
inline D8 fma(D8 a, D8 b, D8 c) { UNITOK_EACH(D8, 8, std::fma(a.v[i], b.v[i], c.v[i])); }
inline D8 pick_below(D8 a, D8 b, D8 if_below, D8 otherwise) {
  UNITOK_EACH(D8, 8, a.v[i] < b.v[i] ? if_below.v[i] : otherwise.v[i]);
}
inline D8 max(D8 a, D8 b) { UNITOK_EACH(D8, 8, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline D8 pow2(D8 a) { UNITOK_EACH(D8, 8, double_of(static_cast<uint64_t>(static_cast<int>(a.v[i]) + 1023) << 52)); }

#undef UNITOK_EACH

inline D8 held(D8 a) { return a; }
inline void sum4(const D8* a, double* to) {
  for (int i = 0; i < 4; ++i) to[i] = sum8(a[i].v);
}

}  // namespace unitok::UNITOK_ISA

#endif

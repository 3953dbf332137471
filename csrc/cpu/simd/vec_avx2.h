// The vectors of AVX2. The functions are those of vec_avx512.h. Empty on the other levels.
#include <cstdint>

#include "simd/vec_x86.h"

#if UNITOK_LEVEL == 2 && !defined(UNITOK_SIMD_VEC_AVX2_H)
#define UNITOK_SIMD_VEC_AVX2_H

namespace unitok::UNITOK_ISA {

constexpr int kLanes = 8;
struct V {
  __m256 v;
};
struct D8 {
  __m256d a, b;
};

inline __m256i first_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline V load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, V a) { _mm256_storeu_ps(p, a.v); }
inline V load_first(const float* p, int n) { return {_mm256_maskload_ps(p, first_mask(n))}; }
inline void store_first(float* p, V a, int n) { _mm256_maskstore_ps(p, first_mask(n), a.v); }
inline V splat(float x) { return {_mm256_set1_ps(x)}; }
inline V zero() { return {_mm256_setzero_ps()}; }
inline V add(V a, V b) { return {_mm256_add_ps(a.v, b.v)}; }
inline V sub(V a, V b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline V mul(V a, V b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline V fnma(V a, V b, V c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline V min(V a, V b) { return {_mm256_min_ps(a.v, b.v)}; }
inline V max(V a, V b) { return {_mm256_max_ps(a.v, b.v)}; }
inline uint32_t below(V a, V b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)));
}
inline uint32_t at_most(V a, V b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)));
}
inline V pow2(V a) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}
inline float sum(V a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
inline float least(V a) {
  __m128 half = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_min_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_min_ss(half, _mm_shuffle_ps(half, half, 1)));
}
inline float most(V a) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
inline V splice(V a, V b, V keep) { return {_mm256_or_ps(_mm256_and_ps(a.v, keep.v), _mm256_andnot_ps(keep.v, b.v))}; }
inline V pick_below(V a, V b, V if_below, V otherwise) {
  return {_mm256_blendv_ps(otherwise.v, if_below.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
template <class Both>
inline V reduce_each(const V* rows, Both both) {
  __m256 quads[2];
  for (int i = 0; i < 2; ++i) {
    const __m256 a = rows[4 * i].v, b = rows[4 * i + 1].v, c = rows[4 * i + 2].v, d = rows[4 * i + 3].v;
    const __m256d ab = _mm256_castps_pd(both(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
    const __m256d cd = _mm256_castps_pd(both(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d)));
    quads[i] = both(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
  }
  return {both(_mm256_permute2f128_ps(quads[0], quads[1], 0x20), _mm256_permute2f128_ps(quads[0], quads[1], 0x31))};
}
inline V least_of_each(const V* rows) {
  return reduce_each(rows, [](__m256 a, __m256 b) { return _mm256_min_ps(a, b); });
}
inline V sum_of_each(const V* rows) {
  return reduce_each(rows, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
}
inline V load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline void store_f16(uint16_t* p, V a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline V load_bf16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}

inline D8 load8(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
inline D8 load8(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))}; }
inline void store8(double* p, D8 x) { _mm256_storeu_pd(p, x.a), _mm256_storeu_pd(p + 4, x.b); }
inline D8 splat8(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
inline D8 zero8() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
inline D8 add(D8 x, D8 y) { return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b)}; }
inline D8 sub(D8 x, D8 y) { return {_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b)}; }
inline D8 mul(D8 x, D8 y) { return {_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b)}; }
inline D8 fma(D8 x, D8 y, D8 z) { return {_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b)}; }
inline D8 pick_below(D8 x, D8 y, D8 if_below, D8 otherwise) {
  return {_mm256_blendv_pd(otherwise.a, if_below.a, _mm256_cmp_pd(x.a, y.a, _CMP_LT_OQ)),
          _mm256_blendv_pd(otherwise.b, if_below.b, _mm256_cmp_pd(x.b, y.b, _CMP_LT_OQ))};
}
inline D8 max(D8 x, D8 y) { return {_mm256_max_pd(x.a, y.a), _mm256_max_pd(x.b, y.b)}; }
inline __m256d pow2(__m256d a) {
  const __m256i exponent = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(a)), _mm256_set1_epi64x(1023));
  return _mm256_castsi256_pd(_mm256_slli_epi64(exponent, 52));
}
inline D8 pow2(D8 x) { return {pow2(x.a), pow2(x.b)}; }
inline D8 held(D8 x) { return x; }
inline void sum4(const D8* x, double* to) {
  __m256d half[4];
  for (int i = 0; i < 4; ++i) half[i] = _mm256_add_pd(x[i].a, x[i].b);
  store_sums(half, to);
}

}  // namespace unitok::UNITOK_ISA

#endif

// The vectors of AVX-512, and what each function does on every instruction set. Empty on the other levels.
#include <cstdint>

#include "simd/vec_x86.h"

#if UNITOK_LEVEL == 512 && !defined(UNITOK_SIMD_VEC_AVX512_H)
#define UNITOK_SIMD_VEC_AVX512_H

namespace unitok::UNITOK_ISA {

constexpr int kLanes = 16;
struct V {
  __m512 v;
};
struct D8 {
  __m512d v;
};

inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
inline V load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)}; }
inline void store_first(float* p, V a, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v); }
inline V splat(float x) { return {_mm512_set1_ps(x)}; }
inline V zero() { return {_mm512_setzero_ps()}; }
inline V add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V fnma(V a, V b, V c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }                // b where one is NaN
inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline uint32_t below(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline uint32_t at_most(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
inline V pow2(V a) { return {_mm512_maskz_scalef_ps(0xffff, _mm512_set1_ps(1.0f), a.v)}; }  // of whole -126 .. 127
inline float sum(V a) { return _mm512_reduce_add_ps(a.v); }
inline float least(V a) { return _mm512_reduce_min_ps(a.v); }
inline float most(V a) { return _mm512_reduce_max_ps(a.v); }
// The bits of a that `keep` has, and the other bits of b: (a & keep) | (b & ~keep).
inline V splice(V a, V b, V keep) {
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v),
                                                        _mm512_castps_si512(keep.v), 0xE4))};
}
// Lanes of if_below where a < b, else of otherwise.
inline V pick_below(V a, V b, V if_below, V otherwise) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), otherwise.v, if_below.v)};
}
// Lane i of the result is all lanes of rows[i], combined by `both`. Transposes as it goes.
template <class Both>
inline V reduce_each(const V* rows, Both both) {
  __m512 quads[4];
  for (int i = 0; i < 4; ++i) {
    const __m512 a = rows[4 * i].v, b = rows[4 * i + 1].v, c = rows[4 * i + 2].v, d = rows[4 * i + 3].v;
    const __m512d ab = _mm512_castps_pd(both(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd = _mm512_castps_pd(both(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    quads[i] = both(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  }
  const auto halve = [both](__m512 a, __m512 b) {
    return both(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return {halve(halve(quads[0], quads[1]), halve(quads[2], quads[3]))};
}
// Lane i of the result is the least lane of rows[i], which has no NaN; or the sum of its lanes.
inline V least_of_each(const V* rows) {
  return reduce_each(rows, [](__m512 a, __m512 b) { return _mm512_min_ps(a, b); });
}
inline V sum_of_each(const V* rows) {
  return reduce_each(rows, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
}
inline V load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_f16(uint16_t* p, V a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline V load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

inline D8 load8(const double* p) { return {_mm512_loadu_pd(p)}; }
inline D8 load8(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
inline void store8(double* p, D8 a) { _mm512_storeu_pd(p, a.v); }
inline D8 splat8(double x) { return {_mm512_set1_pd(x)}; }
inline D8 zero8() { return {_mm512_setzero_pd()}; }
inline D8 add(D8 a, D8 b) { return {_mm512_add_pd(a.v, b.v)}; }
inline D8 sub(D8 a, D8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline D8 mul(D8 a, D8 b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline D8 fma(D8 a, D8 b, D8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
inline D8 pick_below(D8 a, D8 b, D8 if_below, D8 otherwise) {
  return {_mm512_mask_blend_pd(_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ), otherwise.v, if_below.v)};
}
inline D8 max(D8 a, D8 b) { return {_mm512_max_pd(a.v, b.v)}; }                            // b where one is NaN
inline D8 pow2(D8 a) { return {_mm512_maskz_scalef_pd(0xff, _mm512_set1_pd(1.0), a.v)}; }  // of whole -1022 .. 1023
// Keeps a in a register: GCC would load it again for each use, and loads would hold up the products.
inline D8 held(D8 a) {
  asm("" : "+v"(a.v));
  return a;
}
// sum() of four vectors at once.
inline void sum4(const D8* a, double* to) {
  __m256d half[4];
  for (int i = 0; i < 4; ++i) {  // splitting is free when the vectors are in memory
    const double* v = reinterpret_cast<const double*>(a + i);
    half[i] = _mm256_add_pd(_mm256_loadu_pd(v), _mm256_loadu_pd(v + 4));
  }
  store_sums(half, to);
}

}  // namespace unitok::UNITOK_ISA

#endif

// The vectors of one instruction set: V holds kLanes floats, D8 always 8 doubles, so that sums in double precision have
// one order on every set. Read by each_isa.h, once a set: no include guard.
namespace unitok::UNITOK_ISA {

#if UNITOK_LEVEL > 0
// The sums of four vectors whose halves were added.
inline void store_sums(const __m256d* half, double* to) {
  const __m256d ac =
      _mm256_add_pd(_mm256_permute2f128_pd(half[0], half[2], 0x20), _mm256_permute2f128_pd(half[0], half[2], 0x31));
  const __m256d bd =
      _mm256_add_pd(_mm256_permute2f128_pd(half[1], half[3], 0x20), _mm256_permute2f128_pd(half[1], half[3], 0x31));
  _mm256_storeu_pd(to, _mm256_add_pd(_mm256_unpacklo_pd(ac, bd), _mm256_unpackhi_pd(ac, bd)));
}
#endif

#if UNITOK_LEVEL == 512

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
// The sign, exponent and high mantissa bits of a with the low bits of b: (a & keep) | (b & ~keep).
inline V splice(V a, V b, V keep) {
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v),
                                                        _mm512_castps_si512(keep.v), 0xE4))};
}
// Takes from b the lanes where a < b fails: a's lane where below, else b's; used with tags beside scores.
inline V pick_below(V a, V b, V if_below, V otherwise) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), otherwise.v, if_below.v)};
}
// Transposes as it goes: lane i of the result is what `both` makes of the lanes of rows[i].
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
// Lane i of the result is the least lane of rows[i], which has no NaN, or the sum of its lanes.
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
// Stays in a register: GCC would load it again for each use, and loads are what then holds up the products.
inline D8 held(D8 a) {
  asm("" : "+v"(a.v));
  return a;
}
// sum() of four vectors at once.
inline void sum4(const D8* a, double* to) {
  __m256d half[4];
  for (int i = 0; i < 4; ++i) {  // halves are had for nothing where the vectors lie in memory
    const double* v = reinterpret_cast<const double*>(a + i);
    half[i] = _mm256_add_pd(_mm256_loadu_pd(v), _mm256_loadu_pd(v + 4));
  }
  store_sums(half, to);
}

#elif UNITOK_LEVEL == 2

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

#else

// Plain loops, which the compiler turns into whatever the target has (NEON on aarch64).
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
inline float sum(V a) { return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7])); }
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

#endif

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
// instruction set, off by at most 2^-23 (float) and 2^-51 (double) of the value; NaN, and what lies below the limit
// that is taken first, give about the smallest normal number.

// e^a - constant for a <= 87, with one rounding of what is left where they cancel. The polynomial is Cephes' expf.
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

#if UNITOK_LEVEL == 0
inline D8 held(D8 a) { return a; }
inline void sum4(const D8* a, double* to) {
  for (int i = 0; i < 4; ++i) to[i] = sum(a[i]);
}
#endif

// Lanes beyond n are zero, and what lies there isn't read.
template <class T>
inline D8 load8_first(const T* p, int n) {
  T part[8] = {};
  std::memcpy(part, p, static_cast<std::size_t>(n) * sizeof(T));
  return load8(part);
}

// Lanes beyond n read as zero, whatever lies there; all types alike.
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

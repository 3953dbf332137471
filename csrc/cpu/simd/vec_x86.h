// The intrinsics, and what AVX2 and AVX-512 share.
#ifndef UNITOK_SIMD_VEC_X86_H
#define UNITOK_SIMD_VEC_X86_H

#include "simd/isa.h"

#if UNITOK_X86
#include <immintrin.h>
#endif

#if UNITOK_LEVEL > 0

namespace unitok::UNITOK_ISA {

// The sums of four vectors whose halves have been added.
inline void store_sums(const __m256d* half, double* to) {
  const __m256d ac =
      _mm256_add_pd(_mm256_permute2f128_pd(half[0], half[2], 0x20), _mm256_permute2f128_pd(half[0], half[2], 0x31));
  const __m256d bd =
      _mm256_add_pd(_mm256_permute2f128_pd(half[1], half[3], 0x20), _mm256_permute2f128_pd(half[1], half[3], 0x31));
  _mm256_storeu_pd(to, _mm256_add_pd(_mm256_unpacklo_pd(ac, bd), _mm256_unpackhi_pd(ac, bd)));
}

}  // namespace unitok::UNITOK_ISA

#endif

#endif  // UNITOK_SIMD_VEC_X86_H

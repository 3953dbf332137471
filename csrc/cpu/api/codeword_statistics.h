// Sums and counts of the rows of each codeword.
#pragma once

#include <cstdint>

#include "simd/number.h"

namespace unitok {

// x (N, D), codes (N) -> sums (K, D) float32, counts (K). Rows whose code is not in 0 .. K - 1 are skipped. Returns
// whether the input was good: no code but -1 outside, and no sum that isn't finite.
bool codeword_statistics(const Rows& x, const int64_t* codes, int64_t codewords, float* sums, int64_t* counts,
                         int threads);

}  // namespace unitok

// Nearest-codeword search.
#pragma once

#include <cstdint>

#include "api/residual_encode.h"

namespace unitok {

// x (N, D), codebook (K, D) -> codes (N), squared_distance (N), counts (2). Rows that aren't finite get -1 and NaN.
// Returns Status bits.
int nearest_codeword(const Rows& x, const float* codebook, int64_t codewords, int64_t* codes, float* squared_distance,
                     int64_t* counts, const EncodeOptions& options);

}  // namespace unitok

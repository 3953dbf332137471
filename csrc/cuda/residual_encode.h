// Residual encoding, and the nearest codeword as its first level.
#pragma once

#include <cstdint>

#include "../cpu/simd/number.h"
#include "errors.h"

namespace unitok {

// Bytes of workspace, on the current device.
int64_t residual_encode_workspace(int64_t levels);

// z (N, D), packed codebooks (L, K, D) -> codes (N, L), level_error (L,), counts (searches made again, near ties), and,
// unless null, quantized (N, D) in z's type and distances (N,), the squared length of what the last level leaves. Bad
// rows get code -1, a quantized 0 and the distance NaN. D <= kWidest.
void residual_encode(const Rows& z, const void* packed, int64_t levels, int64_t codewords, bool exact, bool stats,
                     int64_t* codes, void* quantized, float* distances, float* level_error, int64_t* counts,
                     void* workspace, cudaStream_t stream);

}  // namespace unitok

// Codes back to vectors, and the gradient of that by the codebooks.
#pragma once

#include <cstdint>

#include "simd/number.h"

namespace unitok {

// codes (N, L), codebooks (L K, D) of any type -> quantized (N, D) in that type: the float32 sum in level order,
// rounded once. A code that isn't in 0 .. K - 1 adds nothing. Returns whether the input was good: no code but -1
// outside, and, if `check`, only finite codebooks.
bool residual_decode(const int64_t* codes, int64_t count, int64_t levels, const Rows& codebooks, void* quantized,
                     bool check, int threads);

// gradient (N, D), codes (N, L) -> by_codebooks (L, K, D) in the gradient's type: the sums of each codeword's rows.
void residual_decode_backward(const Rows& gradient, const int64_t* codes, int64_t levels, int64_t codewords,
                              void* by_codebooks, int threads);

}  // namespace unitok

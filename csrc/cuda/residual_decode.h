// Codes back to vectors, and the gradient of that by the codebooks.
#pragma once

#include "../cpu/simd/number.h"
#include "errors.h"

namespace unitok {

// codes (N, L), codebooks (L K, D) of any type -> quantized (N, D) in that type: the float32 sum in level order,
// rounded once. A code that isn't in 0 .. K - 1 adds nothing.
void residual_decode(const int64_t* codes, int64_t count, int64_t levels, const Rows& codebooks, void* quantized,
                     cudaStream_t stream);

// gradient (N, D), codes (N, L) -> by_codebooks (L, K, D) in the gradient's type: the sums of each codeword's rows, as
// in codeword_statistics.h, with a workspace of the same size.
void residual_decode_backward(const Rows& gradient, const int64_t* codes, int64_t levels, int64_t codewords,
                              void* by_codebooks, void* workspace, cudaStream_t stream);

}  // namespace unitok

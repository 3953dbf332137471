// Residual chains whose codes are known, for training: values and statistics, and the gradient.
#pragma once

#include <cstdint>

#include "api/moe_residual_encode.h"

namespace unitok {

enum class Estimator : int { straight = 0, rotation = 1, none = 2 };

// For codes (N, L) of one chain (L, K, D): quantized (N, D) in z's type, the float32 sum of the codewords in level
// order; errors (L,), each level's mean squared residual over the rows that have a code there. Unless null, sums (L, K,
// D) and counts (L, K) of the residuals that come to each codeword, added in row order in double precision. Codes out
// of range are left out.
void residual_straight_through(const Rows& z, const int64_t* codes, const Chains& chain, void* quantized, float* errors,
                               float* sums, int64_t* counts, int threads);

// From the gradients by quantized, (N, D) float32, and by half the squared error of each row at a level, pulls (L,):
// by_z (N, D) float32 and, unless null, by_codebooks (L, K, D).
void residual_straight_through_backward(const float* gradient, const float* pulls, const Rows& z, const int64_t* codes,
                                        const Chains& chain, Estimator estimator, float* by_z, float* by_codebooks,
                                        int threads);

}  // namespace unitok

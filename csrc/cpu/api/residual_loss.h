// The loss that trains codebooks and commits rows to them, with its gradients.
#pragma once

#include <cstdint>

#include "api/moe_residual_encode.h"

namespace unitok {

struct LossWeights {
  float codebook, commitment;
};

// loss = 1/N sum over slots and levels of (codebook + commitment) |r_{l+1}|^2 for codes (N, S, L) and experts (N, S);
// codes and experts out of range are left out. Unless null, by_z (N, D) and by_codebooks (E, L, K, D) get the gradients
// in float32, added up in row order.
// Returns Status bits.
int residual_loss(const Rows& z, const int64_t* codes, const Chains& chains, const int64_t* experts, int64_t slots,
                  LossWeights weights, float* loss, float* by_z, float* by_codebooks, int threads);

// The gradients of moe_residual_encode from that of its combined rows, (N, D) float32: by_z and by_weights (N, S), and,
// unless null, by_codebooks (E, L, K, D) and by_shared (L, K, D) of the shared chain.
void moe_residual_encode_backward(const float* gradient, int64_t count, int64_t width, const Chains& chains,
                                  const Routes& routes, const int64_t* codes, const Chains& shared, float shared_weight,
                                  const int64_t* shared_codes, float* by_z, float* by_weights, float* by_codebooks,
                                  float* by_shared, int threads);

}  // namespace unitok

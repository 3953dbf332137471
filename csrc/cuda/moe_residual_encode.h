// Residual encoding by experts.
#pragma once

#include <cstdint>

#include "../cpu/simd/number.h"
#include "errors.h"

namespace unitok {

// Packed codebooks (experts, levels, K, D) of one set of chains; data is null if there is none.
struct PackedChains {
  const void* data;
  int64_t experts, levels, codewords;
};

// The results: codes (N, S, L) and (N, L) and errors (L,) of each set of chains, the rows in z's type, and counts
// (searches made again, near ties).
struct MixtureResult {
  int64_t* codes;
  int64_t* shared_codes;
  void* combined;
  float* level_error;
  float* shared_error;
  int64_t* counts;
};

// Bytes of workspace, on the current device.
int64_t moe_residual_encode_workspace(int64_t count, int64_t slots, const PackedChains& experts,
                                      const PackedChains& shared);

// z (N, D), expert_ids and expert_weights (N, S) -> combined = sum_s w_s Q_{e_s}(z) + shared_weight Q_shared(z), each
// product rounded before it is added. A slot whose expert isn't in 0 .. E - 1, or whose weight isn't finite, gets codes
// -1 and adds nothing. N S < 2^31, D <= kWidest.
void moe_residual_encode(const Rows& z, const PackedChains& experts, const int64_t* expert_ids,
                         const Rows& expert_weights, const PackedChains& shared, float shared_weight, bool exact,
                         bool stats, const MixtureResult& result, void* workspace, cudaStream_t stream);

}  // namespace unitok

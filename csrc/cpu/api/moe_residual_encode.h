// Residual encoding by routed experts and a shared one.
#pragma once

#include <cstdint>

#include "api/residual_encode.h"

namespace unitok {

// The codebooks of E chains, (E, L, K, D) float32.
struct Chains {
  const float* codebooks;
  int64_t experts, levels, codewords;
};

// Which experts a row goes to, and what their chains are multiplied by; (N, S) each.
struct Routes {
  const int64_t* experts;
  const float* weights;
  int64_t slots;
};

struct MoeCodes {
  void* combined;         // (N, D) in z's type
  int64_t* codes;         // (N, S, L)
  int64_t* shared_codes;  // (N, L of the shared chain)
  float* level_error;     // (L)
  float* shared_error;    // (L of the shared chain)
  int64_t* counts;        // (2)
};

// combined = sum_s w_s Q_{e_s}(z) + shared_weight Q_shared(z), added up in float32 in this order. `shared` has one
// chain, or none. Rows that aren't finite get codes of -1 and zeros. Slots with a bad expert or weight get codes of -1
// and add nothing. Returns Status bits.
int moe_residual_encode(const Rows& z, const Chains& chains, const Routes& routes, const Chains& shared,
                        float shared_weight, const MoeCodes& out, const EncodeOptions& options);

}  // namespace unitok

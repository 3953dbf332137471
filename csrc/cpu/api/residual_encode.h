// Residual encoding by one chain; what all encoders share.
#pragma once

#include <cstdint>

#include "simd/number.h"

namespace unitok {

// What a call found wrong with its input; bits.
enum Status : int { kFine = 0, kBadRow = 1, kBadCodebook = 2, kBadExpert = 4, kBadWeight = 8, kBadCode = 16 };

struct EncodeOptions {
  int threads = 1;
  bool fast = false;   // int8 shortlist, if the processor has it
  bool stats = false;  // count near ties
};

// z (N, D), codebooks (L, K, D) -> codes (N, L), quantized (N, D) in z's type, level_error (L), counts (2).
// Rows that aren't finite get codes of -1, zeros, and no share in level_error. Returns Status bits.
int residual_encode(const Rows& z, const float* codebooks, int64_t levels, int64_t codewords, int64_t* codes,
                    void* quantized, float* level_error, int64_t* counts, const EncodeOptions& options);

}  // namespace unitok

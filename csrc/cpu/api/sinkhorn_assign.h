// Balanced assignment of rows to codewords by entropic optimal transport.
#pragma once

#include <cstdint>

namespace unitok {

// x (N, D), codebook (K, D) -> codes (N), -1 for rows that aren't finite. Returns whether any value wasn't finite.
bool sinkhorn_assign(const float* x, int64_t rows, int64_t width, const float* codebook, int64_t codewords,
                     double epsilon, int64_t iterations, int64_t* codes, int threads);

}  // namespace unitok

// Assignment of rows to codewords, with bounds on the number of rows of each codeword.
#pragma once

#include <cstdint>

namespace unitok {

// Changes codes so that each codeword has floor(N / 2K) to ceil(2N / K) rows, at the least sum of squared distances.
//   rows (N, D), codebook (K, D): finite; codes (N): the nearest codewords, which stay if they keep the bounds.
//   prices (K): where to start, zeros or those of an earlier call with a similar codebook; overwritten.
// Takes O(N + K^2) memory and no N x K distances.
void balance(const float* rows, int64_t count, int64_t width, const float* codebook, int64_t codewords, double* prices,
             int64_t* codes, int threads);

}  // namespace unitok

// Sums and counts of the rows of each codeword.
#pragma once

#include "../cpu/simd/number.h"
#include "errors.h"

namespace unitok {

// Bytes of workspace for N rows of D values of any type.
int64_t codeword_statistics_workspace(int64_t count, int64_t width, int64_t levels, int64_t codewords);

// x (N, D), codes (N, L) -> sums (L, K, D) in `type`, rounded to float32 first, and counts (L, K) unless null. At each
// level the rows of a codeword are added in float64, in an order that depends on the codes, the sizes and the type
// alone: no float is added atomically. Rows whose code isn't in 0 .. K - 1 are skipped. N < 2^31.
void codeword_statistics(const Rows& x, const int64_t* codes, int64_t levels, int64_t codewords, Float type, void* sums,
                         int64_t* counts, void* workspace, cudaStream_t stream);

}  // namespace unitok

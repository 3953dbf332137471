#ifndef UNITOK_ISA

#include "api/codeword_statistics.h"

#define UNITOK_SOURCE "ops/codeword_statistics.cpp"
#include "simd/each_isa.h"

namespace unitok {

bool codeword_statistics(const Rows& x, const int64_t* codes, int64_t codewords, float* sums, int64_t* counts,
                         int threads) {
  UNITOK_DISPATCH(codeword_statistics(x, codes, codewords, sums, counts, threads));
}

}  // namespace unitok

#else

#include "search/groups.h"
#include "sums/sums.h"

namespace unitok::UNITOK_ISA {

bool codeword_statistics(const Rows& x, const int64_t* codes, int64_t codewords, float* sums, int64_t* counts,
                         int threads) {
  const Groups groups(codes, 1, x.count, codewords);
  for (int64_t k = 0; k < codewords; ++k) counts[k] = groups.size(k);
  return sum_groups(x, groups, Float::f32, sums, threads) && groups.in_range();
}

}  // namespace unitok::UNITOK_ISA

#endif

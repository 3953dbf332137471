#ifndef UNITOK_ISA

#include "api/nearest_codeword.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/nearest_codeword.cpp"
#include "simd/each_isa.h"

namespace unitok {

int nearest_codeword(const Rows& x, const float* codebook, int64_t codewords, int64_t* codes, float* squared_distance,
                     int64_t* counts, const EncodeOptions& options) {
  UNITOK_DISPATCH(nearest_codeword(x, codebook, codewords, codes, squared_distance, counts, options));
}

}  // namespace unitok

#else

#include "search/chain.h"
#include "search/differencing.h"
#include "search/search.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

int nearest_codeword(const Rows& x, const float* codebook, int64_t codewords, int64_t* codes, float* squared_distance,
                     int64_t* counts, const EncodeOptions& options) {
  const int64_t width = x.width, stride = round_up(width, kLanes), rows_at_once = block_rows(width, x.count);
  const int64_t blocks = ceil_div(x.count, rows_at_once);
  Chain chain(codebook, 1, codewords, width);
  if (x.count > kFewRows) chain.pack(0, options.fast);
  std::atomic<int> status{chain.finite() ? kFine : kBadCodebook};

  struct Worker {
    Walker walker;
    Buffer<float> rows;
  };
  const int threads = static_cast<int>(std::min<int64_t>(options.threads, std::max<int64_t>(blocks, 1)));
  std::vector<Worker> workers(static_cast<std::size_t>(threads));
  for (Worker& worker : workers) {
    worker.walker = Walker(1, codewords, width, options.fast, options.stats);
    worker.rows = Buffer<float>(rows_at_once * stride);
  }
  parallel(blocks, threads, [&](int64_t block, int index) {
    Worker& own = workers[static_cast<std::size_t>(index)];
    const int64_t first = block * rows_at_once, count = std::min(rows_at_once, x.count - first);
    int64_t members[kBlock], found[kBlock], taken = 0;
    for (int64_t i = first; i < first + count; ++i) {
      if (take_row(x, i, own.rows.data() + taken * stride, stride)) {
        members[taken++] = i;
      } else {
        codes[i] = -1;
        squared_distance[i] = std::numeric_limits<float>::quiet_NaN();
        status |= kBadRow;
      }
    }
    own.walker.find(chain, 0, own.rows.data(), taken, stride, found);
    for (int64_t i = 0; i < taken; ++i) {
      codes[members[i]] = found[i];
      const float* const codeword = codebook + found[i] * width;
      squared_distance[members[i]] = static_cast<float>(exact_distance(own.rows.data() + i * stride, codeword, width));
    }
  });
  counts[0] = counts[1] = 0;
  for (const Worker& worker : workers) {
    counts[0] += worker.walker.counts.rescored;
    counts[1] += worker.walker.counts.near_ties;
    if (!worker.walker.finite) status |= kBadCodebook;
  }
  return status;
}

}  // namespace unitok::UNITOK_ISA

#endif

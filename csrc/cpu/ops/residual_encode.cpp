#ifndef UNITOK_ISA

#include "api/residual_encode.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/residual_encode.cpp"
#include "simd/each_isa.h"

namespace unitok {

int residual_encode(const Rows& z, const float* codebooks, int64_t levels, int64_t codewords, int64_t* codes,
                    void* quantized, float* level_error, int64_t* counts, const EncodeOptions& options) {
  UNITOK_DISPATCH(residual_encode(z, codebooks, levels, codewords, codes, quantized, level_error, counts, options));
}

}  // namespace unitok

#else

#include "search/chain.h"
#include "search/search.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

int residual_encode(const Rows& z, const float* codebooks, int64_t levels, int64_t codewords, int64_t* codes,
                    void* quantized, float* level_error, int64_t* counts, const EncodeOptions& options) {
  const int64_t width = z.width, stride = round_up(width, kLanes), rows_at_once = block_rows(width, z.count);
  const int64_t blocks = ceil_div(z.count, rows_at_once);
  Chain chain(codebooks, levels, codewords, width);
  int status = kFine;
  if (z.count > kFewRows) {
    parallel(levels, options.threads, [&](int64_t level, int) { chain.pack(level, options.fast); });
    if (!chain.finite()) status = kBadCodebook;
  }

  struct Worker {
    Walker walker;
    Buffer<float> residual, quantized;
    int64_t bad_rows = 0;
  };
  const int threads = static_cast<int>(std::min<int64_t>(options.threads, std::max<int64_t>(blocks, 1)));
  std::vector<Worker> workers(static_cast<std::size_t>(threads));
  for (Worker& worker : workers) {
    worker.walker = Walker(levels, codewords, width, options.fast, options.stats);
    worker.residual = Buffer<float>(rows_at_once * stride);
    worker.quantized = Buffer<float>(rows_at_once * stride);
  }
  Buffer<double> errors(blocks * levels);
  std::fill_n(errors.data(), errors.size(), 0.0);
  char* const out = static_cast<char*>(quantized);
  const int64_t row_bytes = width * size_of(z.type);

  expect_large(codes, z.count * levels * 8);
  expect_large(quantized, z.count * row_bytes);

  parallel(blocks, threads, [&](int64_t block, int index) {
    Worker& own = workers[static_cast<std::size_t>(index)];
    const int64_t first = block * rows_at_once, count = std::min(rows_at_once, z.count - first);
    float* const residual = own.residual.data();
    float* const sum = own.quantized.data();
    if (const int64_t next = first + threads * rows_at_once; next + rows_at_once <= z.count) {
      prefetch<0>(z.row(next), rows_at_once * row_bytes);
      prefetch<1>(out + next * row_bytes, rows_at_once * row_bytes);
    }
    int64_t members[kBlock];
    const int64_t taken = take_rows(z, first, count, residual, stride, members);
    if (taken < count) {  // the good rows overwrite it
      std::fill_n(codes + first * levels, count * levels, int64_t{-1});
      std::memset(out + first * row_bytes, 0, static_cast<std::size_t>(count * row_bytes));
    }
    own.bad_rows += count - taken;
    std::fill_n(sum, taken * stride, 0.0f);
    own.walker.run(chain, residual, sum, taken, stride, errors.data() + block * levels);
    give_rows(sum, stride, z, members, taken, out);
    for (int64_t i = 0; i < taken; ++i)
      for (int64_t level = 0; level < levels; ++level) codes[members[i] * levels + level] = own.walker.code(i, level);
  });

  int64_t bad_rows = 0;
  counts[0] = counts[1] = 0;
  for (const Worker& worker : workers) {
    bad_rows += worker.bad_rows;
    counts[0] += worker.walker.counts.rescored;
    counts[1] += worker.walker.counts.near_ties;
    if (!worker.walker.finite) status = kBadCodebook;
  }
  const double values = static_cast<double>(std::max<int64_t>((z.count - bad_rows) * width, 1));
  for (int64_t level = 0; level < levels; ++level) {
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += errors[block * levels + level];
    level_error[level] = static_cast<float>(total / values);
  }
  return status | (bad_rows > 0 ? kBadRow : kFine);
}

}  // namespace unitok::UNITOK_ISA

#endif

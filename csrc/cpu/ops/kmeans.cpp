#ifndef UNITOK_ISA

#include "api/kmeans.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"
#include "search/groups.h"
#include "transport/balanced.h"

#define UNITOK_SOURCE "ops/kmeans.cpp"
#include "simd/each_isa.h"

namespace unitok {

void kmeans_start(const float* rows, int64_t count, int64_t width, int64_t codewords, const double* draws,
                  int64_t* chosen, int threads) {
  UNITOK_DISPATCH(kmeans_start(rows, count, width, codewords, draws, chosen, threads));
}

void kmeans(const float* rows, int64_t count, int64_t width, float* codebook, int64_t codewords, int64_t iterations,
            bool balanced, int64_t* codes, int threads) {
  UNITOK_DISPATCH(kmeans(rows, count, width, codebook, codewords, iterations, balanced, codes, threads));
}

}  // namespace unitok

#else

#include "search/differencing.h"
#include "search/packed.h"
#include "search/search.h"
#include "simd/vec.h"
#include "sums/sums.h"

namespace unitok::UNITOK_ISA {

constexpr int64_t kRowsTask = 10 * kBlock;

void kmeans_start(const float* rows, int64_t count, int64_t width, int64_t codewords, const double* draws,
                  int64_t* chosen, int threads) {
  const int64_t tasks = ceil_div(count, kRowsTask);
  Buffer<double> nearest(count), masses(tasks);
  std::fill_n(nearest.data(), count, std::numeric_limits<double>::infinity());
  const auto any_row = [&](double draw) {
    return std::min(count - 1, static_cast<int64_t>(draw * static_cast<double>(count)));
  };
  chosen[0] = any_row(draws[0]);
  for (int64_t k = 1; k < codewords; ++k) {
    const float* const latest = rows + chosen[k - 1] * width;
    parallel(tasks, threads, [&](int64_t task, int) {
      const int64_t first = task * kRowsTask, last = std::min(count, first + kRowsTask);
      double mass = 0;
      for (int64_t i = first; i < last; ++i) {
        nearest[i] = std::min(nearest[i], exact_distance(rows + i * width, latest, width));
        mass += nearest[i];
      }
      masses[task] = mass;
    });
    double total = 0;
    for (int64_t task = 0; task < tasks; ++task) total += masses[task];
    if (!(total > 0)) {  // fewer distinct rows than codewords
      chosen[k] = any_row(draws[k]);
      continue;
    }
    // The first row at which the running sum exceeds the drawn share of the total; by rounding perhaps the last row
    // with a mass.
    const double aim = draws[k] * total;
    double passed = 0;
    int64_t task = 0;
    while (task + 1 < tasks && passed + masses[task] <= aim) passed += masses[task++];
    chosen[k] = chosen[k - 1];
    for (int64_t i = task * kRowsTask; i < std::min(count, (task + 1) * kRowsTask); ++i) {
      if (nearest[i] == 0) continue;
      chosen[k] = i;
      if ((passed += nearest[i]) > aim) break;
    }
  }
}

namespace {

// The nearest codewords of all rows.
void nearest_codes(const float* rows, int64_t count, int64_t width, const float* codebook, int64_t codewords,
                   std::vector<Searcher>& searchers, int64_t* codes) {
  const int64_t stride = round_up(width, kLanes);
  const Packed packed(codebook, codewords, width);
  parallel(ceil_div(count, kRowsTask), static_cast<int>(searchers.size()), [&](int64_t task, int worker) {
    Counts unused;
    Buffer<float> padded(stride == width ? 0 : kBlock * stride);
    for (int64_t first = task * kRowsTask; first < std::min(count, (task + 1) * kRowsTask); first += kBlock) {
      check_interrupt();
      const int64_t block = std::min(kBlock, count - first);
      const float* from = rows + first * width;
      if (stride != width) {
        std::fill_n(padded.data(), block * stride, 0.0f);
        for (int64_t i = 0; i < block; ++i)
          std::memcpy(padded.data() + i * stride, from + i * width, static_cast<std::size_t>(width) * 4);
        from = padded.data();
      }
      searchers[static_cast<std::size_t>(worker)].search(packed, from, block, stride, false, codes + first, unused);
    }
  });
}

// Moves codewords without rows to the rows that are farthest from their codewords.
void revive(const float* rows, int64_t count, int64_t width, const Groups& groups, const int64_t* codes,
            float* codebook, int threads) {
  std::vector<int64_t> empty;
  for (int64_t k = 0; k < groups.codewords(); ++k)
    if (groups.size(k) == 0) empty.push_back(k);
  if (empty.empty()) return;
  Buffer<double> error(count);
  parallel(ceil_div(count, kRowsTask), threads, [&](int64_t task, int) {
    for (int64_t i = task * kRowsTask; i < std::min(count, (task + 1) * kRowsTask); ++i)
      error[i] = exact_distance(rows + i * width, codebook + codes[i] * width, width);
  });
  std::vector<int64_t> far(static_cast<std::size_t>(count));
  std::iota(far.begin(), far.end(), 0);
  const auto some = static_cast<std::ptrdiff_t>(std::min<int64_t>(count, static_cast<int64_t>(empty.size())));
  std::partial_sort(far.begin(), far.begin() + some, far.end(),
                    [&](int64_t a, int64_t b) { return error[a] != error[b] ? error[a] > error[b] : a < b; });
  for (std::ptrdiff_t i = 0; i < some && error[far[static_cast<std::size_t>(i)]] > 0; ++i)
    std::memcpy(codebook + empty[static_cast<std::size_t>(i)] * width, rows + far[static_cast<std::size_t>(i)] * width,
                static_cast<std::size_t>(width) * 4);
}

}  // namespace

void kmeans(const float* rows, int64_t count, int64_t width, float* codebook, int64_t codewords, int64_t iterations,
            bool balanced, int64_t* codes, int threads) {
  std::vector<Searcher> searchers(static_cast<std::size_t>(std::max(threads, 1)));
  for (Searcher& searcher : searchers) searcher = Searcher(codewords, width);
  Buffer<double> prices(codewords);
  std::fill_n(prices.data(), codewords, 0.0);
  const auto assign = [&] {
    nearest_codes(rows, count, width, codebook, codewords, searchers, codes);
    if (balanced) balance(rows, count, width, codebook, codewords, prices.data(), codes, threads);
  };
  assign();
  Buffer<float> sums(codewords * width);
  Buffer<int64_t> before(count);
  for (int64_t turn = 0; turn < iterations; ++turn) {
    const Groups groups(codes, 1, count, codewords);
    sum_groups({rows, Float::f32, count, width}, groups, Float::f32, sums.data(), threads);
    for (int64_t k = 0; k < codewords; ++k) {
      if (groups.size(k) == 0) continue;
      const float size = static_cast<float>(groups.size(k));
      for (int64_t d = 0; d < width; ++d) codebook[k * width + d] = sums[k * width + d] / size;
    }
    revive(rows, count, width, groups, codes, codebook, threads);
    std::memcpy(before.data(), codes, static_cast<std::size_t>(count) * 8);
    assign();
    if (std::memcmp(before.data(), codes, static_cast<std::size_t>(count) * 8) == 0) break;
  }
}

}  // namespace unitok::UNITOK_ISA

#endif

// Prices of codewords with which few rows are off the bounds of balanced.h.
#ifndef UNITOK_TRANSPORT_PRICES_H
#define UNITOK_TRANSPORT_PRICES_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"
#include "search/differencing.h"
#include "simd/vec.h"
#include "transport/scorer.h"

namespace unitok::UNITOK_ISA {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kSweepRows = 512;  // of a task
constexpr int kSweeps = 30;          // at most; one costs about as much as moving 0.2 % of the rows one by one
constexpr int kPatience = 3;

// What all steps share.
struct Problem {
  Problem(const float* rows, int64_t rows_count, int64_t width, const float* codebook, int64_t num_codewords,
          int64_t* row_codes, int num_threads)
      : scorer(rows, width, codebook, num_codewords),
        count(rows_count),
        codewords(num_codewords),
        fewest(count / (2 * codewords)),
        most(ceil_div(2 * count, codewords)),
        sink(scorer.tiles() * 8),
        nodes(sink + 8),
        prices(nodes),
        sizes(codewords),
        codes(row_codes),
        threads(num_threads) {
    std::fill_n(prices.data(), nodes, 0.0);
    count_sizes();
  }

  void count_sizes() {
    std::fill_n(sizes.data(), codewords, int64_t{0});
    for (int64_t i = 0; i < count; ++i) ++sizes[codes[i]];
  }

  // How many rows codeword k should have at its price.
  int64_t goal(int64_t k) const {
    if (prices[k] != 0) return prices[k] > 0 ? most : fewest;
    return std::min(std::max(sizes[k], fewest), most);
  }

  int64_t off_goal() const {
    int64_t rows = 0;
    for (int64_t k = 0; k < codewords; ++k) rows += std::abs(sizes[k] - goal(k));
    return rows;
  }

  const Scorer scorer;
  const int64_t count, codewords, fewest, most;
  const int64_t sink, nodes;  // the number of the sink, which has a tile of its own, and room for all nodes
  Buffer<double> prices;      // of all nodes
  Buffer<int64_t> sizes;
  int64_t* const codes;
  const int threads;
};

// Gives each row the codeword of least distance + price.
void sweep(Problem& problem) {
  const Scorer& scorer = problem.scorer;
  Buffer<double> base(scorer.tiles() * 8);
  for (int64_t k = 0; k < base.size(); ++k) base[k] = scorer.norms()[k] + problem.prices[k];
  parallel(ceil_div(problem.count, kSweepRows), problem.threads, [&](int64_t task, int) {
    Buffer<double> centred(kGroup * scorer.width());
    const int64_t end = std::min(problem.count, (task + 1) * kSweepRows);
    for (int64_t first = task * kSweepRows; first < end; first += kGroup) {
      const int64_t count = std::min<int64_t>(kGroup, end - first);
      scorer.centre([&](int64_t i) { return first + i; }, count, centred.data());
      D8 best[kGroup], which[kGroup];
      for (D8& cost : best) cost = splat8(kInfinity);
      for (D8& number : which) number = zero8();
      for (int64_t tile = 0; tile < scorer.tiles(); tile += kTiles) {
        D8 cost[kGroup][kTiles];
        scorer.score<kTiles>(centred.data(), tile, base.data(), cost);
        for (int t = 0; t < kTiles; ++t) {
          const D8 number = add(splat8(static_cast<double>((tile + t) * 8)), counting8());
          for (int i = 0; i < kGroup; ++i) {
            which[i] = pick_below(cost[i][t], best[i], number, which[i]);
            best[i] = pick_below(cost[i][t], best[i], cost[i][t], best[i]);
          }
        }
      }
      for (int64_t i = 0; i < count; ++i) problem.codes[first + i] = least_of(best[i], which[i]).second;
    }
  });
  problem.count_sizes();
}

// The mean squared distance of the rows from their codewords.
double mean_distance(const Problem& problem, const float* codebook) {
  double total = 0;
  const int64_t width = problem.scorer.width();
  for (int64_t i = 0; i < problem.count; ++i) {
    if (i % kRowsPerCheck == 0) check_interrupt();
    total += exact_distance(problem.scorer.row(i), codebook + problem.codes[i] * width, width);
  }
  return total / static_cast<double>(problem.count);
}

// Moves prices and rows until few rows are off their goals, or more sweeps don't pay.
void search_prices(Problem& problem, double first_step) {
  const int64_t codewords = problem.codewords;
  std::vector<double> step(static_cast<std::size_t>(codewords), first_step);
  std::vector<int> side(static_cast<std::size_t>(codewords), 0);  // 1: had too many rows, -1: too few
  std::vector<int64_t> course{problem.off_goal()};
  Buffer<double> best(codewords);
  std::copy_n(problem.prices.data(), codewords, best.data());
  int64_t least = course[0];
  while (course.back() * 100 > problem.count && course.size() < kSweeps) {
    for (int64_t k = 0; k < codewords; ++k) {
      const int64_t goal = problem.goal(k), over = problem.sizes[k] - goal;
      const int now = over > 0 ? 1 : over < 0 ? -1 : 0;
      double& stride = step[static_cast<std::size_t>(k)];
      int& before = side[static_cast<std::size_t>(k)];
      if (now * before != 0) stride *= now == before ? 1.3 : 0.5;
      if (now != 0) before = now;
      const double part = std::min(1.0, static_cast<double>(std::abs(over)) / static_cast<double>(goal + 1));
      const double price = problem.prices[k], moved = price + now * part * stride;
      problem.prices[k] = price * moved < 0 ? 0 : moved;  // at price 0 a codeword's goal is its bounds alone
    }
    sweep(problem);
    course.push_back(problem.off_goal());
    if (course.back() < least) {
      least = course.back();
      std::copy_n(problem.prices.data(), codewords, best.data());
    }
    const std::size_t now = course.size();
    if (now > kPatience && (*std::min_element(course.end() - kPatience, course.end()) + problem.count / 150 >
                            *std::min_element(course.begin(), course.end() - kPatience)))
      break;
  }
  if (course.back() > least) {
    std::copy_n(best.data(), codewords, problem.prices.data());
    sweep(problem);
  }
}

}  // namespace
}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_TRANSPORT_PRICES_H

// The assignment of least cost under bounds is a transport problem: rows flow to codewords, and from each codeword
// between `fewest` and `most` of them flow on to one sink. Its dual gives each codeword a price: above 0 if it has as
// many rows as it may, below 0 if it has as few as it must. Rows then take the codeword of least distance + price.
//
//   search_prices (prices.h): a few sweeps over the rows, which raise the prices of codewords with too many rows and
//   lower those of codewords with too few.
//   Flow (flow.h): makes that exact by successive shortest paths (Ahuja, Magnanti and Orlin, "Network Flows", 1993).
//   Rows move along shortest paths from codewords with too many to codewords with too few. The nodes of the graph are
//   the codewords and the sink alone: the edge from a to b is the row of a that loses least by going to b. Prices are
//   the potentials that keep edges at or above 0.
#ifndef UNITOK_ISA

#include "transport/balanced.h"

#include <algorithm>
#include <cstdint>

#define UNITOK_SOURCE "transport/balanced.cpp"
#include "simd/each_isa.h"

namespace unitok {

void balance(const float* rows, int64_t count, int64_t width, const float* codebook, int64_t codewords, double* prices,
             int64_t* codes, int threads) {
  UNITOK_DISPATCH(balance(rows, count, width, codebook, codewords, prices, codes, threads));
}

}  // namespace unitok

#else

#include "transport/flow.h"
#include "transport/prices.h"

namespace unitok::UNITOK_ISA {

void balance(const float* rows, int64_t count, int64_t width, const float* codebook, int64_t codewords, double* prices,
             int64_t* codes, int threads) {
  Problem problem(rows, count, width, codebook, codewords, codes, threads);
  const int64_t off_goal = problem.off_goal();
  if (off_goal > 0) {
    const double scale = mean_distance(problem, codebook);
    if (std::any_of(prices, prices + codewords, [](double price) { return price != 0; })) {
      std::copy_n(prices, codewords, problem.prices.data());
      sweep(problem);
      if (problem.off_goal() >= off_goal) {  // the codebook has changed too much
        std::fill_n(problem.prices.data(), codewords, 0.0);
        sweep(problem);
      }
    }
    search_prices(problem, 0.02 * scale);
    Flow(problem).run();
  }
  std::copy_n(problem.prices.data(), codewords, prices);
}

}  // namespace unitok::UNITOK_ISA

#endif

#ifndef UNITOK_ISA

#include "api/residual_loss.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/residual_loss.cpp"
#include "simd/each_isa.h"

namespace unitok {

int residual_loss(const Rows& z, const int64_t* codes, const Chains& chains, const int64_t* experts, int64_t slots,
                  LossWeights weights, float* loss, float* by_z, float* by_codebooks, int threads) {
  UNITOK_DISPATCH(residual_loss(z, codes, chains, experts, slots, weights, loss, by_z, by_codebooks, threads));
}

void moe_residual_encode_backward(const float* gradient, int64_t count, int64_t width, const Chains& chains,
                                  const Routes& routes, const int64_t* codes, const Chains& shared, float shared_weight,
                                  const int64_t* shared_codes, float* by_z, float* by_weights, float* by_codebooks,
                                  float* by_shared, int threads) {
  UNITOK_DISPATCH(moe_residual_encode_backward(gradient, count, width, chains, routes, codes, shared, shared_weight,
                                               shared_codes, by_z, by_weights, by_codebooks, by_shared, threads));
}

}  // namespace unitok

#else

#include "simd/vec.h"

namespace unitok::UNITOK_ISA {
namespace {

// A row adds to the gradient of any codeword. So a task takes kLanes columns of all codebooks, and all rows in order:
// no two tasks write to the same place, and sums have one order for any number of threads.

bool inside(int64_t index, int64_t size) { return index >= 0 && index < size; }

// A codeword's values from `column` on.
template <class T>
T* codeword(T* codebooks, const Chains& chains, int64_t width, int64_t expert, int64_t level, int64_t code,
            int64_t column) {
  return codebooks + ((expert * chains.levels + level) * chains.codewords + code) * width + column;
}

}  // namespace

int residual_loss(const Rows& z, const int64_t* codes, const Chains& chains, const int64_t* experts, int64_t slots,
                  LossWeights weights, float* loss, float* by_z, float* by_codebooks, int threads) {
  const int64_t width = z.width, levels = chains.levels, slices = ceil_div(width, kLanes);
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(z.count, 1));
  const V to_row = splat(static_cast<float>(2 * scale * static_cast<double>(weights.commitment)));
  const V to_codeword = splat(static_cast<float>(2 * scale * static_cast<double>(weights.codebook)));
  const int64_t table = chains.experts * levels * chains.codewords * width;
  std::vector<double> totals(static_cast<std::size_t>(slices), 0.0);
  std::atomic<int> status{kFine};
  if (by_codebooks != nullptr) std::fill_n(by_codebooks, table, 0.0f);

  parallel(slices, threads, [&](int64_t slice, int) {
    const int64_t column = slice * kLanes;
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width - column));
    double total = 0;
    for (int64_t n = 0; n < z.count; ++n) {
      if (n % kRowsPerCheck == 0) check_interrupt();
      V sum = zero(), squares = zero();
      for (int64_t slot = 0; slot < slots; ++slot) {
        const int64_t expert = experts[n * slots + slot];
        const int64_t* const code = codes + (n * slots + slot) * levels;
        if (!inside(expert, chains.experts)) {
          status |= kBadExpert;
          continue;
        }
        V residual = load_part(z.row(n) + column * size_of(z.type), z.type, lanes);
        for (int64_t level = 0; level < levels; ++level) {
          if (!inside(code[level], chains.codewords)) {
            if (code[level] != -1) status |= kBadCode;
            continue;
          }
          residual =
              sub(residual,
                  load_first(codeword(chains.codebooks, chains, width, expert, level, code[level], column), lanes));
          sum = add(sum, residual);
          squares = fma(residual, residual, squares);
          if (by_codebooks == nullptr) continue;
          float* const to = codeword(by_codebooks, chains, width, expert, level, code[level], column);
          store_first(to, fnma(residual, to_codeword, load_first(to, lanes)), lanes);
        }
      }
      total += static_cast<double>(unitok::UNITOK_ISA::sum(squares));
      if (by_z != nullptr) store_first(by_z + n * width + column, mul(sum, to_row), lanes);
    }
    totals[static_cast<std::size_t>(slice)] = total;
  });

  const double total = std::accumulate(totals.begin(), totals.end(), 0.0);
  *loss = static_cast<float>(static_cast<double>(weights.codebook + weights.commitment) * total * scale);
  if (!std::isfinite(*loss)) status |= kBadRow | kBadCodebook;
  return status;
}

void moe_residual_encode_backward(const float* gradient, int64_t count, int64_t width, const Chains& chains,
                                  const Routes& routes, const int64_t* codes, const Chains& shared, float shared_weight,
                                  const int64_t* shared_codes, float* by_z, float* by_weights, float* by_codebooks,
                                  float* by_shared, int threads) {
  const int64_t levels = chains.levels, slots = routes.slots, shared_levels = shared.experts > 0 ? shared.levels : 0;
  constexpr int64_t kTask = 256;
  // A slot without a code is left out: its weight may be NaN.
  const auto encoded = [&](int64_t place) {
    return inside(routes.experts[place], chains.experts) && codes[place * levels] >= 0;
  };

  parallel(ceil_div(count, kTask), threads, [&](int64_t task, int) {
    for (int64_t n = task * kTask; n < std::min(count, (task + 1) * kTask); ++n) {
      const float* const g = gradient + n * width;
      float through = shared_levels > 0 && shared_codes[n * shared_levels] >= 0 ? shared_weight : 0.0f;
      for (int64_t slot = 0; slot < slots; ++slot) {
        const int64_t place = n * slots + slot;
        by_weights[place] = 0;
        if (!encoded(place)) continue;
        through += routes.weights[place];
        V dot = zero();
        for (int64_t level = 0; level < levels; ++level) {
          const int64_t code = codes[place * levels + level];
          if (!inside(code, chains.codewords)) continue;
          const float* const c = codeword(chains.codebooks, chains, width, routes.experts[place], level, code, 0);
          for (int64_t d = 0; d < width; d += kLanes) {
            const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width - d));
            dot = fma(load_first(g + d, lanes), load_first(c + d, lanes), dot);
          }
        }
        by_weights[place] = sum(dot);
      }
      for (int64_t d = 0; d < width; ++d) by_z[n * width + d] = through * g[d];
    }
  });

  if (by_codebooks != nullptr) std::fill_n(by_codebooks, chains.experts * levels * chains.codewords * width, 0.0f);
  if (by_shared != nullptr) std::fill_n(by_shared, shared_levels * shared.codewords * width, 0.0f);
  if (by_codebooks == nullptr && by_shared == nullptr) return;
  parallel(ceil_div(width, kLanes), threads, [&](int64_t slice, int) {
    const int64_t column = slice * kLanes;
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width - column));
    const auto raise = [&](float* to, V by) { store_first(to, add(load_first(to, lanes), by), lanes); };
    for (int64_t n = 0; n < count; ++n) {
      if (n % kRowsPerCheck == 0) check_interrupt();
      const V g = load_first(gradient + n * width + column, lanes);
      for (int64_t slot = 0; by_codebooks != nullptr && slot < slots; ++slot) {
        const int64_t place = n * slots + slot;
        if (!encoded(place)) continue;
        const V part = mul(splat(routes.weights[place]), g);
        for (int64_t level = 0; level < levels; ++level) {
          const int64_t code = codes[place * levels + level];
          if (inside(code, chains.codewords))
            raise(codeword(by_codebooks, chains, width, routes.experts[place], level, code, column), part);
        }
      }
      const V part = mul(splat(shared_weight), g);
      for (int64_t level = 0; by_shared != nullptr && level < shared_levels; ++level) {
        const int64_t code = shared_codes[n * shared_levels + level];
        if (inside(code, shared.codewords)) raise(codeword(by_shared, shared, width, 0, level, code, column), part);
      }
    }
  });
}

}  // namespace unitok::UNITOK_ISA

#endif

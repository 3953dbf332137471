#ifndef UNITOK_ISA

#include "moe_residual_encode.h"

#define UNITOK_SOURCE "moe_residual_encode.cpp"
#include "each_isa.h"

namespace unitok {

int moe_residual_encode(const Rows& z, const Chains& chains, const Routes& routes, const Chains& shared,
                        float shared_weight, const MoeCodes& out, const EncodeOptions& options) {
  UNITOK_DISPATCH(moe_residual_encode(z, chains, routes, shared, shared_weight, out, options));
}

}  // namespace unitok

#else

#include "search.h"

#include "shortlist.h"

#include "chain.h"

namespace unitok::UNITOK_ISA {
namespace {

// Rows are sorted by their experts so many at a time: the order's memory doesn't grow with N.
constexpr int64_t kSorted = 341 * kBlock;

// Orders rows first .. first + count - 1 by the experts of their slots, the first slot above all; stable.
class Order {
 public:
  Order(const Routes& routes, int64_t experts) : routes_(routes), experts_(experts) {}

  const std::vector<int32_t>& sort(int64_t first, int64_t count) {
    order_.resize(static_cast<std::size_t>(count));
    other_.resize(static_cast<std::size_t>(count));
    std::iota(order_.begin(), order_.end(), 0);
    for (int64_t slot = routes_.slots - 1; slot >= 0; --slot) {
      begin_.assign(static_cast<std::size_t>(experts_ + 2), 0);
      for (int64_t i = 0; i < count; ++i) ++begin_[key(first + i, slot) + 1];
      std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
      for (int32_t i : order_) other_[static_cast<std::size_t>(begin_[key(first + i, slot)]++)] = i;
      order_.swap(other_);
    }
    return order_;
  }

 private:
  std::size_t key(int64_t row, int64_t slot) const {
    const int64_t expert = routes_.experts[row * routes_.slots + slot];
    return static_cast<std::size_t>(expert >= 0 && expert < experts_ ? expert : experts_);
  }

  const Routes& routes_;
  int64_t experts_;
  std::vector<int32_t> order_, other_;
  std::vector<int64_t> begin_;
};

// What one thread needs to take a block of rows through their chains.
struct Worker {
  Walker walker;
  Buffer<float> rows, residual, quantized, combined;
};

}  // namespace

int moe_residual_encode(const Rows& z, const Chains& chains, const Routes& routes, const Chains& shared,
                        float shared_weight, const MoeCodes& out, const EncodeOptions& options) {
  const int64_t width = z.width, stride = round_up(width, kLanes), row_bytes = width * size_of(z.type);
  const int64_t levels = chains.levels, slots = routes.slots, shared_levels = shared.experts > 0 ? shared.levels : 0;
  std::atomic<int> status{kFine};

  std::vector<int64_t> routed(static_cast<std::size_t>(chains.experts), 0);
  for (int64_t i = 0; i < z.count * slots; ++i) {
    const int64_t expert = routes.experts[i];
    if (expert >= 0 && expert < chains.experts) {
      ++routed[static_cast<std::size_t>(expert)];
    } else {
      status |= kBadExpert;
    }
    if (!std::isfinite(routes.weights[i])) status |= kBadWeight;
  }
  std::vector<Chain> experts;
  std::vector<std::pair<Chain*, int64_t> > to_pack;
  for (int64_t e = 0; e < chains.experts; ++e)
    experts.emplace_back(chains.codebooks + e * levels * chains.codewords * width, levels, chains.codewords, width);
  Chain shared_chain;
  if (shared_levels > 0) shared_chain = Chain(shared.codebooks, shared_levels, shared.codewords, width);
  for (std::size_t e = 0; e < experts.size(); ++e)
    for (int64_t level = 0; routed[e] > kFewRows && level < levels; ++level) to_pack.emplace_back(&experts[e], level);
  for (int64_t level = 0; z.count > kFewRows && level < shared_levels; ++level)
    to_pack.emplace_back(&shared_chain, level);
  parallel(static_cast<int64_t>(to_pack.size()), options.threads, [&](int64_t task, int) {
    const auto& [chain, level] = to_pack[static_cast<std::size_t>(task)];
    chain->pack(level, options.fast);
    if (!chain->packed(level).finite()) status |= kBadCodebook;
  });

  const int64_t sorted = std::min(z.count, kSorted), rows_at_once = block_rows(width, z.count);
  const int64_t most_blocks = ceil_div(sorted, rows_at_once);
  const int threads = static_cast<int>(std::min<int64_t>(options.threads, std::max<int64_t>(most_blocks, 1)));
  std::vector<Worker> workers(static_cast<std::size_t>(threads));
  for (Worker& worker : workers) {
    worker.walker = Walker(std::max(levels, shared_levels), std::max(chains.codewords, shared.codewords), width,
                           options.fast, options.stats);
    for (Buffer<float>* buffer : {&worker.rows, &worker.residual, &worker.quantized, &worker.combined})
      *buffer = Buffer<float>(rows_at_once * stride);
  }

  // What a block adds to the errors and their divisors: levels, shared levels, routed rows, shared rows.
  const int64_t sums = levels + shared_levels + 2;
  std::vector<double> total(static_cast<std::size_t>(sums), 0.0);
  Buffer<double> partial(most_blocks * sums);
  Order order(routes, chains.experts);
  char* const combined_out = static_cast<char*>(out.combined);

  expect_large(out.codes, z.count * slots * levels * 8);
  expect_large(out.shared_codes, z.count * shared_levels * 8);
  expect_large(out.combined, z.count * row_bytes);

  for (int64_t start = 0; start < z.count; start += kSorted) {
    const int64_t count = std::min(kSorted, z.count - start), blocks = ceil_div(count, rows_at_once);
    const std::vector<int32_t>& sorted_rows = order.sort(start, count);
    std::fill_n(partial.data(), blocks * sums, 0.0);

    parallel(blocks, threads, [&](int64_t block, int index) {
      Worker& own = workers[static_cast<std::size_t>(index)];
      double* const errors = partial.data() + block * sums;
      float* const rows = own.rows.data();
      float* const residual = own.residual.data();
      float* const quantized = own.quantized.data();
      float* const combined = own.combined.data();

      const int64_t next = (block + threads) * rows_at_once;
      for (int64_t i = next; i < std::min(next + rows_at_once, count); ++i) {
        const int64_t row = start + sorted_rows[static_cast<std::size_t>(i)];
        prefetch<0>(z.row(row), row_bytes);
        prefetch<1>(combined_out + row * row_bytes, row_bytes);
      }
      int64_t members[kBlock], taken = 0;
      for (int64_t i = block * rows_at_once; i < std::min((block + 1) * rows_at_once, count); ++i) {
        const int64_t row = start + sorted_rows[static_cast<std::size_t>(i)];
        if (take_row(z, row, rows + taken * stride, stride)) {
          members[taken++] = row;
          continue;
        }
        status |= kBadRow;
        std::fill_n(out.codes + row * slots * levels, slots * levels, int64_t{-1});
        std::fill_n(out.shared_codes + row * shared_levels, shared_levels, int64_t{-1});
        std::memset(combined_out + row * row_bytes, 0, static_cast<std::size_t>(row_bytes));
      }
      std::fill_n(combined, taken * stride, 0.0f);

      // Adds weight * quantized to rows begin .. end - 1 of `combined`, after taking them through a chain; the last one
      // may use up the rows.
      const auto take = [&](const Chain& chain, int64_t begin, int64_t end, bool last, double* error, auto weight_of) {
        const int64_t values = (end - begin) * stride;
        float* const left = last ? rows + begin * stride : residual;
        if (!last) std::copy_n(rows + begin * stride, values, left);
        std::fill_n(quantized, values, 0.0f);
        own.walker.run(chain, left, quantized, end - begin, stride, error);
        for (int64_t i = begin; i < end; ++i) {
          const V weight = splat(weight_of(i));
          for (int64_t d = 0; d < stride; d += kLanes) {
            float* const to = combined + i * stride + d;
            store(to, add(load(to), mul(weight, load(quantized + (i - begin) * stride + d))));
          }
        }
      };

      for (int64_t slot = 0; slot < slots; ++slot) {
        const auto place = [&](int64_t i) { return members[i] * slots + slot; };
        const auto expert_of = [&](int64_t i) {
          const int64_t expert = routes.experts[place(i)];
          if (!(expert >= 0 && expert < chains.experts)) return int64_t{-1};
          return std::isfinite(routes.weights[place(i)]) ? expert : int64_t{-1};
        };
        for (int64_t begin = 0, end; begin < taken; begin = end) {
          const int64_t expert = expert_of(begin);
          for (end = begin + 1; end < taken && expert_of(end) == expert;) ++end;
          if (expert >= 0) {
            take(experts[static_cast<std::size_t>(expert)], begin, end, slot + 1 == slots && shared_levels == 0, errors,
                 [&](int64_t i) { return routes.weights[place(i)]; });
            errors[sums - 2] += static_cast<double>(end - begin);
          }
          for (int64_t i = begin; i < end; ++i)
            for (int64_t level = 0; level < levels; ++level)
              out.codes[place(i) * levels + level] = expert < 0 ? -1 : own.walker.code(i - begin, level);
        }
      }
      if (shared_levels > 0) {
        take(shared_chain, 0, taken, true, errors + levels, [&](int64_t) { return shared_weight; });
        for (int64_t i = 0; i < taken; ++i)
          for (int64_t level = 0; level < shared_levels; ++level)
            out.shared_codes[members[i] * shared_levels + level] = own.walker.code(i, level);
      }
      errors[sums - 1] += static_cast<double>(taken);
      for (int64_t i = 0; i < taken; ++i)
        narrow(combined + i * stride, z.type, width, combined_out + members[i] * row_bytes);
    });

    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t i = 0; i < sums; ++i) total[static_cast<std::size_t>(i)] += partial[block * sums + i];
  }

  const double* const all = total.data();
  for (int64_t level = 0; level < levels; ++level)
    out.level_error[level] =
        static_cast<float>(all[level] / (std::max(all[sums - 2], 1.0) * static_cast<double>(width)));
  for (int64_t level = 0; level < shared_levels; ++level)
    out.shared_error[level] =
        static_cast<float>(all[levels + level] / (std::max(all[sums - 1], 1.0) * static_cast<double>(width)));
  out.counts[0] = out.counts[1] = 0;
  for (const Worker& worker : workers) {
    out.counts[0] += worker.walker.counts.rescored;
    out.counts[1] += worker.walker.counts.near_ties;
    if (!worker.walker.finite) status |= kBadCodebook;
  }
  return status;
}

}  // namespace unitok::UNITOK_ISA

#endif

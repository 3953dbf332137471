#ifndef UNITOK_ISA

#include "api/moe_residual_encode.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/moe_residual_encode.cpp"
#include "simd/each_isa.h"

namespace unitok {

int moe_residual_encode(const Rows& z, const Chains& chains, const Routes& routes, const Chains& shared,
                        float shared_weight, const MoeCodes& out, const EncodeOptions& options) {
  UNITOK_DISPATCH(moe_residual_encode(z, chains, routes, shared, shared_weight, out, options));
}

}  // namespace unitok

#else

#include "search/chain.h"
#include "search/search.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {
namespace {

// Rows are sorted by their experts this many at a time, so that the order's memory doesn't grow with N.
constexpr int64_t kSorted = 341 * kBlock;

// Orders rows first .. first + count - 1 by the experts of their slots, the first slot first; stable.
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
  int64_t members[kBlock], taken = 0;  // numbers of the finite rows of the block, and how many they are
};

// One call.
class Encoding {
 public:
  Encoding(const Rows& z, const Chains& chains, const Routes& routes, const Chains& shared, float shared_weight,
           const MoeCodes& out, const EncodeOptions& options)
      : z_(z),
        chains_(chains),
        routes_(routes),
        shared_(shared),
        shared_weight_(shared_weight),
        out_(out),
        options_(options),
        stride_(round_up(z.width, kLanes)),
        row_bytes_(z.width * size_of(z.type)),
        levels_(chains.levels),
        slots_(routes.slots),
        shared_levels_(shared.experts > 0 ? shared.levels : 0),
        rows_at_once_(block_rows(z.width, z.count)),
        sums_(levels_ + shared_levels_ + 2) {}

  int run() {
    pack(check_routes());
    const int64_t most_blocks = ceil_div(std::min(z_.count, kSorted), rows_at_once_);
    make_workers(most_blocks);
    expect_large(out_.codes, z_.count * slots_ * levels_ * 8);
    expect_large(out_.shared_codes, z_.count * shared_levels_ * 8);
    expect_large(out_.combined, z_.count * row_bytes_);

    std::vector<double> total(static_cast<std::size_t>(sums_), 0.0);
    Buffer<double> partial(most_blocks * sums_);
    Order order(routes_, chains_.experts);
    const int threads = static_cast<int>(workers_.size());
    for (int64_t start = 0; start < z_.count; start += kSorted) {
      const int64_t count = std::min(kSorted, z_.count - start), blocks = ceil_div(count, rows_at_once_);
      const std::vector<int32_t>& sorted = order.sort(start, count);
      std::fill_n(partial.data(), blocks * sums_, 0.0);
      parallel(blocks, threads, [&](int64_t block, int index) {
        Worker& own = workers_[static_cast<std::size_t>(index)];
        double* const errors = partial.data() + block * sums_;
        prefetch_block(start, sorted, block + threads);
        take_block(start, sorted, block, own);
        for (int64_t slot = 0; slot < slots_; ++slot) encode_slot(slot, own, errors);
        if (shared_levels_ > 0) encode_shared(own, errors);
        errors[sums_ - 1] += static_cast<double>(own.taken);
        for (int64_t i = 0; i < own.taken; ++i)
          narrow(own.combined.data() + i * stride_, z_.type, z_.width, combined(own.members[i]));
      });
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t i = 0; i < sums_; ++i) total[static_cast<std::size_t>(i)] += partial[block * sums_ + i];
    }
    write_statistics(total.data());
    return status_;
  }

 private:
  char* combined(int64_t row) const { return static_cast<char*>(out_.combined) + row * row_bytes_; }

  // How many slots go to each expert.
  std::vector<int64_t> check_routes() {
    std::vector<int64_t> routed(static_cast<std::size_t>(chains_.experts), 0);
    for (int64_t i = 0; i < z_.count * slots_; ++i) {
      const int64_t expert = routes_.experts[i];
      if (expert >= 0 && expert < chains_.experts) {
        ++routed[static_cast<std::size_t>(expert)];
      } else {
        status_ |= kBadExpert;
      }
      if (!std::isfinite(routes_.weights[i])) status_ |= kBadWeight;
    }
    return routed;
  }

  // Packs the chains that many rows go through.
  void pack(const std::vector<int64_t>& routed) {
    const int64_t width = z_.width;
    for (int64_t e = 0; e < chains_.experts; ++e)
      experts_.emplace_back(chains_.codebooks + e * levels_ * chains_.codewords * width, levels_, chains_.codewords,
                            width);
    if (shared_levels_ > 0) shared_chain_ = Chain(shared_.codebooks, shared_levels_, shared_.codewords, width);
    std::vector<std::pair<Chain*, int64_t> > tasks;
    for (std::size_t e = 0; e < experts_.size(); ++e)
      for (int64_t level = 0; routed[e] > kFewRows && level < levels_; ++level) tasks.emplace_back(&experts_[e], level);
    for (int64_t level = 0; z_.count > kFewRows && level < shared_levels_; ++level)
      tasks.emplace_back(&shared_chain_, level);
    parallel(static_cast<int64_t>(tasks.size()), options_.threads, [&](int64_t task, int) {
      const auto& [chain, level] = tasks[static_cast<std::size_t>(task)];
      chain->pack(level, options_.fast);
      if (!chain->packed(level).finite()) status_ |= kBadCodebook;
    });
  }

  void make_workers(int64_t most_blocks) {
    workers_.resize(static_cast<std::size_t>(std::min<int64_t>(options_.threads, std::max<int64_t>(most_blocks, 1))));
    for (Worker& worker : workers_) {
      worker.walker = Walker(std::max(levels_, shared_levels_), std::max(chains_.codewords, shared_.codewords),
                             z_.width, options_.fast, options_.stats);
      for (Buffer<float>* buffer : {&worker.rows, &worker.residual, &worker.quantized, &worker.combined})
        *buffer = Buffer<float>(rows_at_once_ * stride_);
    }
  }

  void prefetch_block(int64_t start, const std::vector<int32_t>& sorted, int64_t block) const {
    const int64_t first = block * rows_at_once_, count = static_cast<int64_t>(sorted.size());
    for (int64_t i = first; i < std::min(first + rows_at_once_, count); ++i) {
      const int64_t row = start + sorted[static_cast<std::size_t>(i)];
      prefetch<0>(z_.row(row), row_bytes_);
      prefetch<1>(combined(row), row_bytes_);
    }
  }

  // Reads the finite rows of a block; the others get codes of -1 and zeros.
  void take_block(int64_t start, const std::vector<int32_t>& sorted, int64_t block, Worker& own) {
    const int64_t count = static_cast<int64_t>(sorted.size());
    own.taken = 0;
    for (int64_t i = block * rows_at_once_; i < std::min((block + 1) * rows_at_once_, count); ++i) {
      const int64_t row = start + sorted[static_cast<std::size_t>(i)];
      if (take_row(z_, row, own.rows.data() + own.taken * stride_, stride_)) {
        own.members[own.taken++] = row;
        continue;
      }
      status_ |= kBadRow;
      std::fill_n(out_.codes + row * slots_ * levels_, slots_ * levels_, int64_t{-1});
      std::fill_n(out_.shared_codes + row * shared_levels_, shared_levels_, int64_t{-1});
      std::memset(combined(row), 0, static_cast<std::size_t>(row_bytes_));
    }
    std::fill_n(own.combined.data(), own.taken * stride_, 0.0f);
  }

  // The expert of a slot; -1 if there is none, or its weight isn't finite.
  int64_t expert_at(int64_t place) const {
    const int64_t expert = routes_.experts[place];
    if (!(expert >= 0 && expert < chains_.experts)) return -1;
    return std::isfinite(routes_.weights[place]) ? expert : -1;
  }

  // Takes a block's rows through the experts of one slot: neighbouring rows of one expert together.
  void encode_slot(int64_t slot, Worker& own, double* errors) const {
    const auto place = [&](int64_t i) { return own.members[i] * slots_ + slot; };
    const bool last = slot + 1 == slots_ && shared_levels_ == 0;
    for (int64_t begin = 0, end; begin < own.taken; begin = end) {
      const int64_t expert = expert_at(place(begin));
      for (end = begin + 1; end < own.taken && expert_at(place(end)) == expert;) ++end;
      if (expert >= 0) {
        add_chain(experts_[static_cast<std::size_t>(expert)], begin, end, last, own, errors,
                  [&](int64_t i) { return routes_.weights[place(i)]; });
        errors[sums_ - 2] += static_cast<double>(end - begin);
      }
      for (int64_t i = begin; i < end; ++i)
        for (int64_t level = 0; level < levels_; ++level)
          out_.codes[place(i) * levels_ + level] = expert < 0 ? -1 : own.walker.code(i - begin, level);
    }
  }

  void encode_shared(Worker& own, double* errors) const {
    add_chain(shared_chain_, 0, own.taken, true, own, errors + levels_, [&](int64_t) { return shared_weight_; });
    for (int64_t i = 0; i < own.taken; ++i)
      for (int64_t level = 0; level < shared_levels_; ++level)
        out_.shared_codes[own.members[i] * shared_levels_ + level] = own.walker.code(i, level);
  }

  // Takes rows begin .. end - 1 of the block through a chain, and adds weight * quantized to their combined rows. The
  // last chain may overwrite the rows.
  template <class WeightOf>
  void add_chain(const Chain& chain, int64_t begin, int64_t end, bool last, Worker& own, double* errors,
                 const WeightOf& weight_of) const {
    const int64_t values = (end - begin) * stride_;
    float* const rows = own.rows.data() + begin * stride_;
    float* const left = last ? rows : own.residual.data();
    float* const quantized = own.quantized.data();
    if (!last) std::copy_n(rows, values, left);
    std::fill_n(quantized, values, 0.0f);
    own.walker.run(chain, left, quantized, end - begin, stride_, errors);
    for (int64_t i = begin; i < end; ++i) {
      const V weight = splat(weight_of(i));
      for (int64_t d = 0; d < stride_; d += kLanes) {
        float* const to = own.combined.data() + i * stride_ + d;
        store(to, add(load(to), mul(weight, load(quantized + (i - begin) * stride_ + d))));
      }
    }
  }

  void write_statistics(const double* total) {
    const double width = static_cast<double>(z_.width);
    for (int64_t level = 0; level < levels_; ++level)
      out_.level_error[level] = static_cast<float>(total[level] / (std::max(total[sums_ - 2], 1.0) * width));
    for (int64_t level = 0; level < shared_levels_; ++level)
      out_.shared_error[level] = static_cast<float>(total[levels_ + level] / (std::max(total[sums_ - 1], 1.0) * width));
    out_.counts[0] = out_.counts[1] = 0;
    for (const Worker& worker : workers_) {
      out_.counts[0] += worker.walker.counts.rescored;
      out_.counts[1] += worker.walker.counts.near_ties;
      if (!worker.walker.finite) status_ |= kBadCodebook;
    }
  }

  const Rows& z_;
  const Chains& chains_;
  const Routes& routes_;
  const Chains& shared_;
  const float shared_weight_;
  const MoeCodes& out_;
  const EncodeOptions& options_;
  const int64_t stride_, row_bytes_, levels_, slots_, shared_levels_, rows_at_once_;
  const int64_t sums_;  // what a block adds up: errors, errors of the shared chain, slots with an expert, rows
  std::vector<Chain> experts_;
  Chain shared_chain_;
  std::vector<Worker> workers_;
  std::atomic<int> status_{kFine};
};

}  // namespace

int moe_residual_encode(const Rows& z, const Chains& chains, const Routes& routes, const Chains& shared,
                        float shared_weight, const MoeCodes& out, const EncodeOptions& options) {
  return Encoding(z, chains, routes, shared, shared_weight, out, options).run();
}

}  // namespace unitok::UNITOK_ISA

#endif

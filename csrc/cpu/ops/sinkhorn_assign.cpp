// Only the codewords' potentials are kept between iterations; scores are computed again, a block of rows at a time. All
// is in double precision, since a small epsilon leaves float32 no digit after the point. Every sum has one order, so
// codes are equal on all instruction sets.
#ifndef UNITOK_ISA

#include "api/sinkhorn_assign.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/sinkhorn_assign.cpp"
#include "simd/each_isa.h"

namespace unitok {

bool sinkhorn_assign(const float* x, int64_t rows, int64_t width, const float* codebook, int64_t codewords,
                     double epsilon, int64_t iterations, int64_t* codes, int threads) {
  UNITOK_DISPATCH(sinkhorn_assign(x, rows, width, codebook, codewords, epsilon, iterations, codes, threads));
}

}  // namespace unitok

#else

#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr int64_t kAssignRows = 48;                      // of a block, whose scores stay in the second-level cache
constexpr int kScoreRows = UNITOK_LEVEL == 512 ? 6 : 4;  // of a register tile
constexpr int kScoreVectors = UNITOK_LEVEL == 512 ? 4 : 1;
constexpr int64_t kParts = 64;       // the rows are split in at most so many parts, for any number of threads
constexpr double kNothing = -1e300;  // stands for log 0, but is finite

inline double most(D8 a) {
  double v[8];
  store8(v, a);
  return *std::max_element(v, v + 8);
}

// A running log sum exp: `most` is subtracted from every exponent.
struct LogSums {
  explicit LogSums(int64_t size) : most(size), sums(size) { clear(); }

  void clear() {
    std::fill_n(most.data(), most.size(), kNothing);
    std::fill_n(sums.data(), sums.size(), 0.0);
  }

  void add_vector(int64_t at, D8 other_most, D8 other_sum) {
    const D8 own = load8(most.data() + at), both = max(own, other_most);
    const D8 kept = mul(load8(sums.data() + at), exp(sub(own, both)));
    store8(sums.data() + at, fma(other_sum, exp(sub(other_most, both)), kept));
    store8(most.data() + at, both);
  }

  Buffer<double> most, sums;
};

// One thread's block of rows.
struct AssignBlock {
  AssignBlock(int64_t width, int64_t padded)
      : rows(kAssignRows * width), norms(kAssignRows), scores(kAssignRows * padded), columns(padded) {}
  Buffer<double> rows, norms, scores;
  LogSums columns;
};

class Sinkhorn {
 public:
  Sinkhorn(const float* x, int64_t width, std::vector<int64_t> members, const float* codebook, int64_t codewords)
      : x_(x),
        width_(width),
        count_(static_cast<int64_t>(members.size())),
        members_(std::move(members)),
        codewords_(codewords),
        padded_(round_up(codewords, 8)),
        centre_(width),
        table_(padded_ * width),
        norms_(padded_),
        potentials_(padded_) {
    for (int64_t d = 0; d < width; ++d) {
      double total = 0;
      for (int64_t k = 0; k < codewords; ++k) total += static_cast<double>(codebook[k * width + d]);
      centre_[d] = total / static_cast<double>(codewords);
    }
    std::fill_n(norms_.data(), padded_, 0.0);
    for (int64_t k = 0; k < padded_; ++k) {
      for (int64_t d = 0; d < width; ++d) {
        const double value = k < codewords ? static_cast<double>(codebook[k * width + d]) - centre_[d] : 0;
        table_[(k / 8 * width + d) * 8 + k % 8] = value;
        norms_[k] += value * value;
      }
      potentials_[k] = k < codewords ? 0 : kNothing;
    }
    part_rows_ = round_up(std::max<int64_t>(10 * kAssignRows, ceil_div(count_, kParts)), kAssignRows);
  }

  void run(double epsilon, int64_t iterations, int64_t* codes, int threads) {
    const int64_t parts = ceil_div(count_, part_rows_);
    std::vector<AssignBlock> blocks;
    for (int i = 0; i < static_cast<int>(std::min<int64_t>(threads, parts)); ++i) blocks.emplace_back(width_, padded_);
    std::vector<LogSums> columns;
    for (int64_t part = 0; part < parts; ++part) columns.emplace_back(padded_);
    set_scale(epsilon, blocks.front());
    for (int64_t i = 0; i < iterations; ++i) {
      parallel(parts, threads, [&](int64_t part, int worker) {
        iterate(part, blocks[static_cast<std::size_t>(worker)], columns[static_cast<std::size_t>(part)]);
      });
      for (std::size_t part = 1; part < columns.size(); ++part)
        for (int64_t k = 0; k < padded_; k += 8)
          columns[0].add_vector(k, load8(columns[part].most.data() + k), load8(columns[part].sums.data() + k));
      for (int64_t k = 0; k < codewords_; ++k)
        potentials_[k] = -std::log(static_cast<double>(codewords_)) - columns[0].most[k] - std::log(columns[0].sums[k]);
    }
    parallel(parts, threads,
             [&](int64_t part, int worker) { assign(part, blocks[static_cast<std::size_t>(worker)], codes); });
  }

 private:
  // Scores are costs in units of -epsilon times their mean. The norms give the mean, as the centred codewords add up to
  // 0.
  void set_scale(double epsilon, AssignBlock& block) {
    double mean = 0;
    for (int64_t k = 0; k < codewords_; ++k) mean += norms_[k] / static_cast<double>(codewords_);
    for (int64_t first = 0; first < count_; first += kAssignRows) {
      if (first % part_rows_ == 0) check_interrupt();
      const int64_t live = load_rows(first, block);
      for (int64_t i = 0; i < live; ++i) mean += block.norms[i] / static_cast<double>(count_);
    }
    scale_ = mean > 0 ? -1 / (epsilon * mean) : 0;
  }

  int64_t load_rows(int64_t first, AssignBlock& block) const {
    const int64_t live = std::min(kAssignRows, count_ - first);
    for (int64_t i = 0; i < kAssignRows; ++i) {
      double norm = 0;
      double* const to = block.rows.data() + i * width_;
      const float* const from = x_ + members_[static_cast<std::size_t>(first + std::min(i, live - 1))] * width_;
      for (int64_t d = 0; d < width_; ++d) {
        to[d] = static_cast<double>(from[d]) - centre_[d];
        norm += to[d] * to[d];
      }
      block.norms[i] = norm;
    }
    return live;
  }

  template <int Vectors>
  void score_tile(int64_t vector, int64_t row, AssignBlock& block) const {
    D8 total[kScoreRows][Vectors];
    for (int i = 0; i < kScoreRows; ++i)
      for (int v = 0; v < Vectors; ++v) total[i][v] = zero8();
    const double* const table = table_.data() + vector * width_ * 8;
    const double* const rows = block.rows.data() + row * width_;
    for (int64_t d = 0; d < width_; ++d) {
      D8 codeword[Vectors];
      for (int v = 0; v < Vectors; ++v) codeword[v] = load8(table + (v * width_ + d) * 8);
      for (int i = 0; i < kScoreRows; ++i) {
        const D8 value = splat8(rows[i * width_ + d]);
        for (int v = 0; v < Vectors; ++v) total[i][v] = fma(value, codeword[v], total[i][v]);
      }
    }
    for (int i = 0; i < kScoreRows; ++i) {
      const D8 norm = splat8(block.norms[row + i]);
      for (int v = 0; v < Vectors; ++v) {
        const int64_t k = (vector + v) * 8;
        const D8 squared = fma(splat8(-2.0), total[i][v], add(norm, load8(norms_.data() + k)));
        store8(block.scores.data() + (row + i) * padded_ + k, mul(splat8(scale_), max(squared, zero8())));
      }
    }
  }

  int64_t score(int64_t first, AssignBlock& block) const {
    const int64_t live = load_rows(first, block), vectors = padded_ / 8;
    int64_t vector = 0;
    for (; vector + kScoreVectors <= vectors; vector += kScoreVectors)
      for (int64_t row = 0; row < live; row += kScoreRows) score_tile<kScoreVectors>(vector, row, block);
    for (; vector < vectors; ++vector)
      for (int64_t row = 0; row < live; row += kScoreRows) score_tile<1>(vector, row, block);
    return live;
  }

  // Adds a part's rows, each scaled to its mass, to the columns' masses.
  void iterate(int64_t part, AssignBlock& block, LogSums& columns) const {
    columns.clear();
    const int64_t end = std::min(count_, (part + 1) * part_rows_);
    for (int64_t first = part * part_rows_; first < end; first += kAssignRows) {
      check_interrupt();
      const int64_t live = score(first, block);
      LogSums& own = block.columns;
      own.clear();
      for (int64_t i = 0; i < live; ++i) scale_row(block.scores.data() + i * padded_, own.most.data());
      for (int64_t i = 0; i < live; ++i) {
        const double* const masses = block.scores.data() + i * padded_;
        for (int64_t k = 0; k < padded_; k += 8) {
          const D8 mass = exp(sub(load8(masses + k), load8(own.most.data() + k)));
          store8(own.sums.data() + k, add(load8(own.sums.data() + k), mass));
        }
      }
      for (int64_t k = 0; k < padded_; k += 8)
        columns.add_vector(k, load8(own.most.data() + k), load8(own.sums.data() + k));
    }
  }

  // Turns a row's scores into logarithms of its mass at each codeword, without the codeword's potential.
  void scale_row(double* scores, double* column_most) const {
    D8 best = splat8(kNothing), total = zero8();
    for (int64_t k = 0; k < padded_; k += 8) best = max(best, add(load8(scores + k), load8(potentials_.data() + k)));
    const D8 shift = splat8(most(best));
    for (int64_t k = 0; k < padded_; k += 8)
      total = add(total, exp(sub(add(load8(scores + k), load8(potentials_.data() + k)), shift)));
    const D8 row = splat8(-std::log(static_cast<double>(count_)) - most(shift) - std::log(sum(total)));
    for (int64_t k = 0; k < padded_; k += 8) {
      const D8 mass = add(load8(scores + k), row);
      store8(scores + k, mass);
      store8(column_most + k, max(load8(column_most + k), mass));
    }
  }

  void assign(int64_t part, AssignBlock& block, int64_t* codes) const {
    const int64_t end = std::min(count_, (part + 1) * part_rows_);
    for (int64_t first = part * part_rows_; first < end; first += kAssignRows) {
      check_interrupt();
      const int64_t live = score(first, block);
      for (int64_t i = 0; i < live; ++i) {
        const double* const scores = block.scores.data() + i * padded_;
        int64_t code = 0;
        for (int64_t k = 1; k < codewords_; ++k)
          if (scores[k] + potentials_[k] > scores[code] + potentials_[code]) code = k;
        codes[members_[static_cast<std::size_t>(first + i)]] = code;
      }
    }
  }

  const float* x_;
  int64_t width_, count_;
  std::vector<int64_t> members_;
  int64_t codewords_, padded_, part_rows_ = 0;
  Buffer<double> centre_, table_, norms_, potentials_;  // table: [K / 8][D][8], centred
  double scale_ = 0;
};

bool sinkhorn_assign(const float* x, int64_t rows, int64_t width, const float* codebook, int64_t codewords,
                     double epsilon, int64_t iterations, int64_t* codes, int threads) {
  std::vector<int64_t> members;
  for (int64_t i = 0; i < rows; ++i) {
    codes[i] = -1;
    if (finite_row(x + i * width, width)) members.push_back(i);
  }
  const bool bad = static_cast<int64_t>(members.size()) < rows || !finite_row(codebook, codewords * width);
  if (!members.empty())
    Sinkhorn(x, width, std::move(members), codebook, codewords).run(epsilon, iterations, codes, threads);
  return bad;
}

}  // namespace unitok::UNITOK_ISA

#endif

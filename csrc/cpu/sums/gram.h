// Squared distances between the rows of one matrix, a square tile at a time.
//
// Rows are centred on their mean, which changes no distance, and packed in panels of kPanel rows, [panel][D][kPanel]:
// one layout serves both sides of a product. |r|^2 + |s|^2 - 2 r.s loses digits if the result is small. Such pairs, few
// in most data, are computed again by differencing in double precision, from the rows as they were given. So equal rows
// are exactly 0 apart, and no distance is off by more than about 1e-5 of itself.
#ifndef UNITOK_SUMS_GRAM_H
#define UNITOK_SUMS_GRAM_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"
#include "search/differencing.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr int64_t kPanel = 48;
constexpr int64_t kTile = kPanel * kPanel;
constexpr int64_t kTall = UNITOK_LEVEL == 512 ? 8 : 4;  // rows of a register tile
constexpr int kWide = 3;                                // and its vectors
constexpr int64_t kNarrow = 64;                         // up to this width by differences, which are more exact
constexpr int64_t kDepth = 128;                         // columns of two panels that the first-level cache holds
constexpr float kClose = 0x1p-5f;                       // smaller shares of |r|^2 + |s|^2 are computed again

// A register tile of a matrix product: to[i][.] = sum_k a(i, k) b[k][.] for kTall rows and `Vectors` vectors, where
// a(i, k) is at a[i * kRow + k * kNext]; added to the values in `to` if `more`. With kDifference, the terms are
// (a(i, k) - b[k][.])^2 instead.
template <int Vectors, int64_t kRow, int64_t kNext, bool kDifference>
void multiply(const float* a, const float* b, int64_t b_stride, int64_t depth, float* to, int64_t stride, bool more) {
  V total[kTall][Vectors];
  for (int i = 0; i < kTall; ++i)
    for (int v = 0; v < Vectors; ++v) total[i][v] = more ? load(to + i * stride + v * kLanes) : zero();
  for (int64_t k = 0; k < depth; ++k, a += kNext, b += b_stride) {
    V row[Vectors];
    for (int v = 0; v < Vectors; ++v) row[v] = load(b + v * kLanes);
    for (int i = 0; i < kTall; ++i) {
      const V value = splat(a[i * kRow]);
      for (int v = 0; v < Vectors; ++v) {
        const V one = kDifference ? sub(value, row[v]) : value, two = kDifference ? one : row[v];
        total[i][v] = fma(one, two, total[i][v]);
      }
    }
  }
  for (int i = 0; i < kTall; ++i)
    for (int v = 0; v < Vectors; ++v) store(to + i * stride + v * kLanes, total[i][v]);
}

// kPanel rows of a product with a matrix b of `depth` rows and any whole number of vectors.
template <int64_t kRow, int64_t kNext, bool kDifference = false>
void multiply_panel(const float* a, const float* b, int64_t stride, int64_t depth, float* to, bool more = false) {
  for (int64_t c = 0; c < stride; c += kWide * kLanes) {
    for (int64_t i = 0; i < kPanel; i += kTall) {
      const float* from = a + i * kRow;
      float* out = to + i * stride + c;
      switch (std::min<int64_t>(kWide, (stride - c) / kLanes)) {
        case 1: multiply<1, kRow, kNext, kDifference>(from, b + c, stride, depth, out, stride, more); break;
        case 2: multiply<2, kRow, kNext, kDifference>(from, b + c, stride, depth, out, stride, more); break;
        default: multiply<3, kRow, kNext, kDifference>(from, b + c, stride, depth, out, stride, more);
      }
    }
  }
}

// Some rows of a matrix, packed.
class Panels {
 public:
  // The rows `members` of `rows` (any, D), which the caller keeps. `flat` keeps the centred rows unpacked too.
  Panels(const float* rows, int64_t width, const int64_t* members, int64_t count, bool flat, int threads)
      : source_(rows),
        members_(members),
        count_(count),
        width_(width),
        stride_(round_up(width, kLanes)),
        panels_(ceil_div(count, kPanel)),
        packed_(panels_ * kPanel * width),
        norms_(panels_ * kPanel),
        flat_(flat ? panels_ * kPanel * stride_ : 0) {
    std::vector<double> sums(static_cast<std::size_t>(width), 0.0);
    for (int64_t i = 0; i < count; ++i) add_row(row(i), width, sums.data());
    Buffer<float> mean(stride_);
    std::fill(mean.data(), mean.data() + stride_, 0.0f);
    for (int64_t d = 0; d < width; ++d)
      mean[d] = static_cast<float>(sums[static_cast<std::size_t>(d)] / static_cast<double>(count));
    parallel(panels_, threads, [&](int64_t panel, int) { pack(panel, mean.data()); });
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += static_cast<double>(norms_[i]);
    mean_squared_distance_ = count > 1 ? 2 * total / static_cast<double>(count - 1) : 0;
  }

  int64_t count() const { return count_; }
  int64_t width() const { return width_; }
  int64_t stride() const { return stride_; }
  int64_t panels() const { return panels_; }
  int64_t live(int64_t panel) const { return std::min(kPanel, count_ - panel * kPanel); }
  const float* flat(int64_t panel) const { return flat_.data() + panel * kPanel * stride_; }
  double mean_squared_distance() const { return mean_squared_distance_; }

  // About the mean of exp(factor * squared distance), from some pairs of rows.
  double mean_kernel(double factor) const {
    constexpr int64_t kPairs = 1024;
    double total = 0;
    for (int64_t pair = 0; pair < kPairs; ++pair) {
      const int64_t i = pair * count_ / kPairs, j = pair * 40503 % count_;  // a large prime: spread out, and repeatable
      total += std::exp(factor * static_cast<double>(exact(i, j)));
    }
    return total / kPairs;
  }

  // to (kPanel, kPanel): between the rows of panel a and those of panel b; infinite beyond the last row.
  void squared_distances(int64_t a, int64_t b, float* to) const {
    const float* const left = packed_.data() + a * kPanel * width_;
    const float* const right = packed_.data() + b * kPanel * width_;
    const bool narrow = width_ <= kNarrow;
    if (narrow) multiply_panel<1, kPanel, true>(left, right, kPanel, width_, to);
    for (int64_t d = 0; !narrow && d < width_; d += kDepth)
      multiply_panel<1, kPanel>(left + d * kPanel, right + d * kPanel, kPanel, std::min(kDepth, width_ - d), to, d > 0);
    const V infinity = splat(std::numeric_limits<float>::infinity());
    const float* const norms = norms_.data() + b * kPanel;
    for (int64_t i = 0; i < kPanel; ++i) {
      const V norm = splat(norms_[a * kPanel + i]);
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        float* const tile = to + i * kPanel + j;
        const V both = add(norm, load(norms + j)), found = load(tile);
        const V squared = narrow ? pick_below(both, infinity, found, both) : fnma(splat(2.0f), found, both);
        store(tile, squared);
        for (uint32_t close = below(squared, mul(both, splat(kClose))); close != 0; close &= close - 1) {
          const int lane = __builtin_ctz(close);
          if (i < live(a) && j + lane < live(b)) tile[lane] = exact(a * kPanel + i, b * kPanel + j + lane);
        }
      }
    }
  }

 private:
  const float* row(int64_t i) const { return source_ + members_[i] * width_; }

  static void add_row(const float* row, int64_t width, double* sums) {
    int64_t d = 0;
    for (; d + 8 <= width; d += 8) store8(sums + d, add(load8(sums + d), load8(row + d)));
    for (; d < width; ++d) sums[d] += static_cast<double>(row[d]);
  }

  float exact(int64_t i, int64_t j) const {
    return i == j ? 0.0f : static_cast<float>(exact_distance(row(i), row(j), width_));
  }

  void pack(int64_t panel, const float* mean) {
    Buffer<float> own(flat_.size() > 0 ? 0 : stride_);
    float* const to = packed_.data() + panel * kPanel * width_;
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const int64_t i = panel * kPanel + lane;
      float* const centred = flat_.size() > 0 ? flat_.data() + i * stride_ : own.data();
      const bool here = i < count_;
      if (here) {
        for (int64_t d = 0; d < stride_; d += kLanes) {
          const int rest = static_cast<int>(std::min<int64_t>(kLanes, width_ - d));
          store(centred + d, sub(rest == kLanes ? load(row(i) + d) : load_first(row(i) + d, rest), load(mean + d)));
        }
      } else {
        std::fill(centred, centred + stride_, 0.0f);
      }
      D8 squares = zero8();
      int64_t d = 0;
      for (; d + 8 <= stride_; d += 8) {
        const D8 value = load8(centred + d);
        squares = fma(value, value, squares);
      }
      norms_[i] = here ? static_cast<float>(sum(squares)) : std::numeric_limits<float>::infinity();
      for (d = 0; d < width_; ++d) to[d * kPanel + lane] = centred[d];
    }
  }

  const float* source_;
  const int64_t* members_;
  int64_t count_, width_, stride_, panels_;
  Buffer<float> packed_, norms_, flat_;
  double mean_squared_distance_ = 0;
};

// Calls visit(a, b, worker) for all pairs of panels a <= b. Calls that run at the same time share no panel, and a
// panel's calls always have the same order. So a visit may add to sums of its panels.
template <class Visit>
void each_pair(int64_t panels, int threads, const Visit& visit) {
  constexpr int64_t kGroup = 3;  // panels whose packed rows stay in the second-level cache
  const int64_t groups = ceil_div(panels, kGroup), even = round_up(groups, 2);
  const auto end = [&](int64_t group) { return std::min(panels, (group + 1) * kGroup); };
  parallel(groups, threads, [&](int64_t group, int worker) {
    for (int64_t a = group * kGroup; a < end(group); ++a)
      for (int64_t b = a; b < end(group); ++b) visit(a, b, worker);
  });
  // A tournament: in each of even - 1 rounds every group meets one other.
  for (int64_t round = 0; round + 1 < even; ++round) {
    parallel(even / 2, threads, [&](int64_t match, int worker) {
      const int64_t circle = even - 1;
      int64_t one = (round + match) % circle, two = match == 0 ? circle : (round + circle - match) % circle;
      if (one > two) std::swap(one, two);
      if (two >= groups) return;  // the number of groups is odd: no opponent
      for (int64_t a = one * kGroup; a < end(one); ++a)
        for (int64_t b = two * kGroup; b < end(two); ++b) visit(a, b, worker);
    });
  }
}

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SUMS_GRAM_H

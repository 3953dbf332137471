// Gaussian kernel matrices, a tile at a time, and the median that sets their bandwidth.
#ifndef UNITOK_SUMS_GAUSSIAN_H
#define UNITOK_SUMS_GAUSSIAN_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "runtime/memory.h"
#include "simd/number.h"
#include "simd/vec.h"
#include "sums/gram.h"

namespace unitok::UNITOK_ISA {

constexpr int64_t kMedianRows = 1024;  // the median is that of at most so many rows, strided

// The distances between all rows of a few panels, in tiles (a, b), a <= b.
class Distances {
 public:
  Distances() = default;
  Distances(const Panels& rows, int threads)
      : rows_(rows.count()), tiles_(rows.panels() * (rows.panels() + 1) / 2), values_(tiles_ * kTile) {
    each_pair(rows.panels(), threads, [&](int64_t a, int64_t b, int) { rows.squared_distances(a, b, at(a, b)); });
  }

  bool kept() const { return tiles_ > 0; }
  const float* tile(int64_t a, int64_t b) const { return values_.data() + (b * (b + 1) / 2 + a) * kTile; }

  // The lower median of the positive distances; 1 if there are none. Every pair is counted twice, since a tile of one
  // panel with itself holds it twice. The bits of positive floats have the floats' order.
  float median(double mean) const {
    const int64_t zeros = below_bits(1), positive = rows_ * rows_ - zeros;
    if (positive <= 0) return 1;
    const int64_t rank = zeros + 2 * ((positive / 2 - 1) / 2);
    uint32_t low = 1, high = bits_of(std::numeric_limits<float>::infinity());  // below(low) <= rank < below(high)
    int64_t under = zeros, over = rows_ * rows_;
    const auto narrow = [&](uint32_t bits) {
      if (bits <= low || bits >= high) return;
      const int64_t count = below_bits(bits);
      (count <= rank ? low : high) = bits;
      (count <= rank ? under : over) = count;
    };
    narrow(bits_of(static_cast<float>(mean / 2)));
    narrow(bits_of(static_cast<float>(mean * 2)));
    while (high - low > 1 && over - under > kFew) narrow(low + (high - low) / 2);
    if (high - low <= 1) return float_of(low);
    std::vector<float> between;
    for (int64_t panel = 0, t = 0; t < tiles_; ++panel)
      for (int64_t a = 0; a <= panel; ++a, ++t) collect(t, a == panel ? 1 : 2, float_of(low), float_of(high), between);
    const auto middle = between.begin() + (rank - under);
    std::nth_element(between.begin(), middle, between.end());
    return *middle;
  }

 private:
  static constexpr int64_t kFew = 256;  // so many are picked out and sorted

  float* at(int64_t a, int64_t b) { return values_.data() + (b * (b + 1) / 2 + a) * kTile; }

  int64_t below_bits(uint32_t bits) const {
    const V limit = splat(float_of(bits));
    int64_t total = 0;
    for (int64_t panel = 0, t = 0; t < tiles_; ++panel) {
      for (int64_t a = 0; a <= panel; ++a, ++t) {
        V count = zero();
        for (const float *p = values_.data() + t * kTile, *end = p + kTile; p < end; p += kLanes)
          count = add(count, pick_below(load(p), limit, splat(1.0f), zero()));
        total += static_cast<int64_t>(sum(count)) * (a == panel ? 1 : 2);
      }
    }
    return total;
  }

  void collect(int64_t tile, int copies, float low, float high, std::vector<float>& to) const {
    const float* p = values_.data() + tile * kTile;
    for (int64_t first = 0; first < kTile; first += kLanes) {
      const V some = load(p + first);
      for (uint32_t mask = below(some, splat(high)) & ~below(some, splat(low)); mask != 0; mask &= mask - 1)
        to.insert(to.end(), static_cast<std::size_t>(copies), p[first + __builtin_ctz(mask)]);
    }
  }

  int64_t rows_ = 0, tiles_ = 0;
  Buffer<float> values_;
};

// The Gaussian kernel matrix of some rows, minus a constant near its mean.
class Gaussian {
 public:
  // A bandwidth of 0 means the median; `flat` keeps the centred rows.
  Gaussian(const float* rows, int64_t width, const int64_t* members, int64_t count, bool flat, double bandwidth,
           int threads)
      : panels_(rows, width, members, count, flat, threads), variance_(bandwidth * bandwidth) {
    if (bandwidth == 0) {
      if (count <= kMedianRows) {
        distances_ = Distances(panels_, threads);
        variance_ = static_cast<double>(distances_.median(panels_.mean_squared_distance()));
      } else {
        std::vector<int64_t> some;
        for (int64_t i = 0; i < count; i += ceil_div(count, kMedianRows)) some.push_back(members[i]);
        const Panels sample(rows, width, some.data(), static_cast<int64_t>(some.size()), false, threads);
        variance_ = static_cast<double>(Distances(sample, threads).median(sample.mean_squared_distance()));
      }
    }
    const double factor = std::max(-0.5 / variance_, -1e30);  // finite, so that a distance of 0 stays 0
    const double level = factor * panels_.mean_squared_distance();
    factor_ = static_cast<float>(factor);
    constant_ = static_cast<float>(level > -1 ? std::exp(level) : panels_.mean_kernel(factor));
  }

  const Panels& rows() const { return panels_; }
  double variance() const { return variance_; }
  float constant() const { return constant_; }

  // to (kPanel, kPanel): kernel values minus constant(); zeros beyond the last row.
  void tile(int64_t a, int64_t b, float* to) const {
    const float* from = to;
    if (distances_.kept()) {
      from = distances_.tile(a, b);
    } else {
      panels_.squared_distances(a, b, to);
    }
    const V factor = splat(factor_), constant = splat(constant_);
    for (int64_t i = 0; i < kTile; i += kLanes) store(to + i, exp_less(mul(load(from + i), factor), constant));
    clear_beyond(panels_.live(a), panels_.live(b), to);
  }

  static void clear_beyond(int64_t rows, int64_t columns, float* tile) {
    if (columns < kPanel)
      for (int64_t i = 0; i < rows; ++i) std::fill(tile + i * kPanel + columns, tile + (i + 1) * kPanel, 0.0f);
    std::fill(tile + rows * kPanel, tile + kTile, 0.0f);
  }

 private:
  Panels panels_;
  Distances distances_;
  double variance_;
  float factor_ = 0, constant_ = 0;
};

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SUMS_GAUSSIAN_H

// With kernel matrices U of x and V of z, H = I - 11'/n and any constants k, l, U' = U - k and V' = V - l have
//     trace(U H V H) = sum U'V' - 2/n sum_i u_i v_i + (sum u)(sum v)/n^2,    u, v: row sums of U', V',
// so one pass over tiles of both matrices gives the value. With k and l near the matrices' means nothing cancels.
// The gradient in z_i is -2/sigma^2 sum_j A_ij (z_i - z_j) with A = (HUH) * V and (HUH)_ij = U'_ij - (u_i + u_j)/n +
// (sum u)/n^2. The first term is summed in the same pass, which has U', the most expensive part; the rest needs u, so
// it takes a second pass over V alone.
#ifndef UNITOK_ISA

#include "api/hsic.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/hsic.cpp"
#include "simd/each_isa.h"

namespace unitok {

bool hsic(const float* x, int64_t x_width, const float* z, int64_t z_width, const int64_t* segments, int64_t rows,
          int64_t num_segments, float* values, float* pull, const HsicOptions& options) {
  UNITOK_DISPATCH(hsic(x, x_width, z, z_width, segments, rows, num_segments, values, pull, options));
}

}  // namespace unitok

#else

#include "simd/vec.h"
#include "sums/gaussian.h"
#include "sums/gram.h"

namespace unitok::UNITOK_ISA {

constexpr int64_t kAlone = 512;  // the tiles of segments with more rows are shared out among the threads

// One segment: its value and its rows' pull.
class Segment {
 public:
  Segment(const float* x, int64_t x_width, const float* z, int64_t z_width, const std::vector<int64_t>& members,
          bool with_pull, const HsicOptions& options, int threads)
      : members_(members),
        count_(static_cast<int64_t>(members.size())),
        threads_(threads),
        normalised_(options.normalised),
        with_pull_(with_pull),
        u_(x, x_width, members.data(), count_, false, options.bandwidth, threads),
        v_(z, z_width, members.data(), count_, with_pull, options.bandwidth, threads),
        panels_(v_.rows().panels()),
        sums_(kSums * panels_ * kPanel),
        products_(kProducts * panels_),
        pull_(with_pull ? panels_ * kPanel * v_.rows().stride() : 0),
        offsets_(panels_ * kPanel),
        scratch_(threads * scratch_size()) {
    std::fill_n(sums_.data(), sums_.size(), 0.0);
    std::fill_n(products_.data(), products_.size(), 0.0);
    std::fill_n(pull_.data(), pull_.size(), 0.0);
  }

  float run(float* pull) {
    each_pair(panels_, threads_, [this](int64_t a, int64_t b, int worker) { both(a, b, worker); });
    const double n = static_cast<double>(count_), uv = centred(kU, kV, kUV);
    double scale = (n - 1) * (n - 1), share = 0;
    if (normalised_) {
      const double vv = centred(kV, kV, kVV);
      scale = std::sqrt(centred(kU, kU, kUU) * vv);
      if (scale == 0) scale = 1;  // all rows are equal: HSIC is 0, and so is its gradient
      if (vv > 0) share = uv / vv;
    }
    if (with_pull_) {
      double mean = 0;
      for (int64_t i = 0; i < count_; ++i) mean += (sums(kU)[i] - share * sums(kV)[i]) / n;
      for (int64_t i = 0; i < count_; ++i)
        offsets_[i] = static_cast<float>(((sums(kU)[i] - share * sums(kV)[i]) - mean / 2) / n);
      std::fill(offsets_.data() + count_, offsets_.data() + offsets_.size(), 0.0f);
      share_ = static_cast<float>(share);
      each_pair(panels_, threads_, [this](int64_t a, int64_t b, int worker) { rest(a, b, worker); });
      write(-2 / (v_.variance() * scale), pull);
    }
    return static_cast<float>(uv / scale);
  }

 private:
  enum Sum { kU, kV, kWeight, kSums };
  enum Product { kUV, kUU, kVV, kProducts };

  double* sums(Sum which) { return sums_.data() + which * panels_ * kPanel; }
  int64_t scratch_size() const { return 2 * kTile + kPanel * v_.rows().stride(); }
  float* scratch(int worker) { return scratch_.data() + worker * scratch_size(); }

  // trace(A H B H) from row sums and the sum of products; exactly 0 if only rounding is left.
  double centred(Sum a, Sum b, Product product) {
    double total = 0, cross = 0, sum_a = 0, sum_b = 0;
    for (int64_t panel = 0; panel < panels_; ++panel) total += products_[panel * kProducts + product];
    for (int64_t i = 0; i < count_; ++i) {
      cross += sums(a)[i] * sums(b)[i];
      sum_a += sums(a)[i];
      sum_b += sums(b)[i];
    }
    const double n = static_cast<double>(count_), value = total - 2 / n * cross + sum_a / n * (sum_b / n);
    return std::fabs(value) <= 1e-13 * std::fabs(total) ? 0 : value;
  }

  // First pass: row sums and products of both matrices, and the pull of U' * V.
  void both(int64_t a, int64_t b, int worker) {
    float *const u = scratch(worker), *const v = u + kTile;
    u_.tile(a, b, u);
    v_.tile(a, b, v);
    const V constant = splat(v_.constant());
    float columns[2][kPanel] = {};
    V uv = zero(), uu = zero(), vv = zero();
    for (int64_t i = 0; i < v_.rows().live(a); ++i) {
      V row_u = zero(), row_v = zero();
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        float* const at = u + i * kPanel + j;
        const V one = load(at), two = load(v + i * kPanel + j);
        row_u = add(row_u, one);
        row_v = add(row_v, two);
        store(columns[kU] + j, add(load(columns[kU] + j), one));
        store(columns[kV] + j, add(load(columns[kV] + j), two));
        uv = fma(one, two, uv);
        if (normalised_) {
          uu = fma(one, one, uu);
          vv = fma(two, two, vv);
        }
        store(at, mul(one, add(two, constant)));
      }
      sums(kU)[a * kPanel + i] += static_cast<double>(sum(row_u));
      sums(kV)[a * kPanel + i] += static_cast<double>(sum(row_v));
    }
    const double times = a == b ? 1 : 2;
    double* const products = products_.data() + a * kProducts;
    products[kUV] += times * static_cast<double>(sum(uv));
    products[kUU] += times * static_cast<double>(sum(uu));
    products[kVV] += times * static_cast<double>(sum(vv));
    if (a != b) {
      for (int64_t j = 0; j < kPanel; ++j) sums(kU)[b * kPanel + j] += static_cast<double>(columns[kU][j]);
      for (int64_t j = 0; j < kPanel; ++j) sums(kV)[b * kPanel + j] += static_cast<double>(columns[kV][j]);
    }
    if (with_pull_) attract(a, b, u, v + kTile);
  }

  // Second pass: the pull of what centring subtracts from U', and that of the scale.
  void rest(int64_t a, int64_t b, int worker) {
    float* const v = scratch(worker);
    v_.tile(a, b, v);
    const V constant = splat(v_.constant()), share = splat(share_);
    for (int64_t i = 0; i < v_.rows().live(a); ++i) {
      const V offset = splat(offsets_[a * kPanel + i]);
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        float* const at = v + i * kPanel + j;
        const V value = load(at), both = add(offset, load(offsets_.data() + b * kPanel + j));
        store(at, fnma(add(value, constant), fma(share, value, both), zero()));
      }
    }
    Gaussian::clear_beyond(v_.rows().live(a), v_.rows().live(b), v);
    attract(a, b, v, v + kTile);
  }

  // Adds sum_j weight_ij z_j and sum_j weight_ij to the rows of a, and the same of the transpose to the rows of b.
  void attract(int64_t a, int64_t b, float* weights, float* scratch) {
    const Panels& rows = v_.rows();
    if (a == b)  // a row doesn't pull itself: its weight, the largest, would have to cancel
      for (int64_t i = 0; i < kPanel; ++i) weights[i * kPanel + i] = 0;
    multiply_panel<kPanel, 1>(weights, rows.flat(b), rows.stride(), rows.live(b), scratch);
    add_to(a, scratch);
    float columns[kPanel] = {};
    for (int64_t i = 0; i < rows.live(a); ++i) {
      V row = zero();
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        const V weight = load(weights + i * kPanel + j);
        row = add(row, weight);
        store(columns + j, add(load(columns + j), weight));
      }
      sums(kWeight)[a * kPanel + i] += static_cast<double>(sum(row));
    }
    if (a == b) return;
    multiply_panel<1, kPanel>(weights, rows.flat(a), rows.stride(), rows.live(a), scratch);
    add_to(b, scratch);
    for (int64_t j = 0; j < kPanel; ++j) sums(kWeight)[b * kPanel + j] += static_cast<double>(columns[j]);
  }

  void add_to(int64_t panel, const float* values) {
    const int64_t size = kPanel * v_.rows().stride();
    double* const to = pull_.data() + panel * size;
    for (int64_t i = 0; i < size; i += 8) store8(to + i, add(load8(to + i), load8(values + i)));
  }

  void write(double factor, float* pull) {
    const int64_t width = v_.rows().width(), stride = v_.rows().stride();
    for (int64_t i = 0; i < count_; ++i) {
      const float* z = v_.rows().flat(0) + i * stride;
      for (int64_t d = 0; d < width; ++d) {
        const double own = sums(kWeight)[i] * static_cast<double>(z[d]);
        pull[members_[static_cast<std::size_t>(i)] * width + d] =
            static_cast<float>(factor * (own - pull_[i * stride + d]));
      }
    }
  }

  const std::vector<int64_t>& members_;
  int64_t count_;
  int threads_;
  bool normalised_, with_pull_;
  Gaussian u_, v_;
  int64_t panels_;
  Buffer<double> sums_, products_, pull_;  // row sums of U', V' and the weights; products by panel; sum_j weight_ij z_j
  Buffer<float> offsets_, scratch_;
  float share_ = 0;
};

bool hsic(const float* x, int64_t x_width, const float* z, int64_t z_width, const int64_t* segments, int64_t rows,
          int64_t num_segments, float* values, float* pull, const HsicOptions& options) {
  std::fill_n(values, num_segments, 0.0f);
  if (pull != nullptr) std::fill_n(pull, rows * z_width, 0.0f);
  std::vector<char> good(static_cast<std::size_t>(rows));
  constexpr int64_t kCheckRows = 256;
  parallel(ceil_div(rows, kCheckRows), options.threads, [&](int64_t block, int) {
    for (int64_t i = block * kCheckRows; i < std::min(rows, (block + 1) * kCheckRows); ++i) {
      good[static_cast<std::size_t>(i)] = segments[i] >= 0 && segments[i] < num_segments &&
                                          finite_row(x + i * x_width, x_width) && finite_row(z + i * z_width, z_width);
    }
  });
  bool bad = false;
  std::vector<std::vector<int64_t> > members(static_cast<std::size_t>(num_segments));
  for (int64_t i = 0; i < rows; ++i) {
    if (good[static_cast<std::size_t>(i)]) {
      members[static_cast<std::size_t>(segments[i])].push_back(i);
    } else {
      bad = true;
    }
  }

  std::vector<int64_t> order(static_cast<std::size_t>(num_segments));  // the largest first
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto size = [&](int64_t segment) {
    return static_cast<int64_t>(members[static_cast<std::size_t>(segment)].size());
  };
  std::stable_sort(order.begin(), order.end(), [&](int64_t one, int64_t two) { return size(one) > size(two); });
  const auto run = [&](int64_t segment, int threads) {
    Segment one(x, x_width, z, z_width, members[static_cast<std::size_t>(segment)], pull != nullptr, options, threads);
    values[segment] = one.run(pull);
  };
  int64_t large = 0, taken = 0;
  while (large < num_segments && size(order[static_cast<std::size_t>(large)]) > kAlone) ++large;
  for (taken = large; taken < num_segments && size(order[static_cast<std::size_t>(taken)]) > 1;) ++taken;
  for (int64_t i = 0; i < large; ++i) run(order[static_cast<std::size_t>(i)], options.threads);
  parallel(taken - large, options.threads, [&](int64_t i, int) { run(order[static_cast<std::size_t>(large + i)], 1); });
  return bad;
}

}  // namespace unitok::UNITOK_ISA

#endif

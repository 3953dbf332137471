#ifndef UNITOK_ISA

#include "api/residual_straight_through.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/residual_straight_through.cpp"
#include "simd/each_isa.h"

namespace unitok {

void residual_straight_through(const Rows& z, const int64_t* codes, const Chains& chain, void* quantized, float* errors,
                               float* sums, int64_t* counts, int threads) {
  UNITOK_DISPATCH(residual_straight_through(z, codes, chain, quantized, errors, sums, counts, threads));
}

void residual_straight_through_backward(const float* gradient, const float* pulls, const Rows& z, const int64_t* codes,
                                        const Chains& chain, Estimator estimator, float* by_z, float* by_codebooks,
                                        int threads) {
  UNITOK_DISPATCH(
      residual_straight_through_backward(gradient, pulls, z, codes, chain, estimator, by_z, by_codebooks, threads));
}

}  // namespace unitok

#else

#include "simd/vec.h"

namespace unitok::UNITOK_ISA {
namespace {

constexpr float kShortest = 1e-6f;  // lengths that we divide by are at least this
constexpr int64_t kRun = 64;        // rows whose squares are summed in float32

// Sums by codeword of kLanes columns, in double precision. A row may come to any codeword, so a task takes columns, and
// all rows in order: no two tasks write to the same place, and sums have one order for any number of threads.
class ColumnSums {
 public:
  explicit ColumnSums(int64_t codewords) : sums_(codewords * kLanes) { std::fill_n(sums_.data(), sums_.size(), 0.0); }

  void raise(int64_t codeword, V by) {
    float lanes[kLanes];
    store(lanes, by);
    double* const to = sums_.data() + codeword * kLanes;
    for (int lane = 0; lane < kLanes; lane += 8) store8(to + lane, add(load8(to + lane), load8(lanes + lane)));
  }

  // Writes columns column .. column + lanes - 1 of a table (codewords, width).
  void write(float* table, int64_t width, int64_t column, int lanes) const {
    for (int64_t k = 0; k < sums_.size() / kLanes; ++k)
      for (int lane = 0; lane < lanes; ++lane)
        table[k * width + column + lane] = static_cast<float>(sums_[k * kLanes + lane]);
  }

 private:
  Buffer<double> sums_;
};

bool inside(int64_t code, int64_t codewords) { return code >= 0 && code < codewords; }

// Walks row n through the levels, kLanes of its columns: calls visit(level, place of the codeword, codeword, residual
// before, residual after).
template <class Visit>
void walk(const Rows& z, const int64_t* codes, const Chains& chain, int64_t n, int64_t column, int lanes,
          const Visit& visit) {
  V residual = load_part(z.row(n) + column * size_of(z.type), z.type, lanes);
  for (int64_t level = 0; level < chain.levels; ++level) {
    const int64_t code = codes[n * chain.levels + level];
    if (!inside(code, chain.codewords)) continue;
    const int64_t place = level * chain.codewords + code;
    const V codeword = load_first(chain.codebooks + place * z.width + column, lanes);
    const V after = sub(residual, codeword);
    visit(level, place, codeword, residual, after);
    residual = after;
  }
}

// Calls body(first column, how many) for slices of the columns.
template <class Body>
void each_slice(int64_t width, int threads, const Body& body) {
  parallel(ceil_div(width, kLanes), threads, [&](int64_t slice, int) {
    body(slice * kLanes, static_cast<int>(std::min<int64_t>(kLanes, width - slice * kLanes)));
  });
}

// One row's gradient; memory of one thread.
class Pullback {
 public:
  explicit Pullback(int64_t width)
      : width_(width), stride_(round_up(width, kLanes)), residual_(stride_), upstream_(stride_), total_(stride_) {}

  void begin(const Rows& z, int64_t n, const float* gradient) {
    std::fill_n(total_.data(), stride_, 0.0f);
    std::fill_n(residual_.data(), stride_, 0.0f);
    std::fill_n(upstream_.data(), stride_, 0.0f);
    widen(z.row(n), z.type, width_, residual_.data());
    std::copy_n(gradient, width_, upstream_.data());
  }

  // Adds a level's gradient, scale g + along x + across c by the estimator and pull (x - c), and goes to the next
  // level.
  void level(const float* codeword, Estimator estimator, float pull) {
    float scale = estimator == Estimator::straight ? 1.0f : 0.0f, along = 0, across = 0;
    if (estimator == Estimator::rotation) rotation(codeword, scale, along, across);
    const V by_g = splat(scale), by_x = splat(along), by_c = splat(across), by_error = splat(pull);
    each(codeword, [&](int64_t d, V x, V c, V g) {
      const V error = sub(x, c);
      V sum = fma(by_g, g, load(total_.data() + d));
      sum = fma(by_x, x, fma(by_c, c, fma(by_error, error, sum)));
      store(total_.data() + d, sum);
      store(residual_.data() + d, error);
    });
  }

  const float* total() const { return total_.data(); }

 private:
  template <class Body>
  void each(const float* codeword, const Body& body) {
    for (int64_t d = 0; d < stride_; d += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width_ - d));
      body(d, load(residual_.data() + d), load_first(codeword + d, lanes), load(upstream_.data() + d));
    }
  }

  // The transpose of x -> s (x - 2 w w'x + 2 q u'x), u and q the directions of x and c, w that of u + q, s = |c| / |x|.
  void rotation(const float* codeword, float& scale, float& along, float& across) {
    V xx = zero(), cc = zero();
    each(codeword, [&](int64_t, V x, V c, V) {
      xx = fma(x, x, xx);
      cc = fma(c, c, cc);
    });
    const float length = std::sqrt(sum(cc)), per_x = 1 / std::max(std::sqrt(sum(xx)), kShortest);
    const float per_c = 1 / std::max(length, kShortest);
    const V to_u = splat(per_x), to_q = splat(per_c);
    V vv = zero(), vg = zero(), qg = zero();
    each(codeword, [&](int64_t, V x, V c, V g) {
      const V q = mul(c, to_q), between = fma(x, to_u, q);
      vv = fma(between, between, vv);
      vg = fma(between, g, vg);
      qg = fma(q, g, qg);
    });
    const float middle = std::max(std::sqrt(sum(vv)), kShortest);
    const float reflected = 2 * sum(vg) / (middle * middle);
    scale = length * per_x;
    along = scale * per_x * (2 * sum(qg) - reflected);
    across = -scale * per_c * reflected;
  }

  int64_t width_, stride_;
  Buffer<float> residual_, upstream_, total_;
};

}  // namespace

void residual_straight_through(const Rows& z, const int64_t* codes, const Chains& chain, void* quantized, float* errors,
                               float* sums, int64_t* counts, int threads) {
  const int64_t levels = chain.levels, table = levels * chain.codewords, slices = ceil_div(z.width, kLanes);
  const auto at = [&](int64_t slice, int64_t level) { return static_cast<std::size_t>(slice * levels + level); };
  std::vector<double> squares(at(slices, 0), 0.0);
  char* const out = static_cast<char*>(quantized);
  expect_large(quantized, z.count * z.width * size_of(z.type));

  each_slice(z.width, threads, [&](int64_t column, int lanes) {
    ColumnSums by_code(sums != nullptr ? table : 0);
    Buffer<float> run(levels * kLanes);
    for (int64_t first = 0; first < z.count; first += kRun) {
      if (first % kRowsPerCheck == 0) check_interrupt();
      std::fill_n(run.data(), run.size(), 0.0f);
      for (int64_t n = first; n < std::min(z.count, first + kRun); ++n) {
        V total = zero();
        walk(z, codes, chain, n, column, lanes, [&](int64_t level, int64_t place, V codeword, V before, V after) {
          if (sums != nullptr) by_code.raise(place, before);
          total = add(total, codeword);
          float* const part = run.data() + level * kLanes;
          store(part, fma(after, after, load(part)));
        });
        float wide[kLanes];
        store(wide, total);
        narrow(wide, z.type, lanes, out + (n * z.width + column) * size_of(z.type));
      }
      for (int64_t level = 0; level < levels; ++level)
        squares[at(column / kLanes, level)] += static_cast<double>(sum(load(run.data() + level * kLanes)));
    }
    if (sums != nullptr) by_code.write(sums, z.width, column, lanes);
  });

  std::vector<int64_t> used(static_cast<std::size_t>(levels), 0);
  if (counts != nullptr) std::fill_n(counts, table, int64_t{0});
  for (int64_t n = 0; n < z.count; ++n)
    for (int64_t level = 0; level < levels; ++level) {
      const int64_t code = codes[n * levels + level];
      if (!inside(code, chain.codewords)) continue;
      ++used[static_cast<std::size_t>(level)];
      if (counts != nullptr) ++counts[level * chain.codewords + code];
    }
  for (int64_t level = 0; level < levels; ++level) {
    double total = 0;
    for (int64_t slice = 0; slice < slices; ++slice) total += squares[at(slice, level)];
    const int64_t values = z.width * std::max<int64_t>(used[static_cast<std::size_t>(level)], 1);
    errors[level] = static_cast<float>(total / static_cast<double>(values));
  }
}

void residual_straight_through_backward(const float* gradient, const float* pulls, const Rows& z, const int64_t* codes,
                                        const Chains& chain, Estimator estimator, float* by_z, float* by_codebooks,
                                        int threads) {
  constexpr int64_t kTask = 256;
  const int64_t levels = chain.levels, width = z.width;
  expect_large(by_z, z.count * width * 4);
  parallel(ceil_div(z.count, kTask), threads, [&](int64_t task, int) {
    Pullback row(width);
    for (int64_t n = task * kTask; n < std::min(z.count, (task + 1) * kTask); ++n) {
      row.begin(z, n, gradient + n * width);
      for (int64_t level = 0; level < levels; ++level) {
        const int64_t code = codes[n * levels + level];
        if (inside(code, chain.codewords))
          row.level(chain.codebooks + (level * chain.codewords + code) * width, estimator, pulls[level]);
      }
      std::copy_n(row.total(), width, by_z + n * width);
    }
  });
  if (by_codebooks == nullptr) return;

  each_slice(width, threads, [&](int64_t column, int lanes) {
    ColumnSums by_code(levels * chain.codewords);
    for (int64_t n = 0; n < z.count; ++n) {
      if (n % kRowsPerCheck == 0) check_interrupt();
      const V up = estimator == Estimator::none ? load_first(gradient + n * width + column, lanes) : zero();
      walk(z, codes, chain, n, column, lanes, [&](int64_t level, int64_t place, V, V, V after) {
        by_code.raise(place, fnma(splat(pulls[level]), after, up));
      });
    }
    by_code.write(by_codebooks, width, column, lanes);
  });
}

}  // namespace unitok::UNITOK_ISA

#endif

#ifndef UNITOK_ISA

#include "api/ordered_linear.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/ordered_linear.cpp"
#include "simd/each_isa.h"

namespace unitok {

void ordered_linear(const Matrix& x, const Matrix& weight, const double* bias, bool relu, double* y, int threads) {
  UNITOK_DISPATCH(ordered_linear(x, weight, bias, relu, y, threads));
}

}  // namespace unitok

#else

#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

// A tile's sums stay in registers. With a few outputs more they would spill; with fewer, values are loaded more often.
constexpr int kTileRows = UNITOK_LEVEL == 512 ? 3 : 1, kTileOutputs = UNITOK_LEVEL == 512 ? 8 : 4;
constexpr int64_t kRows = 48, kOutputs = 64;  // of a task: its rows and weights stay in the second-level cache
constexpr int64_t kWorth = 1 << 18;           // products that are worth waking a thread

inline double at_least(double x, double least) { return x < least ? least : x; }  // NaN stays

// The sums of R rows and P outputs, from x and weight on; only the first `outputs` of P exist.
template <int R, int P, class T>
void tile(const double* x, const T* weight, int64_t width, const double* bias, int64_t outputs, bool relu, double* y,
          int64_t y_stride) {
  const T* w[P];
  D8 sums[R][P];
  for (int p = 0; p < P; ++p) {
    w[p] = weight + std::min<int64_t>(p, outputs - 1) * width;
    for (int r = 0; r < R; ++r) sums[r][p] = zero8();
  }
  int64_t i = 0;
  for (; i + 8 <= width; i += 8) {
    D8 row[R];
    for (int r = 0; r < R; ++r) row[r] = held(load8(x + r * width + i));
    for (int p = 0; p < P; ++p) {
      const D8 column = held(load8(w[p] + i));
      for (int r = 0; r < R; ++r) sums[r][p] = fma(row[r], column, sums[r][p]);
    }
  }
  if (const int rest = static_cast<int>(width - i); rest > 0) {
    for (int p = 0; p < P; ++p) {
      const D8 column = load8_first(w[p] + i, rest);
      for (int r = 0; r < R; ++r) sums[r][p] = fma(load8_first(x + r * width + i, rest), column, sums[r][p]);
    }
  }
  const double least = relu ? 0.0 : -std::numeric_limits<double>::infinity();
  for (int r = 0; r < R; ++r) {
    double total[P];
    for (int p = 0; p < P; p += 4) sum4(sums[r] + p, total + p);
    double* const to = y + r * y_stride;
    if (outputs >= P) {
      for (int p = 0; p < P; ++p) to[p] = at_least(total[p] + bias[p], least);
    } else {
      for (int64_t p = 0; p < outputs; ++p) to[p] = at_least(total[p] + bias[p], least);
    }
  }
}

// All tiles of `rows` rows and `outputs` outputs; the weights of a tile stay in the first-level cache.
template <int P, class T>
int64_t tiles(const double* x, int64_t rows, const T* weight, int64_t width, const double* bias, int64_t first,
              int64_t outputs, bool relu, double* y, int64_t y_stride) {
  for (; first + (P == 4 ? 1 : P) <= outputs; first += P) {
    const T* w = weight + first * width;
    const int64_t there = outputs - first;
    int64_t n = 0;
    for (; n + kTileRows <= rows; n += kTileRows)
      tile<kTileRows, P>(x + n * width, w, width, bias + first, there, relu, y + n * y_stride + first, y_stride);
    for (; n < rows; ++n)
      tile<1, P>(x + n * width, w, width, bias + first, there, relu, y + n * y_stride + first, y_stride);
  }
  return first;
}

template <class T>
void block(const double* x, int64_t rows, const T* weight, int64_t width, const double* bias, int64_t outputs,
           bool relu, double* y, int64_t y_stride) {
  int64_t first = 0;
  if (kTileOutputs > 4) first = tiles<kTileOutputs>(x, rows, weight, width, bias, first, outputs, relu, y, y_stride);
  tiles<4>(x, rows, weight, width, bias, first, outputs, relu, y, y_stride);
}

inline void widen8(const float* from, int64_t count, double* to) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) store8(to + i, load8(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

void ordered_linear(const Matrix& x, const Matrix& weight, const double* bias, bool relu, double* y, int threads) {
  const int64_t width = x.width, outputs = weight.rows;
  const int64_t row_blocks = ceil_div(x.rows, kRows), panels = ceil_div(outputs, kOutputs);
  threads = static_cast<int>(std::min<int64_t>(threads, 1 + x.rows * outputs * width / kWorth));

  // Weights that several tiles read are widened once; for a few rows that would be most of the work.
  Matrix table = weight;
  Buffer<double> widened;
  if (!weight.wide && x.rows > kTileRows) {
    widened = Buffer<double>(outputs * width);
    parallel(panels, threads, [&](int64_t panel, int) {
      const int64_t first = panel * kOutputs, count = std::min(kOutputs, outputs - first);
      widen8(static_cast<const float*>(weight.row(first)), count * width, widened.data() + first * width);
    });
    table = {widened.data(), true, outputs, width};
  }
  std::vector<Buffer<double> > scratch(static_cast<std::size_t>(threads));
  if (!x.wide)
    for (Buffer<double>& own : scratch) own = Buffer<double>(std::min(kRows, x.rows) * width);

  parallel(row_blocks * panels, threads, [&](int64_t task, int worker) {
    const int64_t row = task / panels * kRows, first = task % panels * kOutputs;
    const int64_t rows = std::min(kRows, x.rows - row), count = std::min(kOutputs, outputs - first);
    const double* values = static_cast<const double*>(x.row(row));
    if (!x.wide) {
      double* const own = scratch[static_cast<std::size_t>(worker)].data();
      widen8(static_cast<const float*>(x.row(row)), rows * width, own);
      values = own;
    }
    double* const to = y + row * outputs + first;
    if (table.wide) {
      block(values, rows, static_cast<const double*>(table.row(first)), width, bias + first, count, relu, to, outputs);
    } else {
      block(values, rows, static_cast<const float*>(table.row(first)), width, bias + first, count, relu, to, outputs);
    }
  });
}

}  // namespace unitok::UNITOK_ISA

#endif

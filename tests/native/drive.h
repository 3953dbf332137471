// What the drivers of kernels share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"

struct Shape {
  int64_t rows, width, codewords, levels;
  unitok::Float type;
  int threads;
  bool stats;
  uint64_t seed;
};

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Codes = std::vector<int64_t>;

// What an operation wrote: codes and values that are the same on every instruction set, and arrays whose sums have
// another order on each. All of it is the same for any number of threads.
struct Written {
  Codes codes;
  Bytes values;
  std::vector<Floats> close;
  double tolerance = 1e-5;
};

struct Kernel {
  const char* name;
  Written (*run)(const Shape&);
};

inline std::size_t size(int64_t n) { return static_cast<std::size_t>(n); }

inline double squared_distance(const float* a, const float* b, int64_t width) {
  double total = 0;
  for (int64_t d = 0; d < width; ++d) {
    const double difference = static_cast<double>(a[d]) - static_cast<double>(b[d]);
    total += difference * difference;
  }
  return total;
}

// The promise: the code's distance is larger than the best by at most 1e-5 of it.
inline void check_nearest(const float* row, const float* table, int64_t codewords, int64_t width, int64_t code) {
  CHECK(code >= 0 && code < codewords);
  double best = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < codewords; ++k) best = std::min(best, squared_distance(row, table + k * width, width));
  CHECK(squared_distance(row, table + code * width, width) <= best * (1 + 1e-5));
}

template <class T>
double largest(const std::vector<T>& values) {
  double most = 0;
  for (T value : values) most = std::max(most, std::fabs(static_cast<double>(value)));
  return most;
}

// Each value is off by at most the tolerance times the largest expected one.
template <class T>
void check_close(const Floats& found, const std::vector<T>& expected, double tolerance) {
  CHECK(found.size() == expected.size());
  const double allowed = tolerance * largest(expected);
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(std::fabs(static_cast<double>(found[i]) - static_cast<double>(expected[i])) <= allowed);
}

// Whole numbers from `low` to `high`, inclusive.
inline Codes random_codes(int64_t count, int64_t low, int64_t high, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_int_distribution<int64_t> any(low, high);
  Codes codes(size(count));
  for (int64_t& code : codes) code = any(engine);
  return codes;
}

// drive_codes.cpp
Written nearest_codeword_matches(const Shape& s);
Written moe_residual_encode_matches(const Shape& s);
Written fast_has_the_exact_codes(const Shape& s);
Written residual_loss_matches(const Shape& s);
Written moe_residual_encode_backward_matches(const Shape& s);
Written codeword_statistics_matches(const Shape& s);
Written residual_decode_matches(const Shape& s);

// drive_fits.cpp
Written kmeans_is_balanced_or_nearest(const Shape& s);
Written hsic_matches(const Shape& s);
Written sinkhorn_assign_matches(const Shape& s);
Written ordered_linear_matches(const Shape& s);
Written residual_straight_through_matches(const Shape& s);

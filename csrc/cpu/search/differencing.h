// The search that decides: squared distances by differencing.
#ifndef UNITOK_SEARCH_DIFFERENCING_H
#define UNITOK_SEARCH_DIFFERENCING_H

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "runtime/memory.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr float kUnit = 0x1p-24f;
constexpr double kNearTie = 1e-5;

// What the searches of one thread count; see EncodeStats.
struct Counts {
  int64_t rescored = 0, near_ties = 0;
};

// The squared distance that decides: double precision, eight interleaved sums.
inline double exact_distance(const float* a, const float* b, int64_t width) {
  D8 total = zero8();
  int64_t d = 0;
  for (; d + 8 <= width; d += 8) {
    const D8 difference = sub(load8(a + d), load8(b + d));
    total = fma(difference, difference, total);
  }
  if (d < width) {
    float x[8] = {}, y[8] = {};
    std::memcpy(x, a + d, static_cast<std::size_t>(width - d) * 4);
    std::memcpy(y, b + d, static_cast<std::size_t>(width - d) * 4);
    const D8 difference = sub(load8(x), load8(y));
    total = fma(difference, difference, total);
  }
  return sum(total);
}

// The squared distance in float32, lane by lane. The sum of the lanes is off by at most (D + 4) u of itself, and by
// underflow. `row` ends in zeros.
inline V near_distance(const float* row, const float* codeword, int64_t width) {
  V total = zero();
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    const V difference = sub(load(row + d), load(codeword + d));
    total = fma(difference, difference, total);
  }
  if (d < width) {
    const V difference = sub(load(row + d), load_first(codeword + d, static_cast<int>(width - d)));
    total = fma(difference, difference, total);
  }
  return total;
}

// Picks the nearest of `count` codewords, in ascending order, by their distances in float32; if these are too close, by
// `exact_distance`. `candidates` names the codewords; null: all. distances: `count` of them and room up to a whole
// vector, which is overwritten.
inline int64_t pick(const float* row, const float* table, const int64_t* candidates, int64_t count, int64_t width,
                    float* distances, float nearest, bool stats, Counts& counts) {
  const float error = static_cast<float>(width + 4) * kUnit;
  const float certain = nearest * (1 + 3 * error) + static_cast<float>(width + 4) * 0x1p-124f;
  const float reach = stats ? certain * (1 + 2 * static_cast<float>(kNearTie)) : certain;
  for (int64_t i = count; i % kLanes != 0; ++i) distances[i] = std::numeric_limits<float>::quiet_NaN();
  int64_t first = 0, near = 0, certain_near = 0;
  for (int64_t i = round_up(count, kLanes); i > 0;) {  // downwards, so that the first candidate stays
    i -= kLanes;
    const V some = load(distances + i);
    const uint32_t mask = at_most(some, splat(reach));
    if (mask == 0) continue;
    first = i + __builtin_ctz(mask);
    near += __builtin_popcount(mask);
    certain_near += __builtin_popcount(at_most(some, splat(certain)));
  }
  counts.rescored += certain_near > 1;
  const auto codeword = [&](int64_t i) { return candidates == nullptr ? i : candidates[i]; };
  if (near <= 1) return codeword(first);

  double best = std::numeric_limits<double>::infinity(), second = best;
  int64_t code = codeword(first);
  for (int64_t i = first; i < count; ++i) {
    if (!(distances[i] <= reach)) continue;
    const double distance = exact_distance(row, table + codeword(i) * width, width);
    if (distance < best) {
      second = best;
      best = distance;
      code = codeword(i);
    } else if (distance < second) {
      second = distance;
    }
  }
  counts.near_ties += stats && second - best < kNearTie * best;
  return code;
}

// Searches one row in the codebook as the caller has it. Sets `finite` to false if a distance isn't finite.
inline int64_t search_row(const float* row, const float* table, int64_t codewords, int64_t width, float* distances,
                          bool stats, Counts& counts, bool& finite) {
  V nearest = splat(FLT_MAX), check = zero();
  for (int64_t first = 0; first < codewords; first += kLanes) {
    V parts[kLanes];
    for (int64_t i = 0; i < kLanes; ++i)  // the last codeword is repeated to fill the last vector
      parts[i] = near_distance(row, table + std::min(first + i, codewords - 1) * width, width);
    const V some = sum_of_each(parts);
    store(distances + first, some);
    check = add(check, some);
    nearest = min(some, nearest);
  }
  if (!std::isfinite(sum(check))) finite = false;
  return pick(row, table, nullptr, codewords, width, distances, least(nearest), stats, counts);
}

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SEARCH_DIFFERENCING_H

// Scores of rows against a codebook in double precision.
#ifndef UNITOK_TRANSPORT_SCORER_H
#define UNITOK_TRANSPORT_SCORER_H

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "runtime/memory.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr int kGroup = 4;                            // rows that are scored together
constexpr int kTiles = UNITOK_LEVEL == 512 ? 4 : 1;  // tiles of 8 codewords that are scored together

// Gives |c|^2 - 2 r.c, the squared distance minus |r|^2, all centred on the codebook's mean. The codebook is packed
// [tile][D][8]; each score is one FMA chain over D, so that it depends neither on the group nor on the tiles beside it.
class Scorer {
 public:
  Scorer(const float* rows, int64_t width, const float* codebook, int64_t codewords)
      : rows_(rows),
        width_(width),
        tiles_(round_up(ceil_div(codewords, 8), kTiles)),
        mean_(width),
        table_(tiles_ * 8 * width),
        norms_(tiles_ * 8) {
    std::fill_n(mean_.data(), width, 0.0);
    for (int64_t k = 0; k < codewords; ++k)
      for (int64_t d = 0; d < width; ++d) mean_[d] += static_cast<double>(codebook[k * width + d]);
    for (int64_t d = 0; d < width; ++d) mean_[d] /= static_cast<double>(codewords);
    std::fill_n(table_.data(), table_.size(), 0.0);
    std::fill_n(norms_.data(), norms_.size(), std::numeric_limits<double>::infinity());  // beyond K: never the least
    for (int64_t k = 0; k < codewords; ++k) {
      double norm = 0;
      for (int64_t d = 0; d < width; ++d) {
        const double c = static_cast<double>(codebook[k * width + d]) - mean_[d];
        norm += c * c;
        table_[(k / 8 * width + d) * 8 + k % 8] = -2 * c;
      }
      norms_[k] = norm;
    }
  }

  int64_t tiles() const { return tiles_; }
  int64_t width() const { return width_; }
  const float* row(int64_t i) const { return rows_ + i * width_; }
  const double* norms() const { return norms_.data(); }

  // Writes `count` <= kGroup rows, centred, whose numbers row_of gives. The last one is repeated to fill the group.
  template <class RowOf>
  void centre(const RowOf& row_of, int64_t count, double* to) const {
    for (int64_t i = 0; i < kGroup; ++i) {
      const float* const from = row(row_of(std::min(i, count - 1)));
      for (int64_t d = 0; d < width_; ++d) to[i * width_ + d] = static_cast<double>(from[d]) - mean_[d];
    }
  }

  // Scores of a centred group against Tiles tiles from `tile` on. `norms` are norms(), perhaps with prices added. Not
  // inlined, so that the sums have all registers.
  template <int Tiles>
  __attribute__((noinline)) void score(const double* centred, int64_t tile, const double* norms,
                                       D8 (&to)[kGroup][Tiles]) const {
    D8 total[kGroup][Tiles];
    for (int t = 0; t < Tiles; ++t)
      for (int i = 0; i < kGroup; ++i) total[i][t] = load8(norms + (tile + t) * 8);
    const double* const table = table_.data() + tile * width_ * 8;
    for (int64_t d = 0; d < width_; ++d) {
      D8 c[Tiles];
      for (int t = 0; t < Tiles; ++t) c[t] = load8(table + (t * width_ + d) * 8);
      for (int i = 0; i < kGroup; ++i) {
        const D8 value = splat8(centred[i * width_ + d]);
        for (int t = 0; t < Tiles; ++t) total[i][t] = fma(value, c[t], total[i][t]);
      }
    }
    for (int i = 0; i < kGroup; ++i)
      for (int t = 0; t < Tiles; ++t) to[i][t] = total[i][t];
  }

 private:
  const float* rows_;
  int64_t width_, tiles_;
  Buffer<double> mean_, table_, norms_;
};

// The least of 8 lanes, and the lowest number in `which` among those that have it.
inline std::pair<double, int64_t> least_of(D8 values, D8 which) {
  double value[8], number[8];
  store8(value, values);
  store8(number, which);
  int lane = 0;
  for (int j = 1; j < 8; ++j)
    if (value[j] < value[lane] || (value[j] == value[lane] && number[j] < number[lane])) lane = j;
  return {value[lane], static_cast<int64_t>(number[lane])};
}

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_TRANSPORT_SCORER_H

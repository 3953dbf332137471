// A codebook in the order in which the block search reads it.
#ifndef UNITOK_SEARCH_PACKED_H
#define UNITOK_SEARCH_PACKED_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/memory.h"
#include "simd/isa.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr int kRows = 6;
#if UNITOK_LEVEL == 512
constexpr int kVectors = 4;
#elif UNITOK_LEVEL == 2
constexpr int kVectors = 2;
#else
constexpr int kVectors = 1;
#endif
constexpr int64_t kWordWidth = 160;  // from this width on int16 products leave too many rows to the floats

// A codebook as the block search wants it.
class Packed {
 public:
  Packed() = default;
  Packed(const float* table, int64_t codewords, int64_t width)
      : table_(table),
        codewords_(codewords),
        width_(width),
        vectors_(ceil_div(codewords, kLanes)),
        mean_(round_up(width, kLanes)),
        tiles_(vectors_ * kLanes * width),
        half_norms_(vectors_ * kLanes) {
    std::vector<double> mean(static_cast<std::size_t>(width), 0.0);
    for (int64_t k = 0; k < codewords; ++k)
      for (int64_t d = 0; d < width; ++d)
        mean[static_cast<std::size_t>(d)] += static_cast<double>(table[k * width + d]);
    std::fill(mean_.data(), mean_.data() + mean_.size(), 0.0f);
    for (int64_t d = 0; d < width; ++d) {
      mean_[d] = static_cast<float>(mean[static_cast<std::size_t>(d)] / static_cast<double>(codewords));
    }
    double longest = 0;
    for (int64_t first = 0; first < vectors_; first += kVectors) {
      const int64_t vectors = std::min<int64_t>(kVectors, vectors_ - first), lanes = vectors * kLanes;
      float* const tile = tiles_.data() + first * kLanes * width;
      const int64_t real = std::min(lanes, codewords - first * kLanes);
      double norms[kVectors * kLanes] = {};
      for (int64_t d = 0; d < width; ++d) {
        const float* const column = table + first * kLanes * width + d;
        for (int64_t lane = 0; lane < real; ++lane) {
          const double centred = static_cast<double>(column[lane * width]) - static_cast<double>(mean_[d]);
          tile[d * lanes + lane] = static_cast<float>(centred);
          norms[lane] += centred * centred;
        }
        std::fill(tile + d * lanes + real, tile + (d + 1) * lanes, 0.0f);
      }
      // Padding is never the nearest. It is finite, so that it stays a number with a tag.
      for (int64_t lane = 0; lane < lanes; ++lane) {
        half_norms_[first * kLanes + lane] = lane < real ? static_cast<float>(norms[lane] / 2) : 3e38f;
        if (lane < real && !(norms[lane] <= longest)) longest = norms[lane];  // bad everywhere if the mean is
      }
    }
    longest_ = static_cast<float>(std::sqrt(longest) * (1 + 1e-6));
#if UNITOK_LEVEL == 512
    if (width < kWordWidth && has_vnni() && finite()) make_words();
#endif
  }

  const float* table() const { return table_; }
  int64_t codewords() const { return codewords_; }
  int64_t width() const { return width_; }
  int64_t vectors() const { return vectors_; }
  const float* mean() const { return mean_.data(); }
  const float* tile(int64_t first_vector) const { return tiles_.data() + first_vector * kLanes * width_; }
  const float* half_norms(int64_t first_vector) const { return half_norms_.data() + first_vector * kLanes; }
  float longest() const { return longest_; }  // the largest |c - mean|; NaN or infinite where a codeword is
  bool finite() const { return std::isfinite(longest_); }

#if UNITOK_LEVEL == 512
  // The tiles in int16, two columns to a lane; empty if they aren't used. See Searcher::word_margin.
  bool has_words() const { return words_.size() > 0; }
  const int32_t* words(int64_t first_vector) const {
    return words_.data() + first_vector * kLanes * ceil_div(width_, 2);
  }
  float word_scale() const { return word_scale_; }

  // The largest word with which a sum of `width` products and the rest of a score stay in int32.
  static float largest_word(int64_t width) { return std::floor(std::sqrt(0x1p29f / static_cast<float>(width))); }
#endif

 private:
#if UNITOK_LEVEL == 512
  void make_words() {
    V largest = zero();
    for (int64_t i = 0; i < tiles_.size(); i += kLanes)
      largest = max(largest, max(load(tiles_.data() + i), sub(zero(), load(tiles_.data() + i))));
    const float scale = most(largest) / largest_word(width_);
    word_scale_ = scale > 0 ? scale : 1;
    const __m512 inverse = _mm512_set1_ps(1 / word_scale_);
    if (!std::isfinite(1 / word_scale_)) return;
    words_ = Buffer<int32_t>(vectors_ * kLanes * ceil_div(width_, 2));
    int32_t* to = words_.data();
    for (int64_t first = 0; first < vectors_; first += kVectors) {
      const int64_t lanes = std::min<int64_t>(kVectors, vectors_ - first) * kLanes;
      for (int64_t d = 0; d < width_; d += 2) {
        for (int64_t lane = 0; lane < lanes; lane += kLanes, to += kLanes) {
          const float* const column = tile(first) + d * lanes + lane;
          const __m512 next = d + 1 < width_ ? _mm512_loadu_ps(column + lanes) : _mm512_setzero_ps();
          const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(column), inverse));
          const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(next, inverse));
          _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16)));
        }
      }
    }
  }

  Buffer<int32_t> words_;
  float word_scale_ = 1;
#endif
  const float* table_ = nullptr;
  int64_t codewords_ = 0, width_ = 0, vectors_ = 0;
  Buffer<float> mean_, tiles_, half_norms_;
  float longest_ = 0;
};

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SEARCH_PACKED_H

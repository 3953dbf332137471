// precision="fast": an int8 shortlist for the exact search.
//
// Centred rows r and codewords c are rounded to r = a p + e, c = b q + f with int8 p, q, one scale a per row and one
// scale b per codebook. Since r.c - a b p.q = e.c + (a p).f, the score |c|^2 / 2 - a b p.q is off by at most
//     B = |e| |c| + (|r| + |e|) |f|
// by Cauchy-Schwarz. |c| and |f| are the largest of the codebook, |r| and |e| the row's own, all measured. The products
// p.q are exact in int32. So the score of the nearest codeword is within 2 B (and a term for float32's own rounding) of
// the least. If several are, their distances decide as in the exact search: codes are the same. An instruction makes
// four products per lane instead of one.
#ifndef UNITOK_SEARCH_SHORTLIST_H
#define UNITOK_SEARCH_SHORTLIST_H

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "runtime/memory.h"
#include "search/differencing.h"
#include "search/packed.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr int64_t kWidest = 1 << 15;  // p.q stays in int32
constexpr int64_t kNarrowest = 48;    // narrower rows lose more time on candidates than the products save

#if UNITOK_LEVEL == 512

#define UNITOK_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

class Shortlist {
 public:
  Shortlist() = default;
  // Needs has_vnni() and a finite codebook of kNarrowest to kWidest columns.
  explicit Shortlist(const Packed& codebook)
      : quads_(ceil_div(codebook.width(), 4)),
        vectors_(codebook.vectors()),
        codes_(vectors_ * quads_ * 64),
        offsets_(vectors_ * kLanes) {
    const int64_t width = codebook.width();
    float largest = 0;
    for (int64_t i = 0; i < vectors_ * kLanes * width; ++i) largest = std::max(largest, std::fabs(codebook.tile(0)[i]));
    scale_ = largest > 0 ? largest / 127 : 1;
    const float inverse = 1 / scale_;
    std::fill_n(codes_.data(), codes_.size(), int8_t{0});
    double worst = 0;
    for (int64_t first = 0; first < vectors_; first += kVectors) {
      const int64_t vectors = std::min<int64_t>(kVectors, vectors_ - first), lanes = vectors * kLanes;
      const float* const tile = codebook.tile(first);
      int8_t* const to = codes_.data() + first * quads_ * 64;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        int32_t total = 0;
        double error = 0;
        for (int64_t d = 0; d < width; ++d) {
          const float value = tile[d * lanes + lane];
          const int code = static_cast<int>(std::lrint(value * inverse));
          const double rest = static_cast<double>(value) - static_cast<double>(scale_) * code;
          to[(d / 4 * lanes + lane) * 4 + d % 4] = static_cast<int8_t>(code);
          total += code;
          error += rest * rest;
        }
        offsets_[first * kLanes + lane] = -128 * total;
        worst = std::max(worst, error);
      }
    }
    error_ = static_cast<float>(std::sqrt(worst) * (1 + 1e-6));
  }

  bool usable() const { return vectors_ > 0; }
  int64_t quads() const { return quads_; }
  const int8_t* tile(int64_t first_vector) const { return codes_.data() + first_vector * quads_ * 64; }
  const int32_t* offsets(int64_t first_vector) const { return offsets_.data() + first_vector * kLanes; }
  float scale() const { return scale_; }
  float error() const { return error_; }  // the largest |f|

 private:
  int64_t quads_ = 0, vectors_ = 0;
  Buffer<int8_t> codes_;
  Buffer<int32_t> offsets_;  // -128 times the sum of q, since rows are stored as p + 128, unsigned
  float scale_ = 1, error_ = 0;
};

class ShortlistSearcher {
 public:
  ShortlistSearcher() = default;
  ShortlistSearcher(int64_t codewords, int64_t width)
      : bytes_(round_up(width, kLanes)),
        padded_(round_up(codewords, kLanes)),
        rows_(kGroup * bytes_),
        scores_(kGroup * padded_),
        candidates_(padded_),
        least_(kGroup) {}

  // As Searcher::search.
  void search(const Packed& codebook, const Shortlist& list, const float* rows, int64_t count, int64_t stride,
              bool stats, int64_t* codes, float* distances, Counts& counts) {
    for (int64_t first = 0; first < count; first += kGroup) {
      const int64_t group = std::min(kGroup, count - first);
      quantize(codebook, list, rows + first * stride, group, stride, stats);
      for (int64_t vector = 0; vector < codebook.vectors(); vector += kVectors) {
        switch (std::min<int64_t>(kVectors, codebook.vectors() - vector)) {
          case 1: tile<1>(codebook, list, vector, group); break;
          case 2: tile<2>(codebook, list, vector, group); break;
          case 3: tile<3>(codebook, list, vector, group); break;
          case 4: tile<4>(codebook, list, vector, group); break;
        }
      }
      for (int64_t i = 0; i < group; ++i) {
        const float* const row = rows + (first + i) * stride;
        if (!std::isfinite(reach_[i])) {
          bool finite = true;
          codes[first + i] = search_row(row, codebook.table(), codebook.codewords(), codebook.width(), distances, stats,
                                        counts, finite);
          continue;
        }
        const int64_t found = collect(i, codebook.vectors());
        if (found == 1) {
          codes[first + i] = candidates_[0];
          continue;
        }
        float nearest = FLT_MAX;
        for (int64_t j = 0; j < found; ++j) {
          distances[j] =
              sum(near_distance(row, codebook.table() + candidates_[j] * codebook.width(), codebook.width()));
          nearest = std::min(nearest, distances[j]);
        }
        Counts own;
        codes[first + i] =
            pick(row, codebook.table(), candidates_.data(), found, codebook.width(), distances, nearest, stats, own);
        counts.near_ties += own.near_ties;
        ++counts.rescored;
      }
    }
  }

 private:
  // Computes p + 128 of each row, and how far above the least score a candidate may be, in units of a b.
  void quantize(const Packed& codebook, const Shortlist& list, const float* rows, int64_t count, int64_t stride,
                bool stats) {
    const int64_t width = codebook.width();
    const float longest = codebook.longest();
    std::memset(rows_.data(), 128, static_cast<std::size_t>(rows_.size()));
    for (int64_t i = 0; i < count; ++i) {
      const float* const row = rows + i * stride;
      V largest = zero(), square = zero();
      for (int64_t d = 0; d < width; d += kLanes) {
        const V value = sub(load(row + d), load(codebook.mean() + d));
        largest = max(largest, max(value, sub(zero(), value)));
        square = fma(value, value, square);
      }
      const float most_value = most(largest), scale = most_value > 0 ? most_value / 127 : 1;
      const __m512 inverse = _mm512_set1_ps(1 / scale), scales = _mm512_set1_ps(scale);
      V error = zero();
      for (int64_t d = 0; d < width; d += kLanes) {
        const V value = sub(load(row + d), load(codebook.mean() + d));
        const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(value.v, inverse));
        const V rest = {_mm512_fnmadd_ps(_mm512_cvtepi32_ps(code), scales, value.v)};
        error = fma(rest, rest, error);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(rows_.data() + i * bytes_ + d),
                         _mm_xor_si128(_mm512_cvtepi32_epi8(code), _mm_set1_epi8(-128)));
      }
      const float length = std::sqrt(sum(square)) * 1.0001f, rounded = std::sqrt(sum(error)) * 1.0001f;
      const float bound = rounded * longest + (length + rounded) * list.error();
      const float own = 0x1p-20f * (length * longest + longest * longest);  // of float32 in the scores, generously
      float reach = 2 * (bound + own);
      if (stats) reach += static_cast<float>(kNearTie) * (length + longest) * (length + longest);
      inverse_[i] = 1 / (scale * list.scale());
      reach_[i] = std::isfinite(inverse_[i]) ? reach * inverse_[i] : std::numeric_limits<float>::infinity();
      least_[i] = splat(FLT_MAX);
    }
  }

  template <int Vectors>
  UNITOK_VNNI void tile(const Packed& codebook, const Shortlist& list, int64_t vector, int64_t count) {
    for (int64_t first = 0; first < count; first += kRows) {
      const uint8_t* const r = rows_.data() + first * bytes_;
      const int8_t* c = list.tile(vector);
      __m512i dot[kRows][Vectors];
      for (int v = 0; v < Vectors; ++v)
        for (int i = 0; i < kRows; ++i) dot[i][v] = _mm512_loadu_si512(list.offsets(vector + v));
      for (int64_t quad = 0; quad < list.quads(); ++quad, c += Vectors * 64) {
        __m512i codeword[Vectors];
        for (int v = 0; v < Vectors; ++v) codeword[v] = _mm512_loadu_si512(c + v * 64);
#pragma GCC unroll 6
        for (int i = 0; i < kRows; ++i) {
          int32_t four;
          std::memcpy(&four, r + i * bytes_ + 4 * quad, 4);
          const __m512i value = _mm512_set1_epi32(four);
// An instruction by name: GCC 12 keeps the sums of the intrinsic in memory.
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) asm("vpdpbusd %2, %1, %0" : "+v"(dot[i][v]) : "v"(value), "v"(codeword[v]));
        }
      }
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {  // unrolled, or the products would stay in memory
        float* const to = scores_.data() + (first + i) * padded_ + vector * kLanes;
        const __m512 inverse = _mm512_set1_ps(inverse_[first + i]);
        __m512 least = least_[first + i].v;
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          const __m512 norm = _mm512_loadu_ps(codebook.half_norms(vector + v));
          const __m512 score = _mm512_fmsub_ps(norm, inverse, _mm512_cvtepi32_ps(dot[i][v]));
          _mm512_storeu_ps(to + v * kLanes, score);
          least = _mm512_min_ps(score, least);
        }
        least_[first + i].v = least;
      }
    }
  }

  // Lists the codewords whose score is within reach of the least, in ascending order; returns how many.
  int64_t collect(int64_t i, int64_t vectors) {
    const V limit = splat(least(least_[i]) + reach_[i]);
    const float* const scores = scores_.data() + i * padded_;
    int64_t found = 0;
    for (int64_t vector = 0; vector < vectors; ++vector)
      for (uint32_t mask = at_most(load(scores + vector * kLanes), limit); mask != 0; mask &= mask - 1)
        candidates_[found++] = vector * kLanes + __builtin_ctz(mask);
    return found;
  }

  static constexpr int64_t kGroup = 4 * kRows;  // rows that share a tile while it is in the first-level cache

  int64_t bytes_ = 0, padded_ = 0;
  Buffer<uint8_t> rows_;
  Buffer<float> scores_;
  Buffer<int64_t> candidates_;
  Buffer<V> least_;
  float inverse_[kGroup] = {}, reach_[kGroup] = {};
};

#else

// The other instruction sets have no such products: their fast search is the exact one.
struct Shortlist {
  Shortlist() = default;
  explicit Shortlist(const Packed&) {}
  bool usable() const { return false; }
};

struct ShortlistSearcher {
  ShortlistSearcher() = default;
  ShortlistSearcher(int64_t, int64_t) {}
  void search(const Packed&, const Shortlist&, const float*, int64_t, int64_t, bool, int64_t*, float*, Counts&) {}
};

#endif

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SEARCH_SHORTLIST_H

// The exact nearest-codeword search, a block of rows at a time.
//
// Codebooks are packed [tile][D][lanes of a tile] after centring on their mean m. A register tile of kRows rows x
// kVectors vectors of codewords starts from |c - m|^2 / 2 and subtracts (r - m).(c - m) by one FMA chain over D, so
// that the accumulator ends as the score. The best and the second best score of each lane stay in registers. The number
// of the vector is stored in the last kTagBits bits of the score, so that an index costs one operation per vector.
//
// Let u = 2^-24, and |r|, |c| be the lengths after centring. For any data, a score is off by at most
//     E = (D + 4) u (|r| |c| + |c|^2 / 2) + (D + 4) 2^-126
// (D roundings of the chain, one of each centred value, one of the norm; the last term covers underflow), and by a
// further 2^-19 of its own size because of the tag. If the runner-up is closer than twice that, the row is searched
// again by differencing, `search_row`, whose error is relative to the distance itself. If that can't decide either, the
// candidates' distances are computed in double precision, in one order. So a code is the argmin of those distances on
// every instruction set, for every batch and every number of threads. If the processor has cheaper products, narrow
// rows go through these first: see word_margin.
#ifndef UNITOK_SEARCH_SEARCH_H
#define UNITOK_SEARCH_SEARCH_H

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/memory.h"
#include "search/differencing.h"
#include "search/packed.h"
#include "simd/isa.h"
#include "simd/number.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr int kTagBits = 4;
constexpr int kChunk = 1 << kTagBits;   // vectors that a tag can tell apart
constexpr float kTagged = 0x1p-100f;    // scores of at least this size keep their tag where denormals are flushed
constexpr int64_t kBlock = 32 * kRows;  // at most this many rows go through all levels together

// How many of `count` rows go through all levels together. Narrow rows stay in the first-level cache. For wide ones
// each tile is loaded into it again for every block, so larger blocks mean fewer loads, if enough blocks are left for
// all threads.
inline int64_t block_rows(int64_t width, int64_t count) {
  return width >= 64 && count >= 32 * kBlock ? kBlock : kBlock / 2;
}

// The best and the second best score of each lane, for the rows of a block.
struct Lanes {
  V best[kBlock], second[kBlock];
};

// One thread's memory for searches of codebooks up to a given size.
class Searcher {
 public:
  Searcher() = default;
  Searcher(int64_t codewords, int64_t width)
      : stride_(round_up(width, kLanes)),
        centred_(kBlock * stride_),
        distances_(round_up(codewords, kLanes)),
        state_(1),
        merged_(codewords > kChunk * kLanes ? 1 : 0),
        chunk_of_(codewords > kChunk * kLanes ? kBlock : 0) {
#if UNITOK_LEVEL == 512
    if (width >= kWordWidth || !has_vnni()) return;
    row_words_ = Buffer<int16_t>(kBlock * stride_);
    starts_ = Buffer<int32_t>(round_up(codewords, kLanes));
    again_ = Buffer<float>(kBlock * stride_);
#endif
  }

  // Finds the codes of `count` <= kBlock rows of `stride` floats, zeros beyond the width.
  void search(const Packed& codebook, const float* rows, int64_t count, int64_t stride, bool stats, int64_t* codes,
              Counts& counts) {
    const int64_t padded = round_up(count, kRows);
    centre(codebook, rows, count, stride, padded);
#if UNITOK_LEVEL == 512
    if (const float unit = codebook.has_words() ? make_words(codebook, padded) : 0; unit > 0) {
      int64_t unsure[kBlock], found[kBlock], left = 0;
      sweep_chunks(codebook, padded, true);
      for (int64_t first = 0; first < count; first += kLanes) {
        const int64_t some = std::min<int64_t>(kLanes, count - first);
        for (uint32_t mask = ~settle(codebook, first, some, unit, stats, codes); mask << (32 - some) != 0;
             mask &= mask - 1)
          unsure[left++] = first + __builtin_ctz(mask);
      }
      for (int64_t i = 0; i < left; ++i) std::copy_n(rows + unsure[i] * stride, stride_, again_.data() + i * stride_);
      if (left > 0) search_floats(codebook, again_.data(), left, stride_, stats, found, counts);
      for (int64_t i = 0; i < left; ++i) codes[unsure[i]] = found[i];
      return;
    }
#endif
    search_centred(codebook, rows, count, stride, stats, codes, counts);
  }

  float* distances() { return distances_.data(); }

 private:
  void search_floats(const Packed& codebook, const float* rows, int64_t count, int64_t stride, bool stats,
                     int64_t* codes, Counts& counts) {
    centre(codebook, rows, count, stride, round_up(count, kRows));
    search_centred(codebook, rows, count, stride, stats, codes, counts);
  }

  void search_centred(const Packed& codebook, const float* rows, int64_t count, int64_t stride, bool stats,
                      int64_t* codes, Counts& counts) {
    sweep_chunks(codebook, round_up(count, kRows), false);
    for (int64_t first = 0; first < count; first += kLanes) {
      const int64_t some = std::min<int64_t>(kLanes, count - first);
      for (uint32_t mask = ~settle(codebook, first, some, 0, stats, codes); mask << (32 - some) != 0;
           mask &= mask - 1) {
        const int64_t row = first + __builtin_ctz(mask);
        bool finite = true;
        codes[row] = search_row(rows + row * stride, codebook.table(), codebook.codewords(), codebook.width(),
                                distances_.data(), stats, counts, finite);
      }
    }
  }

  void sweep_chunks(const Packed& codebook, int64_t padded, bool words) {
    const int64_t vectors = codebook.vectors();
    for (int64_t chunk = 0; chunk < vectors; chunk += kChunk) {
      sweep(codebook, chunk, std::min<int64_t>(vectors, chunk + kChunk), padded, words);
      if (vectors > kChunk) merge(chunk, padded);
    }
  }

  // Reads the codes of up to kLanes rows off their lanes; returns the mask of the rows whose runner-up is far enough.
  uint32_t settle(const Packed& codebook, int64_t first, int64_t count, float unit, bool stats, int64_t* codes) {
    const bool chunked = codebook.vectors() > kChunk;
    const Lanes& found = chunked ? merged_[0] : state_[0];
    const V best = least_of_each(found.best + first);
    alignas(64) float scores[kLanes];
    store(scores, best);
    V others[kLanes];
    uint32_t lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const V least = splat(scores[i]), own = found.best[first + i];
      lanes[i] = at_most(own, least);
      others[i] = pick_below(least, own, own, found.second[first + i]);  // of the best lane, its second
    }
    const V second = least_of_each(others);

    const float longest = codebook.longest(), steps = static_cast<float>(codebook.width() + 4);
    const V length = load(lengths_ + first);
    V margin = fma(mul(length, splat(longest)), splat(2.002f * steps * kUnit),
                   splat(1.001f * steps * (kUnit * longest * longest + 0x1p-125f)));
    if (stats) {
      const V reach = add(length, splat(longest));
      margin = fma(mul(reach, reach), splat(static_cast<float>(kNearTie)), margin);
    }
    V gap = sub(second, best);
#if UNITOK_LEVEL == 512
    if (unit > 0) {
      const __m512i steps_apart = _mm512_sub_epi32(_mm512_castps_si512(second.v), _mm512_castps_si512(best.v));
      gap = {_mm512_mul_ps(_mm512_cvtepi32_ps(steps_apart), _mm512_set1_ps(unit))};
      margin = add(margin, word_margin(codebook, length, unit));
    } else {
      margin = fma(max(max(best, second), sub(zero(), min(best, second))), splat(0x1p-18f), margin);
    }
#else
    (void)unit;
    margin = fma(max(max(best, second), sub(zero(), min(best, second))), splat(0x1p-18f), margin);
#endif
    uint32_t sure = below(margin, gap);
    // A score that is 0 but for its tag is denormal: where these are flushed to 0, the tag is lost.
    if (unit == 0) sure &= below(splat(kTagged), max(best, sub(zero(), best)));
    for (int i = 0; i < count; ++i) {
      if ((lanes[i] & (lanes[i] - 1)) != 0) sure &= ~(1u << i);  // two lanes are equal: neither is the runner-up
      const int lane = __builtin_ctz(lanes[i] | 1u << (kLanes - 1));
      const int64_t vector = bits_of(scores[i]) & (kChunk - 1);
      codes[first + i] = ((chunked ? chunk_of(first + i, lane) : 0) + vector) * kLanes + lane;
    }
    return sure;
  }

  int64_t chunk_of(int64_t row, int lane) const {
    float chunk[kLanes];
    store(chunk, chunk_of_[row]);
    return static_cast<int64_t>(chunk[lane]);
  }

  // Computes r - mean, its largest value, and for each group of kRows rows a bound on their largest |r - mean|.
  void centre(const Packed& codebook, const float* rows, int64_t count, int64_t stride, int64_t padded) {
    V largest = zero();
    for (int64_t group = 0; group < padded; group += kRows) {
      V squares = zero();
      for (int64_t i = group; i < group + kRows; ++i) {
        float* to = centred_.data() + i * stride_;
        if (i >= count) {
          std::fill(to, to + stride_, 0.0f);
          continue;
        }
        V square = zero();
        for (int64_t d = 0; d < stride_; d += kLanes) {
          const V value = sub(load(rows + i * stride + d), load(codebook.mean() + d));
          store(to + d, value);
          square = fma(value, value, square);
          largest = max(largest, max(value, sub(zero(), value)));
        }
        squares = max(square, squares);
      }
      std::fill_n(lengths_ + group, kRows, std::sqrt(sum(squares)) * 1.0001f);
    }
    largest_ = most(largest);
  }

#if UNITOK_LEVEL == 512
  // Rows of less than kWordWidth columns are searched by int16 products first, two per instruction and lane. A row is
  // rounded to r = a p + e and a codeword to c = b q + f, with one a per block and one b per codebook. But for the
  // rounding of the scales |e| <= a sqrt(D) / 2 and |f| <= b sqrt(D) / 2. By Cauchy-Schwarz |c|^2 / 2 - a b p.q is off
  // by at most |e| |c| + (|r| + |e|) |f|. p.q is exact and at most 2^29. The score starts from |c|^2 / 2 a b, off by at
  // most 33, plus 2^29 + 2^24. So it is between 2^24 and 2^31 - 2^24, where int32 values have the same order as the
  // floats with the same bits; the rest is as with floats. The few rows that stay unsure are searched by floats.
  V word_margin(const Packed& codebook, V length, float unit) const {
    const float half = 0.501f * std::sqrt(static_cast<float>(codebook.width()));
    const float row = half * row_scale_, word = half * codebook.word_scale();
    return fma(length, splat(2.001f * word), splat(2.001f * (row * (codebook.longest() + word)) + 100 * unit));
  }

  // Rounds the centred rows; returns a b, or 0 if the values are too large or too small for that.
  float make_words(const Packed& codebook, int64_t padded) {
    row_scale_ = std::max(largest_ / Packed::largest_word(codebook.width()), codebook.word_scale());
    const float unit = row_scale_ * codebook.word_scale(), inverse = 1 / unit;
    if (!(unit > 1e-30f && std::isfinite(unit) && std::isfinite(inverse))) return 0;
    const __m512 minus = _mm512_set1_ps(-1 / row_scale_);
    for (int64_t i = 0; i < padded * stride_; i += kLanes) {
      const __m512i word = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(centred_.data() + i), minus));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(row_words_.data() + i), _mm512_cvtepi32_epi16(word));
    }
    for (int64_t k = 0; k < codebook.vectors() * kLanes; k += kLanes) {
      const V start = min(mul(load(codebook.half_norms(0) + k), splat(inverse)), splat(1.5e9f));  // padding: the most
      _mm512_storeu_si512(starts_.data() + k,
                          _mm512_add_epi32(_mm512_cvtps_epi32(start.v), _mm512_set1_epi32((1 << 29) + (1 << 24))));
    }
    return unit;
  }

  template <int Vectors>
  __attribute__((noinline)) void word_tile(const Packed& codebook, int64_t vector, int tag, int64_t padded) {
    const int64_t pairs = ceil_div(codebook.width(), 2);
    const int32_t* const packed = codebook.words(vector);
    const int32_t* const starts = starts_.data() + vector * kLanes;
    const V keep = splat(float_of(~static_cast<uint32_t>(kChunk - 1)));
    for (int64_t group = 0; group < padded; group += kRows) {
      const int16_t* const r = row_words_.data() + group * stride_;
      __m512i score[kRows][Vectors];
      for (int v = 0; v < Vectors; ++v)
        for (int i = 0; i < kRows; ++i) score[i][v] = _mm512_loadu_si512(starts + v * kLanes);
      const int32_t* c = packed;
      for (int64_t pair = 0; pair < pairs; ++pair, c += Vectors * kLanes) {
        __m512i codeword[Vectors];
        for (int v = 0; v < Vectors; ++v) codeword[v] = _mm512_loadu_si512(c + v * kLanes);
#pragma GCC unroll 6
        for (int i = 0; i < kRows; ++i) {
          int32_t two;
          std::memcpy(&two, r + i * stride_ + 2 * pair, 4);
          const __m512i value = _mm512_set1_epi32(two);
// An instruction by name: GCC 12 keeps the sums of the intrinsic in memory.
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v)
            asm("vpdpwssd %2, %1, %0" : "+v"(score[i][v]) : "v"(value), "v"(codeword[v]));
        }
      }
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        V best = tag == 0 ? splat(FLT_MAX) : state_[0].best[group + i];
        V second = tag == 0 ? splat(FLT_MAX) : state_[0].second[group + i];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          const V own = {_mm512_castsi512_ps(score[i][v])};
          const V tagged = splice(own, splat(float_of(static_cast<uint32_t>(tag + v))), keep);
          second = min(max(best, tagged), second);
          best = min(tagged, best);
        }
        state_[0].best[group + i] = best;
        state_[0].second[group + i] = second;
      }
    }
  }
#endif

  template <int Vectors>
  void tile(const Packed& codebook, int64_t vector, int tag, int64_t padded) {
    const int64_t width = codebook.width();
    const float* const packed = codebook.tile(vector);
    const float* const norms = codebook.half_norms(vector);
    const V keep = splat(float_of(~static_cast<uint32_t>(kChunk - 1)));
    for (int64_t group = 0; group < padded; group += kRows) {
      const float* r = centred_.data() + group * stride_;
      V score[kRows][Vectors];
      for (int v = 0; v < Vectors; ++v)
        for (int i = 0; i < kRows; ++i) score[i][v] = load(norms + v * kLanes);
      const float* c = packed;
#pragma GCC unroll 8
      for (int64_t d = 0; d < width; ++d, c += Vectors * kLanes) {
        V codeword[Vectors];
        for (int v = 0; v < Vectors; ++v) codeword[v] = load(c + v * kLanes);
        for (int i = 0; i < kRows; ++i) {
          const V value = splat(r[i * stride_ + d]);
          for (int v = 0; v < Vectors; ++v) score[i][v] = fnma(value, codeword[v], score[i][v]);
        }
      }
      for (int i = 0; i < kRows; ++i) {
        V best = tag == 0 ? splat(FLT_MAX) : state_[0].best[group + i];
        V second = tag == 0 ? splat(FLT_MAX) : state_[0].second[group + i];
        for (int v = 0; v < Vectors; ++v) {
          const V tagged = splice(score[i][v], splat(float_of(static_cast<uint32_t>(tag + v))), keep);
          second = min(max(best, tagged), second);
          best = min(tagged, best);
        }
        state_[0].best[group + i] = best;
        state_[0].second[group + i] = second;
      }
    }
  }

  template <int Vectors>
  void tile_of(const Packed& codebook, int64_t vector, int tag, int64_t padded, bool words) {
#if UNITOK_LEVEL == 512
    if (words) return word_tile<Vectors>(codebook, vector, tag, padded);
#endif
    (void)words;
    tile<Vectors>(codebook, vector, tag, padded);
  }

  void sweep(const Packed& codebook, int64_t from, int64_t to, int64_t padded, bool words) {
    for (int64_t i = padded; i < round_up(padded, kLanes); ++i)  // `settle` reads beyond the rows
      state_[0].best[i] = state_[0].second[i] = splat(FLT_MAX);
    for (int64_t vector = from; vector < to; vector += kVectors) {
      const int tag = static_cast<int>(vector - from);
      switch (std::min<int64_t>(kVectors, codebook.vectors() - vector)) {
        case 1: tile_of<1>(codebook, vector, tag, padded, words); break;
#if UNITOK_LEVEL > 0
        case 2: tile_of<2>(codebook, vector, tag, padded, words); break;
#endif
#if UNITOK_LEVEL == 512
        case 3: tile_of<3>(codebook, vector, tag, padded, words); break;
        case 4: tile_of<4>(codebook, vector, tag, padded, words); break;
#endif
      }
    }
  }

  // Merges a chunk's lanes with those of the chunks before it.
  void merge(int64_t chunk, int64_t padded) {
    Lanes& all = merged_[0];
    const V number = splat(static_cast<float>(chunk));
    for (int64_t i = 0; i < round_up(padded, kLanes); ++i) {
      const V best = state_[0].best[i], second = state_[0].second[i];
      if (chunk == 0) {
        all.best[i] = best;
        all.second[i] = second;
        chunk_of_[i] = number;
        continue;
      }
      all.second[i] = min(min(all.second[i], second), max(all.best[i], best));
      chunk_of_[i] = pick_below(best, all.best[i], number, chunk_of_[i]);
      all.best[i] = min(all.best[i], best);
    }
  }

  int64_t stride_ = 0;
  Buffer<float> centred_, distances_;
  Buffer<Lanes> state_, merged_;
  Buffer<V> chunk_of_;
  float lengths_[kBlock] = {};
  float largest_ = 0;
#if UNITOK_LEVEL == 512
  Buffer<int16_t> row_words_;
  Buffer<int32_t> starts_;
  Buffer<float> again_;
  float row_scale_ = 1;
#endif
};

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SEARCH_SEARCH_H

// Residual chains on a block of rows.
#ifndef UNITOK_SEARCH_CHAIN_H
#define UNITOK_SEARCH_CHAIN_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "runtime/memory.h"
#include "runtime/parallel.h"
#include "search/differencing.h"
#include "search/packed.h"
#include "search/search.h"
#include "search/shortlist.h"
#include "simd/isa.h"
#include "simd/number.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

// With so few rows, packing a codebook takes longer than searching it as it is.
constexpr int64_t kFewRows = 16;

// The codebooks of one chain, (L, K, D) float32, which the caller keeps; packed if that pays.
class Chain {
 public:
  Chain() = default;
  Chain(const float* codebooks, int64_t levels, int64_t codewords, int64_t width)
      : codebooks_(codebooks),
        codewords_(codewords),
        width_(width),
        packed_(static_cast<std::size_t>(levels)),
        shortlists_(packed_.size()) {}

  // Packs one level. Pack all levels or none.
  void pack(int64_t level, bool fast) {
    Packed& packed = packed_[static_cast<std::size_t>(level)];
    packed = Packed(table(level), codewords_, width_);
    const bool fits = width_ >= kNarrowest && width_ <= kWidest && packed.finite();
    if (fast && fits && UNITOK_LEVEL == 512 && has_vnni())
      shortlists_[static_cast<std::size_t>(level)] = Shortlist(packed);
  }

  bool finite() const {
    return std::all_of(packed_.begin(), packed_.end(), [](const Packed& p) { return p.finite(); });
  }
  const float* table(int64_t level) const { return codebooks_ + level * codewords_ * width_; }
  bool is_packed() const { return packed_[0].vectors() > 0; }
  const Packed& packed(int64_t level) const { return packed_[static_cast<std::size_t>(level)]; }
  const Shortlist& shortlist(int64_t level) const { return shortlists_[static_cast<std::size_t>(level)]; }
  int64_t levels() const { return static_cast<int64_t>(packed_.size()); }
  int64_t codewords() const { return codewords_; }
  int64_t width() const { return width_; }

 private:
  const float* codebooks_ = nullptr;
  int64_t codewords_ = 0, width_ = 0;
  std::vector<Packed> packed_;
  std::vector<Shortlist> shortlists_;
};

// residual -= codeword, quantized += codeword; returns the lanes of the new residual's squares.
inline V step(float* residual, float* quantized, const float* codeword, int64_t width) {
  V squares = zero();
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    const V c = load(codeword + d), r = sub(load(residual + d), c);
    store(quantized + d, add(load(quantized + d), c));
    store(residual + d, r);
    squares = fma(r, r, squares);
  }
  if (d < width) {
    const V c = load_first(codeword + d, static_cast<int>(width - d)), r = sub(load(residual + d), c);
    store(quantized + d, add(load(quantized + d), c));
    store(residual + d, r);
    squares = fma(r, r, squares);
  }
  return squares;
}

// One thread's memory for chains.
class Walker {
 public:
  Walker() = default;
  // For chains of at most this many levels and codewords.
  Walker(int64_t levels, int64_t codewords, int64_t width, bool fast, bool stats)
      : stats_(stats), searcher_(codewords, width), codes_(levels * kBlock) {
    if (fast) fast_ = ShortlistSearcher(codewords, width);
  }

  Counts counts;
  bool finite = true;  // false once an unpacked codebook is found to hold NaN or infinity

  // Finds the codes on one level of `count` <= kBlock rows of `stride` floats, zeros beyond the width.
  void find(const Chain& chain, int64_t level, const float* rows, int64_t count, int64_t stride, int64_t* codes) {
    if (chain.is_packed() && chain.shortlist(level).usable()) {
      fast_.search(chain.packed(level), chain.shortlist(level), rows, count, stride, stats_, codes,
                   searcher_.distances(), counts);
      return;
    }
    if (chain.is_packed()) {
      searcher_.search(chain.packed(level), rows, count, stride, stats_, codes, counts);
      return;
    }
    for (int64_t i = 0; i < count; ++i)
      codes[i] = search_row(rows + i * stride, chain.table(level), chain.codewords(), chain.width(),
                            searcher_.distances(), stats_, counts, finite);
  }

  // Runs rows through all levels. Subtracts the codewords from `residual` and adds them to `quantized`, in level order.
  // Adds the sum of the residual's squares after each level to errors[level].
  void run(const Chain& chain, float* residual, float* quantized, int64_t count, int64_t stride, double* errors) {
    for (int64_t level = 0; level < chain.levels(); ++level) {
      if (count > kFewRows) check_interrupt();  // wide rows and large codebooks take a block a second or more
      int64_t* const codes = codes_.data() + level * kBlock;
      find(chain, level, residual, count, stride, codes);
      const float* const table = chain.table(level);
      V squares = zero();
      for (int64_t i = 0; i < count; ++i)
        squares = add(squares, step(residual + i * stride, quantized + i * stride, table + codes[i] * chain.width(),
                                    chain.width()));
      float lanes[kLanes];
      store(lanes, squares);
      for (float lane : lanes) errors[level] += static_cast<double>(lane);
    }
  }

  // The code of row i of the last run.
  int64_t code(int64_t i, int64_t level) const { return codes_[level * kBlock + i]; }

 private:
  bool stats_ = false;
  Searcher searcher_;
  ShortlistSearcher fast_;
  Buffer<int64_t> codes_;
};

// Widens a row into `stride` floats. A row that isn't finite becomes zeros; then it returns false.
inline bool take_row(const Rows& rows, int64_t i, float* to, int64_t stride) {
  widen(rows.row(i), rows.type, rows.width, to);
  V check = zero();
  for (int64_t d = rows.width; d < stride; ++d) to[d] = 0;
  for (int64_t d = 0; d < stride; d += kLanes) check = fma(load(to + d), zero(), check);
  if (sum(check) == 0) return true;
  std::fill(to, to + stride, 0.0f);
  return false;
}

// Widens the finite rows of first .. first + count - 1 one after the other, `stride` floats each. Writes their numbers
// to members and returns how many they are.
inline int64_t take_rows(const Rows& rows, int64_t first, int64_t count, float* to, int64_t stride, int64_t* members) {
  if (rows.type == Float::f32 && stride == rows.width) {  // the usual case: one pass over the block
    const float* const from = reinterpret_cast<const float*>(rows.row(first));
    V check = zero();
    for (int64_t d = 0; d < count * stride; d += kLanes) {
      const V value = load(from + d);
      store(to + d, value);
      check = fma(value, zero(), check);
    }
    if (sum(check) == 0) {
      std::iota(members, members + count, first);
      return count;
    }
  }
  int64_t taken = 0;
  for (int64_t i = first; i < first + count; ++i)
    if (take_row(rows, i, to + taken * stride, stride)) members[taken++] = i;
  return taken;
}

// Rounds rows and writes them to their places; members ascend.
inline void give_rows(const float* from, int64_t stride, const Rows& rows, const int64_t* members, int64_t count,
                      char* to) {
  const int64_t row_bytes = rows.width * size_of(rows.type);
  if (count > 0 && stride == rows.width && members[count - 1] - members[0] == count - 1) {
    narrow(from, rows.type, count * stride, to + members[0] * row_bytes);
    return;
  }
  for (int64_t i = 0; i < count; ++i) narrow(from + i * stride, rows.type, rows.width, to + members[i] * row_bytes);
}

// Loads a block's memory into the cache before it is needed.
template <int Write>
void prefetch(const char* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, Write, 2);
}

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SEARCH_CHAIN_H

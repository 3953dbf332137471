// Rows through chains of packed codebooks: r_0 = z; code_l = argmin_k |r_l - c_lk|^2; r_{l+1} = r_l - c_l,code_l.
//
// A warp keeps 16 rows in its registers for all levels (tile.cuh). At each level it
//   writes them in two int8 digits (digits.cuh),
//   multiplies these by the codewords' digits (products.cuh), which are in shared memory (ring.cuh),
//   keeps the least scores, and settles each row whose runner-up is far enough (minima.cuh),
//   compares the candidates of the other rows by differencing (rescore.cuh),
//   and subtracts the codewords.
#pragma once

#include <cstdint>

#include "digits.cuh"
#include "encode.h"
#include "lanes.cuh"
#include "minima.cuh"
#include "packed.cuh"
#include "platform.cuh"
#include "products.cuh"
#include "rescore.cuh"
#include "ring.cuh"
#include "room.cuh"
#include "tile.cuh"

namespace unitok {

// The tiles of rows that a block takes: neighbouring ones, each of one group, so that it seldom changes codebooks. A
// tile of a block is kTileRows rows for each of its warps.
template <int Width>
class Share {
 public:
  __device__ __forceinline__ explicit Share(const Chains& chains) : chains_(chains) {
    int all = 0;
    for (int group = 0; group < chains.groups; ++group) all += tiles_of(group);
    end = static_cast<int>(int64_t{all} * (blockIdx.x + 1) / gridDim.x);
    first = static_cast<int>(int64_t{all} * blockIdx.x / gridDim.x);
  }

  int first, end;

  // Moves on to a tile, which is no earlier than the last one; gives its group.
  __device__ __forceinline__ int move_to(int tile) {
    while (tile >= groups_first_ + tiles_of(group_)) groups_first_ += tiles_of(group_++);
    return group_;
  }

  // A warp's items of the tile.
  __device__ __forceinline__ Items items(int tile, int warp) const {
    const int64_t begin = chains_.order == nullptr ? 0 : chains_.starts[group_];
    const int64_t place = begin + int64_t{tile - groups_first_} * kTogether + warp * kTileRows;
    const int64_t there = begin + count_of(group_) - place;
    return {chains_, place, static_cast<int>(min(int64_t{kTileRows}, max(int64_t{0}, there)))};
  }

 private:
  static constexpr int kTogether = kTileRows * kWarps<Width>;

  __device__ __forceinline__ int64_t count_of(int group) const {
    return chains_.order == nullptr ? chains_.items : chains_.starts[group + 1] - chains_.starts[group];
  }
  __device__ __forceinline__ int tiles_of(int group) const {
    return static_cast<int>((count_of(group) + kTogether - 1) / kTogether);
  }

  const Chains& chains_;
  int group_ = 0;
  int groups_first_ = 0;  // the number of the group's first tile
};

// What a warp goes through levels with.
template <int Width, class Unit>
struct Walk {
  const Room<Width>& room;
  const PackedLayout& layout;
  const Terms& terms;
  const Notes<Width>& notes;
  const Lane& at;
  Ring<Width, Unit>& ring;

  // Takes the rows through one level.
  __device__ __forceinline__ void take(Tile<Width>& rows, int level) const {
    const Book book(ring.codebooks() + level * layout.bytes(), layout);
    const Limits limits = book.limits();
    Digits<Width> digits;
    digits.measure(rows, book, limits, at);
    digits.split(rows, book, at);
    const Minima minima = score(digits, book);
    Verdict verdict = minima.settle(rows, digits, limits, terms, at);
    if (!terms.exact) count_unsure(verdict);
    if (terms.exact && __any_sync(~0u, verdict.unsure)) rescore(rows, verdict, book, terms, notes, at);
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i)  // codes are in range whatever the values were
      verdict.codes[i] = min(verdict.codes[i], terms.chains.codewords - 1);
    float error = rows.subtract(book.values(), verdict.codes, at);
    if (at.t == 0) {
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i)
        notes.codes[at.row(i) * terms.levels + level] = rows.is_good(i) ? verdict.codes[i] : -1;
    }
    for (int bits = 16; bits > 0; bits /= 2) error += __shfl_xor_sync(~0u, error, bits);
    if (at.lane == 0) notes.left[level] += error;
  }

  // Writes the codes of all levels.
  __device__ __forceinline__ void write_codes(const Items& items) const {
    const Chains& chains = items.chains;
    const int levels = terms.levels, count = items.there * levels;
    if (chains.order == nullptr) {
      for (int i = at.lane; i < count; i += 32) chains.codes[items.place * levels + i] = notes.codes[i];
    } else {
      for (int i = at.lane; i < count; i += 32) chains.codes[items[i / levels] * levels + i % levels] = notes.codes[i];
    }
  }

 private:
  // Scores the rows against all codewords of the level.
  __device__ __forceinline__ Minima score(const Digits<Width>& digits, const Book& book) const {
    Minima minima;
    minima.clear();
    int number = 0;  // of the tile of codewords
#pragma unroll 1
    for (int chunk = 0; chunk < ring.chunks(); ++chunk) {
      auto operands = Unit::begin(ring.next());
      const int span = min(room.chunk, layout.codewords - chunk * room.chunk);
      __syncwarp();
#pragma unroll 4
      for (int i = at.lane; i < span; i += 32)
        notes.biases[i] = __float2int_rn(book.half(chunk * room.chunk + i) * digits.per_step);
      __syncwarp();
      const int* bias = notes.biases + 2 * at.t;
#pragma unroll 1
      for (const int last = number + span / 32; number < last; operands += Unit::step(Width), bias += Unit::kTile) {
        int scores[Unit::kTile / 8][4];
        Unit::score(operands, bias, digits.high, digits.low, scores);
#pragma unroll
        for (int part = 0; part < Unit::kTile / 32; ++part, ++number)
          minima.take(scores, 4 * part, number, terms.tile_bits);
      }
    }
    return minima;
  }

  __device__ __forceinline__ void count_unsure(const Verdict& verdict) const {
    const int near_ties = __reduce_add_sync(~0u, at.t == 0 ? __popc(verdict.unsure) : 0);
    if (at.lane == 0) notes.left[terms.levels + 2] += static_cast<float>(near_ties);
  }
};

template <int Width, class Unit>
__global__ void __launch_bounds__(32 * kWarps<Width>, 1)
    encode(const __grid_constant__ EncodeCall call, Room<Width> room) {
  const Chains& chains = call.chains[blockIdx.y];
  const Lane at;
  const PackedLayout layout(chains.codewords, static_cast<int>(call.rows.width));
  const Terms terms(call, chains, layout);
  const int levels = terms.levels;
  UNITOK_SHARED(unsigned char, shared);
  const Notes<Width> notes(room, shared, levels, at.warp);
  Ring<Width, Unit> ring(room, shared, layout, levels);
  const Walk<Width, Unit> walk{room, layout, terms, notes, at, ring};
  for (int i = at.lane; i < levels + 3; i += 32) notes.left[i] = 0;

  Share<Width> share(chains);
#pragma unroll 1
  for (int tile = share.first; tile < share.end; ++tile) {
    const int group = share.move_to(tile);
    ring.begin(chains.packed + int64_t{group} * levels * layout.bytes());
    const Items items = share.items(tile, at.warp);
    Tile<Width> rows;
    rows.load(call, items, terms, at);
    const int good_rows = rows.keep_good(items, at);
    if (at.lane == 0) notes.left[levels] += static_cast<float>(good_rows);
#pragma unroll 1
    for (int level = 0; level < levels; ++level) walk.take(rows, level);
    __syncwarp();
    if (chains.distances != nullptr) rows.write_distances(items, at);
    walk.write_codes(items);
    if (chains.quantized != nullptr)
      rows.write_quantized(call, items, notes.codes, ring.codebooks(), layout, terms, at);
    __syncwarp();
  }
  ring.end();

  __syncwarp();
  float* const part = chains.parts + (int64_t{blockIdx.x} * kWarps<Width> + at.warp) * (levels + 3);
  for (int i = at.lane; i < levels + 3; i += 32) part[i] = notes.left[i];
}

}  // namespace unitok

// A warp's 16 rows in its registers; lanes.cuh says which lane has what.
#pragma once

#include <cstdint>
#include <type_traits>

#include "encode.h"
#include "lanes.cuh"
#include "packed.cuh"
#include "rows.cuh"

namespace unitok {

// What is the same for all rows of a block.
struct Terms {
  const Chains& chains;
  bool exact, stats;
  int levels, width, tiles;
  int tile_bits;  // the bits of a score that store a tile's number, as a mask
  float width_root;

  __device__ Terms(const EncodeCall& call, const Chains& chains, const PackedLayout& layout)
      : chains(chains),
        exact(call.exact),
        stats(call.stats),
        levels(chains.levels),
        width(static_cast<int>(call.rows.width)),
        tiles(layout.codewords / 32),
        width_root(sqrtf(static_cast<float>(width))) {
    tile_bits = tiles > 1 ? (1 << (32 - __clz(tiles - 1))) - 1 : 0;  // here, since g++ sees what initialises members
  }
};

// The items of a tile, in the order by group.
struct Items {
  const Chains& chains;
  int64_t place;  // of the first in that order
  int there;      // at most kTileRows

  __device__ __forceinline__ int64_t operator[](int row) const {
    return chains.order == nullptr ? place + row : chains.order[place + row];
  }
};

template <int Width>
struct Tile {
  static constexpr int kSlices = Width / 32, kColumns = 8 * kSlices;

  float values[kLaneRows][kColumns];
  uint32_t good = 0;  // a bit for each of the lane's rows: it exists and is finite

  __device__ __forceinline__ bool is_good(int i) const { return good >> i & 1; }

  // Reads the items' rows; zeros where there is none.
  __device__ __forceinline__ void load(const EncodeCall& call, const Items& items, const Terms& terms, const Lane& at) {
    const Chains& chains = items.chains;
    with_rows(call.rows, [&](auto* data) {
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i) {
        const bool is_there = at.row(i) < items.there;
        const int64_t item = is_there ? items[at.row(i)] : 0;
        const auto* const row = data + (chains.slots == 1 ? item : item / chains.slots) * terms.width;
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
          const int column = at.column(slice);
          load_eight(row + column, is_there ? terms.width - column : 0, call.whole, values[i] + 8 * slice);
        }
      }
    });
  }

  // Finds the good rows, and sets the others to zero; returns how many of the warp's are good.
  __device__ __forceinline__ int keep_good(const Items& items, const Lane& at) {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      float bad = 0;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) bad += values[i][j] * 0.0f;
      const bool is_good = quad_sum(bad) == 0.0f && at.row(i) < items.there;
      good |= is_good ? 1u << i : 0;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) values[i][j] = is_good ? values[i][j] : 0.0f;
    }
    return __reduce_add_sync(~0u, at.t == 0 ? __popc(good) : 0);
  }

  // Takes each row's codeword away; returns the lane's part of the squares that are left.
  __device__ __forceinline__ float subtract(const float* codewords, const int (&codes)[kLaneRows], const Lane& at) {
    float error = 0;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {  // all rows' codewords at once, as each takes its time
      float4 c[kLaneRows][2];
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i) {
        const float* const codeword = codewords + int64_t{codes[i]} * Width + at.column(slice);
        c[i][0] = load_vector<float4>(codeword);
        c[i][1] = load_vector<float4>(codeword + 4);
      }
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i) {
        const float codeword[8] = {c[i][0].x, c[i][0].y, c[i][0].z, c[i][0].w,
                                   c[i][1].x, c[i][1].y, c[i][1].z, c[i][1].w};
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float& value = values[i][8 * slice + j];
          value = is_good(i) ? value - codeword[j] : 0.0f;
          error = fmaf(value, value, error);
        }
      }
    }
    return error;
  }

  // Writes the squared length of what is left of each row; NaN for a bad one.
  __device__ __forceinline__ void write_distances(const Items& items, const Lane& at) const {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      float distance = 0;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) distance = fmaf(values[i][j], values[i][j], distance);
      distance = quad_sum(distance);
      if (at.t == 0 && at.row(i) < items.there) items.chains.distances[items[at.row(i)]] = is_good(i) ? distance : NAN;
    }
  }

  // Writes the sum of the codewords that each row's codes (kTileRows, levels) name, in level order; zeros for a bad
  // row.
  __device__ __forceinline__ void write_quantized(const EncodeCall& call, const Items& items, const int* codes,
                                                  const unsigned char* codebooks, const PackedLayout& layout,
                                                  const Terms& terms, const Lane& at) const {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      float total[kColumns] = {};
#pragma unroll 2
      for (int level = 0; level < terms.levels; ++level) {
        const int code = max(codes[at.row(i) * terms.levels + level], 0);
        const Book book(codebooks + level * layout.bytes(), layout);
        const float* const c = book.values() + int64_t{code} * Width + 8 * at.t;
#pragma unroll
        for (int j = 0; j < kColumns; j += 4) {
          const auto add = load_vector<float4>(c + j / 8 * 32 + j % 8);
          total[j] += add.x, total[j + 1] += add.y, total[j + 2] += add.z, total[j + 3] += add.w;
        }
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) total[j] = is_good(i) ? total[j] : 0.0f;
      with_rows(call.rows, [&](auto* like) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(like)>>;
        T* const to = static_cast<T*>(items.chains.quantized) + (items.place + at.row(i)) * terms.width;
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
          const int column = at.column(slice);
          store_eight(to + column, at.row(i) < items.there ? terms.width - column : 0, call.whole, total + 8 * slice);
        }
      });
    }
  }
};

}  // namespace unitok

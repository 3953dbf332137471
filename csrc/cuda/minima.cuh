// The least scores of a tile's rows, and whether they settle the rows' codewords.
//
// In the products' layout a lane has, of each of its rows, two columns of every eight codewords: 32 codewords, a tile,
// have eight slots in a lane. Minima are kept of each slot and of each tile; the latter store the tile's number in
// their low bits. The runner-up decides whether the nearest codeword is certain: what is within the bound of the best,
// but isn't the best, is in another lane, another slot or another tile, so that it shows.
#pragma once

#include <climits>
#include <cstdint>

#include "digits.cuh"
#include "encode.h"
#include "lanes.cuh"
#include "packed.cuh"
#include "platform.cuh"
#include "tile.cuh"

namespace unitok {

// The codeword in a slot of a tile, for lane t of a quad.
__device__ __forceinline__ int codeword_of(int tile, int slot, int t) {
  return tile * 32 + slot / 2 * 8 + 2 * t + slot % 2;
}

// What is known of a lane's rows after a level's scores.
struct Verdict {
  int codes[kLaneRows];
  uint32_t unsure = 0;        // a bit for each row whose codeword isn't certain
  uint32_t found[kLaneRows];  // what the lane found for the row: see Candidates
};

struct Minima {
  int slots[kLaneRows][8], best[kLaneRows], next[kLaneRows];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      best[i] = next[i] = INT_MAX;
#pragma unroll
      for (int j = 0; j < 8; ++j) slots[i][j] = INT_MAX;
    }
  }

  // Takes the scores of tile `number`, which begin at `first`.
  template <int N>
  __device__ __forceinline__ void take(const int (&scores)[N][4], int first, int number, int tile_bits) {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      const auto score = [&](int j) { return scores[first + j / 2][2 * i + j % 2]; };
      int least = __vimin3_s32(score(0), score(1), score(2));
      least = __vimin3_s32(least, score(3), score(4));
      least = __vimin3_s32(least, score(5), min(score(6), score(7)));
      least = (least & ~tile_bits) | number;
      next[i] = min(next[i], max(best[i], least));
      best[i] = min(best[i], least);
#pragma unroll
      for (int j = 0; j < 8; ++j) slots[i][j] = min(slots[i][j], score(j));
    }
  }

  // Settles the rows whose runner-up is beyond the bound, and marks the others as unsure.
  template <int Width>
  __device__ __forceinline__ Verdict settle(const Tile<Width>& rows, const Digits<Width>& digits, const Limits& limits,
                                            const Terms& terms, const Lane& at) const {
    Verdict verdict;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      const float square = quad_sum(digits.squares[i]);
      float margin = margin_of(square, quad_sum(digits.low_squares[i]), digits.per_step, limits, terms);
      const int least = quad_min(best[i]);
      if (terms.stats) {  // half the distance, of which a near tie's gap is 1e-5
        const float half = square * digits.per_step * limits.per_step / 512 + fabsf(static_cast<float>(least)) + margin;
        margin += 1.01e-5f * half;
      }
      const int within = min(least, 1 << 30) + static_cast<int>(fminf(margin, kMostBias));  // of no codeword, INT_MAX
      uint32_t near = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (slots[i][j] <= within) near += 1u << j;
      }
      const bool other_tile = next[i] <= within;
      const int count = __popc(near), tile = best[i] & terms.tile_bits;
      const int codeword = codeword_of(tile, __ffs(static_cast<int>(near)) - 1, at.t);
      // Over the quad, in one sum: the codeword, how many slots are near, how many lanes have a near one in another
      // tile.
      const int sum = quad_sum((count == 1 ? codeword : 0) + (count << 20) + (other_tile ? 1 << 26 : 0));
      verdict.codes[i] = sum & 0xfffff;
      verdict.found[i] = near << 16 | static_cast<uint32_t>(tile) | (other_tile ? 1u << 31 : 0);
      if (sum >> 20 != 1 && rows.is_good(i)) {
        verdict.unsure |= 1u << i;
        if (!terms.exact) verdict.codes[i] = codeword_of_least(i, least, tile, at);
      }
    }
    return verdict;
  }

 private:
  // How far above the least score the nearest codeword's may lie: twice the bound of packed.cuh, and what the tile's
  // number changes.
  __device__ __forceinline__ static float margin_of(float square, int low_square, float per_step, const Limits& limits,
                                                    const Terms& terms) {
    const float low_root = rough_sqrt(static_cast<float>(low_square));
    float bound = 0.51f * (limits.absolute + 2.0f * static_cast<float>(terms.width) +
                           terms.width_root * rough_sqrt(square) * per_step);
    bound = (bound + low_root * limits.low) / 256 + 1.0f + limits.half * per_step * 0x1p-21f;
    return 2.02f * bound + static_cast<float>(2 * terms.tile_bits + 2);
  }

  // The codeword of a row's least score, from the lane that has it.
  __device__ __forceinline__ int codeword_of_least(int i, int least, int tile, const Lane& at) const {
    const uint32_t lanes = __ballot_sync(0xfu << 4 * at.g, best[i] == least) >> 4 * at.g;
    const int owner = 4 * at.g + __ffs(static_cast<int>(lanes)) - 1;
    int lowest = slots[i][0], slot = 0;
#pragma unroll
    for (int j = 1; j < 8; ++j) {
      if (slots[i][j] < lowest) lowest = slots[i][j], slot = j;
    }
    return __shfl_sync(0xfu << 4 * at.g, codeword_of(tile, slot, at.t), owner);
  }
};

}  // namespace unitok

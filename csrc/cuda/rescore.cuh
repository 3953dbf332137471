// The second search, of the rows whose codeword the scores leave uncertain: all codewords that could be within the
// bound are compared by differencing, in float32 or, where that can't tell either, in float64.
#pragma once

#include <cstdint>

#include "candidates.cuh"
#include "lanes.cuh"
#include "minima.cuh"
#include "packed.cuh"
#include "platform.cuh"
#include "room.cuh"
#include "tile.cuh"

namespace unitok {

// Writes down row i of each lane, and what the lane found for it; i is known at run time alone.
template <int Width>
__device__ __forceinline__ void write_down(int i, const Tile<Width>& rows, const Verdict& verdict,
                                           const Notes<Width>& notes, const Lane& at) {
  uint32_t found = verdict.found[0];
#pragma unroll
  for (int other = 1; other < kLaneRows; ++other) found = i == other ? verdict.found[other] : found;
  __syncwarp();
  notes.candidates[at.lane] = found;
#pragma unroll
  for (int j = 0; j < Tile<Width>::kColumns; ++j) {
    float value = rows.values[0][j];
#pragma unroll
    for (int other = 1; other < kLaneRows; ++other) value = i == other ? rows.values[other][j] : value;
    notes.rows[at.g * Width + j / 8 * 32 + 8 * at.t + j % 8] = value;
  }
  __syncwarp();
}

// Finds the codeword of the row that a quad wrote down; the whole warp searches.
template <int Width>
__device__ __forceinline__ void search_again(int quad, const Book& book, const Terms& terms, const Notes<Width>& notes,
                                             const Lane& at) {
  const Candidates candidates(notes.candidates + 4 * quad, terms.tiles);
  const float* const row = notes.rows + quad * Width;
  const auto rough = by_differencing<Width, float>(row, book.values(), terms.chains.codewords, candidates);
  int codeword = rough.codeword;
  const float trusted = (1e-5f + static_cast<float>(terms.width + 8) * 0x1p-23f) * rough.next +
                        static_cast<float>(terms.width) * 0x1p-118f;
  if (!(rough.next - rough.best > trusted)) {
    const auto precise = by_differencing<Width, double>(row, book.values(), terms.chains.codewords, candidates);
    codeword = precise.codeword;
    if (at.lane == 0 && precise.next - precise.best < 1e-5 * precise.best) notes.left[terms.levels + 2] += 1;
  }
  if (at.lane == 0) {
    notes.left[terms.levels + 1] += 1;
    notes.found[quad] = static_cast<uint32_t>(codeword);
  }
}

// Settles the verdict's unsure rows. All lanes of the warp call it.
template <int Width>
__device__ __forceinline__ void rescore(const Tile<Width>& rows, Verdict& verdict, const Book& book, const Terms& terms,
                                        const Notes<Width>& notes, const Lane& at) {
#pragma unroll 1
  for (int i = 0; i < kLaneRows; ++i) {
    uint32_t asked = __ballot_sync(~0u, verdict.unsure >> i & 1);
    if (asked == 0) continue;
    write_down(i, rows, verdict, notes, at);
#pragma unroll 1
    while (asked != 0) {
      const int quad = (__ffs(static_cast<int>(asked)) - 1) / 4;
      asked &= ~(0xfu << 4 * quad);
      search_again(quad, book, terms, notes, at);
    }
    __syncwarp();
    const int codeword = static_cast<int>(notes.found[at.g]);
#pragma unroll
    for (int other = 0; other < kLaneRows; ++other) {
      if (i == other && verdict.unsure >> i & 1) verdict.codes[other] = codeword;
    }
  }
}

}  // namespace unitok

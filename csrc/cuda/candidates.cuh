// The codewords that may be nearest to a row, and the nearest of them by differencing.
#pragma once

#include <climits>
#include <cstdint>

#include "lanes.cuh"
#include "platform.cuh"

namespace unitok {

// The least and the next distance, and the codeword of the least: the lowest if there are several.
template <class T>
struct Nearest {
  T best = INFINITY, next = INFINITY;
  int codeword = INT_MAX;

  __device__ void take(T distance, T other, int which) {
    const bool nearer = distance < best || (distance == best && which < codeword);
    next = fmin(fmin(next, other), nearer ? best : distance);
    best = nearer ? distance : best;
    codeword = nearer ? which : codeword;
  }
};

// The codewords that may be nearest to a row, as its four lanes found them. Each lane gives the slots that are within
// the bound (bits 16 to 23) and the tile of its best one (bits 0 to 15); with bit 31 it may be any tile.
class Candidates {
 public:
  __device__ Candidates(const uint32_t* lanes, int tiles) : lanes_(lanes), tiles_(tiles) {
    for (int t = 0; t < 4; ++t) count_ += count(lanes[t]);
  }
  __device__ int count() const { return count_; }
  __device__ int operator[](int place) const {  // -1 beyond the last
    for (int t = 0; t < 4; ++t) {
      const uint32_t found = lanes_[t];
      if (place < count(found)) {
        uint32_t slots = found >> 16 & 255;
        const int many = __popc(slots);
        for (int skip = place % many; skip > 0; --skip) slots &= slots - 1;
        const int slot = __ffs(slots) - 1, tile = found >> 31 ? place / many : found & 0xffff;
        return 32 * tile + slot / 2 * 8 + 2 * t + slot % 2;
      }
      place -= count(found);
    }
    return -1;
  }

 private:
  __device__ int count(uint32_t found) const { return __popc(found >> 16 & 255) * (found >> 31 ? tiles_ : 1); }

  const uint32_t* lanes_;
  int tiles_, count_ = 0;
};

// The nearest of a row's candidates by differencing. Each of the warp's eight quads takes every eighth candidate.
template <int Width, class T>
__device__ Nearest<T> by_differencing(const float* row, const float* values, int codewords, const Candidates& those) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  Nearest<T> nearest;
#pragma unroll 1
  for (int first = 0; first < those.count(); first += 8) {
    const int codeword = those[first + g];
    const float* const c = values + int64_t{codeword < 0 || codeword >= codewords ? 0 : codeword} * Width;
    T square = 0;
    for (int step = 0; step < Width; step += 32) {
      for (int i = 8 * t; i < 8 * t + 8; ++i) {
        const T difference = static_cast<T>(row[step + i]) - static_cast<T>(c[step + i]);
        square += difference * difference;
      }
    }
    square = quad_sum(square);
    if (codeword >= 0 && codeword < codewords) nearest.take(square, INFINITY, codeword);
  }
#pragma unroll 1
  for (int bits = 4; bits < 32; bits *= 2) {
    const T best = __shfl_xor_sync(~0u, nearest.best, bits), next = __shfl_xor_sync(~0u, nearest.next, bits);
    nearest.take(best, next, __shfl_xor_sync(~0u, nearest.codeword, bits));
  }
  return nearest;
}

}  // namespace unitok

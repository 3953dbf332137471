// The scores of a tile of codewords: tensor cores multiply the digits of rows and codewords (packed.cuh).
//
// Both ways give a lane the same rows and the same columns of a product, and sums of integers are exact. So the scores
// are equal to the bit, and so are the codes.
#pragma once

#include "packed.cuh"
#include "platform.cuh"

namespace unitok {

template <int N>
__device__ __forceinline__ void scale_and_add(int (&scores)[N][4], const int2 (&bias)[N]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    scores[n][0] = scores[n][0] * 256 + bias[n].x;
    scores[n][1] = scores[n][1] * 256 + bias[n].y;
    scores[n][2] = scores[n][2] * 256 + bias[n].x;
    scores[n][3] = scores[n][3] * 256 + bias[n].y;
  }
}

// By mma.sync, each warp by itself.
struct Warp {
  static constexpr int kTile = 32;       // codewords
  static constexpr bool kAsync = false;  // whether digits are read through the async proxy

  __device__ static const unsigned char* begin(const unsigned char* digits) { return digits + 16 * (threadIdx.x % 32); }
  __device__ static constexpr int step(int width) { return 2 * kTile * width; }

  // scores[n][2 i + j] is of row i of the lane and codeword 8 n + 2 t + j; bias begins at the lane's first.
  template <int Slices>
  __device__ static void score(const unsigned char* digits, const int* bias, const uint32_t (&high)[Slices][4],
                               const uint32_t (&low)[Slices][4], int (&scores)[kTile / 8][4]) {
    uint32_t b[4][Slices][4];
    int2 add[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int slice = 0; slice < Slices; ++slice) load_matrices(digits + 512 * (n * Slices + slice), b[n][slice]);
      add[n] = load_vector<int2>(bias + 8 * n);
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = 0;
    }
#pragma unroll
    for (int slice = 0; slice < Slices; ++slice) {
#pragma unroll
      for (int n = 0; n < 4; ++n) multiply_s8(scores[n], high[slice], {b[n][slice][0], b[n][slice][1]});
    }
    scale_and_add(scores, add);
#pragma unroll
    for (int slice = 0; slice < Slices; ++slice) {
#pragma unroll
      for (int n = 0; n < 4; ++n) multiply_s8(scores[n], low[slice], {b[n][slice][0], b[n][slice][1]});
#pragma unroll
      for (int n = 0; n < 4; ++n) multiply_s8(scores[n], high[slice], {b[n][slice][2], b[n][slice][3]});
    }
  }
};

// Descriptors tell wgmma where rows of 32 bytes are in shared memory. The first 16 bytes of eight rows are a matrix,
// without swizzle; the other 16 come `leading` bytes later, the next eight rows `stride` bytes later. A descriptor
// counts in units of 16 bytes; adding to its low half moves it on.
__host__ __device__ constexpr uint32_t matrix_start(uint32_t address, uint32_t leading) {
  return leading >> 4 << 16 | address >> 4;
}
__host__ __device__ constexpr uint64_t matrix_descriptor(uint32_t start, uint32_t stride) {
  return uint64_t{stride >> 4} << 32 | start;
}

// By wgmma, which sm_90a alone has: four warps at once, and no codeword goes through registers.
struct Warpgroup {
  static constexpr int kTile = 64;
  static constexpr bool kAsync = true;

  // Lane 0's for all: if the compiler knows that it is the same for the warp, a product needs no copy of it.
  __device__ static uint32_t begin(const unsigned char* digits) {
    return __shfl_sync(~0u, matrix_start(shared_address(digits), kMatrix), 0);
  }
  __device__ static constexpr int step(int width) { return 2 * kTile * width / 16; }

  template <int Slices>
  __device__ static void score(uint32_t digits, const int* bias, const uint32_t (&high)[Slices][4],
                               const uint32_t (&low)[Slices][4], int (&scores)[kTile / 8][4]) {
    const auto of = [&](int slice, int digit) {
      return matrix_descriptor(digits + (512 * slice + kLow * digit) / 16, 512 * Slices);
    };
    warpgroup_arrive(scores);
#pragma unroll
    for (int slice = 0; slice < Slices; ++slice) warpgroup_multiply_s8(scores, high[slice], of(slice, 0), slice > 0);
    int2 add[kTile / 8];
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) add[n] = load_vector<int2>(bias + 8 * n);
    warpgroup_wait(scores);
    scale_and_add(scores, add);
    warpgroup_arrive(scores);
#pragma unroll
    for (int slice = 0; slice < Slices; ++slice) {
      warpgroup_multiply_s8(scores, low[slice], of(slice, 0), true);
      warpgroup_multiply_s8(scores, high[slice], of(slice, 1), true);
    }
    warpgroup_wait(scores);
  }
};

}  // namespace unitok

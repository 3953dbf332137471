// How a warp shares out its 16 rows: lane 4 g + t has rows g and g + 8, and columns 8 t to 8 t + 7 of every 32. So four
// lanes, a quad, have a row together.
#pragma once

#include "platform.cuh"

namespace unitok {

constexpr int kTileRows = 16;  // of a warp: what a product takes
constexpr int kLaneRows = 2;   // of those, a lane's

struct Lane {
  int warp, lane, g, t;

  __device__ Lane() : warp(threadIdx.x / 32), lane(threadIdx.x % 32), g(lane / 4), t(lane % 4) {}
  __device__ __forceinline__ int row(int i) const { return g + 8 * i; }  // in the tile, of the lane's row i
  __device__ __forceinline__ int column(int slice) const { return 32 * slice + 8 * t; }  // its first of every 32
};

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ double quad_sum(double x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ int quad_sum(int x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ int quad_min(int x) {
  x = min(x, __shfl_xor_sync(~0u, x, 1));
  return min(x, __shfl_xor_sync(~0u, x, 2));
}

}  // namespace unitok

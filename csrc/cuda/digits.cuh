// A tile's rows in two int8 digits, as packed.cuh has the codewords.
#pragma once

#include <cstdint>

#include "lanes.cuh"
#include "packed.cuh"
#include "platform.cuh"
#include "tile.cuh"

namespace unitok {

// Four bytes, of four values: byte 0, or byte 1, of each.
__device__ __forceinline__ uint32_t gather_bytes(const uint32_t (&x)[4], uint32_t which) {
  return __byte_perm(__byte_perm(x[0], x[1], which), __byte_perm(x[2], x[3], which), 0x5410);
}

template <int Width>
struct Digits {
  static constexpr int kSlices = Width / 32;

  float per_step;                              // 1 / s
  float squares[kLaneRows];                    // the lane's part of |r'|^2
  int low_squares[kLaneRows];                  // and of |L_r|^2
  uint32_t high[kSlices][4], low[kSlices][4];  // as a product takes them; negative, since the score subtracts it

  // The step is that of the largest value of all 16 rows.
  __device__ __forceinline__ void measure(const Tile<Width>& rows, const Book& book, const Limits& limits,
                                          const Lane& at) {
    float farthest = 0;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) squares[i] = 0;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float centre[4];
        book.centre(at.column(slice) + 4 * half, centre);
#pragma unroll
        for (int i = 0; i < kLaneRows; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float centred = rows.values[i][8 * slice + 4 * half + j] - centre[j];
            farthest = fmaxf(farthest, fabsf(centred));
            squares[i] = fmaf(centred, centred, squares[i]);
          }
        }
      }
    }
    farthest = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(farthest)));
    const float step = fmaxf(farthest * (1 / kSteps), limits.half * (1 / kMostBias));
    per_step = step > 0 ? 1 / step : 0;
  }

  __device__ __forceinline__ void split(const Tile<Width>& rows, const Book& book, const Lane& at) {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) low_squares[i] = 0;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float centre[4];
        book.centre(at.column(slice) + 4 * half, centre);
#pragma unroll
        for (int i = 0; i < kLaneRows; ++i) {
          uint32_t steps[4], raised[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {  // 1.5 * 2^23 rounds to whole steps, which are then its low bits
            const float centred = rows.values[i][8 * slice + 4 * half + j] - centre[j];
            steps[j] = __float_as_uint(fmaf(centred, -per_step, 12582912.0f));
            raised[j] = steps[j] + 128;
          }
          const uint32_t lows = gather_bytes(steps, 0x0040);
          low_squares[i] = __dp4a(static_cast<int>(lows), static_cast<int>(lows), low_squares[i]);
          low[slice][i + 2 * half] = lows;
          high[slice][i + 2 * half] = gather_bytes(raised, 0x0051);
        }
      }
    }
  }
};

}  // namespace unitok

#include "pack_codebooks.h"

#include <cmath>

#include "number.cuh"
#include "packed.cuh"

namespace unitok {
namespace {

constexpr int kThreads = 512;
constexpr int kCentred = 16;  // codewords whose mean is the centre: the search is right with any centre

// The largest of a block's values, in every thread; values aren't negative.
__device__ float block_max(float value, unsigned* warps) {
  const unsigned most = __reduce_max_sync(~0u, __float_as_uint(value));
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = most;
  __syncthreads();
  return __uint_as_float(__reduce_max_sync(~0u, threadIdx.x % 32 < kThreads / 32 ? warps[threadIdx.x % 32] : 0));
}

// One block for each codebook. A codeword that isn't finite is packed so that it is never nearest.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack(const T* __restrict__ codebooks, int codewords, int width, unsigned char* __restrict__ packed) {
  UNITOK_STATIC_SHARED(float, centre, [128]);
  UNITOK_STATIC_SHARED(unsigned, warps, [32]);
  const PackedLayout layout(codewords, width);
  const T* const table = codebooks + int64_t{blockIdx.x} * codewords * width;
  unsigned char* const to = packed + blockIdx.x * layout.bytes();
  if (const int column = threadIdx.x; column < layout.width) {
    const int count = codewords < kCentred ? codewords : kCentred;
    float sum = 0;
    if (column < width) {
      for (int i = 0; i < count; ++i) {
        const float value = widen(table[int64_t{i} * codewords / count * width + column]);
        sum += fabsf(value) < INFINITY ? value : 0.0f;
      }
    }
    centre[column] = sum / static_cast<float>(count);
    store_vector(to + layout.centre() + 4 * column, centre[column]);
  }
  __syncthreads();

  // A thread has eight neighbouring columns of a codeword.
  const int parts = layout.width / 8, part = threadIdx.x % parts, column = 8 * part;
  const auto load = [&](int codeword, float (&values)[8], float (&centred)[8]) {
    bool finite = true;
    for (int i = 0; i < 8; ++i) {
      const bool there = codeword < codewords && column + i < width;
      values[i] = there ? widen(table[int64_t{codeword} * width + column + i]) : 0.0f;
      centred[i] = there ? values[i] - centre[column + i] : 0.0f;
      finite = finite && fabsf(values[i]) < INFINITY;
    }
    for (int bits = 1; bits < parts; bits *= 2) finite &= __shfl_xor_sync(~0u, finite, bits);
    for (int i = 0; i < 8; ++i) centred[i] = finite ? centred[i] : 0.0f;
    return finite && codeword < codewords;
  };
  float values[8], centred[8], farthest = 0;
  const int first = threadIdx.x / parts, step = kThreads / parts;
  for (int codeword = first; codeword < layout.codewords; codeword += step) {
    load(codeword, values, centred);
    for (const float value : centred) farthest = fmaxf(farthest, fabsf(value));
  }
  farthest = block_max(farthest, warps);

  Limits limits{};
  limits.per_step = farthest > 0 ? kSteps / farthest : 0.0f;
  for (int codeword = first; codeword < layout.codewords; codeword += step) {
    const bool found = load(codeword, values, centred);
    uint32_t digits[4] = {};
    double square = 0;
    int absolute = 0, low_square = 0;
    for (int i = 0; i < 8; ++i) {
      const int steps = __float2int_rn(centred[i] * limits.per_step), high = (steps + 128) >> 8,
                low = steps - 256 * high;
      digits[i / 4] |= static_cast<uint32_t>(high & 255) << 8 * (i % 4);
      digits[2 + i / 4] |= static_cast<uint32_t>(low & 255) << 8 * (i % 4);
      square += static_cast<double>(centred[i]) * centred[i];
      absolute += steps < 0 ? -steps : steps;
      low_square += low * low;
    }
    for (int bits = 1; bits < parts; bits *= 2) {
      square += __shfl_xor_sync(~0u, square, bits);
      absolute += __shfl_xor_sync(~0u, absolute, bits);
      low_square += __shfl_xor_sync(~0u, low_square, bits);
    }
    const float half = found ? static_cast<float>(square * limits.per_step / 512) : INFINITY;
    if (found) {
      limits.half = fmaxf(limits.half, half);
      limits.absolute = fmaxf(limits.absolute, static_cast<float>(absolute));
      limits.low = fmaxf(limits.low, sqrtf(static_cast<float>(low_square)));
    }
    unsigned char* const place = to + layout.digits() + digits_of(codeword, column, layout.width);
    for (int i = 0; i < 4; ++i) store_vector(place + kMatrix * i, digits[i]);
    unsigned char* const value = to + layout.values() + 4 * (int64_t{codeword} * layout.width + column);
    store_vector(value, make_float4(values[0], values[1], values[2], values[3]));
    store_vector(value + 16, make_float4(values[4], values[5], values[6], values[7]));
    if (part == 0) store_vector(to + layout.halves() + 4 * int64_t{codeword}, half);
  }
  limits.half = block_max(limits.half, warps);
  limits.absolute = block_max(limits.absolute, warps);
  limits.low = block_max(limits.low, warps);
  if (threadIdx.x == 0) store_vector(to + layout.limits(), limits);
}

}  // namespace

int64_t packed_bytes(int64_t codewords, int64_t width) {
  return PackedLayout(static_cast<int>(codewords), static_cast<int>(width)).bytes();
}

void pack_codebooks(const Rows& codebooks, int64_t tables, void* packed, cudaStream_t stream) {
  const int codewords = static_cast<int>(codebooks.count / tables), width = static_cast<int>(codebooks.width);
  with_type(codebooks.type, [&](auto type) {
    using T = decltype(type);
    UNITOK_LAUNCH(pack<T>, static_cast<unsigned>(tables), kThreads, 0, stream, static_cast<const T*>(codebooks.data),
                  codewords, width, static_cast<unsigned char*>(packed));
  });
  check(cudaGetLastError());
}

}  // namespace unitok

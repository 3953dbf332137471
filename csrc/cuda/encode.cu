#include "encode.h"

#include <cstdlib>
#include <cstring>

#include "launch.cuh"

namespace unitok {
namespace {

constexpr int kMostWarps = 16;  // of a block

// Adds up the warps' parts, in one order and in float64: a block for each level of the first chains and of the second,
// and a last one for the counts of both.
constexpr int kFinishers = 256;

__global__ void __launch_bounds__(kFinishers)
    finish(const __grid_constant__ Chains first, const __grid_constant__ Chains second, int count, int64_t parts,
           int width, float* error, float* second_error, int64_t* counts) {
  UNITOK_STATIC_SHARED(double, sums, [2][kFinishers / 32]);
  const int place = blockIdx.x;
  const bool is_last = blockIdx.x == gridDim.x - 1, is_first = place < first.levels;
  const int level = is_first ? place : place - first.levels;
  double sum[2] = {};
  for (int of = 0; of < count; ++of) {
    const Chains& chains = of == 0 ? first : second;
    if (!is_last && is_first != (of == 0)) continue;
    for (int64_t i = threadIdx.x; i < parts; i += kFinishers) {
      const float* const part = chains.parts + i * (chains.levels + 3);
      sum[0] += part[is_last ? chains.levels + 1 : level];
      sum[1] += part[is_last ? chains.levels + 2 : chains.levels];
    }
  }
  for (int k = 0; k < 2; ++k) {
    for (int bits = 16; bits > 0; bits /= 2) sum[k] += __shfl_xor_sync(~0u, sum[k], bits);
    if (threadIdx.x % 32 == 0) sums[k][threadIdx.x / 32] = sum[k];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int k = 0; k < 2; ++k) {
    sum[k] = 0;
    for (int warp = 0; warp < kFinishers / 32; ++warp) sum[k] += sums[k][warp];
  }
  if (is_last) {
    counts[0] = static_cast<int64_t>(sum[0]);
    counts[1] = static_cast<int64_t>(sum[1]);
  } else {
    (is_first ? error : second_error)[level] = static_cast<float>(sum[0] / fmax(sum[1] * width, 1.0));
  }
}

}  // namespace

int64_t parts_bytes(int64_t levels) { return 4 * int64_t{this_device().processors} * kMostWarps * (levels + 3); }

bool by_warpgroups([[maybe_unused]] int64_t width) {
#ifdef UNITOK_SM90A
  const char* const wish = std::getenv("UNITOK_WGMMA");
  return width > 64 && this_device().capability == 90 && wish != nullptr && std::strcmp(wish, "1") == 0;
#else
  return false;
#endif
}

void encode_rows(const Rows& rows, const Chains* chains, int count, bool exact, bool stats, cudaStream_t stream) {
#ifdef UNITOK_SM90A
  if (by_warpgroups(rows.width)) return encode_by_warpgroups(rows, chains, count, exact, stats, stream);
#endif
  const auto run = rows.width <= 32 ? launch<32, Warp> : rows.width <= 64 ? launch<64, Warp> : launch<128, Warp>;
  run(rows, chains, count, exact, stats, stream);
}

void finish_parts(const Rows& rows, const Chains* chains, int count, float* error, float* second_error, int64_t* counts,
                  cudaStream_t stream) {
  const int warps = rows.width <= 32 ? kWarps<32> : rows.width <= 64 ? kWarps<64> : kWarps<128>;
  const int levels = chains[0].levels + (count == 2 ? chains[1].levels : 0);
  UNITOK_LAUNCH(finish, levels + 1, kFinishers, 0, stream, chains[0], chains[count - 1], count,
                int64_t{this_device().processors} * warps, static_cast<int>(rows.width), error, second_error, counts);
  check(cudaGetLastError());
}

}  // namespace unitok

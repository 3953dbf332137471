#include "groups.h"

#include <algorithm>

#include "number.cuh"

namespace unitok {
namespace {

constexpr unsigned kWarp = 0xffffffff;
constexpr int kTile = 32;                   // codes, and slices of the chunks, of a block that scans
constexpr int kAtOnce = 8;                  // counts that a thread loads at the same time
constexpr int kScanThreads = 256;           // of the block that scans a level's codes
constexpr int64_t kSharedCodewords = 4096;  // with more, tallies aren't in shared memory: 16 KiB a warp, or few fit
constexpr int64_t kMostChunks = 4096;       // about as many warps as a device runs at a time

// A warp takes a chunk's rows of one level, 32 at a time. tally[k] is where the next row of code k goes. The lanes with
// the same code find each other and take places in row order; the first of them advances the tally. Only this warp uses
// it, in shared memory or in the chunk's row of the table.
//
// The first pass starts from zero and leaves the chunk's counts in the table. The second starts from the sums of all
// that comes before, which the scans wrote there, and writes the order.
template <bool kPlace>
__global__ void __launch_bounds__(32)
    walk(const int64_t* __restrict__ codes, int64_t count, int levels, int codewords, int64_t chunk, bool in_shared,
         int32_t* table, const int32_t* __restrict__ starts, int32_t* __restrict__ order) {
  UNITOK_SHARED(int32_t, shared);
  const int lane = threadIdx.x;
  const int64_t level = blockIdx.y;
  int32_t* const row = table + (level * gridDim.x + blockIdx.x) * codewords;
  int32_t* const tally = in_shared ? shared : row;
  for (int k = lane; k < codewords; k += 32) {
    tally[k] = kPlace ? row[k] + starts[level * (codewords + 1) + k] : 0;
  }
  __syncwarp();
  const int64_t begin = blockIdx.x * chunk, end = min(begin + chunk, count);
  int64_t next = begin + lane < end ? codes[(begin + lane) * levels + level] : -1;
  for (int64_t first = begin; first < end; first += 32) {
    const int64_t i = first + lane;
    const int code = next >= 0 && next < codewords ? static_cast<int>(next) : -1;
    next = i + 32 < end ? codes[(i + 32) * levels + level] : -1;
    const unsigned peers = __match_any_sync(kWarp, code);
    const unsigned before = peers & ((1u << lane) - 1);
    const int32_t place = code < 0 ? 0 : tally[code];
    __syncwarp();
    if (code >= 0) {
      if (before == 0) tally[code] = place + __popc(peers);
      if (kPlace) order[level * count + place + __popc(before)] = static_cast<int32_t>(i);
    }
    __syncwarp();
  }
  if (!kPlace && in_shared) {
    for (int k = lane; k < codewords; k += 32) row[k] = tally[k];
  }
}

// table[c][k] becomes the sum over the chunks before c, totals[k] the sum over all.
__global__ void __launch_bounds__(kTile* kTile)
    scan_chunks(int32_t* __restrict__ table, int chunks, int codewords, int32_t* __restrict__ totals) {
  UNITOK_STATIC_SHARED(int32_t, sums, [kTile][kTile]);
  const int k = blockIdx.x * kTile + threadIdx.x;
  const int64_t level = blockIdx.y;
  const int slices = static_cast<int>(blockDim.y), slice = (chunks + slices - 1) / slices;
  const int begin = min(static_cast<int>(threadIdx.y) * slice, chunks), end = min(begin + slice, chunks);
  int32_t* const column = table + level * chunks * codewords + k;
  int32_t sum = 0;
  if (k < codewords) {
#pragma unroll 8
    for (int c = begin; c < end; ++c) sum += column[static_cast<int64_t>(c) * codewords];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (k >= codewords) return;
  int32_t before = 0;
  for (int y = 0; y < static_cast<int>(threadIdx.y); ++y) before += sums[y][threadIdx.x];
  for (int first = begin; first < end; first += kAtOnce) {
    int32_t here[kAtOnce] = {};
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < end) here[i] = column[static_cast<int64_t>(first + i) * codewords];
    }
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < end) column[static_cast<int64_t>(first + i) * codewords] = before;
      before += here[i];
    }
  }
  if (threadIdx.y == blockDim.y - 1) totals[level * (codewords + 1) + k] = before;
}

// starts[k], the number of rows of code k, becomes the sum over the codes before k; one block for each level.
__global__ void __launch_bounds__(kScanThreads)
    scan_codes(int32_t* __restrict__ starts, int codewords, int64_t* __restrict__ counts) {
  UNITOK_STATIC_SHARED(int32_t, sums, [kScanThreads]);
  const int thread = threadIdx.x;
  const int64_t level = blockIdx.x;
  int32_t* const of_level = starts + level * (codewords + 1);
  const int share = (codewords + kScanThreads - 1) / kScanThreads;
  const int begin = min(thread * share, codewords), end = min(begin + share, codewords);
  int32_t sum = 0;
  for (int k = begin; k < end; ++k) sum += of_level[k];
  sums[thread] = sum;
  __syncthreads();
  for (int step = 1; step < kScanThreads; step *= 2) {
    const int32_t left = thread >= step ? sums[thread - step] : 0;
    __syncthreads();
    sums[thread] += left;
    __syncthreads();
  }
  int32_t before = sums[thread] - sum;
  for (int k = begin; k < end; ++k) {
    const int32_t here = of_level[k];
    of_level[k] = before;
    if (counts != nullptr) counts[level * codewords + k] = here;
    before += here;
  }
  if (thread == kScanThreads - 1) of_level[codewords] = sums[thread];
}

}  // namespace

GroupsLayout::GroupsLayout(int64_t count, int64_t levels, int64_t codewords)
    : count(count),
      levels(levels),
      codewords(codewords),
      // Long enough that the table has only a few integers for each row, however many codewords there are.
      chunk(std::max<int64_t>({1024, codewords / 8, ceil_div(count, kMostChunks)})),
      chunks(std::max<int64_t>(ceil_div(count, chunk), 1)),
      bytes(levels * (count + codewords + 1 + chunks * codewords) * 4) {}

Groups group_rows(const int64_t* codes, const GroupsLayout& layout, int64_t* counts, void* workspace,
                  cudaStream_t stream) {
  const int levels = static_cast<int>(layout.levels), codewords = static_cast<int>(layout.codewords);
  const unsigned chunks = static_cast<unsigned>(layout.chunks);
  int32_t* const order = static_cast<int32_t*>(workspace);
  int32_t* const starts = order + layout.levels * layout.count;
  int32_t* const table = starts + layout.levels * (layout.codewords + 1);
  const bool in_shared = codewords <= kSharedCodewords;
  const std::size_t shared = in_shared ? layout.codewords * 4 : 0;
  const dim3 grid(chunks, levels);
  UNITOK_LAUNCH(walk<false>, grid, 32, shared, stream, codes, layout.count, levels, codewords, layout.chunk, in_shared,
                table, starts, order);
  const dim3 tiles(static_cast<unsigned>(ceil_div(codewords, kTile)), levels);
  UNITOK_LAUNCH(scan_chunks, tiles, dim3(kTile, std::min<unsigned>(chunks, kTile)), 0, stream, table,
                static_cast<int>(chunks), codewords, starts);
  UNITOK_LAUNCH(scan_codes, levels, kScanThreads, 0, stream, starts, codewords, counts);
  UNITOK_LAUNCH(walk<true>, grid, 32, shared, stream, codes, layout.count, levels, codewords, layout.chunk, in_shared,
                table, starts, order);
  return {order, starts};
}

}  // namespace unitok

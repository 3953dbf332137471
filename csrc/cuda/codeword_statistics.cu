#include "codeword_statistics.h"

#include "groups.h"
#include "number.cuh"

namespace unitok {
namespace {

// Each codeword's rows are cut into slots. A block adds up each slot, then one block for each codeword adds up its
// slots. Slot i of codeword k has number starts[k] / kSlot + k + i. So codewords never share a slot, and N rows have at
// most ceil(N / kSlot) + K slots, whatever the codes. Some stay empty and are not written.
constexpr int kSlot = 512;
constexpr unsigned kThreads = 256, kFewThreads = 64;  // of a block, if its rows are many or few
constexpr int kAtOnce = 4;                            // rows that a thread loads at the same time

__device__ inline int64_t first_slot(const int32_t* starts, int k) {
  return starts[k] / kSlot + static_cast<int64_t>(k);
}

// The last codeword whose slots start at `slot` or before. A warp searches 32 parts at a time, one for each lane.
__device__ inline int owner(const int32_t* starts, int codewords, int64_t slot) {
  int low = 0, size = codewords;
  while (size > 1) {
    const int part = (size + 31) / 32, k = low + static_cast<int>(threadIdx.x + threadIdx.y * blockDim.x) % 32 * part;
    const bool at_or_before = k < low + size && first_slot(starts, k) <= slot;
    const int parts = __popc(__ballot_sync(0xffffffff, at_or_before));  // at least one: the first is low itself
    const int end = low + size;
    low += (parts - 1) * part;
    size = min(part, end - low);
  }
  return low;
}

// Adds up load(0) .. load(rows - 1): each row of threads takes every blockDim.y-th, then the rows of threads are added
// in pairs. The threads with threadIdx.y = 0 get the total.
template <int V, class Load>
__device__ inline void add_rows(int rows, double* shared, const Load& load, double (&total)[V]) {
  const int step = blockDim.y;
  for (int first = threadIdx.y; first < rows; first += kAtOnce * step) {
    decltype(load(0)) loaded[kAtOnce] = {};
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * step < rows) loaded[i] = load(first + i * step);
    }
    for (int i = 0; i < kAtOnce; ++i) {
      for (int v = 0; v < V; ++v) total[v] += widen(loaded[i].values[v]);
    }
  }
  const unsigned place = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y >= half && threadIdx.y < 2 * half) {
      for (int v = 0; v < V; ++v) shared[v * threads + place] = total[v];
    }
    __syncthreads();
    if (threadIdx.y < half) {
      for (int v = 0; v < V; ++v) total[v] += shared[v * threads + place + half * blockDim.x];
    }
    __syncthreads();
  }
}

// parts_s = sum over the rows of slot s.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    sum_slots(const T* __restrict__ x, int64_t count, int64_t width, const int32_t* __restrict__ order,
              const int32_t* __restrict__ starts, int codewords, double* __restrict__ parts) {
  UNITOK_SHARED(double, shared);
  const int64_t slot = blockIdx.x, level = blockIdx.z;
  order += level * count;
  starts += level * (codewords + 1);
  const int k = owner(starts, codewords, slot);
  const int64_t begin = starts[k] + (slot - first_slot(starts, k)) * kSlot;
  const int rows = static_cast<int>(min(starts[k + 1] - begin, int64_t{kSlot}));
  if (rows <= 0) return;
  UNITOK_STATIC_SHARED(int32_t, numbers, [kSlot]);  // read ahead, so that rows don't wait for them
#pragma unroll 2
  for (int i = threadIdx.x + threadIdx.y * blockDim.x; i < rows; i += blockDim.x * blockDim.y)
    numbers[i] = order[begin + i];
  __syncthreads();
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  const bool inside = column < width;
  double total[V] = {};
  const auto load = [&](int i) { return load_vector<Pack<T, V>>(x + numbers[i] * width + column); };
  add_rows<V>(inside ? rows : 0, shared, load, total);
  if (threadIdx.y > 0 || !inside) return;
  double* const to = parts + (level * gridDim.x + slot) * width + column;
  for (int v = 0; v < V; ++v) to[v] = total[v];
}

// sums_k = sum over the slots of codeword k, rounded.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) add_slots(const double* __restrict__ parts, int64_t slots, int64_t width,
                                                      const int32_t* __restrict__ starts, T* __restrict__ sums) {
  UNITOK_SHARED(double, shared);
  const int k = blockIdx.x, codewords = gridDim.x;
  const int64_t level = blockIdx.z;
  starts += level * (codewords + 1);
  const int rows = (starts[k + 1] - starts[k] + kSlot - 1) / kSlot;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  const bool inside = column < width;
  double total[V] = {};
  const double* const from = parts + (level * slots + first_slot(starts, k)) * width + column;
  const auto load = [&](int i) { return load_vector<Pack<double, V>>(from + i * width); };
  add_rows<V>(inside ? rows : 0, shared, load, total);
  if (threadIdx.y > 0 || !inside) return;
  T* const to = sums + (level * codewords + k) * width + column;
  for (int v = 0; v < V; ++v) narrow(static_cast<float>(total[v]), to[v]);
}

int64_t slots_of(int64_t count, int64_t codewords) { return ceil_div(count, kSlot) + codewords; }

// Launches a kernel: blocks along x, columns along y, levels along z. The kernel takes packs of values, or single ones
// if they aren't aligned. Both have the same layout of a block, and so the same order of sums.
template <class Kernel, class... Arguments>
void by_columns(Kernel kernel, bool packed, int pack, int64_t blocks, int64_t rows_each, int64_t width, int64_t levels,
                cudaStream_t stream, const Arguments&... arguments) {
  const dim3 block = row_block(ceil_div(width, pack), rows_each < 64 ? kFewThreads : kThreads);
  const int values = packed ? pack : 1;  // of a thread
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(ceil_div(width, block.x * values)),
                  static_cast<unsigned>(levels));
  UNITOK_LAUNCH(kernel, grid, block, block.x * block.y * values * sizeof(double), stream, arguments...);
}

}  // namespace

int64_t codeword_statistics_workspace(int64_t count, int64_t width, int64_t levels, int64_t codewords) {
  return levels * slots_of(count, codewords) * width * 8 + GroupsLayout(count, levels, codewords).bytes;
}

void codeword_statistics(const Rows& x, const int64_t* codes, int64_t levels, int64_t codewords, Float type, void* sums,
                         int64_t* counts, void* workspace, cudaStream_t stream) {
  const int64_t slots = slots_of(x.count, codewords), width = x.width;
  double* const parts = static_cast<double*>(workspace);
  const Groups groups = group_rows(codes, {x.count, levels, codewords}, counts, parts + levels * slots * width, stream);
  with_type(x.type, [&](auto type_of_x) {
    using T = decltype(type_of_x);
    const bool packed = in_packs<T>(width, x.data);
    by_columns(packed ? sum_slots<T, kPack<T>> : sum_slots<T, 1>, packed, kPack<T>, slots, x.count / codewords, width,
               levels, stream, static_cast<const T*>(x.data), x.count, width, groups.order, groups.starts,
               static_cast<int>(codewords), parts);
  });
  with_type(type, [&](auto type_of_sums) {
    using T = decltype(type_of_sums);
    const bool packed = in_packs<double>(width, parts);
    by_columns(packed ? add_slots<T, 2> : add_slots<T, 1>, packed, 2, codewords, slots / codewords, width, levels,
               stream, parts, slots, width, groups.starts, static_cast<T*>(sums));
  });
}

}  // namespace unitok

// Faults of order: threads that don't wait for each other, or wait for threads that never come.
#include "planted.h"

using namespace unitok;

namespace {

// Each thread reads what the thread before it wrote. That works by chance if threads run in order.
__global__ void read_from_before(int* out, bool right) {
  UNITOK_STATIC_SHARED(int, values, [kThreads]);
  const int i = static_cast<int>(threadIdx.x);
  values[i] = i;
  if (right) __syncthreads();
  out[i] = i == 0 ? -1 : values[i - 1];
}

void barrier_missing(bool right) {
  check_each(run(read_from_before, kThreads, right), [](int i) { return i - 1; });
}

// The next thread needn't be a neighbour.
__global__ void take_places(int* out, bool right) {
  UNITOK_STATIC_SHARED(int, taken, );
  const int i = static_cast<int>(threadIdx.x);
  if (i == 0) taken = 0;
  __syncthreads();
  const int place = atomicAdd(&taken, 1);
  out[right ? i : place] = i;
}

void order_assumed(bool right) {
  const std::vector<int> found = run(take_places, 32, right);
  for (std::size_t i = 1; i < found.size(); ++i) CHECK(std::abs(found[i] - found[i - 1]) == 1);
}

// A shuffle isn't a barrier: it doesn't order memory.
__global__ void swap_in_warp(int* out, bool right) {
  UNITOK_STATIC_SHARED(int, values, [32]);
  const int i = static_cast<int>(threadIdx.x);
  values[i] = i;
  if (right) __syncwarp();
  out[i] = values[__shfl_xor_sync(~0u, i, 31)];
}

void warp_barrier_missing(bool right) {
  check_each(run(swap_in_warp, 32, right), [](int i) { return 31 - i; });
}

__global__ void count_lanes(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = 24;
  if (i >= 24) return;
  out[i] = __reduce_add_sync(right ? 0xffffffu : ~0u, 1);
}

void mask_names_returned_lanes(bool right) {
  check_each(run(count_lanes, 32, right), [](int) { return 24; });
}

__global__ void sum_halves(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  const unsigned half = i < 16 ? 0xffffu : 0xffff0000u;
  if (i < 16) out[i] = __reduce_add_sync(right ? half : 0xff00u, i);
  if (i >= 16) out[i] = __reduce_add_sync(half, i);
}

void mask_leaves_out_the_caller(bool right) {
  check_each(run(sum_halves, 32, right), [](int i) { return i < 16 ? 120 : 376; });
}

__global__ void masks_that_differ(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = __reduce_add_sync(right || i < 16 ? ~0u : 0xffff0000u, 1);
}

void masks_differ(bool right) {
  check_each(run(masks_that_differ, 32, right), [](int) { return 32; });
}

__global__ void shift_half(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = i;
  if (i < 16) out[i] = __shfl_down_sync(0xffffu, i, 1, right ? 16 : 32);
}

void shuffle_reads_beyond_its_mask(bool right) {
  check_each(run(shift_half, 32, right), [](int i) { return i < 15 ? i + 1 : i; });
}

__global__ void ask_all(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  if (right || i % 2 == 0)
    out[i] = __any_sync(~0u, i == 3);
  else
    out[i] = __shfl_sync(~0u, 1, 3);
}

void lanes_in_different_calls(bool right) {
  check_each(run(ask_all, 32, right), [](int) { return 1; });
}

__global__ void wait_apart(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  if (right || i < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[i] = i;
}

void barriers_in_two_branches(bool right) {
  check_each(run(wait_apart, kThreads, right), [](int i) { return i; });
}

__global__ void wait_in_part(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  if (right || i % 2 == 0) __syncthreads();
  out[i] = __shfl_xor_sync(~0u, i, 1);
}

void barrier_in_one_branch(bool right) {
  check_each(run(wait_in_part, kThreads, right), [](int i) { return i ^ 1; });
}

__global__ void count_threads(int* count, bool right) {
  if (right)
    atomicAdd(count, 1);
  else
    *count = *count + 1;
}

void blocks_race(bool right) {
  Array<int> count(std::vector<int>{0});
  UNITOK_LAUNCH(count_threads, 2, 1, 0, nullptr, count.data(), right);
  launched();
}

void threads_race(bool right) {
  Array<int> count(std::vector<int>{0});
  UNITOK_LAUNCH(count_threads, 1, 2, 0, nullptr, count.data(), right);
  launched();
}

// The last block to finish adds up what all blocks wrote.
__global__ void sum_in_last_block(int* parts, int* tickets, int* total, bool right) {
  const int blocks = static_cast<int>(gridDim.x);
  parts[blockIdx.x] = 1 + static_cast<int>(blockIdx.x);
  if (right) __threadfence();
  if (atomicAdd(tickets, 1) != blocks - 1) return;
  if (right) __threadfence();
  *total = 0;
  for (int i = 0; i < blocks; ++i) *total += parts[i];
}

void fence_missing(bool right) {
  Array<int> parts(9), tickets(std::vector<int>{0}), total(1);
  UNITOK_LAUNCH(sum_in_last_block, 9, 1, 0, nullptr, parts.data(), tickets.data(), total.data(), right);
  launched();
  CHECK(total[0] == 45);
}

}  // namespace

std::vector<Fault> faults_of_order() {
  return {
      {"barrier_missing", barrier_missing, "fails with threads in reverse", nullptr, kRace},
      {"order_assumed", order_assumed, "fails with threads at random", nullptr, nullptr},
      {"warp_barrier_missing", warp_barrier_missing, nullptr, nullptr, kRace},
      {"mask_names_returned_lanes", mask_names_returned_lanes, kStuck, nullptr, nullptr},
      {"mask_leaves_out_the_caller", mask_leaves_out_the_caller, "leaves out the lane", nullptr, nullptr},
      {"masks_differ", masks_differ, kStuck, nullptr, nullptr},
      {"shuffle_reads_beyond_its_mask", shuffle_reads_beyond_its_mask, "isn't in the mask", nullptr, nullptr},
      {"lanes_in_different_calls", lanes_in_different_calls, "meets", nullptr, nullptr},
      {"barriers_in_two_branches", barriers_in_two_branches, "__syncthreads", nullptr, nullptr},
      {"barrier_in_one_branch", barrier_in_one_branch, kStuck, nullptr, nullptr},
      {"threads_race", threads_race, nullptr, nullptr, kRace},
      {"blocks_race", blocks_race, nullptr, nullptr, kRace},
      {"fence_missing", fence_missing, nullptr, nullptr, kRace},
  };
}

// Kernels with a fault in them, each of which must be caught, and the same kernels without it, which must pass.
//
//   planted [quick]        runs all of them, each in a process of its own
//   planted NAME [right]   runs one with the fault, or without it
#include <cstdio>

#include "drive.h"

using namespace unitok;

namespace {

constexpr int kThreads = 64;

void launched() { CHECK(cudaGetLastError() == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess); }

// Each thread reads what the opposite one wrote.
__global__ void swap(float* out, bool right) {
  UNITOK_SHARED(float, values);
  const int i = static_cast<int>(threadIdx.x);
  values[i] = static_cast<float>(i);
  if (right) __syncthreads();
  out[i] = values[kThreads - 1 - i];
}

void barrier_missing(bool right) {
  Array<float> out(kThreads);
  UNITOK_LAUNCH(swap, 1, kThreads, kThreads * 4, nullptr, out.data(), right);
  launched();
  for (int i = 0; i < kThreads; ++i) CHECK(out[i] == static_cast<float>(kThreads - 1 - i));
}

// A shuffle isn't a barrier: it puts no memory in order.
__global__ void swap_in_warp(float* out, bool right) {
  UNITOK_STATIC_SHARED(float, values, [32]);
  const int i = static_cast<int>(threadIdx.x);
  values[i] = static_cast<float>(i);
  if (right) __syncwarp();
  const int other = __shfl_xor_sync(~0u, i, 31);
  out[i] = values[other];
}

void warp_barrier_missing(bool right) {
  Array<float> out(32);
  UNITOK_LAUNCH(swap_in_warp, 1, 32, 0, nullptr, out.data(), right);
  launched();
}

enum class Copying { right, not_waited_for, waited_too_little, no_barrier_after, no_barrier_before, not_committed };

// Rows come through two buffers, the next one while the last is read; each thread copies 16 bytes and reads others.
__global__ void pipeline(const float* rows, float* sums, int count, Copying how) {
  UNITOK_SHARED(float, buffers);
  constexpr int kWidth = 4 * kThreads;
  const int i = static_cast<int>(threadIdx.x);
  const auto fetch = [&](int row) {
    if (row < count) copy_async(buffers + row % 2 * kWidth + 4 * i, rows + row * kWidth + 4 * i);
    if (how != Copying::not_committed) copy_async_commit();
  };
  float total = 0;
  fetch(0);
  for (int row = 0; row < count; ++row) {
    if (how != Copying::no_barrier_before) __syncthreads();
    fetch(row + 1);
    if (how == Copying::waited_too_little) copy_async_wait<2>();
    if (how != Copying::not_waited_for && how != Copying::waited_too_little) copy_async_wait<1>();
    if (how != Copying::no_barrier_after) __syncthreads();
    for (int j = 0; j < 4; ++j) total += buffers[row % 2 * kWidth + (i + j * kThreads) % kWidth];
  }
  sums[i] = total;
}

void copying(Copying how) {
  constexpr int kRows = 5;
  std::vector<float> rows(kRows * 4 * kThreads);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 97);
  const Array<float> in(rows);
  Array<float> out(kThreads);
  UNITOK_LAUNCH(pipeline, 1, kThreads, 2 * 16 * kThreads, nullptr, in.data(), out.data(), kRows, how);
  launched();
  for (int i = 0; i < kThreads; ++i) {
    float expected = 0;
    for (int row = 0; row < kRows; ++row)
      for (int j = 0; j < 4; ++j) expected += in[4 * kThreads * row + i + j * kThreads];
    CHECK(out[i] == expected);
  }
}

template <Copying How>
void copies(bool right) {
  copying(right ? Copying::right : How);
}

__global__ void count_lanes(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= 24) return;
  out[i] = __reduce_add_sync(right ? 0xffffffu : ~0u, 1);
}

void mask_names_returned_lanes(bool right) {
  Array<int> out(24);
  UNITOK_LAUNCH(count_lanes, 1, 32, 0, nullptr, out.data(), right);
  launched();
  for (int i = 0; i < 24; ++i) CHECK(out[i] == 24);
}

__global__ void sum_halves(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  const unsigned half = i < 16 ? 0xffffu : 0xffff0000u;
  if (i < 16) out[i] = __reduce_add_sync(right ? half : 0xff00u, i);
  if (i >= 16) out[i] = __reduce_add_sync(half, i);
}

void mask_leaves_out_the_caller(bool right) {
  Array<int> out(32);
  UNITOK_LAUNCH(sum_halves, 1, 32, 0, nullptr, out.data(), right);
  launched();
  for (int i = 0; i < 32; ++i) CHECK(out[i] == (i < 16 ? 120 : 376));
}

__global__ void masks_that_differ(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = __reduce_add_sync(right || i < 16 ? ~0u : 0xffff0000u, 1);
}

void masks_differ(bool right) {
  Array<int> out(32);
  UNITOK_LAUNCH(masks_that_differ, 1, 32, 0, nullptr, out.data(), right);
  launched();
}

__global__ void shift_half(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < 16) out[i] = __shfl_down_sync(0xffffu, i, 1, right ? 16 : 32);
}

void shuffle_reads_beyond_its_mask(bool right) {
  Array<int> out(16);
  UNITOK_LAUNCH(shift_half, 1, 32, 0, nullptr, out.data(), right);
  launched();
  for (int i = 0; i < 16; ++i) CHECK(out[i] == std::min(i + 1, 15));
}

__global__ void ask_all(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  if (right || i % 2 == 0)
    out[i] = __any_sync(~0u, i == 3);
  else
    out[i] = __shfl_sync(~0u, 1, 3);
}

void lanes_in_different_calls(bool right) {
  Array<int> out(32);
  UNITOK_LAUNCH(ask_all, 1, 32, 0, nullptr, out.data(), right);
  launched();
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
  Array<int> out(kThreads);
  UNITOK_LAUNCH(wait_apart, 1, kThreads, 0, nullptr, out.data(), right);
  launched();
}

__global__ void wait_in_part(int* out, bool right) {
  const int i = static_cast<int>(threadIdx.x);
  if (right || i % 2 == 0) __syncthreads();
  out[i] = __shfl_xor_sync(~0u, i, 1);
}

void barrier_in_one_branch(bool right) {
  Array<int> out(kThreads);
  UNITOK_LAUNCH(wait_in_part, 1, kThreads, 0, nullptr, out.data(), right);
  launched();
}

__global__ void wait_in_pairs(int* out, bool right) {
  UNITOK_STATIC_SHARED(int, values, [4 * 32]);
  const int i = static_cast<int>(threadIdx.x);
  values[i] = i;
  named_barrier(1 + i / 64, right ? 64 : 96);
  out[i] = values[i ^ 32];
}

void named_barrier_counts_too_many(bool right) {
  Array<int> out(128);
  UNITOK_LAUNCH(wait_in_pairs, 1, 128, 0, nullptr, out.data(), right);
  launched();
  for (int i = 0; i < 128; ++i) CHECK(out[i] == (i ^ 32));
}

__global__ void copy_16_bytes(const float* in, float* out, int offset) {
  UNITOK_STATIC_SHARED(float, values, [8]);
  copy_async(values + offset, in);
  copy_async_commit();
  copy_async_wait<0>();
  out[0] = values[offset];
}

void copy_is_misaligned(bool right) {
  const Array<float> in(std::vector<float>{1, 2, 3, 4});
  Array<float> out(1);
  UNITOK_LAUNCH(copy_16_bytes, 1, 1, 0, nullptr, in.data(), out.data(), right ? 4 : 2);
  launched();
  CHECK(out[0] == 1);
}

void copy_overruns(bool right) {
  const Array<float> in(std::vector<float>{1, 2, 3, 4});
  Array<float> out(1);
  UNITOK_LAUNCH(copy_16_bytes, 1, 1, 0, nullptr, in.data(), out.data(), right ? 4 : 8);
  launched();
}

__global__ void load_float4(const float* in, float* out) { store_vector(out, load_vector<float4>(in)); }

void vector_is_misaligned(bool right) {
  const Array<float> in(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8});
  Array<float> out(4);
  UNITOK_LAUNCH(load_float4, 1, 1, 0, nullptr, in.data() + (right ? 4 : 2), out.data());
  launched();
  CHECK(out[3] == 8);
}

__global__ void shift_dynamic(float* out, int count) {
  UNITOK_SHARED(float, values);
  const int i = static_cast<int>(threadIdx.x);
  values[(i + 1) % count] = 1;
  __syncthreads();
  out[i] = values[i];
}

void dynamic_shared_overrun(bool right) {
  Array<float> out(kThreads);
  UNITOK_LAUNCH(shift_dynamic, 1, kThreads, 4 * kThreads, nullptr, out.data(), right ? kThreads : kThreads + 1);
  launched();
}

__global__ void shift_static(float* out, int count) {
  UNITOK_STATIC_SHARED(float, values, [2][kThreads]);  // beyond the first row lies the second: still a fault
  const int i = static_cast<int>(threadIdx.x);
  values[0][(i + 1) % count] = 1;
  __syncthreads();
  out[i] = values[0][i % count];
}

void static_shared_overrun(bool right) {
  Array<float> out(kThreads);
  UNITOK_LAUNCH(shift_static, 1, kThreads, 0, nullptr, out.data(), right ? kThreads : kThreads + 1);
  launched();
}

void array_overrun(bool right) {
  Array<float> out(kThreads - (right ? 0 : 1));
  UNITOK_LAUNCH(swap, 1, kThreads, kThreads * 4, nullptr, out.data(), true);
  launched();
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

// Whoever is the last to be done adds up what all blocks wrote.
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

void launch_without_blocks(bool right) {
  Array<int> count(std::vector<int>{0});
  UNITOK_LAUNCH(count_threads, right ? 1 : 0, 1, 0, nullptr, count.data(), true);
  launched();
}

void launch_of_a_large_block(bool right) {
  Array<int> count(std::vector<int>{0});
  UNITOK_LAUNCH(count_threads, 1, dim3(right ? 32 : 33, 32), 0, nullptr, count.data(), true);
  launched();
  CHECK(count[0] == 1024);
}

void launch_without_leave_for_shared_memory(bool right) {
  constexpr int kBytes = 64 << 10;
  Array<float> out(kThreads);
  if (right) CHECK(cudaFuncSetAttribute(swap, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes) == cudaSuccess);
  UNITOK_LAUNCH(swap, 1, kThreads, kBytes, nullptr, out.data(), true);
  launched();
}

__global__ void use_both_kinds(float* out) {
  UNITOK_SHARED(float, some);
  UNITOK_STATIC_SHARED(float, others, [kThreads]);
  some[threadIdx.x] = others[threadIdx.x] = 1;
  out[threadIdx.x] = some[threadIdx.x] + others[threadIdx.x];
}

void static_and_dynamic_shared_are_too_much(bool right) {
  Array<float> out(kThreads);
  const int bytes = (48 << 10) - (right ? 4 * kThreads : 16);
  UNITOK_LAUNCH(use_both_kinds, 1, kThreads, static_cast<std::size_t>(bytes), nullptr, out.data());
  launched();
}

struct Fault {
  const char* name;
  void (*run)(bool right);
  const char* plainly;    // what is said without a sanitizer; null: nothing
  const char* by_memory;  // by AddressSanitizer and UndefinedBehaviorSanitizer; null: the same
  const char* by_thread;  // by ThreadSanitizer; null: the same
};

constexpr char kWrong[] = "fails with", kStuck[] = "stuck", kRefused[] = "cudaGetLastError() == cudaSuccess",
               kRace[] = "data race", kOverrun[] = "heap-buffer-overflow", kBounds[] = "out of bounds";

constexpr Fault kFaults[] = {
    {"barrier_missing", barrier_missing, kWrong, nullptr, kRace},
    {"warp_barrier_missing", warp_barrier_missing, nullptr, nullptr, kRace},
    {"copy_not_waited_for", copies<Copying::not_waited_for>, kWrong, nullptr, nullptr},
    {"copy_waited_for_too_little", copies<Copying::waited_too_little>, kWrong, nullptr, nullptr},
    {"copy_not_committed", copies<Copying::not_committed>, kWrong, nullptr, nullptr},
    {"copy_without_barrier_after", copies<Copying::no_barrier_after>, kWrong, nullptr, kRace},
    {"copy_without_barrier_before", copies<Copying::no_barrier_before>, kWrong, nullptr, kRace},
    {"copy_is_misaligned", copy_is_misaligned, "isn't a multiple of 16", nullptr, nullptr},
    {"copy_overruns", copy_overruns, "aren't in shared memory", nullptr, nullptr},
    {"vector_is_misaligned", vector_is_misaligned, "isn't a multiple of 16", nullptr, nullptr},
    {"mask_names_returned_lanes", mask_names_returned_lanes, kStuck, nullptr, nullptr},
    {"mask_leaves_out_the_caller", mask_leaves_out_the_caller, "leaves out the lane", nullptr, nullptr},
    {"masks_differ", masks_differ, kStuck, nullptr, nullptr},
    {"shuffle_reads_beyond_its_mask", shuffle_reads_beyond_its_mask, "isn't in the mask", nullptr, nullptr},
    {"lanes_in_different_calls", lanes_in_different_calls, "meets", nullptr, nullptr},
    {"barriers_in_two_branches", barriers_in_two_branches, "__syncthreads", nullptr, nullptr},
    {"barrier_in_one_branch", barrier_in_one_branch, kStuck, nullptr, nullptr},
    {"named_barrier_counts_too_many", named_barrier_counts_too_many, kStuck, nullptr, nullptr},
    {"dynamic_shared_overrun", dynamic_shared_overrun, nullptr, kOverrun, nullptr},
    {"static_shared_overrun", static_shared_overrun, nullptr, kBounds, nullptr},
    {"array_overrun", array_overrun, nullptr, kOverrun, nullptr},
    {"threads_race", threads_race, nullptr, nullptr, kRace},
    {"blocks_race", blocks_race, nullptr, nullptr, kRace},
    {"fence_missing", fence_missing, nullptr, nullptr, kRace},
    {"launch_without_blocks", launch_without_blocks, kRefused, nullptr, nullptr},
    {"launch_of_a_large_block", launch_of_a_large_block, kRefused, nullptr, nullptr},
    {"launch_without_leave_for_shared_memory", launch_without_leave_for_shared_memory, kRefused, nullptr, nullptr},
    {"static_and_dynamic_shared_are_too_much", static_and_dynamic_shared_are_too_much, "are allowed", nullptr, nullptr},
};

const char* expected(const Fault& fault) {
#if defined(__SANITIZE_THREAD__)
  return fault.by_thread != nullptr ? fault.by_thread : fault.plainly;
#elif defined(__SANITIZE_ADDRESS__)
  return fault.by_memory != nullptr ? fault.by_memory : fault.plainly;
#else
  return fault.plainly;
#endif
}

struct Outcome {
  bool passed;
  std::string said;
};

Outcome run_alone(const char* program, const char* name, const char* right) {
  FILE* const pipe = popen((std::string(program) + " " + name + right + " 2>&1").c_str(), "r");
  CHECK(pipe != nullptr);
  std::string said;
  for (int c; (c = std::fgetc(pipe)) != EOF;) said += static_cast<char>(c);
  return {pclose(pipe) == 0, said};
}

int run_all(const char* program) {
  int caught = 0, bad = 0;
  for (const Fault& fault : kFaults) {
    const Outcome right = run_alone(program, fault.name, " right");
    if (!right.passed) std::printf("%s fails without its fault:\n%s\n", fault.name, right.said.c_str()), ++bad;
    if (expected(fault) == nullptr) continue;
    const Outcome wrong = run_alone(program, fault.name, "");
    ++caught;
    if (!wrong.passed && wrong.said.find(expected(fault)) != std::string::npos) continue;
    std::printf("%s isn't caught by '%s':\n%s\n", fault.name, expected(fault), wrong.said.c_str()), ++bad;
  }
  std::printf("%zu kernels are right, %d faults among them are caught; %d go wrong\n", std::size(kFaults), caught, bad);
  return bad != 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || std::string(arguments[1]) == "quick") return run_all(arguments[0]);
  const auto asked = [&](const Fault& fault) { return std::string(fault.name) == arguments[1]; };
  const Fault* const fault = std::find_if(std::begin(kFaults), std::end(kFaults), asked);
  CHECK(fault != std::end(kFaults));
  in_every_order({true}, [&](Effort) { fault->run(count > 2); });
}

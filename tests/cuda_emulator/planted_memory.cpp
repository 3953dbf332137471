// Faults of memory: read too early, out of bounds or misaligned; launches that a device refuses.
#include "planted.h"

using namespace unitok;

namespace {

__global__ void count_odd(int* out, bool right) {
  UNITOK_STATIC_SHARED(int, odd, );
  const int i = static_cast<int>(threadIdx.x);
  if (right && i == 0) odd = 0;
  __syncthreads();
  if (i % 2 == 1) atomicAdd(&odd, 1);
  __syncthreads();
  out[i] = odd;
}

void shared_memory_taken_for_zero(bool right) {
  check_each(run(count_odd, kThreads, right), [](int) { return kThreads / 2; });
}

enum class Copying { right, not_waited_for, waited_too_little, no_barrier_after, no_barrier_before, not_committed };

// Rows go through two buffers: the next row is copied while the last one is read. A thread reads what others copied.
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
  UNITOK_STATIC_SHARED(float, values, [2][kThreads]);  // beyond the first row is the second: still a fault
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

__global__ void write_numbers(int* out) { out[threadIdx.x] = static_cast<int>(threadIdx.x); }

void array_overrun(bool right) {
  Array<int> out(kThreads - (right ? 0 : 1));
  UNITOK_LAUNCH(write_numbers, 1, kThreads, 0, nullptr, out.data());
  launched();
}

__global__ void count_threads(int* count) { atomicAdd(count, 1); }

void launch_without_blocks(bool right) {
  Array<int> count(std::vector<int>{0});
  UNITOK_LAUNCH(count_threads, right ? 1 : 0, 1, 0, nullptr, count.data());
  launched();
}

void launch_of_a_large_block(bool right) {
  Array<int> count(std::vector<int>{0});
  UNITOK_LAUNCH(count_threads, 1, dim3(right ? 32 : 33, 32), 0, nullptr, count.data());
  launched();
  CHECK(count[0] == 1024);
}

void launch_without_leave_for_shared_memory(bool right) {
  constexpr int kBytes = 64 << 10;
  const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
  Array<int> out(kThreads);
  if (right) CHECK(cudaFuncSetAttribute(write_numbers, attribute, kBytes) == cudaSuccess);
  UNITOK_LAUNCH(write_numbers, 1, kThreads, kBytes, nullptr, out.data());
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

}  // namespace

std::vector<Fault> faults_of_memory() {
  return {
      {"shared_memory_taken_for_zero", shared_memory_taken_for_zero, kWrong, nullptr, nullptr},
      {"copy_not_waited_for", copies<Copying::not_waited_for>, kWrong, nullptr, nullptr},
      {"copy_waited_for_too_little", copies<Copying::waited_too_little>, kWrong, nullptr, nullptr},
      {"copy_not_committed", copies<Copying::not_committed>, kWrong, nullptr, nullptr},
      {"copy_without_barrier_after", copies<Copying::no_barrier_after>, kWrong, nullptr, kRace},
      {"copy_without_barrier_before", copies<Copying::no_barrier_before>, kWrong, nullptr, kRace},
      {"copy_is_misaligned", copy_is_misaligned, kMisaligned, nullptr, nullptr},
      {"copy_overruns", copy_overruns, "aren't in shared memory", nullptr, nullptr},
      {"vector_is_misaligned", vector_is_misaligned, kMisaligned, nullptr, nullptr},
      {"dynamic_shared_overrun", dynamic_shared_overrun, nullptr, kOverrun, nullptr},
      {"static_shared_overrun", static_shared_overrun, nullptr, "out of bounds", nullptr},
      {"array_overrun", array_overrun, nullptr, kOverrun, nullptr},
      {"launch_without_blocks", launch_without_blocks, kRefused, nullptr, nullptr},
      {"launch_of_a_large_block", launch_of_a_large_block, kRefused, nullptr, nullptr},
      {"launch_without_leave_for_shared_memory", launch_without_leave_for_shared_memory, kRefused, nullptr, nullptr},
      {"static_and_dynamic_shared_are_too_much", static_and_dynamic_shared_are_too_much, "are allowed", nullptr,
       nullptr},
  };
}

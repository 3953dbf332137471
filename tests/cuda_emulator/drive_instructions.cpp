// Functions of CUDA and of platform.cuh, compared with their definitions in plain loops. On a CPU this tests the
// emulator, on a device the wrappers.
#include <cfloat>
#include <climits>
#include <functional>

#include "drive.h"
#include "products.cuh"

using namespace unitok;

namespace {

void launched() { CHECK(cudaGetLastError() == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess); }

// Two warps of values that differ.
constexpr int kThreads = 64, kLaneResults = 19;

__host__ __device__ int value_of(int thread) { return (thread * 37 + 11) % 101 - 40; }

__global__ void talk_between_lanes(int* out) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, v = value_of(thread);
  int i = 0;
  const auto put = [&](int result) { out[kThreads * i++ + thread] = result; };
  put(__shfl_sync(~0u, v, 5));
  put(__shfl_sync(~0u, v, 7 * lane + 3));
  put(__shfl_sync(~0u, v, 11, 8));
  put(__shfl_xor_sync(~0u, v, 21));
  put(__shfl_xor_sync(~0u, v, 12, 8));
  put(__shfl_down_sync(~0u, v, 3));
  put(__shfl_down_sync(~0u, v, 3, 16));
  put(__shfl_up_sync(~0u, v, 2));
  put(__shfl_up_sync(~0u, v, 2, 4));
  put(__float_as_int(__shfl_xor_sync(~0u, static_cast<float>(v), 1)));
  put(static_cast<int>(__ballot_sync(~0u, v % 3 == 0)));
  put(__any_sync(~0u, v == 5));
  put(__all_sync(~0u, v < 50));
  put(static_cast<int>(__match_any_sync(~0u, v % 5)));
  put(__reduce_add_sync(~0u, v));
  put(__reduce_min_sync(~0u, v));
  put(static_cast<int>(__reduce_max_sync(~0u, static_cast<unsigned>(v))));
  const unsigned odd = 0xaaaaaaaau;  // odd and even lanes exchange values separately
  int apart = 0;
  if (lane % 2 == 1) apart = __reduce_add_sync(odd, __shfl_xor_sync(odd, v, 2) * lane);
  if (lane % 2 == 0) apart = __shfl_xor_sync(~odd, v, 4);
  put(apart);
  put(__shfl_sync(~0u, static_cast<int>(threadIdx.x), 0));
}

void check_lanes() {
  Array<int> out(kLaneResults * kThreads);
  UNITOK_LAUNCH(talk_between_lanes, 1, kThreads, 0, nullptr, out.data());
  launched();
  for (int thread = 0; thread < kThreads; ++thread) {
    const int lane = thread % 32, first = thread - lane;
    const auto of = [&](int other) { return value_of(first + other); };
    const auto over_lanes = [&](int total, const std::function<int(int, int)>& add) {
      for (int other = 0; other < 32; ++other) total = add(total, other);
      return total;
    };
    const auto lanes_where = [&](const std::function<bool(int)>& which) {
      unsigned lanes = 0;
      for (int other = 0; other < 32; ++other) lanes |= static_cast<unsigned>(which(other)) << other;
      return static_cast<int>(lanes);
    };
    const int crossed = lane ^ 12;  // lanes of an earlier eight can be read, those of a later one can't
    int of_odd = 0;
    for (int other = 1; other < 32; other += 2) of_odd += of(other ^ 2) * other;
    const int expected[kLaneResults] = {
        of(5),
        of((7 * lane + 3) % 32),
        of(lane / 8 * 8 + 3),
        of(lane ^ 21),
        of(crossed / 8 > lane / 8 ? lane : crossed),
        of(lane + 3 < 32 ? lane + 3 : lane),
        of(lane % 16 + 3 < 16 ? lane + 3 : lane),
        of(lane >= 2 ? lane - 2 : lane),
        of(lane % 4 >= 2 ? lane - 2 : lane),
        static_cast<int>(bits_of(static_cast<float>(of(lane ^ 1)))),
        lanes_where([&](int other) { return of(other) % 3 == 0; }),
        lanes_where([&](int other) { return of(other) == 5; }) != 0,
        lanes_where([&](int other) { return of(other) >= 50; }) == 0,
        lanes_where([&](int other) { return of(other) % 5 == of(lane) % 5; }),
        over_lanes(0, [&](int total, int other) { return total + of(other); }),
        over_lanes(1000, [&](int least, int other) { return std::min(least, of(other)); }),
        over_lanes(-1000, [&](int most, int other) { return std::max(most, of(other) < 0 ? of(other) : -1000); }),
        lane % 2 == 1 ? of_odd : of(lane ^ 4),
        first,
    };
    for (int i = 0; i < kLaneResults; ++i) CHECK(out[kThreads * i + thread] == expected[i]);
  }
}

// Waits for the first of two groups of copies.
__global__ void copy_in_groups(const int4* in, int4* out) {
  UNITOK_STATIC_SHARED(int4, values, [2 * 32]);
  const int i = static_cast<int>(threadIdx.x);
  for (int group = 0; group < 2; ++group) {
    copy_async(values + 32 * group + i, in + 32 * group + i);
    copy_async_commit();
  }
  copy_async_wait<1>();
  store_vector(out + i, load_vector<int4>(values + i));
  copy_async_wait<0>();
  __syncwarp();
  store_vector(out + 32 + i, load_vector<int4>(values + 32 + 31 - i));
}

void check_copies() {
  Array<int4> in(64), out(64);
  for (int i = 0; i < 64; ++i) in[i] = {i, -i, 2 * i, 7};
  UNITOK_LAUNCH(copy_in_groups, 1, 32, 0, nullptr, in.data(), out.data());
  launched();
  for (int i = 0; i < 64; ++i) CHECK(std::memcmp(&out[i], &in[i < 32 ? i : 95 - i], sizeof(int4)) == 0);
}

__global__ void load_four(const uint4* in, uint32_t* out) {
  UNITOK_STATIC_SHARED(uint4, rows, [32]);
  const int lane = static_cast<int>(threadIdx.x);
  store_vector(rows + lane, load_vector<uint4>(in + lane));
  __syncwarp();
  uint32_t words[4];
  load_matrices(rows + (lane ^ 8), words);  // matrices 0 and 1 change places, and 2 and 3
  for (int i = 0; i < 4; ++i) out[32 * i + lane] = words[i];
}

void check_matrices() {
  Array<uint4> in(32);
  Array<uint32_t> out(128);
  for (unsigned i = 0; i < 32; ++i) in[i] = {4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3};
  UNITOK_LAUNCH(load_four, 1, 32, 0, nullptr, in.data(), out.data());
  launched();
  for (unsigned i = 0; i < 128; ++i) CHECK(out[i] == (i ^ 32));
}

#ifdef UNITOK_SM90A
// c (64, 64) = 2 a b, for a (64, 32) row by row and b (32, 64) column by column: of eight columns the first 16 bytes
// each, then the others.
__global__ void multiply_by_warpgroup(const uint32_t* a, const uint4* b, int* c) {
  UNITOK_SHARED(uint4, columns);
  const int thread = static_cast<int>(threadIdx.x), column = thread / 2, half = thread % 2;
  store_vector(columns + column / 8 * 16 + 8 * half + column % 8, load_vector<uint4>(b + thread));
  fence_async_proxy();
  __syncthreads();
  const int row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
  const uint32_t rows[4] = {a[8 * row + t], a[8 * (row + 8) + t], a[8 * row + t + 4], a[8 * (row + 8) + t + 4]};
  const uint64_t descriptor = matrix_descriptor(matrix_start(shared_address(columns), 128), 256);
  int sums[8][4];
  warpgroup_arrive(sums);
  warpgroup_multiply_s8(sums, rows, descriptor, false);
  warpgroup_multiply_s8(sums, rows, descriptor, true);
  warpgroup_wait(sums);
  for (int n = 0; n < 8; ++n)
    for (int i = 0; i < 4; ++i) c[64 * (row + i / 2 * 8) + 8 * n + 2 * t + i % 2] = sums[n][i];
}

void check_products_by_warpgroup() {
  std::mt19937 engine(2);
  Array<uint32_t> a(64 * 8), b(64 * 8);
  Array<int> c(64 * 64);
  for (int64_t i = 0; i < 64 * 8; ++i) a[i] = static_cast<uint32_t>(engine()), b[i] = static_cast<uint32_t>(engine());
  UNITOK_LAUNCH(multiply_by_warpgroup, 1, 128, 2048, nullptr, a.data(), reinterpret_cast<const uint4*>(b.data()),
                c.data());
  launched();
  const auto value = [](const Array<uint32_t>& words, int64_t line, int64_t k) {
    return static_cast<int>(static_cast<int8_t>(words[8 * line + k / 4] >> 8 * (k % 4)));
  };
  for (int64_t i = 0; i < 64 * 64; ++i) {
    int expected = 0;
    for (int64_t k = 0; k < 32; ++k) expected += 2 * value(a, i / 64, k) * value(b, i % 64, k);
    CHECK(c[i] == expected);
  }
}
#endif

// A product of int8, from words of four that lie row by row in a and column by column in b.
__global__ void multiply(const uint32_t* a, const uint32_t* b, int* c) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  const uint32_t rows[4] = {a[8 * g + t], a[8 * (g + 8) + t], a[8 * g + t + 4], a[8 * (g + 8) + t + 4]};
  const uint32_t columns[2] = {b[8 * g + t], b[8 * g + t + 4]};
  int sums[4] = {c[8 * g + 2 * t], c[8 * g + 2 * t + 1], c[8 * (g + 8) + 2 * t], c[8 * (g + 8) + 2 * t + 1]};
  multiply_s8(sums, rows, columns);
  for (int i = 0; i < 4; ++i) c[8 * (g + i / 2 * 8) + 2 * t + i % 2] = sums[i];
}

void check_products() {
  std::mt19937 engine(1);
  for (int turn = 0; turn < 6; ++turn) {
    std::vector<uint32_t> a(16 * 8), b(8 * 8);
    std::vector<int> start(16 * 8);
    for (uint32_t& word : a) word = static_cast<uint32_t>(engine());
    for (uint32_t& word : b) word = static_cast<uint32_t>(engine());
    for (int& value : start) value = static_cast<int>(engine() % 1000) - 500;
    const Array<uint32_t> left(a), right(b);
    Array<int> found(start);
    UNITOK_LAUNCH(multiply, 1, 32, 0, nullptr, left.data(), right.data(), found.data());
    launched();
    const auto value = [](const std::vector<uint32_t>& words, std::size_t line, std::size_t k) {
      return static_cast<int>(static_cast<int8_t>(words[8 * line + k / 4] >> 8 * (k % 4)));
    };
    for (std::size_t i = 0; i < 128; ++i) {
      int expected = start[i];
      for (std::size_t k = 0; k < 32; ++k) expected += value(a, i / 8, k) * value(b, i % 8, k);
      CHECK(found[static_cast<int64_t>(i)] == expected);
    }
  }
}

// Threads that have returned aren't waited for.
__global__ void meet_with_some_gone(int* out) {
  UNITOK_STATIC_SHARED(int, values, [kThreads]);
  const int i = static_cast<int>(threadIdx.x);
  if (i % 3 == 0) return;
  values[i] = i;
  __syncthreads();
  out[i] = values[kThreads - 1 - i];
}

void check_barriers() {
  Array<int> out(kThreads);
  UNITOK_LAUNCH(meet_with_some_gone, 1, kThreads, 0, nullptr, out.data());
  launched();
  for (int i = 0; i < kThreads; ++i) CHECK(i % 3 == 0 || out[i] == kThreads - 1 - i);
}

__global__ void count_atomically(int* whole, float* real, unsigned long long* keys) {
  UNITOK_STATIC_SHARED(int, block_count, );
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (threadIdx.x == 0) block_count = 0;
  __syncthreads();
  atomicAdd(&block_count, 1);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(&whole[0], block_count);
  atomicMin(&whole[1], 1000 - i);
  atomicMax(&whole[2], i);
  atomicCAS(&whole[3], i, i + 1);  // never as expected
  if (i == 5) whole[4] = atomicExch(&whole[5], i);
  atomicAdd(real, 0.5f);
  atomicMin(keys, static_cast<unsigned long long>(7 * i % 96) << 32 | static_cast<unsigned>(i));
  if (i == 0) whole[6] = __ldg(&whole[6]) + 1;
}

void check_atomics() {
  Array<int> whole(std::vector<int>{0, 1000, -1, 200, 0, 77, 8});
  Array<float> real(std::vector<float>{1});
  Array<unsigned long long> keys(std::vector<unsigned long long>{~0ull});
  UNITOK_LAUNCH(count_atomically, 3, 32, 0, nullptr, whole.data(), real.data(), keys.data());
  launched();
  CHECK(whole.values() == (std::vector<int>{96, 905, 95, 200, 77, 5, 9}));
  CHECK(real[0] == 49 && keys[0] == 0);
}

__global__ void convert(const float* in, int count, uint32_t* out) {
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    const float x = in[i];
    const uint16_t f16 = narrow_f16(x), bf16 = narrow_bf16(x);
    out[4 * i] = f16;
    out[4 * i + 1] = bf16;
    out[4 * i + 2] = __float_as_uint(widen_f16(f16));
    out[4 * i + 3] = __float_as_uint(widen_bf16(bf16));
  }
}

// Floats at, around and between the halves; tests/native tests number.h itself.
void check_conversions(Effort effort) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x10000; bits += effort.quick ? 37 : 1) {
    for (const float x : {from_f16(static_cast<uint16_t>(bits)), from_bf16(static_cast<uint16_t>(bits))})
      for (const uint32_t more : {0u, 0xfffu, 0x1000u, 0x1001u, 0x3000u, 0x8000u})
        if (std::isfinite(float_of(bits_of(x) + more))) values.push_back(float_of(bits_of(x) + more));
  }
  const Array<float> in(values);
  Array<uint32_t> out(4 * in.size());
  UNITOK_LAUNCH(convert, 3, 32, 0, nullptr, in.data(), static_cast<int>(in.size()), out.data());
  launched();
  for (int64_t i = 0; i < in.size(); ++i) {
    CHECK(out[4 * i] == to_f16(in[i]) && out[4 * i + 1] == to_bf16(in[i]));
    CHECK(out[4 * i + 2] == bits_of(from_f16(to_f16(in[i]))) && out[4 * i + 3] == bits_of(from_bf16(to_bf16(in[i]))));
  }
}

__global__ void compute(const int* in, int* out) {
  int i = 0;
  const auto put = [&](int result) { out[i++] = result; };
  put(__dp4a(in[0], in[1], in[2]));
  put(__vimin3_s32(in[0], in[1], in[2]));
  put(__popc(static_cast<unsigned>(in[0])));
  put(__ffs(in[3]));
  put(__clz(in[2]));
  put(__float2int_rn(2.5f) + 10 * __float2int_rn(-3.5f));
  put(__float_as_int(__fmaf_rn(__int2float_rn(in[2]), __uint_as_float(0x3f800001u), __int_as_float(0x3f800000))));
  put(__float_as_int(__fadd_rn(__fmul_rn(1.0f + 0x1p-23f, 1.0f + 0x1p-23f), -1.0f - 0x1p-22f)));
  put(max(in[2], min(in[0], in[1])));
  put(static_cast<int>(__byte_perm(0x03020100u, 0x87868504u, 0x6035u)));
  put(static_cast<int>(__byte_perm(0x03020100u, 0x87868504u, 0x0fc8u)));
  put(__float2int_rn(__uint_as_float(0x7fc00000u)));
  put(__float2int_rn(INFINITY));
  put(__float2int_rn(-3e9f));
  put(__float2int_rn(-0x1p31f));
}

void check_arithmetic() {
  const Array<int> in(std::vector<int>{static_cast<int>(0x80ff7f01u), 0x02037fff, 1000, 48});
  Array<int> out(15);
  UNITOK_LAUNCH(compute, 1, 1, 0, nullptr, in.data(), out.data());
  launched();
  const int expected[] = {
      1000 + -128 * 2 + -1 * 3 + 127 * 127 - 1,
      static_cast<int>(0x80ff7f01u),
      17,
      5,
      22,
      2 - 40,
      static_cast<int>(bits_of(std::fma(1000.0f, 1.0f + 0x1p-23f, 1.0f))),
      0,
      1000,
      static_cast<int>(0x86000385u),
      0x00ff0000,
      0,
      INT_MAX,
      INT_MIN,
      INT_MIN,
  };
  for (int i = 0; i < 15; ++i) CHECK(out[i] == expected[i]);
}

__global__ void take_roots(const float* in, int count, float* out) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) out[i] = rough_sqrt(in[i]);
}

void check_roots() {
  std::vector<float> values = {0, 1, 4, 0x1p-149f, FLT_MAX};
  for (float x = 1e-37f; x < 1e37f; x *= 1.7f) values.push_back(x);
  const Array<float> in(values);
  Array<float> out(in.size());
  UNITOK_LAUNCH(take_roots, 1, 32, 0, nullptr, in.data(), static_cast<int>(in.size()), out.data());
  launched();
  for (int64_t i = 0; i < in.size(); ++i) {
    const double root = std::sqrt(static_cast<double>(in[i]));
    CHECK(std::fabs(static_cast<double>(out[i]) - root) <= 0x1p-22 * root);
  }
}

__global__ void mark(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  atomicAdd(&out[block * blockDim.x * blockDim.y * blockDim.z + thread], 1);
}

void check_every_thread_runs_once() {
  Array<int> out(std::vector<int>(2 * 3 * 5 * 7 * 3 * 2, 0));
  UNITOK_LAUNCH(mark, dim3(2, 3, 5), dim3(7, 3, 2), 0, nullptr, out.data());
  launched();
  for (int i = 0; i < out.size(); ++i) CHECK(out[i] == 1);
}

}  // namespace

int main(int count, char** arguments) {
  in_every_order(effort(count, arguments), [](Effort effort) {
    check_every_thread_runs_once();
    check_lanes();
    check_copies();
    check_matrices();
    check_products();
#ifdef UNITOK_SM90A
    check_products_by_warpgroup();
#endif
    check_barriers();
    check_atomics();
    check_conversions(effort);
    check_arithmetic();
    check_roots();
  });
  std::printf("instructions do what their definitions say\n");
}

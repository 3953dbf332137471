// What the kernels need beyond plain CUDA C++: launches, shared memory, and a function for each instruction that takes
// inline PTX. For sm_80 and later; what is for sm_90a alone says so.
//
// With UNITOK_EMULATED, g++ compiles the same sources, and tests/cuda_emulator has a twin of everything here and of the
// parts of CUDA that are used. So kernels declare shared memory and launch by these macros alone, take PTX from here
// alone, and read and write vectors by load_vector and store_vector.
#pragma once

#include <cstdint>

#include "errors.h"

#ifdef UNITOK_EMULATED
#include "cuda_emulator.h"
#else

#include <cuda_runtime.h>

// Launches kernel(...). A name with commas takes parentheses: UNITOK_LAUNCH((encode<D, L>), grid, ...). Throws
// CudaError if the launch is refused.
#define UNITOK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__), unitok::check(cudaGetLastError())

// `T* name`: the shared memory whose size the launch sets, aligned to 16 bytes.
#define UNITOK_SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char unitok_shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(unitok_shared_bytes)

// Shared memory of a fixed size: UNITOK_STATIC_SHARED(float, rows, [4][32]), UNITOK_STATIC_SHARED(int, count, ).
#define UNITOK_STATIC_SHARED(T, name, extent) __shared__ __align__(16) T name extent

namespace unitok {

// A float4, int4 or other vector at an address that is a multiple of its size.
template <class Vector>
__device__ __forceinline__ Vector load_vector(const void* from) {
  return *static_cast<const Vector*>(from);
}

template <class Vector>
__device__ __forceinline__ void store_vector(void* to, const Vector& value) {
  *static_cast<Vector*>(to) = value;
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Starts copying 16 bytes from global to shared memory, both aligned to 16. A thread can read its own copies after
// commit and wait, and those of other threads after a barrier that follows.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}

// Closes the group of the copies started since the last one.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the newest `Pending` groups are unfinished.
template <int Pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// c (16, 8) += a (16, 32) b (32, 8), by a warp. With g = lane / 4 and t = lane % 4, a lane holds
//   a: four words: row g, word t; row g + 8, word t; row g, word t + 4; row g + 8, word t + 4
//   b: two words: column g, word t; column g, word t + 4
//   c: row g, columns 2 t and 2 t + 1; row g + 8, the same columns
// where a word is four int8, of neighbouring columns of a or rows of b.
__device__ __forceinline__ void multiply_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads four matrices of 8 rows of 16 bytes. Lane 8 i + j gives the address of row j of matrix i, a multiple of 16.
// With g = lane / 4 and t = lane % 4, a lane gets word t of row g of each.
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&words)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

// For sm_90a alone: products by a warpgroup, four neighbouring warps that all make the same calls. Products run in the
// background, in the order of the calls, and read shared memory through the async proxy. It sees what threads wrote, by
// copy_async too, only if they call this before the barrier that follows.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Call it before the first of some products, after all writes to the sums and to a.
__device__ __forceinline__ void warpgroup_arrive(int (&c)[8][4]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) asm volatile("" : "+r"(c[n][0]), "+r"(c[n][1]), "+r"(c[n][2]), "+r"(c[n][3])::"memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes the group of the products begun since the last call, and waits until all are done: only then c can be read.
__device__ __forceinline__ void warpgroup_wait(int (&c)[8][4]) {
  asm volatile("wgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int n = 0; n < 8; ++n) asm volatile("" : "+r"(c[n][0]), "+r"(c[n][1]), "+r"(c[n][2]), "+r"(c[n][3])::"memory");
}

// Begins c (64, 64) += a (64, 32) b (32, 64), or c = a b. Each warp has 16 rows of a and c, as in multiply_s8; c[n] is
// columns 8 n to 8 n + 7. The columns of b are rows of the matrices that the descriptor names.
__device__ __forceinline__ void warpgroup_multiply_s8(int (&c)[8][4], const uint32_t (&a)[4], uint64_t b,
                                                      bool accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %37, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p;\n\t}"
      : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]), "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]),
        "+r"(c[1][3]), "+r"(c[2][0]), "+r"(c[2][1]), "+r"(c[2][2]), "+r"(c[2][3]), "+r"(c[3][0]), "+r"(c[3][1]),
        "+r"(c[3][2]), "+r"(c[3][3]), "+r"(c[4][0]), "+r"(c[4][1]), "+r"(c[4][2]), "+r"(c[4][3]), "+r"(c[5][0]),
        "+r"(c[5][1]), "+r"(c[5][2]), "+r"(c[5][3]), "+r"(c[6][0]), "+r"(c[6][1]), "+r"(c[6][2]), "+r"(c[6][3]),
        "+r"(c[7][0]), "+r"(c[7][1]), "+r"(c[7][2]), "+r"(c[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// To a relative error of 2^-22.
__device__ __forceinline__ float rough_sqrt(float x) {
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

// float16 and bfloat16 as their bits; to nearest, ties to even.
__device__ __forceinline__ float widen_f16(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

__device__ __forceinline__ uint16_t narrow_f16(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ float widen_bf16(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

__device__ __forceinline__ uint16_t narrow_bf16(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

}  // namespace unitok

#endif

// What the kernels need beyond plain CUDA C++: launches, shared memory, and each instruction that takes inline PTX, as
// a function of its own. For sm_80 and later.
//
// With UNITOK_EMULATED, g++ compiles the same sources, and tests/cuda_emulator has a twin of everything here and of the
// parts of CUDA that are in use. So a kernel declares shared memory and launches through these macros alone, takes no
// PTX but from here, and reads or writes vectors through load_vector and store_vector.
#pragma once

#include <cstdint>

#include "errors.h"

#ifdef UNITOK_EMULATED
#include "cuda_emulator.h"
#else

#include <cuda_runtime.h>

// Launches kernel(...); one with commas in its name takes parentheses: UNITOK_LAUNCH((encode<D, L>), grid, ...). Throws
// CudaError where the launch is refused.
#define UNITOK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__), unitok::check(cudaGetLastError())

// `T* name`: the shared memory whose size the launch tells, aligned to 16 bytes.
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

// Starts copying 16 bytes from global to shared memory, both aligned to 16; the other form reads the first `bytes` (0
// to 16) and writes zeros after them. The thread's own copies can be read after commit and wait, all threads' after a
// barrier that follows.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}

__device__ __forceinline__ void copy_async(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}

// Closes the group of the copies started since the last one.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until no more than the newest `Pending` groups are under way.
template <int Pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Waits until `threads` threads (whole warps) have come to barrier `id`, 1 to 15.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Four 8 x 8 matrices of 16-bit values, or 8 x 16 of bytes. Lane 8 i + j names the 16 bytes, in shared memory, of row j
// of matrix i, and gets of each matrix 4 bytes: row lane / 4, from byte 4 (lane % 4). These are the fragments that the
// products below take. Transposed: the 16-bit values at rows 2 (lane % 4) and the one after, column lane / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// c (16, 8) += a (16, K) b (K, 8), by a warp. With g = lane / 4 and t = lane % 4, a lane holds
//   a: four words: row g, word t; row g + 8, word t; row g, word t + 4; row g + 8, word t + 4
//   b: two words: column g, word t; column g, word t + 4
//   c: row g, columns 2 t and 2 t + 1; row g + 8, the same columns
// where a word is 4 bytes of neighbours in K: four int8 (K = 32), two bfloat16 (K = 16) or one tf32 (K = 8).
__device__ __forceinline__ void multiply_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// To the 10 bits of mantissa that multiply_tf32 reads, to nearest, halves away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
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

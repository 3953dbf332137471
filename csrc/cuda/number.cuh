// The floating-point types of inputs and outputs, as kernels read and write them: 16 bytes at a time if rows allow it.
#pragma once

#include "../cpu/simd/number.h"
#include "platform.cuh"

namespace unitok {

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

__device__ inline double widen(double x) { return x; }
__device__ inline float widen(float x) { return x; }
__device__ inline float widen(F16 x) { return widen_f16(x.bits); }
__device__ inline float widen(BF16 x) { return widen_bf16(x.bits); }

__device__ inline void narrow(float x, float& to) { to = x; }
__device__ inline void narrow(float x, F16& to) { to.bits = narrow_f16(x); }
__device__ inline void narrow(float x, BF16& to) { to.bits = narrow_bf16(x); }

// V neighbouring values, read and written at once.
template <class T, int V>
struct alignas(V * sizeof(T)) Pack {
  T values[V];
};

template <class T>
constexpr int kPack = 16 / sizeof(T);

// Whether rows of `width` values at these addresses are whole, aligned packs of 16 bytes.
template <class T>
bool in_packs(int64_t width, const void* one, const void* other = nullptr) {
  const auto places = reinterpret_cast<uintptr_t>(one) | reinterpret_cast<uintptr_t>(other);
  return (places | static_cast<uintptr_t>(width) * sizeof(T)) % 16 == 0;
}

// Calls f(T{}) with the type of the values.
template <class F>
void with_type(Float type, const F& f) {
  switch (type) {
    case Float::f32: return f(float{});
    case Float::f16: return f(F16{});
    case Float::bf16: return f(BF16{});
  }
}

// A block of threads: x over the packs of a row, up to a warp, and y over rows.
inline dim3 row_block(int64_t packs, unsigned threads) {
  unsigned lanes = 1;
  while (lanes < packs && lanes < 32) lanes *= 2;
  return dim3(lanes, threads / lanes);
}

constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace unitok

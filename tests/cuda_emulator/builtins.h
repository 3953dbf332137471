// The functions of CUDA that kernels call: exchange between the lanes of a warp, barriers, atomics, arithmetic.
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "emulator.h"

#define threadIdx (emulator::self->index)
#define blockIdx (emulator::self->block->index)
#define blockDim (emulator::self->block->size)
#define gridDim (emulator::self->block->grid)

constexpr int warpSize = 32;

using std::fmax;
using std::fmin;
using std::max;
using std::min;

namespace emulator {

// The values that the lanes of a mask exchange.
template <class T>
class Values {
 public:
  Values(unsigned mask, const T& mine, const char* what, Site site) : mask_(mask), what_(what), site_(site) {
    static_assert(sizeof(T) <= sizeof(Slot));
    Slot slot = {};
    std::memcpy(&slot, &mine, sizeof(T));
    slots_ = meet_warp(mask, slot, false, what, site);
  }

  T of(int lane) const {
    if ((mask_ >> lane & 1) == 0)
      fail("%s at %s:%d reads from lane %d, which isn't in the mask %#x", what_, site_.file, site_.line, lane, mask_);
    T value;
    std::memcpy(&value, &slots_[lane], sizeof(T));
    return value;
  }

  template <class Function>
  void each(Function function) const {
    for (int lane = 0; lane < 32; ++lane)
      if (mask_ >> lane & 1) function(lane, of(lane));
  }

 private:
  unsigned mask_;
  const char* what_;
  Site site_;
  const Slot* slots_;
};

template <class T, class Lane>
T shuffle(unsigned mask, T value, const char* what, Site site, Lane from) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) >= 4 || std::is_same_v<T, bool>), "what CUDA shuffles");
  return Values<T>(mask, value, what, site).of(from(self->lane()));
}

template <class T, class Function>
T reduce(unsigned mask, T value, const char* what, Site site, Function function) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>, "what CUDA reduces");
  Values<T>(mask, value, what, site).each([&](int lane, T other) {
    if (lane != self->lane()) value = function(value, other);
  });
  return value;
}

// Keeps the type of a second argument from choosing the function.
template <class T>
struct As {
  using Type = T;
};

template <class T, class... Types>
constexpr bool is_one_of = (std::is_same_v<T, Types> || ...);

// Atomic, but relaxed: it orders no other accesses.
template <class T, class Function>
T update(T* at, Function function) {
  T old, next;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  do {
    next = function(old);
  } while (!__atomic_compare_exchange(at, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emulator

inline void __syncthreads(emulator::Site site = emulator::Site::here()) { emulator::meet_block("__syncthreads", site); }

inline void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::Site::here()) {
  emulator::meet_warp(mask, {}, true, "__syncwarp", site);
}

inline void __threadfence() { emulator::fence(); }
inline void __threadfence_block() { emulator::fence(); }

// With a width, each part of that many lanes works like a warp. A lane that would read beyond its part reads itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, "__shfl_sync", site,
                           [=](int lane) { return (lane & -width) | (from & (width - 1)); });
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, "__shfl_xor_sync", site, [=](int lane) {
    const int from = lane ^ bits;
    return from <= (lane | (width - 1)) ? from : lane;
  });
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, "__shfl_down_sync", site, [=](int lane) {
    const int from = lane + static_cast<int>(by);
    return from <= (lane | (width - 1)) ? from : lane;
  });
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, "__shfl_up_sync", site, [=](int lane) {
    const int from = lane - static_cast<int>(by);
    return from >= (lane & -width) ? from : lane;
  });
}

inline unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  unsigned lanes = 0;
  emulator::Values<int>(mask, predicate, "__ballot_sync", site).each([&](int lane, int value) {
    lanes |= static_cast<unsigned>(value != 0) << lane;
  });
  return lanes;
}

inline int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return __ballot_sync(mask, predicate, site) != 0;
}

inline int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return __ballot_sync(mask, predicate, site) == mask;
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value, emulator::Site site = emulator::Site::here()) {
  unsigned lanes = 0;
  emulator::Values<T>(mask, value, "__match_any_sync", site).each([&](int lane, T other) {
    lanes |= static_cast<unsigned>(std::memcmp(&other, &value, sizeof(T)) == 0) << lane;
  });
  return lanes;
}

template <class T>
T __reduce_add_sync(unsigned mask, T value, emulator::Site site = emulator::Site::here()) {
  return emulator::reduce(mask, value, "__reduce_add_sync", site,
                          [](T a, T b) { return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); });
}

template <class T>
T __reduce_min_sync(unsigned mask, T value, emulator::Site site = emulator::Site::here()) {
  return emulator::reduce(mask, value, "__reduce_min_sync", site, [](T a, T b) { return std::min(a, b); });
}

template <class T>
T __reduce_max_sync(unsigned mask, T value, emulator::Site site = emulator::Site::here()) {
  return emulator::reduce(mask, value, "__reduce_max_sync", site, [](T a, T b) { return std::max(a, b); });
}

template <class T>
T atomicAdd(T* at, typename emulator::As<T>::Type value) {
  static_assert(emulator::is_one_of<T, int, unsigned, unsigned long long, float, double>, "what CUDA adds");
  return emulator::update(at, [=](T old) {
    if constexpr (std::is_same_v<T, int>)
      return static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value));
    else
      return old + value;
  });
}

template <class T>
T atomicMin(T* at, typename emulator::As<T>::Type value) {
  static_assert(emulator::is_one_of<T, int, unsigned, long long, unsigned long long>, "what CUDA compares");
  return emulator::update(at, [=](T old) { return std::min(old, value); });
}

template <class T>
T atomicMax(T* at, typename emulator::As<T>::Type value) {
  static_assert(emulator::is_one_of<T, int, unsigned, long long, unsigned long long>, "what CUDA compares");
  return emulator::update(at, [=](T old) { return std::max(old, value); });
}

template <class T>
T atomicExch(T* at, typename emulator::As<T>::Type value) {
  static_assert(emulator::is_one_of<T, int, unsigned, unsigned long long, float>, "what CUDA exchanges");
  return emulator::update(at, [=](T) { return value; });
}

template <class T>
T atomicCAS(T* at, typename emulator::As<T>::Type expected, typename emulator::As<T>::Type value) {
  static_assert(emulator::is_one_of<T, int, unsigned, unsigned long long>, "what CUDA exchanges");
  return emulator::update(at, [=](T old) { return old == expected ? value : old; });
}

template <class T>
T __ldg(const T* at) {
  return *at;
}

inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float __uint_as_float(unsigned bits) { return __int_as_float(static_cast<int>(bits)); }
inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(__float_as_int(x)); }

// Rounded once and never contracted; the compiler's flags ensure that for all arithmetic here.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
// Values beyond int become the nearest int; NaN becomes 0.
inline int __float2int_rn(float x) {
  if (std::isnan(x)) return 0;
  if (std::fabs(x) >= 0x1p31f) return x < 0 ? INT_MIN : INT_MAX;
  return static_cast<int>(std::nearbyint(x));
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __vimin3_s32(int a, int b, int c) { return std::min(std::min(a, b), c); }

inline int __dp4a(int a, int b, int c) {
  unsigned total = static_cast<unsigned>(c);
  for (int i = 0; i < 32; i += 8)
    total += static_cast<unsigned>(static_cast<signed char>(a >> i) * static_cast<signed char>(b >> i));
  return static_cast<int>(total);
}

// Four of the eight bytes of a (0 to 3) and b (4 to 7), named by four digits of `which`; adding 8 repeats the byte's
// sign.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const uint64_t both = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned name = which >> 4 * i & 15, byte = static_cast<unsigned>(both >> 8 * (name & 7)) & 255;
    result |= (name < 8 ? byte : byte >> 7 ? 255u : 0u) << 8 * i;
  }
  return result;
}

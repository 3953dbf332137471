// Rows of a type that is known at run time, eight neighbouring values at a time.
#pragma once

#include <type_traits>

#include "number.cuh"

namespace unitok {

// Calls f with the rows' data as a pointer to their type.
template <class F>
__device__ void with_rows(const Rows& rows, const F& f) {
  if (rows.type == Float::f32)
    f(static_cast<const float*>(rows.data));
  else if (rows.type == Float::f16)
    f(static_cast<const F16*>(rows.data));
  else
    f(static_cast<const BF16*>(rows.data));
}

// Eight neighbouring values of a row. The first `there` exist; the others become zeros.
template <class T>
__device__ void load_eight(const T* from, int there, bool in_packs, float* to) {
  Pack<T, kPack<T>> loaded[8 / kPack<T>] = {};
  if (in_packs && there >= 8) {
#pragma unroll
    for (int i = 0; i < 8 / kPack<T>; ++i) loaded[i] = load_vector<Pack<T, kPack<T>>>(from + kPack<T> * i);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < there) loaded[i / kPack<T>].values[i % kPack<T>] = from[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = widen(loaded[i / kPack<T>].values[i % kPack<T>]);
}

template <class T>
__device__ void store_eight(T* to, int there, bool in_packs, const float* from) {
  Pack<T, kPack<T>> rounded[8 / kPack<T>];
#pragma unroll
  for (int i = 0; i < 8; ++i) narrow(from[i], rounded[i / kPack<T>].values[i % kPack<T>]);
  if (in_packs && there >= 8) {
#pragma unroll
    for (int i = 0; i < 8 / kPack<T>; ++i) store_vector(to + kPack<T> * i, rounded[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < there) to[i] = rounded[i / kPack<T>].values[i % kPack<T>];
    }
  }
}

}  // namespace unitok

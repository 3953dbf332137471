// CUDA for g++: what csrc/cuda/platform.cuh includes with UNITOK_EMULATED, so that kernels run on a CPU.
//
//   emulator.h      blocks, threads, and how these wait for each other
//   builtins.h      the functions of CUDA that kernels call
//   instructions.h  twins of the functions of platform.cuh
//   warpgroup.h     those that only sm_90a has
//   runtime.h       what launchers call
#pragma once

#include "builtins.h"
#include "instructions.h"
#include "runtime.h"
#include "warpgroup.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

#define UNITOK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::emulator::launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__), ::unitok::check(cudaGetLastError())

#define UNITOK_SHARED(T, name) T* const name = static_cast<T*>(::emulator::shared_memory(nullptr, 0))

// The array itself: its size is known, so that UndefinedBehaviorSanitizer holds an index to it.
#define UNITOK_STATIC_SHARED(T, name, extent) \
  using Shared_##name = T extent;             \
  static const char declaration_##name = 0;   \
  Shared_##name& name =                       \
      *static_cast<Shared_##name*>(::emulator::shared_memory(&declaration_##name, sizeof(Shared_##name)))

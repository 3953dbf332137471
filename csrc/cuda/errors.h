// Errors of the CUDA runtime; the bindings write the message.
#pragma once

#ifdef UNITOK_EMULATED
#include "cuda_emulator.h"
#else
#include <cuda_runtime.h>
#endif

namespace unitok {

struct CudaError {
  cudaError_t code;
};

inline void check(cudaError_t code) {
  if (code != cudaSuccess) throw CudaError{code};
}

}  // namespace unitok

// What the runtime has to say of a launch, for the bindings to word.
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

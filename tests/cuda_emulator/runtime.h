// The part of CUDA's runtime that launchers call, with two devices whose memory is the host's. Streams work at once.
#pragma once

#include <cstddef>

#include "emulator.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
using cudaStream_t = struct CUstream_st*;

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();  // and clears it
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t stream = nullptr);

namespace emulator {

constexpr int kDevices = 2, kMultiprocessors = 3;
constexpr std::size_t kSharedBytes = std::size_t{48} << 10;  // of a launch that doesn't ask for more

cudaError_t allow_shared_bytes(const void* kernel, int bytes);

// Runs the kernel, or sets the last error if a device would refuse it.
void launch_or_refuse(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                      const std::function<void()>& body);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t,
            Arguments... arguments) {
  launch_or_refuse(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, [=] { kernel(arguments...); });
}

}  // namespace emulator

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  return emulator::allow_shared_bytes(reinterpret_cast<const void*>(kernel), bytes);
}

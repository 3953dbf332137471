#include "runtime.h"

#include <cstring>
#include <map>
#include <mutex>

namespace emulator {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

std::mutex mutex;
std::map<const void*, std::size_t> asked_for;  // the dynamic shared memory that was asked for, by kernel

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

std::size_t shared_bytes_asked_for(const void* kernel) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = asked_for.find(kernel);
  return found == asked_for.end() ? 0 : found->second;
}

}  // namespace

cudaError_t allow_shared_bytes(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<std::size_t>(bytes) > settings.shared_bytes) return remember(cudaErrorInvalidValue);
  const std::lock_guard<std::mutex> lock(mutex);
  asked_for[kernel] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

void launch_or_refuse(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                      const std::function<void()>& body) {
  const bool any = grid.x > 0 && grid.y > 0 && grid.z > 0 && block.x > 0 && block.y > 0 && block.z > 0;
  const bool small_grid = grid.x <= 0x7fffffff && grid.y <= 0xffff && grid.z <= 0xffff;
  const bool small_block = block.x <= 1024 && block.y <= 1024 && block.z <= 64 && block.x * block.y * block.z <= 1024;
  const std::size_t asked = shared_bytes_asked_for(kernel);
  if (!any || !small_grid || !small_block) {
    remember(cudaErrorInvalidConfiguration);
  } else if (shared_bytes > std::max(asked, kSharedBytes)) {
    remember(cudaErrorInvalidValue);
  } else {
    run({grid, block, shared_bytes, asked > kSharedBytes ? settings.shared_bytes : kSharedBytes}, body);
  }
}

}  // namespace emulator

using namespace emulator;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = kMultiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(settings.shared_bytes); break;
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return cudaPeekAtLastError(); }

cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t) {
  std::memset(to, byte, bytes);
  return cudaSuccess;
}

// The launch of a search on the current device.
#pragma once

#include "chain.cuh"

namespace unitok {

struct Device {
  int processors, shared_bytes, capability;  // as in sm_90
};

inline Device this_device() {
  int device = 0, minor = 0;
  Device found{};
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&found.processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&found.capability, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  found.capability = 10 * found.capability + minor;
  return found;
}

template <int Width, class Unit>
void launch(const Rows& rows, const Chains* chains, int count, bool exact, bool stats, cudaStream_t stream) {
  const Device device = this_device();
  const auto room = room_for<Width>(chains, count, device.shared_bytes, Unit::kTile);
  const bool whole = rows.width % 8 == 0 && in_packs<uint16_t>(rows.width, rows.data, chains[0].quantized);
  const EncodeCall call{rows, {chains[0], chains[count - 1]}, exact, stats, whole};
  const auto kernel = encode<Width, Unit>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(room.bytes())));
  UNITOK_LAUNCH(kernel, dim3(device.processors, count), 32 * kWarps<Width>, room.bytes(), stream, call, room);
  check(cudaGetLastError());
}

}  // namespace unitok

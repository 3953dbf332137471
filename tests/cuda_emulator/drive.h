// What the drivers of kernels share. A driver is a program: it calls a launcher of csrc/cuda on data of awkward shapes
// and compares the results with a plain loop in float64.
//
//   int main(int count, char** arguments) {
//     in_every_order(effort(count, arguments), [](Effort effort) {
//       Array<float> out(100);
//       CHECK(launcher(..., out.data(), ..., nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
//       ... CHECK(out[i] == expected[i]) ...
//     });
//   }
//
// Compiled by nvcc, the same programs run on a device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "platform.cuh"

// Memory of a device, of exactly `count` values, so that AddressSanitizer reports accesses beyond. Poisoned at first:
// that shows values that a kernel doesn't write or reads too early.
template <class T>
class Array {
 public:
  explicit Array(int64_t count) : count_(static_cast<std::size_t>(count)) {
    void* data = nullptr;
#ifdef UNITOK_EMULATED
    CHECK(posix_memalign(&data, 256, count_ * sizeof(T)) == 0);
    emulator::poison(data, count_ * sizeof(T));
#else
    CHECK(cudaMallocManaged(&data, std::max(count_, std::size_t{1}) * sizeof(T)) == cudaSuccess);
    std::memset(data, 0xff, count_ * sizeof(T));
#endif
    data_ = static_cast<T*>(data);
  }
  explicit Array(const std::vector<T>& values) : Array(static_cast<int64_t>(values.size())) {
    std::copy(values.begin(), values.end(), data_);
  }
  ~Array() {
#ifdef UNITOK_EMULATED
    std::free(data_);
#else
    cudaFree(data_);
#endif
  }
  Array(const Array&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return static_cast<int64_t>(count_); }
  std::vector<T> values() const { return {data_, data_ + count_}; }

 private:
  std::size_t count_;
  T* data_;
};

inline Effort effort(int count, char** arguments) { return {count > 1 && std::string(arguments[1]) == "quick"}; }

// Once with the threads in order, once in reverse, and a few times at random; on a device once, in its own order.
template <class Body>
void in_every_order(Effort effort, Body body) {
#ifdef UNITOK_EMULATED
  const auto run = [&](emulator::Order order, uint64_t seed, const char* name) {
    emulator::settings.order = order;
    emulator::settings.seed = seed;
    context = std::string("threads ") + name + ", seed " + std::to_string(seed);
    body(effort);
  };
  run(emulator::Order::forward, 0, "in order");
  run(emulator::Order::reverse, 0, "in reverse");
  for (uint64_t seed = 0; seed < (effort.quick ? 1 : 4); ++seed) run(emulator::Order::random, seed, "at random");
#else
  context = "a device";
  body(effort);
#endif
}

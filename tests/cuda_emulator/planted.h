// What the planted faults share.
#pragma once

#include "drive.h"

struct Fault {
  const char* name;
  void (*run)(bool right);
  const char* plainly;    // the message without a sanitizer; null: none
  const char* by_memory;  // by AddressSanitizer and UndefinedBehaviorSanitizer; null: the same
  const char* by_thread;  // by ThreadSanitizer; null: the same
};

constexpr char kWrong[] = "fails with", kStuck[] = "stuck", kMisaligned[] = "isn't a multiple of 16",
               kRefused[] = "unitok::CudaError", kOverrun[] = "heap-buffer-overflow", kRace[] = "data race";

std::vector<Fault> faults_of_order();       // planted_order.cpp
std::vector<Fault> faults_of_memory();      // planted_memory.cpp
std::vector<Fault> faults_of_warpgroups();  // planted_warpgroup.cpp

constexpr int kThreads = 64;

inline void launched() { CHECK(cudaGetLastError() == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess); }

// Runs one block; each thread writes a value.
inline std::vector<int> run(void (*kernel)(int*, bool), int threads, bool right) {
  Array<int> out(threads);
  UNITOK_LAUNCH(kernel, 1, threads, 0, nullptr, out.data(), right);
  launched();
  return out.values();
}

template <class Expected>
void check_each(const std::vector<int>& found, Expected expected) {
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i] == expected(static_cast<int>(i)));
}

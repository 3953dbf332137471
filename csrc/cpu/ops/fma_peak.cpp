#ifndef UNITOK_ISA

#include "api/fma_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "runtime/memory.h"
#include "runtime/parallel.h"

#define UNITOK_SOURCE "ops/fma_peak.cpp"
#include "simd/each_isa.h"

namespace unitok {

double fma_peak(int threads) { UNITOK_DISPATCH(fma_peak(threads)); }

}  // namespace unitok

#else

#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

// Twelve chains hide the latency of two units on every x86 of the last ten years, and fit AVX2's sixteen registers.
constexpr int kChains = 12, kSteps = 2048, kTasksPerThread = 256;
constexpr double kSeconds = 0.01;

inline V run_chains(V factor, V term) {
  V chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = splat(static_cast<float>(c));
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = fma(chain[c], factor, term);
  }
  V total = zero();
  for (int c = 0; c < kChains; ++c) total = add(total, chain[c]);
  return total;
}

double fma_peak(int threads) {
  using Clock = std::chrono::steady_clock;
  const int64_t tasks = static_cast<int64_t>(kTasksPerThread) * threads;
  Buffer<float> results(tasks * kLanes);  // written, so that the compiler drops no chain
  double best = 0, spent = 0;
  for (int batch = 0; spent < kSeconds; ++batch) {
    const Clock::time_point start = Clock::now();
    parallel(tasks, threads, [&](int64_t task, int) {
      const V total = run_chains(splat(0.5f), splat(static_cast<float>(task + batch)));  // converges to 2 x the term
      store(results.data() + task * kLanes, total);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    spent += seconds;
    best = std::max(best, 2e-9 * kLanes * kChains * kSteps * static_cast<double>(tasks) / seconds);
  }
  return best;
}

}  // namespace unitok::UNITOK_ISA

#endif

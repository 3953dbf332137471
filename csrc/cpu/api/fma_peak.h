// How fast this machine multiplies and adds: what the benchmarks compare the kernels with.
#pragma once

namespace unitok {

// Float32 GFLOP/s of independent FMA chains in registers, on the instruction set in use and `threads` threads: the
// best of several short batches, about 10 ms in all. A fused multiply-add counts as two operations.
double fma_peak(int threads);

}  // namespace unitok

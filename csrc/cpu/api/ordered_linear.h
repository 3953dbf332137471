// A linear layer whose sums have one order, whatever the batch, the instruction set and the number of threads.
#pragma once

#include <cstdint>

namespace unitok {

// A contiguous matrix of float32 or float64 values.
struct Matrix {
  const void* data;
  bool wide;  // float64
  int64_t rows, width;

  const void* row(int64_t i) const { return static_cast<const char*>(data) + i * width * (wide ? 8 : 4); }
};

// y = x W^T + b in double precision, clamped at 0 from below where `relu`; x (N, I), weight (O, I), bias (O) -> y (N,
// O).
//
// y_no is the sum of 8 chains plus b_o: chain j takes the features j, j + 8, ... in turn, one fused multiply-add each
// from 0 on, and the chains are added as (((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))). It doesn't depend on other rows.
void ordered_linear(const Matrix& x, const Matrix& weight, const double* bias, bool relu, double* y, int threads);

}  // namespace unitok

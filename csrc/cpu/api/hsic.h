// The Hilbert-Schmidt independence criterion of segments of rows, and its gradient.
#pragma once

#include <cstdint>

namespace unitok {

struct HsicOptions {
  double bandwidth = 0;  // sigma of both kernels; 0: the median positive distance of each
  bool normalised = false;
  int threads = 1;
};

// x (N, x_width), z (N, z_width), segments (N) -> values (num_segments), and unless it is null, pull (N, z_width): the
// gradient of a segment's value by each of its rows of z, for constant bandwidths. Rows that aren't finite or have no
// segment are left out and get zeros. Returns whether there were any.
bool hsic(const float* x, int64_t x_width, const float* z, int64_t z_width, const int64_t* segments, int64_t rows,
          int64_t num_segments, float* values, float* pull, const HsicOptions& options);

}  // namespace unitok

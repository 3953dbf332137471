// A codebook as the tensor cores take it: two int8 digits of each value about a centre, and the values in float32.
//
// The search of row r works with r' = r - m and c' = c - m for a centre m, near the codewords' mean. Both are rounded
// to whole multiples of a step, R and C of at most 127 * 256 + 127 steps, and written in two digits, R = 256 H + L.
// With steps s and t, in units of 256 s t, the score |c'|^2 / 2 - r'.c' is nearly the integer
//
//     B - (256 H.H + H.L + L.H),    B = |c'|^2 / (512 s t), rounded,
//
// which takes three products of int8 and no rounding on the way. It is off by at most
//
//     (0.51 (|C|_1 + D + sqrt(D) |r'| / s + D) + |L_r| |L_c|) / 256 + 1 + 2^-21 |c'|^2 / (512 s t):
//
// half a step of each value (0.01 of it for the differences r - m and c - m, themselves rounded), the product of low
// digits, which is left out, and the rounding of B. Terms of the row are its own; those of the codebook its largest.
// The rows that a warp searches together have one step: that of the largest |r'|, or larger, so that B is below 2^29.
// Then every score is within 2^30.
#pragma once

#include <cstdint>

#include "platform.cuh"

namespace unitok {

constexpr float kSteps = 127 * 256 + 127;
constexpr float kMostBias = 1 << 29;

// The codebook's terms of the bound and of the rows' step.
struct alignas(16) Limits {
  float half;      // the largest |c'|^2 / (512 t)
  float absolute;  // the largest |C|_1
  float low;       // the largest |L_c|
  float per_step;  // 1 / t
};

// Where the parts of a packed codebook (K, D) are, in bytes from its start.
struct PackedLayout {
  __host__ __device__ PackedLayout(int codewords, int width)
      : width((width + 31) / 32 * 32 == 96 ? 128 : (width + 31) / 32 * 32), codewords((codewords + 63) / 64 * 64) {}

  int width;      // padded by zeros to 32, 64 or 128
  int codewords;  // padded to 64s by codewords that are never nearest

  __host__ __device__ int64_t centre() const { return 0; }                                  // (width,) float
  __host__ __device__ int64_t limits() const { return 4 * width; }                          // Limits
  __host__ __device__ int64_t halves() const { return limits() + 128; }                     // (codewords,) float
  __host__ __device__ int64_t digits() const { return halves() + 4 * int64_t{codewords}; }  // see digits_of
  __host__ __device__ int64_t values() const { return digits() + 2 * int64_t{codewords} * width; }  // float, as digits
  __host__ __device__ int64_t bytes() const { return values() + 4 * int64_t{codewords} * width; }
};

// One packed codebook, as a kernel reads it.
class Book {
 public:
  __device__ Book(const unsigned char* data, const PackedLayout& layout) : data_(data), layout_(layout) {}

  __device__ __forceinline__ const float* values() const {
    return reinterpret_cast<const float*>(data_ + layout_.values());
  }
  __device__ __forceinline__ Limits limits() const { return load_vector<Limits>(data_ + layout_.limits()); }
  __device__ __forceinline__ float half(int codeword) const {
    return load_vector<float>(data_ + layout_.halves() + 4 * codeword);
  }
  __device__ __forceinline__ void centre(int column, float (&to)[4]) const {  // of four columns
    const auto centre = load_vector<float4>(data_ + layout_.centre() + 4 * column);
    to[0] = centre.x, to[1] = centre.y, to[2] = centre.z, to[3] = centre.w;
  }

 private:
  const unsigned char* const data_;
  const PackedLayout& layout_;
};

// Where a value's high digit is; its low digit comes kLow later. Eight codewords and 32 columns make 512 bytes, which
// are four matrices of eight rows of 16 bytes, one row for each codeword, as tensor cores take them. Word t of a row
// has columns 8 t to 8 t + 3 in the first matrix and 8 t + 4 to 8 t + 7 in the second: a product adds up columns in any
// order, as long as rows and codewords agree on it. The other two have the low digits. The columns come first, then the
// codewords.
constexpr int kMatrix = 128, kLow = 2 * kMatrix;  // bytes
__host__ __device__ inline int64_t digits_of(int codeword, int column, int width) {
  const int in_row = column % 32 / 8 * 4 + column % 4;
  return (int64_t{codeword} / 8 * (width / 32) + column / 32) * 512 + column % 8 / 4 * kMatrix + codeword % 8 * 16 +
         in_row;
}

}  // namespace unitok

// The floating-point types of inputs and outputs, and conversions of single values.
#pragma once

#include <cstdint>
#include <cstring>

namespace unitok {

enum class Float : int { f32 = 0, f16 = 1, bf16 = 2 };

constexpr int64_t size_of(Float type) { return type == Float::f32 ? 4 : 2; }

// A contiguous (count, width) matrix that the caller owns.
struct Rows {
  const void* data;
  Float type;
  int64_t count, width;

  const char* row(int64_t i) const { return static_cast<const char*>(data) + i * width * size_of(type); }
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline double double_of(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}

inline float from_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

inline uint16_t to_bf16(float x) {  // to nearest, ties to even
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_f16(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16, rest = x & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest >= 0x400) return float_of(sign | ((rest << 13) + (112u << 23)));
  const float magnitude = static_cast<float>(rest) * 0x1p-24f;  // denormal or zero: exact
  return sign ? -magnitude : magnitude;
}

inline uint16_t to_f16(float x) {  // to nearest, ties to even
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (rest >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds beyond 65504
  if (rest < 0x38800000) {  // denormal in half: adding 1/2 rounds to a multiple of 2^-24
    return static_cast<uint16_t>(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000));
  }
  return static_cast<uint16_t>(sign | ((rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13));
}

}  // namespace unitok

// What the native tests share.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "simd/number.h"

// What is being checked, for the message of a failure. Set it in every loop.
inline std::string context;

#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      std::fprintf(stderr, "%s:%d: %s\n  fails with %s\n", __FILE__, __LINE__, #condition, context.c_str()); \
      std::abort();                                                                                          \
    }                                                                                                        \
  } while (false)

// A quick run leaves out most sizes and repeats less, for CI.
struct Effort {
  bool quick;
  int repeats(int full) const { return quick ? full / 10 + 1 : full; }
};

// Memory of exactly the size that an operation may touch, so that AddressSanitizer reports one value more.
using Bytes = std::vector<char>;

inline std::vector<float> random_floats(int64_t count, uint64_t seed, float scale = 1) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

inline float read_value(const Bytes& bytes, unitok::Float type, int64_t index) {
  const char* at = bytes.data() + index * unitok::size_of(type);
  if (type == unitok::Float::f32) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, at, 2);
  return type == unitok::Float::f16 ? unitok::from_f16(half) : unitok::from_bf16(half);
}

// The values as an operation takes them, rounded to the type.
inline Bytes as_type(const std::vector<float>& values, unitok::Float type) {
  Bytes bytes(values.size() * static_cast<std::size_t>(unitok::size_of(type)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = type == unitok::Float::f16 ? unitok::to_f16(values[i]) : unitok::to_bf16(values[i]);
    if (type == unitok::Float::f32)
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    else
      std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

void check_addresses();             // huge.cpp
void check_huge();                  // huge.cpp, calls beyond 2^33 values: some seconds each, without a sanitizer
void check_pool(Effort effort);     // pool.cpp
void check_vectors(Effort effort);  // vectors.cpp, on every instruction set

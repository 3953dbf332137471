// How a matrix unit multiplies and adds: int8 exactly, floating point with what it cuts off.
#include <cmath>

#include "instructions.h"

namespace emulator {
namespace {

// The value of a double's bit that is so many below its leading one; powers of two down to 2^-400 have an inverse.
double place_of(double x, int bits) {
  int exponent;
  std::frexp(x, &exponent);
  return std::ldexp(1.0, std::max(exponent - 1 - bits, -400));
}

double cut_off(double x, double place) { return static_cast<double>(static_cast<int64_t>(x / place)) * place; }

// Products of float16, bfloat16 or tf32 values are exact in double, and so is the sum of what is left of them.
float add_products(float start, const float* a, const float* b, int count, int operand_bytes) {
  const int step = settings.unit.bytes / operand_bytes, bits = settings.unit.bits;
  double total = static_cast<double>(start);
  for (int first = 0; first < count; first += step) {
    double products[16], largest = std::fabs(total), plain = total;
    for (int i = 0; i < step; ++i) {
      products[i] = static_cast<double>(a[first + i]) * static_cast<double>(b[first + i]);
      largest = std::max(largest, std::fabs(products[i]));
      plain += products[i];
    }
    if (!std::isfinite(plain)) return static_cast<float>(plain);
    if (largest == 0) continue;
    const double place = place_of(largest, bits);
    total = cut_off(total, place);
    for (int i = 0; i < step; ++i) total += cut_off(products[i], place);
    if (total != 0) total = cut_off(total, std::max(place_of(total, 23), 0x1p-149));
    if (std::fabs(total) >= 0x1p128) return static_cast<float>(total);
  }
  return static_cast<float>(total);
}

}  // namespace

int32_t dot_s8(int32_t total, const Words& words) {
  for (int word = 0; word < 8; ++word)
    total = __dp4a(static_cast<int>(words.a[word]), static_cast<int>(words.b[word]), total);
  return total;
}

float dot_bf16(float total, const Words& words) {
  float a[16], b[16];
  for (int word = 0; word < 8; ++word) {
    for (int half = 0; half < 2; ++half) {
      a[2 * word + half] = unitok::from_bf16(static_cast<uint16_t>(words.a[word] >> 16 * half));
      b[2 * word + half] = unitok::from_bf16(static_cast<uint16_t>(words.b[word] >> 16 * half));
    }
  }
  return add_products(total, a, b, 16, 2);
}

// Lower bits of the words aren't read.
float dot_tf32(float total, const Words& words) {
  float a[8], b[8];
  for (int word = 0; word < 8; ++word) {
    a[word] = unitok::float_of(words.a[word] & ~0x1fffu);
    b[word] = unitok::float_of(words.b[word] & ~0x1fffu);
  }
  return add_products(total, a, b, 8, 4);
}

}  // namespace emulator

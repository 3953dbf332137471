// vec.h against plain C++, once for each instruction set: the conversions of all 2^16 halves both ways, the parts of a
// vector, and each operation that must be the same on all sets.
#ifndef UNITOK_ISA

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "simd/isa.h"
#include "simd/number.h"

namespace unitok {
namespace {

// Half precision by its definition, in double precision: independent of number.h.
double half_value(uint32_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const double magnitude = exponent == 0   ? std::ldexp(mantissa, -24)
                           : exponent < 31 ? std::ldexp(1024 + mantissa, exponent - 25)
                           : mantissa == 0 ? HUGE_VAL
                                           : NAN;
  return half & 0x8000 ? -magnitude : magnitude;
}

bool same(float a, float b) { return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b)); }

bool is_nan(uint16_t half, Float type) { return std::isnan(type == Float::f16 ? from_f16(half) : from_bf16(half)); }

uint16_t to_half(float x, Float type) { return type == Float::f16 ? to_f16(x) : to_bf16(x); }

// Every half, and the floats around the midpoint between it and the next one.
void check_numbers() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    context = "half " + std::to_string(bits);
    const uint16_t half = static_cast<uint16_t>(bits);
    CHECK(same(from_f16(half), static_cast<float>(half_value(bits))));
    CHECK(bits_of(from_bf16(half)) == bits << 16);
    for (Float type : {Float::f16, Float::bf16}) {
      const float value = type == Float::f16 ? from_f16(half) : from_bf16(half);
      if (std::isnan(value)) {
        CHECK(is_nan(to_half(value, type), type));
        continue;
      }
      CHECK(to_half(value, type) == half);
      const uint32_t last = type == Float::f16 ? 0x7bff : 0x7f7f;  // the largest finite one
      if ((bits & 0x7fff) > last) continue;
      const uint16_t next = static_cast<uint16_t>(half + 1);
      const bool overflows = (bits & 0x7fff) == last;  // its neighbour would be the next power of two
      const double here = type == Float::f16 ? half_value(bits) : static_cast<double>(value);
      const double there = overflows            ? std::copysign(std::ldexp(1.0, type == Float::f16 ? 16 : 128), here)
                           : type == Float::f16 ? half_value(next)
                                                : static_cast<double>(from_bf16(next));
      const float middle = static_cast<float>((here + there) / 2);  // exact in float32
      const float below = std::nextafter(middle, 0.0f),
                  above = std::nextafter(middle, std::copysign(HUGE_VALF, middle));
      CHECK(to_half(below, type) == half);
      CHECK(to_half(above, type) == next);
      CHECK(to_half(middle, type) == (half % 2 == 0 ? half : next));
    }
  }
}

}  // namespace
}  // namespace unitok

#define UNITOK_SOURCE "vectors.cpp"
#include "simd/each_isa.h"

void check_vectors(Effort) {
  unitok::check_numbers();
  for (const std::string& set : unitok::available_isas()) {
    unitok::use_isa(set);
    context = "vec.h on " + set;
    [] { UNITOK_DISPATCH(check_vectors()); }();
  }
}

#else

#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

inline void conversions() {
  std::vector<uint16_t> halves(0x10000);
  std::iota(halves.begin(), halves.end(), uint16_t{0});
  const char* const bytes = reinterpret_cast<const char*>(halves.data());
  std::vector<float> wide(halves.size());
  for (Float type : {Float::f16, Float::bf16}) {
    widen(bytes, type, 0x10000, wide.data());
    for (uint32_t i = 0; i < 0x10000; ++i) {
      const uint16_t half = static_cast<uint16_t>(i);
      CHECK(same(wide[i], type == Float::f16 ? from_f16(half) : from_bf16(half)));
    }
    // And back: the values themselves, and floats whose low bits are rounded away or carry.
    for (uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      std::vector<float> some(wide);
      for (float& value : some) value = float_of(bits_of(value) + low);
      std::vector<uint16_t> back(some.size());
      narrow(some.data(), type, 0x10000, reinterpret_cast<char*>(back.data()));
      for (std::size_t i = 0; i < some.size(); ++i)
        CHECK(back[i] == to_half(some[i], type) || (std::isnan(some[i]) && is_nan(back[i], type)));
    }
  }
}

// Any count: nothing beyond is read (the sanitizers check) or written, and the other lanes are zero.
inline void parts() {
  for (Float type : {Float::f32, Float::f16, Float::bf16}) {
    for (int64_t count = 1; count <= 3 * kLanes + 1; ++count) {
      const std::vector<float> values = random_floats(count, static_cast<uint64_t>(count));
      const Bytes bytes = as_type(values, type);
      std::vector<float> wide(static_cast<std::size_t>(count));
      widen(bytes.data(), type, count, wide.data());
      for (int64_t i = 0; i < count; ++i) CHECK(same(wide[static_cast<std::size_t>(i)], read_value(bytes, type, i)));
      Bytes back(bytes.size());
      narrow(wide.data(), type, count, back.data());
      CHECK(back == bytes);
      if (count > kLanes) continue;
      float lanes[kLanes];
      store(lanes, load_part(bytes.data(), type, static_cast<int>(count)));
      for (int i = 0; i < kLanes; ++i) CHECK(same(lanes[i], i < count ? read_value(bytes, type, i) : 0.0f));
      if (type != Float::f32) continue;
      std::vector<float> written(static_cast<std::size_t>(count));
      store_first(written.data(), load_first(values.data(), static_cast<int>(count)), static_cast<int>(count));
      CHECK(written == values);
    }
  }
}

inline void arithmetic() {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> a = random_floats(kLanes, seed), b = random_floats(kLanes, seed + 1000),
                             c = random_floats(kLanes, seed + 2000, 1e-3f);
    const V x = load(a.data()), y = load(b.data()), z = load(c.data()), keep = splat(float_of(~uint32_t{15}));
    float total[kLanes], lowest = a[0], highest = a[0], lane[8][kLanes];
    store(lane[0], add(x, y)), store(lane[1], sub(x, y)), store(lane[2], mul(x, y)), store(lane[3], fma(x, y, z));
    store(lane[4], fnma(x, y, z)), store(lane[5], min(x, y)), store(lane[6], max(x, y)),
        store(lane[7], splice(x, y, keep));
    store(total, pick_below(x, y, z, x));
    uint32_t less = 0, no_more = 0;
    for (int i = 0; i < kLanes; ++i) {
      CHECK(same(lane[0][i], a[i] + b[i]) && same(lane[1][i], a[i] - b[i]) && same(lane[2][i], a[i] * b[i]));
      CHECK(same(lane[3][i], std::fma(a[i], b[i], c[i])) && same(lane[4][i], std::fma(-a[i], b[i], c[i])));
      CHECK(same(lane[5][i], std::min(a[i], b[i])) && same(lane[6][i], std::max(a[i], b[i])));
      CHECK(bits_of(lane[7][i]) == ((bits_of(a[i]) & ~15u) | (bits_of(b[i]) & 15u)));
      CHECK(same(total[i], a[i] < b[i] ? c[i] : a[i]));
      less |= static_cast<uint32_t>(a[i] < b[i]) << i;
      no_more |= static_cast<uint32_t>(a[i] <= b[i]) << i;
      lowest = std::min(lowest, a[i]), highest = std::max(highest, a[i]);
    }
    CHECK(below(x, y) == less && at_most(x, y) == no_more && least(x) == lowest && most(x) == highest);
    const double exact = std::accumulate(a.begin(), a.end(), 0.0);
    CHECK(std::fabs(static_cast<double>(sum(x)) - exact) < 1e-5);

    // Sums in double precision have one order on every set: this one.
    double d[8], f[8];
    for (int i = 0; i < 8; ++i)
      d[i] = static_cast<double>(a[i]) / 3, f[i] = std::fma(d[i], static_cast<double>(b[i]), d[i]);
    CHECK(sum(load8(d)) == ((d[0] + d[4]) + (d[2] + d[6])) + ((d[1] + d[5]) + (d[3] + d[7])));
    double found[8];
    store8(found, fma(load8(d), load8(b.data()), load8(d)));
    CHECK(std::equal(found, found + 8, f));
  }
}

void check_vectors() {
  conversions();
  parts();
  arithmetic();
}

}  // namespace unitok::UNITOK_ISA

#endif

// CUDA's vectors, with its alignment.
#pragma once

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define UNITOK_VECTORS(T, name)                                                 \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                            \
  struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                    \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
UNITOK_VECTORS(signed char, char)
UNITOK_VECTORS(unsigned char, uchar)
UNITOK_VECTORS(short, short)
UNITOK_VECTORS(unsigned short, ushort)
UNITOK_VECTORS(int, int)
UNITOK_VECTORS(unsigned, uint)
UNITOK_VECTORS(float, float)
UNITOK_VECTORS(double, double)
UNITOK_VECTORS(long long, longlong)
UNITOK_VECTORS(unsigned long long, ulonglong)
#undef UNITOK_VECTORS

// Compiles a kernel once an instruction set. A source that has kernels looks like this:
//
//     #ifndef UNITOK_ISA
//     #define UNITOK_SOURCE "hsic.cpp"      // itself
//     #include "each_isa.h"                 // reads the #else part once a set, each in a namespace of its own
//     namespace unitok { void hsic(...) { UNITOK_DISPATCH(hsic(...)) } }
//     #else
//     namespace unitok::UNITOK_ISA { void hsic(...) { ... V sum = zero(); ... } }
//     #endif
//
// The pragmas put the target attribute on every function of that part, so that one library runs on any processor.
// Headers that are shared by the sets (the standard library's above all) must be read before this one: an inline
// function compiled for AVX-512 here could otherwise be the one that the linker keeps for everybody.
#include <algorithm>
#include <array>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "isa.h"
#include "memory.h"
#include "number.h"
#include "parallel.h"

#if UNITOK_X86
#include <immintrin.h>
#endif

#define UNITOK_ISA generic
#define UNITOK_LEVEL 0
#include "vec.h"
#include UNITOK_SOURCE
#undef UNITOK_ISA
#undef UNITOK_LEVEL

#if UNITOK_X86

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt,bmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt,bmi")
#endif
#define UNITOK_ISA avx2
#define UNITOK_LEVEL 2
#include "vec.h"
#include UNITOK_SOURCE
#undef UNITOK_ISA
#undef UNITOK_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt,bmi,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt,bmi,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define UNITOK_ISA avx512
#define UNITOK_LEVEL 512
#include "vec.h"
#include UNITOK_SOURCE
#undef UNITOK_ISA
#undef UNITOK_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

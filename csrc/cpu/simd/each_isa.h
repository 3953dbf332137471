// Compiles a kernel once for each instruction set. A source that has kernels looks like this:
//
//     #ifndef UNITOK_ISA
//     #include "api/hsic.h"
//     #define UNITOK_SOURCE "ops/hsic.cpp"  // itself
//     #include "simd/each_isa.h"            // reads the #else part once for each set, in a namespace of its own
//     namespace unitok { void hsic(...) { UNITOK_DISPATCH(hsic(...)) } }
//     #else
//     #include "simd/vec.h"
//     namespace unitok::UNITOK_ISA { void hsic(...) { ... V sum = zero(); ... } }
//     #endif
//
// The pragmas put the target attribute on every function of the #else part, so that one library runs on any processor.
//
// Two kinds of headers may be included there, in any order. Ordinary ones have #pragma once and are read once. Those
// whose code is in namespace unitok::UNITOK_ISA are read once for each set: they have an include guard, and forget.h
// undefines all these guards after each set.
//
// No #include may depend on the level. The plain set comes first and has no target attribute: what all sets share, the
// standard library above all, is then compiled for any processor. Read first at a higher level, an inline function
// would be compiled for AVX-512, and the linker could keep that one for everybody.
#include "simd/isa.h"

#define UNITOK_ISA generic
#define UNITOK_LEVEL 0
#include UNITOK_SOURCE
#include "simd/forget.h"
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
#include UNITOK_SOURCE
#include "simd/forget.h"
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
#include UNITOK_SOURCE
#include "simd/forget.h"
#undef UNITOK_ISA
#undef UNITOK_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

// Which instruction set the kernels run on, chosen once at run time.
#pragma once

#include <string>
#include <vector>

#if (defined(__x86_64__) || defined(__amd64__)) && defined(__GNUC__)
#define UNITOK_X86 1
#else
#define UNITOK_X86 0
#endif

namespace unitok {

enum class Isa { generic, avx2, avx512 };

// The instruction set in use: what the environment variable UNITOK_CPU names, or the best that the processor has.
// Throws std::invalid_argument if UNITOK_CPU names one that is unknown or missing.
Isa isa();

// Chooses another one by name; throws as isa() does. For tests: not while a kernel runs.
void use_isa(const std::string& name);

// Names of the sets that this processor has, the plainest first.
std::vector<std::string> available_isas();

std::string isa_name(Isa isa);

// Whether the AVX-512 kernels may use VNNI's int8 products.
bool has_vnni();

}  // namespace unitok

// Calls `call` in the namespace of the instruction set in use, e.g. UNITOK_DISPATCH(hsic(x, z)).
#if UNITOK_X86
#define UNITOK_DISPATCH(call)                                  \
  switch (::unitok::isa()) {                                   \
    case ::unitok::Isa::avx512: return ::unitok::avx512::call; \
    case ::unitok::Isa::avx2: return ::unitok::avx2::call;     \
    default: return ::unitok::generic::call;                   \
  }
#else
#define UNITOK_DISPATCH(call) return ::unitok::generic::call
#endif

#include "simd/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace unitok {
namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avx512"};

bool has(Isa isa) {
#if UNITOK_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == Isa::generic;
}

Isa named(const std::string& name, const char* asked) {
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512})
    if (name == kNames[static_cast<int>(isa)] && has(isa)) return isa;
  std::string known;
  for (const auto& one : available_isas()) known += (known.empty() ? "" : ", ") + one;
  throw std::invalid_argument(std::string(asked) + " must be one of " + known + ", got '" + name +
                              "'. Leave it unset to take the best that this processor has.");
}

Isa best() {
  if (const char* forced = std::getenv("UNITOK_CPU"); forced != nullptr && *forced != '\0')
    return named(forced, "UNITOK_CPU");
  return has(Isa::avx512) ? Isa::avx512 : has(Isa::avx2) ? Isa::avx2 : Isa::generic;
}

std::atomic<int> chosen{-1};

}  // namespace

Isa isa() {
  int now = chosen.load(std::memory_order_relaxed);
  if (now < 0) chosen.store(now = static_cast<int>(best()), std::memory_order_relaxed);
  return static_cast<Isa>(now);
}

void use_isa(const std::string& name) { chosen.store(static_cast<int>(named(name, "the instruction set"))); }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512})
    if (has(isa)) names.emplace_back(isa_name(isa));
  return names;
}

std::string isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

bool has_vnni() {
#if UNITOK_X86
  static const bool found = (__builtin_cpu_init(), __builtin_cpu_supports("avx512vnni"));
  return found;
#else
  return false;
#endif
}

}  // namespace unitok

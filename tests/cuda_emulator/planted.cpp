// Kernels with a fault, which must be caught, and the same kernels without it, which must pass.
//
//   planted [quick]        runs all of them, each in a process of its own
//   planted NAME [right]   runs one with the fault, or without it
#include <cstdio>

#include "planted.h"

namespace {

std::vector<Fault> all_faults() {
  std::vector<Fault> all = faults_of_order();
  for (const auto& more : {faults_of_memory(), faults_of_warpgroups()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

const char* expected(const Fault& fault) {
#if defined(__SANITIZE_THREAD__)
  return fault.by_thread != nullptr ? fault.by_thread : fault.plainly;
#elif defined(__SANITIZE_ADDRESS__)
  return fault.by_memory != nullptr ? fault.by_memory : fault.plainly;
#else
  return fault.plainly;
#endif
}

struct Outcome {
  bool passed;
  std::string said;
};

Outcome run_alone(const char* program, const char* name, const char* right) {
  FILE* const pipe = popen((std::string(program) + " " + name + right + " 2>&1").c_str(), "r");
  CHECK(pipe != nullptr);
  std::string said;
  for (int c; (c = std::fgetc(pipe)) != EOF;) said += static_cast<char>(c);
  return {pclose(pipe) == 0, said};
}

int run_all(const char* program) {
  int kernels = 0, caught = 0, bad = 0;
  for (const Fault& fault : all_faults()) {
    ++kernels;
    const Outcome right = run_alone(program, fault.name, " right");
    if (!right.passed) std::printf("%s fails without its fault:\n%s\n", fault.name, right.said.c_str()), ++bad;
    if (expected(fault) == nullptr) continue;
    const Outcome wrong = run_alone(program, fault.name, "");
    ++caught;
    if (!wrong.passed && wrong.said.find(expected(fault)) != std::string::npos) continue;
    std::printf("%s isn't caught by '%s':\n%s\n", fault.name, expected(fault), wrong.said.c_str()), ++bad;
  }
  std::printf("%d kernels, %d with a fault to catch: %d go wrong\n", kernels, caught, bad);
  return bad != 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || std::string(arguments[1]) == "quick") return run_all(arguments[0]);
  const std::vector<Fault> all = all_faults();
  const auto asked = [&](const Fault& fault) { return std::string(fault.name) == arguments[1]; };
  const auto fault = std::find_if(all.begin(), all.end(), asked);
  CHECK(fault != all.end());
  in_every_order({true}, [&](Effort) { fault->run(count > 2); });
}

// A thread pool that sleeps when idle, survives fork, and never runs two jobs at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

namespace unitok {

// Runs body(task, worker) for task = 0 .. tasks - 1 on up to `threads` threads, the caller among them, and returns
// when all are done. Tasks are taken in order by whichever thread is free: a result must not depend on which. `worker`
// is below `threads` and differs between threads: for scratch memory. An exception in a task is thrown to the caller.
// A call from inside a task, or while another thread's job holds the pool, runs on the calling thread alone.
void parallel(int64_t tasks, int threads, const std::function<void(int64_t task, int worker)>& body);

// As long as it lives, its thread calls `ask` some 20 times a second, from check_interrupt(); what `ask` throws ends
// the call. So the bindings let Python answer Ctrl-C.
class Interruptible {
 public:
  explicit Interruptible(void (*ask)());
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  void check();

 private:
  void (*const ask_)();
  Interruptible* const outer_;
  std::chrono::steady_clock::time_point next_;
};

// Throws if the call was interrupted, on each thread that works for it. `parallel` calls it before every task; longer
// tasks and loops call it themselves, some milliseconds of work apart at the least: it reads the clock.
void check_interrupt();

constexpr int64_t kRowsPerCheck = 4096;  // for loops over rows whose work is a few codewords each

}  // namespace unitok

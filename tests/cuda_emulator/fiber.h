// A CUDA thread runs on a fiber: a stack of its own that an OS thread switches to and from. The sanitizers are told.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(UNITOK_UCONTEXT)
#define UNITOK_UCONTEXT
#endif
#ifdef UNITOK_UCONTEXT
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
 public:
  Fiber();                                      // the OS thread that calls, on the stack it has
  Fiber(void (*entry)(void*), void* argument);  // a new one; entry must not return, but leave for good
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // Goes on with `next`; returns when someone switches back to this one, which must be the one that runs.
  void switch_to(Fiber& next) { leave(next, false); }
  void leave_for_good(Fiber& next) { leave(next, true); }

 private:
  static void start();
  void leave(Fiber& next, bool for_good);
  void arrived();

  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  char* mapped_ = nullptr;       // a page that can't be touched, then the stack
  const void* stack_ = nullptr;  // as AddressSanitizer wants to know it
  std::size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;      // AddressSanitizer's
  void* thread_context_ = nullptr;  // ThreadSanitizer's
#ifdef UNITOK_UCONTEXT
  ucontext_t registers_;
#else
  void* registers_ = nullptr;  // where on its stack they lie
#endif
};

// What is done before `release(place)` is known to what is done after an `acquire(place)` that follows it: the only
// order between fibers that ThreadSanitizer takes for one. Switching is none.
void release(void* place);
void acquire(void* place);

}  // namespace emulator

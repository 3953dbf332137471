// A CUDA thread runs on a fiber: a stack of its own that an OS thread switches to and from. It tells the sanitizers.
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
  Fiber();                                      // the calling OS thread, on its stack
  Fiber(void (*entry)(void*), void* argument);  // a new one; entry must not return: it ends by leave_for_good
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // Goes on with `next`; returns when another fiber switches back. This fiber must be the one that runs.
  void switch_to(Fiber& next) { leave(next, false); }
  void leave_for_good(Fiber& next) { leave(next, true); }

 private:
  static void start();
  void leave(Fiber& next, bool for_good);
  void arrived();

  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  char* mapped_ = nullptr;       // a page that can't be touched, then the stack
  const void* stack_ = nullptr;  // for AddressSanitizer
  std::size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;      // AddressSanitizer's
  void* thread_context_ = nullptr;  // ThreadSanitizer's
#ifdef UNITOK_UCONTEXT
  ucontext_t registers_;
#else
  void* registers_ = nullptr;  // where they are on its stack
#endif
};

// What is done before release(place) comes before what is done after a later acquire(place). To ThreadSanitizer that is
// the only order between fibers; switching makes none.
void release(void* place);
void acquire(void* place);

}  // namespace emulator

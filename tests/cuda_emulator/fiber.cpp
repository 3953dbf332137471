#include "fiber.h"

#include <cstdio>
#include <cstdlib>
#include <new>

#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
// This file is built without ThreadSanitizer's instrumentation, so a macro of our own says that it is in use.
#if defined(UNITOK_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#endif

#ifndef UNITOK_UCONTEXT
// Saves the callee-saved registers on the current stack, and its top in *save; then restores those at `load`.
extern "C" void unitok_switch_stacks(void** save, void* load);
asm(R"(
.pushsection .text
.type unitok_switch_stacks, @function
unitok_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size unitok_switch_stacks, . - unitok_switch_stacks
.popsection
)");
#endif

namespace emulator {
namespace {

constexpr std::size_t kStackBytes = std::size_t{256} << 10;  // sanitized frames are large; untouched pages cost nothing

thread_local Fiber* left = nullptr;
thread_local Fiber* running = nullptr;

}  // namespace

Fiber::Fiber() {
#if defined(UNITOK_THREAD_SANITIZER)
  thread_context_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(void (*entry)(void*), void* argument) : entry_(entry), argument_(argument) {
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* const mapped = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapped == MAP_FAILED || mprotect(mapped, page, PROT_NONE) != 0) throw std::bad_alloc();
  mapped_ = static_cast<char*>(mapped);
  stack_ = mapped_ + page;
  stack_bytes_ = kStackBytes;
#ifdef UNITOK_UCONTEXT
  getcontext(&registers_);
  registers_.uc_stack.ss_sp = mapped_ + page;
  registers_.uc_stack.ss_size = kStackBytes;
  registers_.uc_link = nullptr;
  makecontext(&registers_, start, 0);
#else
  void** top = reinterpret_cast<void**>(mapped_ + page + kStackBytes);
  *--top = nullptr;                                 // the return address of start
  *--top = reinterpret_cast<void*>(&Fiber::start);  // where the switch returns to
  registers_ = top - 6;                             // zeros
#endif
#if defined(UNITOK_THREAD_SANITIZER)
  thread_context_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (mapped_ == nullptr) return;
#if defined(UNITOK_THREAD_SANITIZER)
  __tsan_destroy_fiber(thread_context_);
#endif
  munmap(mapped_, static_cast<std::size_t>(static_cast<const char*>(stack_) - mapped_) + stack_bytes_);
}

void Fiber::start() {
  Fiber* const fiber = running;
  fiber->arrived();
  fiber->entry_(fiber->argument_);
  std::fprintf(stderr, "cuda_emulator: a fiber has come to its end\n");
  std::abort();
}

void Fiber::leave(Fiber& next, bool for_good) {
  left = this;
  running = &next;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, next.stack_, next.stack_bytes_);
#else
  (void)for_good;
#endif
#if defined(UNITOK_THREAD_SANITIZER)
  __tsan_switch_to_fiber(next.thread_context_, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef UNITOK_UCONTEXT
  swapcontext(&registers_, &next.registers_);
#else
  unitok_switch_stacks(&registers_, next.registers_);
#endif
  arrived();
}

void Fiber::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  const void* stack;
  std::size_t bytes;
  __sanitizer_finish_switch_fiber(fake_stack_, &stack, &bytes);
  left->stack_ = stack;  // this is the only way to learn an OS thread's own stack
  left->stack_bytes_ = bytes;
#endif
}

void release([[maybe_unused]] void* place) {
#if defined(UNITOK_THREAD_SANITIZER)
  __tsan_release(place);
#endif
}

void acquire([[maybe_unused]] void* place) {
#if defined(UNITOK_THREAD_SANITIZER)
  __tsan_acquire(place);
#endif
}

}  // namespace emulator

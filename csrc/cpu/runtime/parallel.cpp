#include "runtime/parallel.h"

#include <pthread.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "simd/isa.h"
#if UNITOK_X86
#include <immintrin.h>
#endif

namespace unitok {
namespace {

using Body = std::function<void(int64_t, int)>;

constexpr std::chrono::milliseconds kUnasked{50};

struct Stopped {};  // ends a task whose job has failed on another thread

thread_local Interruptible* asking = nullptr;
thread_local const std::atomic<bool>* job_failed = nullptr;  // on the pool's own threads

inline void pause() {
#if UNITOK_X86
  _mm_pause();
#endif
}

class Pool {
 public:
  void run(int64_t tasks, int threads, const Body& body) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      tasks_ = tasks;
      next_.store(0, std::memory_order_relaxed);
      failed_.store(false, std::memory_order_relaxed);
      std::fegetenv(&arithmetic_);
      welcome_ = threads - 1;
      hire();
      job_.fetch_add(1, std::memory_order_release);
    }
    awake_.notify_all();
    work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    welcome_ = 0;  // a thread that wakes up late finds no work, so that nobody waits for it
    const auto ended = [this] { return active_ == 0; };
    while (asking != nullptr && !done_.wait_for(lock, kUnasked, ended)) {
      lock.unlock();
      guarded(check_interrupt);
      lock.lock();
    }
    done_.wait(lock, ended);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  // Long enough for the Python code between two calls, short enough not to slow down torch's own threads.
  static constexpr int kSpins = 500;

  void hire() {
    try {
      for (; workers_ < welcome_; ++workers_) std::thread(&Pool::serve, this, workers_, job_.load()).detach();
    } catch (const std::system_error&) {  // the system gives no more threads: those that exist do the work
    }
  }

  void work(int worker) {
    guarded([&] {
      for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
        check_interrupt();
        (*body_)(task, worker);
      }
    });
  }

  // Ends the job, and keeps the error for its caller, if `act` throws.
  template <class Act>
  void guarded(const Act& act) {
    try {
      act();
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
    }
  }

  void serve(int index, uint64_t seen) {
    job_failed = &failed_;
    for (;;) {
      for (int spin = 0; job_.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin) pause();
      std::unique_lock<std::mutex> lock(mutex_);
      awake_.wait(lock, [&] { return job_.load(std::memory_order_relaxed) != seen; });
      seen = job_.load(std::memory_order_relaxed);
      if (index >= welcome_) continue;
      ++active_;
      // The caller's settings (torch.set_flush_denormal, say), or a result would depend on the thread that made it.
      std::fesetenv(&arithmetic_);
      lock.unlock();
      work(index + 1);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable awake_, done_;
  std::atomic<uint64_t> job_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  std::fenv_t arithmetic_;
  const Body* body_ = nullptr;
  int64_t tasks_ = 0;
  int welcome_ = 0, active_ = 0, workers_ = 0;
};

std::atomic<bool> busy{false};
Pool* pool = nullptr;  // never freed: its threads outlive main

// A forked child has none of its parent's threads, but perhaps locks that they hold: it starts a new pool.
void after_fork() {
  pool = nullptr;
  busy.store(false);
}

// At load, not at the first job: a child forked during that job would wait for its end for ever.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, after_fork);

}  // namespace

void parallel(int64_t tasks, int threads, const Body& body) {
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads <= 1 || busy.exchange(true, std::memory_order_acquire)) {
    for (int64_t task = 0; task < tasks; ++task) {
      check_interrupt();
      body(task, 0);
    }
    return;
  }
  struct Release {
    ~Release() { busy.store(false, std::memory_order_release); }
  } release;
  if (pool == nullptr) pool = new Pool;
  pool->run(tasks, threads, body);
}

Interruptible::Interruptible(void (*ask)())
    : ask_(ask), outer_(asking), next_(std::chrono::steady_clock::now() + kUnasked) {
  asking = this;
}

Interruptible::~Interruptible() { asking = outer_; }

void Interruptible::check() {
  if (const auto now = std::chrono::steady_clock::now(); now >= next_) {
    next_ = now + kUnasked;
    ask_();
  }
}

void check_interrupt() {
  if (job_failed != nullptr && job_failed->load(std::memory_order_relaxed)) throw Stopped();
  if (asking != nullptr) asking->check();
}

}  // namespace unitok

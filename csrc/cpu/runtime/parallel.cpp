#include "runtime/parallel.h"

#include <pthread.h>

#include <atomic>
#include <cfenv>
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
      std::fegetenv(&arithmetic_);
      welcome_ = threads - 1;
      hire();
      job_.fetch_add(1, std::memory_order_release);
    }
    awake_.notify_all();
    work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    welcome_ = 0;  // a thread that wakes up late finds no work, so that nobody waits for it
    done_.wait(lock, [this] { return active_ == 0; });
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
    try {
      for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) (*body_)(task, worker);
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void serve(int index, uint64_t seen) {
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
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  struct Release {
    ~Release() { busy.store(false, std::memory_order_release); }
  } release;
  if (pool == nullptr) pool = new Pool;
  pool->run(tasks, threads, body);
}

}  // namespace unitok

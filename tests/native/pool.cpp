// The thread pool: every task once, exceptions, nesting, several callers, a changing number of threads, and fork.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "check.h"
#include "runtime/parallel.h"

using unitok::parallel;

namespace {

constexpr unsigned kPatience = 20;  // seconds that a forked child may take before it counts as hanging

// Each task runs once. No two threads have the same worker number at a time, and no number is out of range.
void every_task_once(int64_t tasks, int threads) {
  context = "tasks=" + std::to_string(tasks) + " threads=" + std::to_string(threads);
  std::vector<int> runs(static_cast<std::size_t>(tasks));  // not atomic, so that ThreadSanitizer reports two writers
  std::vector<std::atomic<bool>> taken(static_cast<std::size_t>(std::max(threads, 1)));
  parallel(tasks, threads, [&](int64_t task, int worker) {
    CHECK(worker >= 0 && worker < std::max(threads, 1));
    CHECK(!taken[static_cast<std::size_t>(worker)].exchange(true));
    ++runs[static_cast<std::size_t>(task)];
    if (task % 7 == 0) std::this_thread::yield();
    taken[static_cast<std::size_t>(worker)].store(false);
  });
  for (int count : runs) CHECK(count == 1);
}

int64_t sum_of_squares(int64_t tasks, int threads) {
  std::vector<int64_t> squares(static_cast<std::size_t>(tasks));
  parallel(tasks, threads, [&](int64_t task, int) { squares[static_cast<std::size_t>(task)] = task * task; });
  return std::accumulate(squares.begin(), squares.end(), int64_t{0});
}

int64_t expected_sum(int64_t tasks) { return (tasks - 1) * tasks * (2 * tasks - 1) / 6; }

// Runs `body` on at least two threads: the first one waits for the second.
void together(const std::function<void()>& body) {
  std::atomic<int> inside{0};
  parallel(64, 4, [&](int64_t, int) {
    for (++inside; inside.load() < 2;) std::this_thread::yield();
    body();
  });
}

void any_number_of_tasks_and_threads(Effort effort) {
  for (int64_t tasks : {0, 1, 2, 3, 100, 1000})
    for (int threads : {-1, 0, 1, 2, 3, 4, 8}) every_task_once(tasks, threads);
  std::mt19937 engine(1);
  for (int i = 0; i < effort.repeats(20000); ++i)
    every_task_once(static_cast<int64_t>(engine() % 20), static_cast<int>(engine() % 9));
}

// If a job follows at once, some threads are still starting on the one before.
void jobs_in_a_row(Effort effort) {
  context = "jobs in a row";
  for (int i = 0; i < effort.repeats(20000); ++i)
    CHECK(sum_of_squares(2 + i % 3, 2 + i % 4) == expected_sum(2 + i % 3));
}

void an_exception_reaches_the_caller(Effort effort) {
  for (int i = 0; i < effort.repeats(2000); ++i) {
    const int64_t bad = i % 50;
    context = "exception in task " + std::to_string(bad);
    bool caught = false;
    try {
      parallel(50, 1 + i % 5, [&](int64_t task, int) {
        if (task >= bad) throw std::runtime_error("task " + std::to_string(task));
      });
    } catch (const std::runtime_error& error) {
      caught = std::string(error.what()).rfind("task ", 0) == 0;
    }
    CHECK(caught);
    CHECK(sum_of_squares(20, 3) == expected_sum(20));
  }
}

void calls_nest(Effort effort) {
  context = "nested calls";
  for (int i = 0; i < effort.repeats(300); ++i) {
    std::vector<int64_t> sums(9);
    parallel(9, 3, [&](int64_t task, int) { sums[static_cast<std::size_t>(task)] = sum_of_squares(10 + task, 4); });
    for (int64_t task = 0; task < 9; ++task) CHECK(sums[static_cast<std::size_t>(task)] == expected_sum(10 + task));
  }
}

void several_callers_at_once(Effort effort) {
  context = "several callers";
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([=] {
      for (int i = 0; i < effort.repeats(3000); ++i) {
        const int64_t tasks = 1 + (i * 7 + caller) % 60;
        CHECK(sum_of_squares(tasks, 1 + (i + caller) % 5) == expected_sum(tasks));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// What the caller's watch throws ends the job on every thread, in short tasks and in long ones that check.
void an_interrupt_ends_the_job() {
  struct Interrupt {};
  context = "interrupt";
  const auto ends = [](int threads, const std::function<void()>& task) {
    const unitok::Interruptible watch([] { throw Interrupt(); });
    try {
      parallel(int64_t{1} << 40, threads, [&](int64_t, int) { task(); });
    } catch (const Interrupt&) {
      return true;
    }
    return false;
  };
  for (int threads : {1, 3}) {
    CHECK(ends(threads, [] { std::this_thread::yield(); }));
    CHECK(ends(threads, [] {
      for (;;) unitok::check_interrupt();
    }));
    CHECK(sum_of_squares(20, 3) == expected_sum(20));
    unitok::check_interrupt();  // nobody watches now
  }
}

// The caller, which has nothing left to do, is asked while it waits for another thread's task.
void a_waiting_caller_is_interrupted() {
  struct Interrupt {};
  context = "interrupt while waiting";
  const std::thread::id caller = std::this_thread::get_id();
  const unitok::Interruptible watch([] { throw Interrupt(); });
  std::atomic<int> inside{0};
  bool caught = false;
  try {
    parallel(2, 2, [&](int64_t, int) {
      for (++inside; inside.load() < 2;) unitok::check_interrupt();
      while (std::this_thread::get_id() != caller) unitok::check_interrupt();
    });
  } catch (const Interrupt&) {
    caught = true;
  }
  CHECK(caught);
}

// All threads of a job take the caller's rounding mode, even if it has changed since they were started.
void threads_take_over_the_rounding_mode() {
  context = "rounding mode";
  CHECK(sum_of_squares(8, 4) == expected_sum(8));
  for (int mode : {FE_UPWARD, FE_TONEAREST}) {
    std::fesetround(mode);
    together([&] { CHECK(std::fegetround() == mode); });
  }
}

#ifndef __SANITIZE_THREAD__  // it supports no new threads in a forked child

void wait_for(pid_t child) {
  CHECK(child > 0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// Run in a child: exits with 0 if the pool works there, and by a signal if it hangs.
[[noreturn]] void work_in_child() {
  alarm(kPatience);
  together([] {});
  bool right = true;
  for (int i = 0; i < 20; ++i) right = right && sum_of_squares(100, 4) == expected_sum(100);
  const pid_t grandchild = fork();
  if (grandchild == 0) _exit(sum_of_squares(100, 3) == expected_sum(100) ? 0 : 1);
  int status = 0;
  right = right && waitpid(grandchild, &status, 0) == grandchild && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  _exit(right ? 0 : 1);
}

void a_forked_child_has_a_pool_of_its_own(Effort effort) {
  for (int i = 0; i < effort.repeats(100); ++i) {
    context = "fork after a job";
    CHECK(sum_of_squares(100, 4) == expected_sum(100));
    const pid_t child = fork();
    if (child == 0) work_in_child();
    CHECK(sum_of_squares(100, 4) == expected_sum(100));
    wait_for(child);
  }
}

void fork_while_another_thread_has_the_pool(Effort effort) {
  context = "fork during a job";
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load()) CHECK(sum_of_squares(50, 3) == expected_sum(50));
  });
  for (int i = 0; i < effort.repeats(100); ++i) {
    const pid_t child = fork();
    if (child == 0) work_in_child();
    wait_for(child);
  }
  stop.store(true);
  other.join();
}

#endif

}  // namespace

void check_pool(Effort effort) {
  any_number_of_tasks_and_threads(effort);
  jobs_in_a_row(effort);
  an_exception_reaches_the_caller(effort);
  calls_nest(effort);
  several_callers_at_once(effort);
  threads_take_over_the_rounding_mode();
  an_interrupt_ends_the_job();
  a_waiting_caller_is_interrupted();
#ifndef __SANITIZE_THREAD__
  a_forked_child_has_a_pool_of_its_own(effort);
  fork_while_another_thread_has_the_pool(effort);
#endif
}

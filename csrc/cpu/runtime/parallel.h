// A thread pool that sleeps when idle, survives fork, and never runs two jobs at once.
#pragma once

#include <cstdint>
#include <functional>

namespace unitok {

// Runs body(task, worker) for task = 0 .. tasks - 1 on up to `threads` threads, the caller among them, and returns
// when all are done. Tasks are taken in order by whichever thread is free: a result must not depend on which. `worker`
// is below `threads` and differs between threads: for scratch memory. An exception in a task is thrown to the caller.
// A call from inside a task, or while another thread's job holds the pool, runs on the calling thread alone.
void parallel(int64_t tasks, int threads, const std::function<void(int64_t task, int worker)>& body);

}  // namespace unitok

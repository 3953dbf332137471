// An OS thread that stays from one launch to the next, until the process ends. Semaphores and no mutex: to
// ThreadSanitizer, a lock would order what two threads do at the same time.
#pragma once

#include <semaphore.h>

#include <functional>
#include <thread>

namespace emulator {

class OsThread {
 public:
  OsThread() {
    sem_init(&begun_, 0, 0);
    sem_init(&done_, 0, 0);
    const auto live = [this] {
      for (;;) {
        wait_for(begun_);
        work_();
        sem_post(&done_);
      }
    };
    std::thread(live).detach();
  }

  ~OsThread() = delete;
  OsThread(const OsThread&) = delete;

  void begin(std::function<void()> work) {
    work_ = std::move(work);
    sem_post(&begun_);
  }

  void wait() { wait_for(done_); }

 private:
  static void wait_for(sem_t& semaphore) {
    while (sem_wait(&semaphore) != 0) {  // a signal came
    }
  }

  sem_t begun_, done_;
  std::function<void()> work_;
};

}  // namespace emulator

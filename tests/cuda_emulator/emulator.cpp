// Built without ThreadSanitizer's instrumentation: fibers share what is written here, and this file keeps the order.
// For the same reason no memory is allocated or freed on a fiber.
#include "emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>

#include "fiber.h"
#include "os_thread.h"

namespace emulator {
namespace {

struct Warp {
  Meeting meetings[32];  // at most as many masks as lanes are in use at a time
};

// The blocks that an OS thread runs, one after the other.
class Worker {
 public:
  Worker(const Launch& launch, const std::function<void()>& body, uint64_t seed);
  ~Worker();
  void run_block(uint64_t number);

  // What a fiber calls.
  void run_thread();
  void meet(Meeting& meeting, int needed, bool ordered, const char* what, Site site);
  Meeting& meeting_of(unsigned mask, const char* what, Site site);
  Meeting& warpgroup(const char* what, Site site);
  void* shared_memory(const void* declaration, std::size_t bytes);
  Block& block() { return block_; }

 private:
  void wait();
  void finish_if_all_came(Meeting& meeting);
  bool ready(const Thread& thread) const;
  bool go_on();
  bool run_warp(int warp);
  void allocate(const void* declaration, std::size_t bytes);
  [[noreturn]] void fail_stuck() const;
  void go_on_with(Thread& thread);

  const Launch launch_;
  const std::function<void()>& body_;
  Block block_ = {};
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Meeting> warpgroups_;
  std::vector<int> warp_order_, lane_order_;
  std::mt19937_64 engine_;
  const SharedMemory* wanted_ = nullptr;
  char begun_, ended_;  // places for ThreadSanitizer
};

thread_local Worker* worker = nullptr;

// The fibers of an OS thread, one for each CUDA thread of a block. They stay from launch to launch: making one takes
// ThreadSanitizer a millisecond.
struct Fibers {
  Fiber own;
  std::vector<std::unique_ptr<Fiber>> made;
  bool over = false;

  Fiber& operator[](int number) { return *made[static_cast<std::size_t>(number)]; }
  void make(std::size_t count) {
    while (made.size() < count) made.push_back(std::make_unique<Fiber>(live, this));
  }
  ~Fibers() {
    over = true;
    for (const std::unique_ptr<Fiber>& fiber : made) own.switch_to(*fiber);
  }

 private:
  static void live(void* all);
};

thread_local Fibers fibers;

template <class T>
std::vector<T> in_order(T count, std::mt19937_64& engine) {
  std::vector<T> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), T{0});
  if (settings.order == Order::reverse) std::reverse(all.begin(), all.end());
  if (settings.order == Order::random) std::shuffle(all.begin(), all.end(), engine);
  return all;
}

uint3 place_of(uint64_t number, dim3 in) {
  const uint64_t row = number / in.x;
  return {static_cast<unsigned>(number % in.x), static_cast<unsigned>(row % in.y), static_cast<unsigned>(row / in.y)};
}

std::string named(const char* what, Site site) {
  return std::string(what) + " at " + site.file + ":" + std::to_string(site.line);
}

Worker::Worker(const Launch& launch, const std::function<void()>& body, uint64_t seed)
    : launch_(launch), body_(body), engine_(seed) {
  worker = this;
  const dim3 size = launch.block;
  block_.grid = launch.grid;
  block_.size = size;
  const int count = static_cast<int>(size.x * size.y * size.z), warps = (count + 31) / 32;
  warps_.resize(static_cast<std::size_t>(warps));
  warpgroups_.resize(static_cast<std::size_t>(warps / 4));
  warp_order_ = in_order(warps, engine_);
  lane_order_ = in_order(32, engine_);
  for (int i = 0; i < count; ++i)
    threads_.push_back({&block_,
                        place_of(static_cast<uint64_t>(i), size),
                        i,
                        true,
                        nullptr,
                        0,
                        {},
                        {},
                        {},
                        {},
                        {},
                        false,
                        nullptr,
                        {}});
  fibers.make(threads_.size());
}

Worker::~Worker() { worker = nullptr; }

// A fiber runs the same thread of all blocks, one after the other, launch after launch.
void Fibers::live(void* all) {
  Fibers& mine = *static_cast<Fibers*>(all);
  Fiber& me = mine[self->number];
  while (!mine.over) {
    worker->run_thread();
    me.switch_to(mine.own);
  }
  me.leave_for_good(mine.own);
}

void Worker::run_thread() {
  acquire(&begun_);
  body_();
  release(&ended_);
  self->done = true;
  --block_.alive;
  finish_if_all_came(block_.barrier);
}

void Worker::wait() { fibers[self->number].switch_to(fibers.own); }

void Worker::go_on_with(Thread& thread) {
  self = &thread;
  fibers.own.switch_to(fibers[thread.number]);
  self = nullptr;
}

void Worker::run_block(uint64_t number) {
  block_.index = place_of(number, block_.grid);
  block_.alive = static_cast<int>(threads_.size());
  for (Thread& thread : threads_) {
    thread.done = false;
    thread.copies.clear();
    thread.groups.clear();
    thread.written.clear();
    thread.fenced.clear();
    thread.products.clear();
    thread.arrived = false;
  }
  allocate(nullptr, launch_.shared_bytes);
  block_.async = static_cast<unsigned char*>(std::malloc(launch_.shared_bytes));
  poison(block_.async, launch_.shared_bytes);
  while (block_.alive > 0)
    if (!go_on()) fail_stuck();
  acquire(&ended_);
  for (const SharedMemory& memory : block_.shared) std::free(memory.data);
  std::free(block_.async);
  block_.shared.clear();
}

bool Worker::go_on() {
  const bool random = settings.order == Order::random;
  if (random) std::shuffle(warp_order_.begin(), warp_order_.end(), engine_);
  bool any = false;
  for (const int warp : warp_order_)
    while (run_warp(warp)) {
      any = true;
      if (random && engine_() % 4 == 0) break;
    }
  return any;
}

bool Worker::run_warp(int warp) {
  if (settings.order == Order::random) std::shuffle(lane_order_.begin(), lane_order_.end(), engine_);
  bool any = false;
  for (const int lane : lane_order_) {
    const auto number = static_cast<std::size_t>(32 * warp + lane);
    if (number >= threads_.size() || !ready(threads_[number])) continue;
    go_on_with(threads_[number]);
    while (wanted_ != nullptr) {
      allocate(wanted_->declaration, wanted_->bytes);
      wanted_ = nullptr;
      go_on_with(threads_[number]);
    }
    any = true;
  }
  return any;
}

bool Worker::ready(const Thread& thread) const {
  return !thread.done && (thread.waits_for == nullptr || thread.waits_for->phase != thread.phase);
}

void Worker::meet(Meeting& meeting, int needed, bool ordered, const char* what, Site site) {
  if (meeting.come == 0) {
    meeting.needed = needed;
    meeting.what = what;
    meeting.site = site;
  } else if (meeting.needed != needed || std::strcmp(meeting.what, what) != 0) {
    fail("%s meets %s", named(what, site).c_str(), named(meeting.what, meeting.site).c_str());
  }
  const unsigned phase = meeting.phase;
  if (ordered) release(&meeting.order[phase % 2]);
  ++meeting.come;
  ++meeting.inside;
  finish_if_all_came(meeting);
  self->waits_for = &meeting;
  self->phase = phase;
  wait();
  self->waits_for = nullptr;
  --meeting.inside;
  if (ordered) acquire(&meeting.order[phase % 2]);
}

void Worker::finish_if_all_came(Meeting& meeting) {
  if (meeting.come == 0 || meeting.come != (meeting.needed == 0 ? block_.alive : meeting.needed)) return;
  meeting.come = 0;
  ++meeting.phase;
}

Meeting& Worker::meeting_of(unsigned mask, const char* what, Site site) {
  const int first = self->number - self->lane();
  if ((mask >> self->lane() & 1) == 0)
    fail("%s: the mask %#x leaves out the lane that calls", named(what, site).c_str(), mask);
  for (int lane = 0; lane < 32; ++lane) {
    const auto number = static_cast<std::size_t>(first + lane);
    if ((mask >> lane & 1) != 0 && (number >= threads_.size() || threads_[number].done))
      fail("%s: the mask %#x names lane %d, which isn't there or has returned", named(what, site).c_str(), mask, lane);
  }
  Meeting* unused = nullptr;
  for (Meeting& meeting : warps_[static_cast<std::size_t>(first / 32)].meetings) {
    if (meeting.inside == 0)
      unused = &meeting;
    else if (meeting.mask == mask)
      return meeting;
  }
  unused->mask = mask;
  return *unused;
}

Meeting& Worker::warpgroup(const char* what, Site site) {
  const auto group = static_cast<std::size_t>(self->number / 128);
  if (group >= warpgroups_.size()) fail("%s: the block has no four warps there", named(what, site).c_str());
  for (std::size_t number = 128 * group; number < 128 * (group + 1); ++number)
    if (threads_[number].done) fail("%s: a thread of the warpgroup has returned", named(what, site).c_str());
  return warpgroups_[group];
}

void* Worker::shared_memory(const void* declaration, std::size_t bytes) {
  const auto find = [&] {
    const auto same = [&](const SharedMemory& memory) { return memory.declaration == declaration; };
    return std::find_if(block_.shared.begin(), block_.shared.end(), same);
  };
  if (find() == block_.shared.end()) {
    const SharedMemory wanted = {declaration, nullptr, bytes};
    wanted_ = &wanted;
    wait();
  }
  acquire(&begun_);
  return find()->data;
}

void Worker::allocate(const void* declaration, std::size_t bytes) {
  std::size_t total = bytes;
  for (const SharedMemory& memory : block_.shared) total += memory.bytes;
  if (total > launch_.shared_bytes_allowed)
    fail("%zu bytes of shared memory, where %zu are allowed", total, launch_.shared_bytes_allowed);
  void* data = nullptr;
  if (posix_memalign(&data, 16, bytes) != 0) fail("no memory");
  poison(data, bytes);
  block_.shared.push_back({declaration, data, bytes});
  release(&begun_);
}

void Worker::fail_stuck() const {
  std::string message = "stuck:";
  for (const Thread& thread : threads_) {
    if (thread.done) continue;
    const std::string place = "\n  threads wait for others in " + named(thread.waits_for->what, thread.waits_for->site);
    if (message.find(place) == std::string::npos) message += place;
  }
  if (block_.alive < static_cast<int>(threads_.size())) message += "\n  and some have returned";
  fail("%s", message.c_str());
}

}  // namespace

void fail(const char* format, ...) {
  std::fprintf(stderr, "cuda_emulator: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  if (worker != nullptr) {
    const uint3 block = worker->block().index;
    std::fprintf(stderr, "\n  in block (%u, %u, %u)", block.x, block.y, block.z);
  }
  if (self != nullptr) std::fprintf(stderr, ", thread (%u, %u, %u)", self->index.x, self->index.y, self->index.z);
  std::fprintf(stderr, "\n");
  std::abort();
}

const Slot* meet_warp(unsigned mask, const Slot& mine, bool ordered, const char* what, Site site) {
  Meeting& meeting = worker->meeting_of(mask, what, site);
  Slot* const slots = meeting.slots[meeting.phase % 2];
  slots[self->lane()] = mine;
  worker->meet(meeting, __builtin_popcount(mask), ordered, what, site);
  return slots;
}

void meet_warpgroup(const char* what, Site site) {
  worker->meet(worker->warpgroup(what, site), 128, false, what, site);
}

void meet_block(const char* what, Site site) {
  for (const void* from : self->fenced)
    if (const std::size_t at = dynamic_offset(from); at < dynamic_shared().bytes)
      std::memcpy(self->block->async + at, from, 16);
  self->fenced.clear();
  Meeting& meeting = worker->block().barrier;
  if (meeting.come > 0 && (meeting.site.line != site.line || meeting.site.file != site.file))
    fail("%s meets %s", named(what, site).c_str(), named(meeting.what, meeting.site).c_str());
  worker->meet(meeting, 0, true, what, site);
}

void fence() {
  static char place;
  acquire(&place);
  release(&place);
}

void* shared_memory(const void* declaration, std::size_t bytes) { return worker->shared_memory(declaration, bytes); }

bool is_shared(const void* from, std::size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(from);
  for (const SharedMemory& memory : worker->block().shared) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory.data);
    if (at >= start && at + bytes <= start + memory.bytes) return true;
  }
  return false;
}

const SharedMemory& dynamic_shared() { return worker->block().shared.front(); }

bool is_seen_async(std::size_t at) {
  const auto* const data = static_cast<const unsigned char*>(dynamic_shared().data) + at;
  return std::equal(data, data + 16, self->block->async + at);
}

void poison(void* to, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i)
    static_cast<unsigned char*>(to)[i] = static_cast<unsigned char>(i % 2 == 0 ? kPoison : kPoison >> 8);
}

void run(const Launch& launch, const std::function<void()>& body) {
  std::mt19937_64 engine(settings.seed);
  const dim3 grid = launch.grid;
  const std::vector<uint64_t> blocks = in_order(uint64_t{grid.x} * grid.y * grid.z, engine);
  const std::size_t workers = std::min<std::size_t>(static_cast<std::size_t>(settings.os_threads), blocks.size());
  const auto work = [&](std::size_t first) {
    Worker own(launch, body, settings.seed + first);
    for (std::size_t i = first; i < blocks.size(); i += workers) own.run_block(blocks[i]);
  };
  static std::mutex one_launch;
  static std::vector<OsThread*>& others = *new std::vector<OsThread*>;
  const std::lock_guard<std::mutex> lock(one_launch);
  while (others.size() + 1 < workers) others.push_back(new OsThread);
  for (std::size_t i = 1; i < workers; ++i) others[i - 1]->begin([&work, i] { work(i); });
  work(0);
  for (std::size_t i = 1; i < workers; ++i) others[i - 1]->wait();
}

}  // namespace emulator

// Runs a kernel's blocks on OS threads and their CUDA threads on fibers, and checks how these wait for each other. A
// thread runs until it waits, so a missing barrier shows in some order of threads: `settings` has three orders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "vector_types.h"

namespace emulator {

enum class Order { forward, reverse, random };

struct Settings {
  // Forward: each warp runs as far as it can before the next one starts. At random, warps overtake each other.
  Order order = Order::forward;
  uint64_t seed = 0;   // of random orders
  int os_threads = 2;  // the blocks are dealt out to them, so that a race between blocks is one between OS threads
  std::size_t shared_bytes = std::size_t{227} << 10;  // that a launch may ask for: as on sm_90 and sm_100
};

inline Settings settings;

// A call in the kernel; taken as a default argument.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// What a lane shows to the others of its warp.
struct alignas(16) Slot {
  unsigned char bytes[32];
};

// Where threads wait for each other. A phase is over when all have come. A fast thread may come to the next phase
// before a slow one has left this one, so there are places for even and for odd phases.
struct Meeting {
  unsigned mask;  // of lanes, where it is one of a warp
  int needed;     // threads; 0: all of the block that haven't returned
  int come, inside;
  unsigned phase;
  const char* what;
  Site site;
  char order[2];  // places for ThreadSanitizer
  Slot slots[2][32];
};

struct Copy {
  void* to;
  const void* from;
};

// A product by a warpgroup that a thread has begun; it is computed when the thread waits for it.
struct Product {
  const uint32_t* a;  // the thread's registers, and what was in them
  uint32_t registers[4];
  uint32_t rows[2][8];  // of a
  uint64_t descriptor;  // of b, and what was there
  uint64_t hash;
  bool accumulate;
};

struct Block;

struct Thread {
  Block* block;
  uint3 index;
  int number;
  bool done;
  const Meeting* waits_for;
  unsigned phase;
  std::vector<Copy> copies;         // started, not yet made
  std::vector<std::size_t> groups;  // how many of them are in each group
  std::vector<void*> written;       // 16 bytes each, to shared memory: since the last fence_async_proxy
  std::vector<void*> fenced;        // and before it, but not before the last barrier
  std::vector<Product> products;
  bool arrived;    // warpgroup_arrive has been called
  int (*sums)[4];  // the sums of the unfinished products
  int values[8][4];

  int lane() const { return number % 32; }
};

struct SharedMemory {
  const void* declaration;  // null: the part whose size the launch sets
  void* data;
  std::size_t bytes;
};

struct Block {
  dim3 grid, size;
  uint3 index;
  int alive;
  Meeting barrier;  // __syncthreads
  std::vector<SharedMemory> shared;
  unsigned char* async;  // the part whose size the launch sets, as the async proxy sees it
};

inline thread_local Thread* self = nullptr;

// Ends the program: the kernel has a fault.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits until all lanes of the mask come to the same call. Returns the slots of all 32 lanes, valid until the thread
// waits again. It is a barrier for memory only if `ordered`.
const Slot* meet_warp(unsigned mask, const Slot& mine, bool ordered, const char* what, Site site);

// Waits for the other 127 threads of the warpgroup.
void meet_warpgroup(const char* what, Site site);

// Waits for all threads of the block that haven't returned.
void meet_block(const char* what, Site site);

// Threads that call this later see what the thread did before. CUDA promises less: there, an atomic operation must come
// between.
void fence();

// The block's array for a declaration; null: the one whose size the launch sets.
void* shared_memory(const void* declaration, std::size_t bytes);
bool is_shared(const void* from, std::size_t bytes);

// The array whose size the launch sets; an address as an offset into it; whether the async proxy sees 16 bytes of it as
// they are.
const SharedMemory& dynamic_shared();
inline std::size_t dynamic_offset(const void* of) {
  return static_cast<std::size_t>(static_cast<const char*>(of) - static_cast<const char*>(dynamic_shared().data));
}
bool is_seen_async(std::size_t at);

// The value of unwritten memory: NaN in every floating type, negative in every integer type.
constexpr uint16_t kPoison = 0xfff9;
void poison(void* to, std::size_t bytes);

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes;          // of the array whose size the launch sets
  std::size_t shared_bytes_allowed;  // of all arrays
};

// Runs body() once for each thread of the grid.
void run(const Launch& launch, const std::function<void()>& body);

}  // namespace emulator

// Twins of the functions of csrc/cuda/platform.cuh for products by a warpgroup, as wgmma makes them on sm_90a.
//
// A product is computed when the thread waits for it, as late as allowed. It fails if its operands have changed since
// it was begun, since a device may read them at any time between. Until then its sums are poison. It reads shared
// memory through the async proxy. That sees what was copied or stored as a vector, if the same thread then called the
// fence, and a barrier of the block followed; it never sees other stores.
#pragma once

#include "instructions.h"

namespace emulator {

constexpr uint32_t kSharedAddress = 1024;  // of the dynamic part's first byte; before it is CUDA's own memory

// The rows of b^T that a descriptor names, decoded from its bits.
class Described {
 public:
  explicit Described(uint64_t bits)
      : start_(field(bits, 0) - kSharedAddress), leading_(field(bits, 16)), stride_(field(bits, 32)) {
    if ((bits & ~0x3fff3fff3fffu) != 0) fail("the descriptor %#lx asks for more than matrices without swizzle", bits);
  }

  // Bytes 16 * half to 16 * half + 15 of a row.
  std::size_t offset(int row, int half) const {
    const auto at = start_ + stride_ * (static_cast<std::size_t>(row) / 8) + leading_ * static_cast<std::size_t>(half) +
                    16 * (static_cast<std::size_t>(row) % 8);
    if (at + 16 > dynamic_shared().bytes) fail("a descriptor names byte %zu, beyond shared memory", at);
    return at;
  }

  template <class Function>
  void each(Function function) const {
    for (int row = 0; row < 64; ++row)
      for (int half = 0; half < 2; ++half) function(offset(row, half));
  }

 private:
  static std::size_t field(uint64_t bits, int from) { return (bits >> from & 0x3fff) << 4; }

  std::size_t start_, leading_, stride_;
};

// Hidden from ThreadSanitizer: it would sometimes report a buffer that is refilled too soon, before `make` does.
__attribute__((no_sanitize("thread"))) inline uint64_t hash_of(const Described& b) {
  const auto* const shared = static_cast<const unsigned char*>(dynamic_shared().data);
  uint64_t hash = 14695981039346656037u;
  for (int row = 0; row < 64; ++row)
    for (int half = 0; half < 2; ++half)
      for (std::size_t at = b.offset(row, half), end = at + 16; at < end; ++at)
        hash = (hash ^ shared[at]) * 1099511628211u;
  return hash;
}

inline void require_seen(const Described& b, const char* what, Site site) {
  b.each([&](std::size_t at) {
    if (!is_seen_async(at))
      fail("%s at %s:%d: the async proxy doesn't see byte %zu of shared memory", what, site.file, site.line, at);
  });
}

// What a lane shows to the others of its warp.
struct GroupOperands {
  uint32_t a[4];
  uint64_t descriptor;
};

inline void make(const Product& product) {
  const Described b(product.descriptor);
  if (std::memcmp(product.a, product.registers, sizeof product.registers) != 0)
    fail("registers have changed that a product still reads");
  if (self->lane() == 0 && hash_of(b) != product.hash) fail("shared memory has changed that a product still reads");
  const auto* const shared = static_cast<const unsigned char*>(dynamic_shared().data);
  const int t = self->lane() % 4;
  for (int column = 0; column < 64; ++column) {
    if (column % 8 / 2 != t) continue;
    for (int i = 0; i < 2; ++i) {
      int& sum = self->values[column / 8][2 * i + column % 2];
      if (!product.accumulate) sum = 0;
      for (int word = 0; word < 8; ++word) {
        int of_column;
        std::memcpy(&of_column, shared + b.offset(column, word / 4) + 4 * (word % 4), 4);
        sum = __dp4a(static_cast<int>(product.rows[i][word]), of_column, sum);
      }
    }
  }
}

}  // namespace emulator

namespace unitok {

inline uint32_t shared_address(const void* shared) {
  emulator::require_shared(shared, 1, "shared_address");
  return emulator::kSharedAddress + static_cast<uint32_t>(emulator::dynamic_offset(shared));
}

inline void fence_async_proxy() {
  emulator::Thread& me = *emulator::self;
  me.fenced.insert(me.fenced.end(), me.written.begin(), me.written.end());
  me.written.clear();
}

inline void warpgroup_arrive(int (&c)[8][4], emulator::Site site = emulator::Site::here()) {
  emulator::meet_warpgroup("warpgroup_arrive", site);
  emulator::self->arrived = true;
  if (emulator::self->products.empty()) std::memcpy(emulator::self->values, c, sizeof c);
}

inline void warpgroup_multiply_s8(int (&c)[8][4], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                                  emulator::Site site = emulator::Site::here()) {
  emulator::Thread& me = *emulator::self;
  const char* const what = "warpgroup_multiply_s8";
  const auto require = [&](bool right, const char* said) {
    if (!right) emulator::fail("%s at %s:%d: %s", what, site.file, site.line, said);
  };
  require(me.arrived, "warpgroup_arrive must come first");
  if (me.products.empty()) {
    require(std::memcmp(me.values, c, sizeof c) == 0, "the sums have changed since warpgroup_arrive");
    me.sums = c;
    emulator::poison(c, sizeof c);
  }
  require(me.sums == c, "other sums are under way");
  emulator::Product product = {a, {a[0], a[1], a[2], a[3]}, {}, b, 0, accumulate};
  const emulator::Values<emulator::GroupOperands> all(~0u, {{a[0], a[1], a[2], a[3]}, b}, what, site);
  for (int lane = 0; lane < 32; ++lane) require(all.of(lane).descriptor == b, "lanes describe different matrices");
  for (int i = 0; i < 2; ++i)
    for (int word = 0; word < 8; ++word)
      product.rows[i][word] = all.of(me.lane() / 4 * 4 + word % 4).a[i + word / 4 * 2];
  if (me.lane() == 0) {
    const emulator::Described described(b);
    emulator::require_seen(described, what, site);
    product.hash = emulator::hash_of(described);
  }
  emulator::meet_warpgroup(what, site);
  me.products.push_back(product);
}

inline void warpgroup_wait(int (&c)[8][4], emulator::Site site = emulator::Site::here()) {
  emulator::Thread& me = *emulator::self;
  emulator::meet_warpgroup("warpgroup_wait", site);
  for (const emulator::Product& product : me.products) emulator::make(product);
  if (!me.products.empty()) std::memcpy(c, me.values, sizeof c);
  me.products.clear();
  me.arrived = false;
}

}  // namespace unitok

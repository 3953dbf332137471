// A group's codebooks in the shared memory of a block: all of them for good if they fit, else chunks of them in a ring
// that is refilled ahead.
#pragma once

#include <cstdint>

#include "packed.cuh"
#include "platform.cuh"
#include "room.cuh"

namespace unitok {

// Hands out the chunks in order, level by level. All threads of the block make all calls.
template <int Width, class Unit>
class Ring {
 public:
  __device__ Ring(const Room<Width>& room, unsigned char* shared, const PackedLayout& layout, int levels)
      : room_(room),
        shared_(shared),
        layout_(layout),
        levels_(levels),
        chunks_((layout.codewords + room.chunk - 1) / room.chunk),
        stays_(chunks_ * levels <= room.chunks) {}

  __device__ int chunks() const { return chunks_; }  // of a level
  __device__ const unsigned char* codebooks() const { return codebooks_; }

  // Begins at the first chunk of a group's codebooks.
  __device__ void begin(const unsigned char* codebooks) {
    place_ = 0;
    if (stays_ && codebooks == codebooks_) return;
    codebooks_ = codebooks;
    level_to_copy_ = chunk_to_copy_ = place_to_fill_ = 0;
    __syncthreads();
    for (int i = 0; i < (stays_ ? chunks_ * levels_ : room_.chunks - 1); ++i) copy();
    if (stays_) {
      copy_async_wait<0>();
      show();
    }
  }

  // The digits of the next chunk; they stay in place until the next call.
  __device__ const unsigned char* next() {
    if (!stays_) {
      if (room_.chunks == 2)
        copy_async_wait<0>();
      else
        copy_async_wait<1>();
      show();
      copy();
    }
    const unsigned char* const digits = shared_ + place_ * room_.chunk_bytes();
    if (++place_ == room_.chunks) place_ = 0;
    return digits;
  }

  // Waits for what was copied ahead.
  __device__ void end() const { copy_async_wait<0>(); }

 private:
  // Makes what has been copied visible to all threads of the block.
  __device__ static void show() {
    if constexpr (Unit::kAsync) fence_async_proxy();
    __syncthreads();
  }

  __device__ void copy() {
    if (level_to_copy_ < levels_) {
      const int bytes = min(room_.chunk_bytes(), (layout_.codewords - chunk_to_copy_ * room_.chunk) * Width * 2);
      const unsigned char* const from = codebooks_ + level_to_copy_ * layout_.bytes() + layout_.digits() +
                                        int64_t{chunk_to_copy_} * room_.chunk_bytes();
      unsigned char* const to = shared_ + place_to_fill_ * room_.chunk_bytes();
      for (int i = 16 * threadIdx.x; i < bytes; i += 16 * blockDim.x) copy_async(to + i, from + i);
      if (++chunk_to_copy_ == chunks_) chunk_to_copy_ = 0, ++level_to_copy_;
      if (++place_to_fill_ == room_.chunks) place_to_fill_ = 0;
    }
    copy_async_commit();
  }

  const Room<Width>& room_;
  unsigned char* const shared_;
  const PackedLayout& layout_;
  const int levels_, chunks_;
  const bool stays_;
  const unsigned char* codebooks_ = nullptr;
  int place_ = 0;
  int level_to_copy_ = 0, chunk_to_copy_ = 0, place_to_fill_ = 0;
};

}  // namespace unitok

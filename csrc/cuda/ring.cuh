// A group's codebooks in the shared memory of a block: all of them for good where they fit, else chunks of them in a
// ring that is refilled ahead.
#pragma once

#include <algorithm>

#include "encode.h"
#include "packed.cuh"

namespace unitok {

constexpr int kTileRows = 16;  // of a warp: what a product takes

// Warps of a block: as many as have the registers.
template <int Width>
constexpr int kWarps = Width == 32   ? 16
                       : Width == 64 ? 12
                                     : 8;

// Shared memory of a block: a ring of chunks, then for each warp what it writes down.
template <int Width>
struct Room {
  int chunk;   // codewords that are copied together
  int chunks;  // of the ring
  int levels;

  __host__ __device__ int chunk_bytes() const { return chunk * Width * 2; }
  __host__ __device__ int per_warp() const {
    return 4 * (chunk + 8 * Width + 64 + (levels * (kTileRows + 1) + 3 + 3) / 4 * 4);
  }
  __host__ __device__ int64_t bytes() const { return int64_t{chunks} * chunk_bytes() + kWarps<Width> * per_warp(); }
};

// As large a chunk as leaves room for two, or for all codebooks of a group. Those of the largest codebook are of one
// size, up to whole tiles of so many codewords, so that little of the room is left empty.
template <int Width>
Room<Width> room_for(const Chains* chains, int count, int shared_bytes, int tile) {
  const auto parts = [](int whole, int part) { return (whole + part - 1) / part; };
  const auto codewords_of = [](const Chains& of) { return PackedLayout(of.codewords, Width).codewords; };
  Room<Width> room{};
  int codewords = 0;
  for (int i = 0; i < count; ++i) {
    room.levels = std::max(room.levels, chains[i].levels);
    codewords = std::max(codewords, codewords_of(chains[i]));
  }
  for (int most = 256; most >= 64; most /= 2) {
    room.chunk = tile * parts(codewords, tile * parts(codewords, most));
    int wanted = 0;
    for (int i = 0; i < count; ++i)
      wanted = std::max(wanted, parts(codewords_of(chains[i]), room.chunk) * chains[i].levels);
    const int fit = (shared_bytes - kWarps<Width> * room.per_warp()) / room.chunk_bytes();
    room.chunks = wanted <= fit ? wanted : std::min(fit, 3);
    if (room.chunks == wanted || room.chunks >= 2) return room;
  }
  throw CudaError{cudaErrorInvalidConfiguration};
}

// What a block goes through, level by level, chunk by chunk. All its threads make all calls.
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

  // Gives the digits of the next chunk, which stand there until the next call.
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

  // Waits for what was copied ahead of the last chunk.
  __device__ void end() const { copy_async_wait<0>(); }

 private:
  // What has been copied, to all threads of the block.
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

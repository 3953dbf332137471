// How the shared memory of a block is cut up: a ring of chunks of codebooks (ring.cuh), then each warp's notes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "encode.h"
#include "errors.h"
#include "lanes.cuh"
#include "packed.cuh"

namespace unitok {

// Warps of a block: as many as the registers are enough for.
template <int Width>
constexpr int kWarps = Width == 32   ? 16
                       : Width == 64 ? 12
                                     : 8;

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

// What a warp writes down: Room::per_warp() has the sizes.
template <int Width>
struct Notes {
  int* biases;           // (chunk,): of the codewords that are being scored
  float* rows;           // (8, Width): a row of each quad that is searched again
  uint32_t* candidates;  // (32,): what each lane found for it
  uint32_t* found;       // (32,): each quad's codeword after that
  int* codes;            // (kTileRows, levels)
  float* left;           // (levels + 3,): the warp's part of Chains::parts

  __device__ Notes(const Room<Width>& room, unsigned char* shared, int levels, int warp)
      : biases(reinterpret_cast<int*>(shared + int64_t{room.chunks} * room.chunk_bytes() + warp * room.per_warp())),
        rows(reinterpret_cast<float*>(biases + room.chunk)),
        candidates(reinterpret_cast<uint32_t*>(rows + 8 * Width)),
        found(candidates + 32),
        codes(reinterpret_cast<int*>(candidates + 64)),
        left(reinterpret_cast<float*>(codes + levels * kTileRows)) {}
};

// As large a chunk as leaves room for two, or for all codebooks of a group. The chunks of the largest codebook have one
// size, up to whole tiles of `tile` codewords, so that little of the room stays empty.
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

}  // namespace unitok

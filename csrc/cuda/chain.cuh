// Rows through chains of packed codebooks: r_0 = z; code_l = argmin_k |r_l - c_lk|^2; r_{l+1} = r_l - c_l,code_l.
//
// A warp keeps 16 rows in its registers for all levels: lane 4 g + t holds columns 8 t to 8 t + 7, of every 32, of rows
// g and g + 8. At each level it writes them in two int8 digits (packed.cuh), and multiplies these by the
// codewords' digits, which lie in shared memory: all levels' for good where they fit, else as a ring that is refilled
// ahead. In the products' layout, a lane has of each of its rows two columns of every eight codewords.
//
// The runner-up decides whether a row's nearest codeword is certain. Minima are kept of each of the eight slots that 32
// codewords, a tile, have in a lane, and of each tile: the latter carry the tile's number in their low bits. What is
// within the bound of the best, but isn't the best, is in another lane, another slot or another tile, so that it shows.
// Then all codewords that could be within the bound are compared by differencing, in float32 or, where that can't tell
// either, in float64.
#pragma once

#include <climits>

#include "candidates.cuh"
#include "products.cuh"
#include "ring.cuh"
#include "rows.cuh"

namespace unitok {

// Four bytes, of four values: byte 0, or byte 1, of each.
__device__ __forceinline__ uint32_t gather_bytes(const uint32_t (&x)[4], uint32_t which) {
  return __byte_perm(__byte_perm(x[0], x[1], which), __byte_perm(x[2], x[3], which), 0x5410);
}

template <int Width, class Unit>
__global__ void __launch_bounds__(32 * kWarps<Width>, 1)
    encode(const __grid_constant__ EncodeCall call, Room<Width> room) {
  constexpr int kSlices = Width / 32, kRows = 2, kColumns = 8 * kSlices;
  const Chains& chains = call.chains[blockIdx.y];
  const bool exact = call.exact, stats = call.stats;
  const int width = static_cast<int>(call.rows.width);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int levels = chains.levels;
  const PackedLayout layout(chains.codewords, width);
  const int tiles = layout.codewords / 32;
  const int tile_bits = tiles > 1 ? (1 << (32 - __clz(tiles - 1))) - 1 : 0;

  UNITOK_SHARED(unsigned char, shared);
  unsigned char* const mine = shared + int64_t{room.chunks} * room.chunk_bytes() + warp * room.per_warp();
  int* const biases = reinterpret_cast<int*>(mine);
  float* const kept_rows = reinterpret_cast<float*>(biases + room.chunk);
  uint32_t* const kept = reinterpret_cast<uint32_t*>(kept_rows + 8 * Width);
  int* const kept_codes = reinterpret_cast<int*>(kept + 64);
  float* const left = reinterpret_cast<float*>(kept_codes + levels * kTileRows);

  Ring<Width, Unit> ring(room, shared, layout, levels);
  for (int i = lane; i < levels + 3; i += 32) left[i] = 0;
  const float width_root = sqrtf(static_cast<float>(width));

  // A block takes neighbouring tiles of rows, each of one group, so that it seldom changes codebooks.
  constexpr int kTogether = kTileRows * kWarps<Width>;
  const auto count_of = [&](int group) -> int64_t {
    return chains.order == nullptr ? chains.items : chains.starts[group + 1] - chains.starts[group];
  };
  const auto tiles_of = [&](int group) { return static_cast<int>((count_of(group) + kTogether - 1) / kTogether); };
  int all = 0;
  for (int group = 0; group < chains.groups; ++group) all += tiles_of(group);
  const int end = static_cast<int>(int64_t{all} * (blockIdx.x + 1) / gridDim.x);
  int group = 0;
  int groups_first = 0;  // the number of the group's first tile
#pragma unroll 1
  for (int tile = static_cast<int>(int64_t{all} * blockIdx.x / gridDim.x); tile < end; ++tile) {
    while (tile >= groups_first + tiles_of(group)) groups_first += tiles_of(group++);
    ring.begin(chains.packed + int64_t{group} * levels * layout.bytes());
    const unsigned char* const codebooks = ring.codebooks();

    // Items of this lane, in the order by group; their rows.
    const int64_t begin = chains.order == nullptr ? 0 : chains.starts[group];
    const int64_t place = begin + int64_t{tile - groups_first} * kTogether + warp * kTileRows;
    const int there = static_cast<int>(min(int64_t{kTileRows}, max(int64_t{0}, begin + count_of(group) - place)));
    const auto item_of = [&](int row) -> int64_t {
      return chains.order == nullptr ? place + row : chains.order[place + row];
    };
    float r[kRows][kColumns];
    with_rows(call.rows, [&](auto* data) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool is_there = g + 8 * i < there;
        const int64_t item = is_there ? item_of(g + 8 * i) : 0;
        const auto* const row = data + (chains.slots == 1 ? item : item / chains.slots) * width;
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
          const int column = 32 * slice + 8 * t;
          load_eight(row + column, is_there ? width - column : 0, call.whole, r[i] + 8 * slice);
        }
      }
    });
    uint32_t good = 0;  // a bit for each of the lane's rows
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float bad = 0;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) bad += r[i][j] * 0.0f;
      const bool is_good = quad_sum(bad) == 0.0f && g + 8 * i < there;
      good |= is_good ? 1u << i : 0;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        r[i][j] = is_good ? r[i][j] : 0.0f;
      }
    }
    const int good_rows = __reduce_add_sync(~0u, t == 0 ? __popc(good) : 0);
    if (lane == 0) left[levels] += static_cast<float>(good_rows);

#pragma unroll 1
    for (int level = 0; level < levels; ++level) {
      const unsigned char* const book = codebooks + level * layout.bytes();
      const float* const values = reinterpret_cast<const float*>(book + layout.values());
      const Limits limits = load_vector<Limits>(book + layout.limits());

      // Digits of the rows, negative since the score takes the product away.
      float farthest = 0, squares[kRows] = {};
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const auto m = load_vector<float4>(book + layout.centre() + 4 * (32 * slice + 8 * t + 4 * half));
          const float centre[4] = {m.x, m.y, m.z, m.w};
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const float centred = r[i][8 * slice + 4 * half + j] - centre[j];
              farthest = fmaxf(farthest, fabsf(centred));
              squares[i] = fmaf(centred, centred, squares[i]);
            }
          }
        }
      }
      farthest = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(farthest)));
      const float step = fmaxf(farthest * (1 / kSteps), limits.half * (1 / kMostBias));
      const float per_step = step > 0 ? 1 / step : 0;
      uint32_t high[kSlices][4], low[kSlices][4];
      int low_squares[kRows] = {};
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const auto m = load_vector<float4>(book + layout.centre() + 4 * (32 * slice + 8 * t + 4 * half));
          const float centre[4] = {m.x, m.y, m.z, m.w};
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            uint32_t steps[4], raised[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {  // 1.5 * 2^23 rounds to whole steps, which are its low bits then
              steps[j] = __float_as_uint(fmaf(r[i][8 * slice + 4 * half + j] - centre[j], -per_step, 12582912.0f));
              raised[j] = steps[j] + 128;
            }
            const uint32_t lows = gather_bytes(steps, 0x0040);
            low_squares[i] = __dp4a(static_cast<int>(lows), static_cast<int>(lows), low_squares[i]);
            low[slice][i + 2 * half] = lows;
            high[slice][i + 2 * half] = gather_bytes(raised, 0x0051);
          }
        }
      }

      int columns[kRows][8], best[kRows], next[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        best[i] = next[i] = INT_MAX;
#pragma unroll
        for (int j = 0; j < 8; ++j) columns[i][j] = INT_MAX;
      }
      int number = 0;  // of the tile of codewords
#pragma unroll 1
      for (int chunk = 0; chunk < ring.chunks(); ++chunk) {
        auto digits = Unit::begin(ring.next());
        const int span = min(room.chunk, layout.codewords - chunk * room.chunk);
        __syncwarp();
#pragma unroll 4
        for (int i = lane; i < span; i += 32) {
          biases[i] =
              __float2int_rn(load_vector<float>(book + layout.halves() + 4 * (chunk * room.chunk + i)) * per_step);
        }
        __syncwarp();
        const int* bias = biases + 2 * t;
#pragma unroll 1
        for (const int last = number + span / 32; number < last; digits += Unit::step(Width), bias += Unit::kTile) {
          int scores[Unit::kTile / 8][4];
          Unit::score(digits, bias, high, low, scores);
#pragma unroll
          for (int half = 0; half < Unit::kTile / 32; ++half, ++number) {
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
              const auto score = [&](int j) { return scores[4 * half + j / 2][2 * i + j % 2]; };
              int least = __vimin3_s32(score(0), score(1), score(2));
              least = __vimin3_s32(least, score(3), score(4));
              least = __vimin3_s32(least, score(5), min(score(6), score(7)));
              least = (least & ~tile_bits) | number;
              next[i] = min(next[i], max(best[i], least));
              best[i] = min(best[i], least);
#pragma unroll
              for (int j = 0; j < 8; ++j) columns[i][j] = min(columns[i][j], score(j));
            }
          }
        }
      }

      int codes[kRows];
      uint32_t unsure = 0;
      uint32_t found[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float square = quad_sum(squares[i]);
        const float low_root = rough_sqrt(static_cast<float>(quad_sum(low_squares[i])));
        float bound =
            0.51f * (limits.absolute + 2.0f * static_cast<float>(width) + width_root * rough_sqrt(square) * per_step);
        bound = (bound + low_root * limits.low) / 256 + 1.0f + limits.half * per_step * 0x1p-21f;
        float margin = 2.02f * bound + static_cast<float>(2 * tile_bits + 2);
        const int least = quad_min(best[i]);
        if (stats) {  // half the distance, of which a near tie's gap is 1e-5
          margin += 1.01e-5f * (square * per_step * limits.per_step / 512 + fabsf(static_cast<float>(least)) + margin);
        }
        const int within = min(least, 1 << 30) + static_cast<int>(fminf(margin, kMostBias));  // of no codeword, INT_MAX
        uint32_t slots = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          if (columns[i][j] <= within) slots += 1u << j;
        }
        const int count = __popc(slots), slot = __ffs(static_cast<int>(slots)) - 1;
        const int codeword = (best[i] & tile_bits) * 32 + slot / 2 * 8 + 2 * t + slot % 2;
        const int sum = quad_sum((count == 1 ? codeword : 0) + (count << 20) + (next[i] <= within ? 1 << 26 : 0));
        codes[i] = sum & 0xfffff;
        found[i] = slots << 16 | static_cast<uint32_t>(best[i] & tile_bits) | (next[i] <= within ? 1u << 31 : 0);
        if (sum >> 20 != 1 && good >> i & 1) {
          unsure |= 1u << i;
          if (!exact) {  // the least score of the lane with the least
            const uint32_t lanes = __ballot_sync(0xfu << 4 * g, best[i] == least) >> 4 * g;
            const int owner = 4 * g + __ffs(static_cast<int>(lanes)) - 1;
            int lowest = columns[i][0], least_slot = 0;
#pragma unroll
            for (int j = 1; j < 8; ++j) {
              if (columns[i][j] < lowest) lowest = columns[i][j], least_slot = j;
            }
            codes[i] = __shfl_sync(0xfu << 4 * g,
                                   (best[i] & tile_bits) * 32 + least_slot / 2 * 8 + 2 * t + least_slot % 2, owner);
          }
        }
      }
      if (!exact) {
        const int near_ties = __reduce_add_sync(~0u, t == 0 ? __popc(unsure) : 0);
        if (lane == 0) left[levels + 2] += static_cast<float>(near_ties);
      }
      if (exact && __any_sync(~0u, unsure)) {
#pragma unroll 1
        for (int i = 0; i < kRows; ++i) {
          uint32_t asked = __ballot_sync(~0u, unsure >> i & 1);
          if (asked == 0) continue;
          uint32_t those = found[0];
#pragma unroll
          for (int other = 1; other < kRows; ++other) those = i == other ? found[other] : those;
          __syncwarp();
          kept[lane] = those;
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            float value = r[0][j];
#pragma unroll
            for (int other = 1; other < kRows; ++other) value = i == other ? r[other][j] : value;
            kept_rows[g * Width + j / 8 * 32 + 8 * t + j % 8] = value;
          }
          __syncwarp();
#pragma unroll 1
          while (asked != 0) {
            const int quad = (__ffs(static_cast<int>(asked)) - 1) / 4;
            asked &= ~(0xfu << 4 * quad);
            const Candidates candidates(kept + 4 * quad, tiles);
            const float* const row = kept_rows + quad * Width;
            const auto rough = by_differencing<Width, float>(row, values, chains.codewords, candidates);
            int codeword = rough.codeword;
            const float trusted =
                (1e-5f + static_cast<float>(width + 8) * 0x1p-23f) * rough.next + static_cast<float>(width) * 0x1p-118f;
            if (!(rough.next - rough.best > trusted)) {
              const auto precise = by_differencing<Width, double>(row, values, chains.codewords, candidates);
              codeword = precise.codeword;
              if (lane == 0 && precise.next - precise.best < 1e-5 * precise.best) left[levels + 2] += 1;
            }
            if (lane == 0) {
              left[levels + 1] += 1;
              kept[32 + quad] = static_cast<uint32_t>(codeword);
            }
          }
          __syncwarp();
          const int codeword = static_cast<int>(kept[32 + g]);
#pragma unroll
          for (int other = 0; other < kRows; ++other) {
            if (i == other && unsure >> i & 1) codes[other] = codeword;
          }
        }
      }

#pragma unroll
      for (int i = 0; i < kRows; ++i) codes[i] = min(codes[i], chains.codewords - 1);  // whatever the values were
      float error = 0;
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {  // all rows' codewords at once, as each takes its time
        float4 c[kRows][2];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const float* const codeword = values + int64_t{codes[i]} * Width + 32 * slice + 8 * t;
          c[i][0] = load_vector<float4>(codeword);
          c[i][1] = load_vector<float4>(codeword + 4);
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const float codeword[8] = {c[i][0].x, c[i][0].y, c[i][0].z, c[i][0].w,
                                     c[i][1].x, c[i][1].y, c[i][1].z, c[i][1].w};
          const bool is_good = good >> i & 1;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            float& value = r[i][8 * slice + j];
            value = is_good ? value - codeword[j] : 0.0f;
            error = fmaf(value, value, error);
          }
        }
      }
      if (t == 0) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) kept_codes[(g + 8 * i) * levels + level] = good >> i & 1 ? codes[i] : -1;
      }
      for (int bits = 16; bits > 0; bits /= 2) error += __shfl_xor_sync(~0u, error, bits);
      if (lane == 0) left[level] += error;
    }

    __syncwarp();
    if (chains.distances != nullptr) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float distance = 0;
#pragma unroll
        for (int j = 0; j < kColumns; ++j) distance = fmaf(r[i][j], r[i][j], distance);
        distance = quad_sum(distance);
        if (t == 0 && g + 8 * i < there) chains.distances[item_of(g + 8 * i)] = good >> i & 1 ? distance : NAN;
      }
    }
    if (chains.order == nullptr) {
      for (int i = lane; i < there * levels; i += 32) chains.codes[place * levels + i] = kept_codes[i];
    } else {
      for (int i = lane; i < there * levels; i += 32)
        chains.codes[item_of(i / levels) * levels + i % levels] = kept_codes[i];
    }
    if (chains.quantized != nullptr) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float total[kColumns] = {};
#pragma unroll 2
        for (int level = 0; level < levels; ++level) {
          const int code = max(kept_codes[(g + 8 * i) * levels + level], 0);
          const unsigned char* const book = codebooks + level * layout.bytes() + layout.values();
          const float* const c = reinterpret_cast<const float*>(book) + int64_t{code} * Width + 8 * t;
#pragma unroll
          for (int j = 0; j < kColumns; j += 4) {
            const auto add = load_vector<float4>(c + j / 8 * 32 + j % 8);
            total[j] += add.x, total[j + 1] += add.y, total[j + 2] += add.z, total[j + 3] += add.w;
          }
        }
#pragma unroll
        for (int j = 0; j < kColumns; ++j) total[j] = good >> i & 1 ? total[j] : 0.0f;
        with_rows(call.rows, [&](auto* like) {
          using T = std::remove_const_t<std::remove_pointer_t<decltype(like)>>;
          T* const to = static_cast<T*>(chains.quantized) + (place + g + 8 * i) * width;
#pragma unroll
          for (int slice = 0; slice < kSlices; ++slice) {
            const int column = 32 * slice + 8 * t;
            store_eight(to + column, g + 8 * i < there ? width - column : 0, call.whole, total + 8 * slice);
          }
        });
      }
    }
    __syncwarp();
  }
  ring.end();

  __syncwarp();
  float* const part = chains.parts + (int64_t{blockIdx.x} * kWarps<Width> + warp) * (levels + 3);
  for (int i = lane; i < levels + 3; i += 32) part[i] = left[i];
}

}  // namespace unitok

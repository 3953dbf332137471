#include "moe_residual_encode.h"

#include "encode.h"
#include "groups.h"
#include "number.cuh"
#include "packed.cuh"

namespace unitok {
namespace {

// How the workspace is cut up.
struct Workspace {
  Workspace(int64_t count, int64_t slots, const PackedChains& experts, const PackedChains& shared)
      : groups(count * slots, 1, experts.experts),
        keys(0),
        sorted(round(8 * count * slots)),
        parts(sorted + round(groups.bytes)),
        shared_parts(parts + round(parts_bytes(experts.levels))),
        bytes(shared_parts + (shared.data != nullptr ? round(parts_bytes(shared.levels)) : 0)) {}

  static int64_t round(int64_t size) { return (size + 127) / 128 * 128; }

  GroupsLayout groups;
  int64_t keys, sorted, parts, shared_parts, bytes;
};

__device__ float load_one(const Rows& rows, int64_t i) {
  if (rows.type == Float::f32) return static_cast<const float*>(rows.data)[i];
  if (rows.type == Float::f16) return widen(static_cast<const F16*>(rows.data)[i]);
  return widen(static_cast<const BF16*>(rows.data)[i]);
}

// Each slot's expert, and -1 for a slot whose weight isn't finite.
__global__ void __launch_bounds__(256)
    choose(const int64_t* __restrict__ expert_ids, const __grid_constant__ Rows weights, int64_t count, int64_t* keys) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) keys[i] = fabsf(load_one(weights, i)) < INFINITY ? expert_ids[i] : -1;
}

// What combine reads.
struct Mixture {
  PackedChains experts, shared;
  Rows weights;
  const int64_t* expert_ids;
  const int64_t* codes;
  const int64_t* shared_codes;
  int64_t count;
  int slots, width;
  float shared_weight;
};

// Four columns of the sum of the codewords that a chain's codes name, in level order.
__device__ float4 sum_codewords(const PackedChains& chains, int64_t expert, const int64_t* codes, int width,
                                int column) {
  const PackedLayout layout(static_cast<int>(chains.codewords), width);
  const auto* const packed = static_cast<const unsigned char*>(chains.data) + expert * chains.levels * layout.bytes();
  float4 sum = make_float4(0, 0, 0, 0);
  for (int64_t level = 0; level < chains.levels; ++level) {
    const int64_t code = codes[level];
    if (code < 0) continue;
    const unsigned char* const values = packed + level * layout.bytes() + layout.values();
    const auto c = load_vector<float4>(values + 4 * (code * layout.width + column));
    sum.x += c.x, sum.y += c.y, sum.z += c.z, sum.w += c.w;
  }
  return sum;
}

__device__ void add_product(float4& to, float weight, const float4& x) {
  to.x += weight * x.x, to.y += weight * x.y, to.z += weight * x.z, to.w += weight * x.w;
}

// combined_n = sum_s w_s Q_{e_s} + shared_weight Q_shared; a thread holds four columns of a row.
template <class T>
__global__ void __launch_bounds__(256)
    combine(const __grid_constant__ Mixture mixture, bool whole, T* __restrict__ combined) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const int width = mixture.width;
  if (row >= mixture.count) return;
  for (int column = 4 * threadIdx.x; column < width; column += 4 * blockDim.x) {
    float4 total = make_float4(0, 0, 0, 0);
    for (int slot = 0; slot < mixture.slots; ++slot) {
      const int64_t item = row * mixture.slots + slot;
      const int64_t* const codes = mixture.codes + item * mixture.experts.levels;
      if (codes[0] < 0) continue;
      const float4 quantized = sum_codewords(mixture.experts, mixture.expert_ids[item], codes, width, column);
      add_product(total, load_one(mixture.weights, item), quantized);
    }
    if (mixture.shared.data != nullptr) {
      const int64_t* const codes = mixture.shared_codes + row * mixture.shared.levels;
      add_product(total, mixture.shared_weight, sum_codewords(mixture.shared, 0, codes, width, column));
    }
    Pack<T, 4> rounded;
    narrow(total.x, rounded.values[0]), narrow(total.y, rounded.values[1]);
    narrow(total.z, rounded.values[2]), narrow(total.w, rounded.values[3]);
    T* const to = combined + row * width + column;
    if (whole) {
      store_vector(to, rounded);
    } else {
      for (int i = 0; i < 4 && column + i < width; ++i) to[i] = rounded.values[i];
    }
  }
}

Chains chains_of(const PackedChains& packed, int64_t items, int64_t slots, int64_t* codes, void* parts) {
  Chains chains{};
  chains.packed = static_cast<const unsigned char*>(packed.data);
  chains.groups = static_cast<int>(packed.experts);
  chains.levels = static_cast<int>(packed.levels);
  chains.codewords = static_cast<int>(packed.codewords);
  chains.items = items;
  chains.slots = static_cast<int>(slots);
  chains.codes = codes;
  chains.parts = static_cast<float*>(parts);
  return chains;
}

}  // namespace

int64_t moe_residual_encode_workspace(int64_t count, int64_t slots, const PackedChains& experts,
                                      const PackedChains& shared) {
  return Workspace(count, slots, experts, shared).bytes;
}

void moe_residual_encode(const Rows& z, const PackedChains& experts, const int64_t* expert_ids,
                         const Rows& expert_weights, const PackedChains& shared, float shared_weight, bool exact,
                         bool stats, const MixtureResult& result, void* workspace, cudaStream_t stream) {
  const int64_t slots = expert_weights.width, items = z.count * slots;
  const Workspace layout(z.count, slots, experts, shared);
  auto* const space = static_cast<unsigned char*>(workspace);
  auto* const keys = reinterpret_cast<int64_t*>(space + layout.keys);
  const int count = shared.data != nullptr ? 2 : 1;
  Chains chains[2];
  chains[0] = chains_of(experts, items, slots, result.codes, space + layout.parts);
  chains[1] = chains_of(shared, z.count, 1, result.shared_codes, space + layout.shared_parts);
  if (z.count > 0) {
    UNITOK_LAUNCH(choose, static_cast<unsigned>(ceil_div(items, 256)), 256, 0, stream, expert_ids, expert_weights,
                  items, keys);
    const Groups groups = group_rows(keys, layout.groups, nullptr, space + layout.sorted, stream);
    chains[0].order = groups.order;
    chains[0].starts = groups.starts;
    check(cudaMemsetAsync(result.codes, 0xff, 8 * items * experts.levels, stream));  // -1 for the slots of no expert
  }
  encode_rows(z, chains, count, exact, stats, stream);
  finish_parts(z, chains, count, result.level_error, result.shared_error, result.counts, stream);
  if (z.count == 0) return;
  const Mixture mixture{experts,
                        shared,
                        expert_weights,
                        expert_ids,
                        result.codes,
                        result.shared_codes,
                        z.count,
                        static_cast<int>(slots),
                        static_cast<int>(z.width),
                        shared_weight};
  with_type(z.type, [&](auto type) {
    using T = decltype(type);
    const bool whole = z.width % 4 == 0 && reinterpret_cast<uintptr_t>(result.combined) % (4 * sizeof(T)) == 0;
    const dim3 block = row_block(ceil_div(z.width, 4), 256);
    UNITOK_LAUNCH(combine<T>, static_cast<unsigned>(ceil_div(z.count, block.y)), block, 0, stream, mixture, whole,
                  static_cast<T*>(result.combined));
  });
  check(cudaGetLastError());
}

}  // namespace unitok

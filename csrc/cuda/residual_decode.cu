#include "residual_decode.h"

#include "codeword_statistics.h"
#include "number.cuh"

namespace unitok {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kAtOnce = 4;  // levels that a thread loads at the same time

// quantized_n = sum_l C_l,code_nl; a thread holds V columns of a row.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    decode(const int64_t* __restrict__ codes, int64_t count, int levels, const T* __restrict__ codebooks,
           int64_t codewords, int64_t width, T* __restrict__ quantized) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= count) return;
  for (int64_t column = threadIdx.x * V; column < width; column += blockDim.x * V) {
    float total[V] = {};
    for (int first = 0; first < levels; first += kAtOnce) {
      Pack<T, V> loaded[kAtOnce] = {};
      for (int i = 0; i < kAtOnce; ++i) {
        const int64_t level = first + i, code = level < levels ? codes[row * levels + level] : -1;
        if (code < 0 || code >= codewords) continue;
        loaded[i] = load_vector<Pack<T, V>>(codebooks + (level * codewords + code) * width + column);
      }
      for (int i = 0; i < kAtOnce; ++i) {
        for (int v = 0; v < V; ++v) total[v] += widen(loaded[i].values[v]);
      }
    }
    Pack<T, V> rounded;
    for (int v = 0; v < V; ++v) narrow(total[v], rounded.values[v]);
    store_vector(quantized + row * width + column, rounded);
  }
}

}  // namespace

void residual_decode(const int64_t* codes, int64_t count, int64_t levels, const Rows& codebooks, void* quantized,
                     cudaStream_t stream) {
  if (count == 0) return;
  const int64_t codewords = codebooks.count / levels, width = codebooks.width;
  with_type(codebooks.type, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto kernel, int pack) {
      const dim3 block = row_block(ceil_div(width, pack), kThreads);
      UNITOK_LAUNCH(kernel, static_cast<unsigned>(ceil_div(count, block.y)), block, 0, stream, codes, count,
                    static_cast<int>(levels), static_cast<const T*>(codebooks.data), codewords, width,
                    static_cast<T*>(quantized));
    };
    if (in_packs<T>(width, codebooks.data, quantized)) {
      run(decode<T, kPack<T>>, kPack<T>);
    } else {
      run(decode<T, 1>, 1);
    }
  });
}

void residual_decode_backward(const Rows& gradient, const int64_t* codes, int64_t levels, int64_t codewords,
                              void* by_codebooks, void* workspace, cudaStream_t stream) {
  codeword_statistics(gradient, codes, levels, codewords, gradient.type, by_codebooks, nullptr, workspace, stream);
}

}  // namespace unitok

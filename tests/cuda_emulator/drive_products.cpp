// The products of platform.cuh and how their operands are loaded, held to plain loops: where each value lies in a warp,
// and how far off a sum may be.
#include "drive.h"

using namespace unitok;

namespace {

void launched() { CHECK(cudaGetLastError() == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess); }

// A product of (16, 8 words) and two of (8 words, 8), the rows and columns of which lie one after the other. They come
// by copy_async and load_matrices, as in a kernel that has real work.
template <class T, class Multiply>
__device__ void multiply_two(const uint32_t* a, const uint32_t* b, T* c, Multiply multiply) {
  UNITOK_SHARED(uint32_t, words);
  const int lane = static_cast<int>(threadIdx.x), group = lane / 4, column = 2 * (lane % 4);
  for (int i = 4 * lane; i < 128; i += 128) {
    copy_async(words + i, a + i);
    copy_async(words + 128 + i, b + i);
  }
  copy_async_commit();
  copy_async_wait<0>();
  __syncwarp();
  uint32_t left[4], right[4];
  const int row = lane % 8, matrix = lane / 8;
  load_matrices(left, words + 8 * (row + 8 * (matrix % 2)) + 4 * (matrix / 2));
  load_matrices(right, words + 128 + 8 * (row + 8 * (matrix / 2)) + 4 * (matrix % 2));
  for (int half = 0; half < 2; ++half) {
    T* const to = c + 16 * group + 8 * half + column;
    T sums[4] = {to[0], to[1], to[128], to[129]};
    const uint32_t columns[2] = {right[2 * half], right[2 * half + 1]};
    multiply(sums, left, columns);
    to[0] = sums[0], to[1] = sums[1], to[128] = sums[2], to[129] = sums[3];
  }
}

enum class Operand { s8, bf16, tf32 };

__global__ void products(Operand type, const uint32_t* a, const uint32_t* b, int* whole, float* real) {
  using Words4 = const uint32_t (&)[4];
  using Words2 = const uint32_t (&)[2];
  if (type == Operand::s8) multiply_two(a, b, whole, [](int (&c)[4], Words4 x, Words2 y) { multiply_s8(c, x, y); });
  if (type == Operand::bf16)
    multiply_two(a, b, real, [](float (&c)[4], Words4 x, Words2 y) { multiply_bf16(c, x, y); });
  if (type == Operand::tf32)
    multiply_two(a, b, real, [](float (&c)[4], Words4 x, Words2 y) { multiply_tf32(c, x, y); });
}

struct Product {
  std::vector<int> whole;
  std::vector<float> real;
};

Product run_product(Operand type, const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                    const Product& start) {
  const Array<uint32_t> left(a), right(b);
  Array<int> whole(start.whole);
  Array<float> real(start.real);
  UNITOK_LAUNCH(products, 1, 32, 1024, nullptr, type, left.data(), right.data(), whole.data(), real.data());
  launched();
  return {whole.values(), real.values()};
}

// Value k of row i, where a row is 8 words.
double operand(const std::vector<uint32_t>& words, Operand type, int i, int k) {
  const int per_word = type == Operand::s8 ? 4 : type == Operand::bf16 ? 2 : 1;
  const uint32_t word = words[static_cast<std::size_t>(8 * i + k / per_word)] >> (32 / per_word * (k % per_word));
  if (type == Operand::s8) return static_cast<int8_t>(word);
  return static_cast<double>(type == Operand::bf16 ? from_bf16(static_cast<uint16_t>(word))
                                                   : float_of(word & ~0x1fffu));
}

// Operands of each type: small whole numbers, whose products are exact, or any. The last 13 bits of a tf32 aren't read.
std::vector<uint32_t> operands(Operand type, bool small, uint64_t seed) {
  const std::vector<float> normal = random_floats(16 * 32, seed);
  std::vector<uint32_t> words(16 * 8, 0);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto number = [&](std::size_t j) {
      const float x = normal[(4 * i + j) % normal.size()];
      return small ? std::nearbyint(4 * x) : x;
    };
    if (type == Operand::tf32) words[i] = bits_of(number(0)) | 0x1555;
    if (type == Operand::bf16) words[i] = uint32_t{to_bf16(number(0))} | uint32_t{to_bf16(number(1))} << 16;
    if (type == Operand::s8) words[i] = bits_of(normal[i]) * 2654435761u;
  }
  return words;
}

void check_products() {
  for (const Operand type : {Operand::s8, Operand::bf16, Operand::tf32}) {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const bool small = seed % 2 == 0;
      const std::vector<uint32_t> a = operands(type, small, seed), b = operands(type, small, seed + 100);
      Product start = {std::vector<int>(256), random_floats(256, seed + 200)};
      for (std::size_t i = 0; i < 256; ++i) {
        start.whole[i] = static_cast<int>(i) - 100;
        if (small) start.real[i] = std::nearbyint(10 * start.real[i]);
      }
      const Product found = run_product(type, a, b, start);
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 16; ++column) {
          const std::size_t at = static_cast<std::size_t>(16 * row + column);
          double expected = type == Operand::s8 ? start.whole[at] : static_cast<double>(start.real[at]);
          double magnitude = std::fabs(expected);
          for (int k = 0; k < (type == Operand::s8 ? 32 : type == Operand::bf16 ? 16 : 8); ++k) {
            const double product = operand(a, type, row, k) * operand(b, type, column, k);
            expected += product;
            magnitude += std::fabs(product);
          }
          const double result = type == Operand::s8 ? found.whole[at] : static_cast<double>(found.real[at]);
          // Two steps of up to 18 errors; nothing is cut off of whole numbers.
          const double allowed = type == Operand::s8 || small ? 0 : 36 * 0x1p-23 * magnitude;
          CHECK(std::fabs(result - expected) <= allowed);
        }
      }
    }
  }
}

#ifdef UNITOK_EMULATED
// start + the squares of the factors.
float sum_from(float start, const std::vector<float>& factors, emulator::MatrixUnit unit) {
  std::vector<uint32_t> words(128, 0);
  for (std::size_t k = 0; k < factors.size(); ++k)
    for (std::size_t row = 0; row < 16; ++row) words[8 * row + k / 2] |= uint32_t{to_bf16(factors[k])} << 16 * (k % 2);
  emulator::settings.unit = unit;
  const Product found = run_product(Operand::bf16, words, words, {{}, std::vector<float>(256, start)});
  emulator::settings.unit = {};
  CHECK(std::all_of(found.real.begin(), found.real.end(),
                    [&](float sum) { return bits_of(sum) == bits_of(found.real[0]); }));
  return found.real[0];
}

void check_what_a_unit_cuts_off() {
  const emulator::MatrixUnit least = {}, sm_80 = {16, 24}, sm_90 = {32, 25};
  const std::vector<float> small(16, 0x1p-12f);  // 16 products of 2^-24, below the last bit that is kept or in it
  CHECK(sum_from(0, small, least) == 0x1p-20f && sum_from(0, small, sm_80) == 0x1p-20f);
  CHECK(sum_from(1, small, least) == 1);
  CHECK(sum_from(1, small, sm_80) == 1 + 0x1p-20f);
  CHECK(sum_from(1, small, sm_90) == 1 + 0x1p-20f);
  CHECK(sum_from(2, small, sm_80) == 2);
  CHECK(sum_from(2, small, sm_90) == 2 + 0x1p-20f);
  CHECK(sum_from(-2, small, sm_90) == -2 + 0x1p-20f);
  // The sum is cut off as well: to nearest, 1 + 3 x 2^-24 would be 1 + 2^-22.
  CHECK(sum_from(1, std::vector<float>(3, 0x1p-12f), sm_90) == 1 + 0x1p-23f);
  // What comes in an earlier step is added up before it meets a large product.
  std::vector<float> large_last(8, 0x1p-12f);
  large_last.push_back(1);
  CHECK(sum_from(0, large_last, least) == 1);
  CHECK(sum_from(0, large_last, {16, 23}) == 1 + 0x1p-21f);
  CHECK(std::isinf(sum_from(INFINITY, small, least)) && std::isnan(sum_from(NAN, small, least)));
  CHECK(sum_from(0, {}, least) == 0 && std::isinf(sum_from(0, std::vector<float>(16, 0x1p63f), least)));
}
#endif

__global__ void transpose(const uint16_t* in, uint16_t* out) {
  UNITOK_STATIC_SHARED(uint16_t, matrices, [4 * 8 * 8]);
  const int lane = static_cast<int>(threadIdx.x);
  store_vector(matrices + 8 * lane, load_vector<int4>(in + 8 * lane));
  __syncwarp();
  uint32_t words[4];
  load_matrices_transposed(words, matrices + 8 * lane);
  for (int i = 0; i < 4; ++i) {
    out[64 * i + 2 * lane] = static_cast<uint16_t>(words[i] & 0xffff);
    out[64 * i + 2 * lane + 1] = static_cast<uint16_t>(words[i] >> 16);
  }
}

void check_transposition() {
  Array<uint16_t> in(256), out(256);
  for (int i = 0; i < 256; ++i) in[i] = static_cast<uint16_t>(i * 251);
  UNITOK_LAUNCH(transpose, 1, 32, 0, nullptr, in.data(), out.data());
  launched();
  for (int matrix = 0; matrix < 4; ++matrix)
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < 8; ++j) CHECK(out[64 * matrix + 8 * i + j] == in[64 * matrix + 8 * j + i]);
}

}  // namespace

int main(int count, char** arguments) {
  in_every_order(effort(count, arguments), [](Effort) {
    check_products();
    check_transposition();
#ifdef UNITOK_EMULATED
    check_what_a_unit_cuts_off();
#endif
  });
  std::printf("products are what plain loops add up\n");
}

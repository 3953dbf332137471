// Faults of products by a warpgroup: operands or sums that are read or changed too early, too late or in a wrong place.
#include "planted.h"
#include "products.cuh"

using namespace unitok;

namespace {

enum class Way {
  right,
  not_waited_for,
  not_arrived,
  sums_changed,
  rows_changed,
  no_proxy_fence,
  no_barrier,
  other_stride,
  other_start,
  refilled,
  warp_missing
};

constexpr int kGroup = 128, kBytes = 64 * 32, kMatrices = 3;

// c (64, 64) = a (64, 32) times the sum of some b (32, 64). The next b is copied while the last one is read. Eight
// columns of b are 256 bytes: the first 16 bytes of each, then the others.
__global__ void multiply_by_all(const uint32_t* a, const unsigned char* b, int* c, Way how) {
  UNITOK_SHARED(unsigned char, buffers);
  const int thread = static_cast<int>(threadIdx.x), g = thread % 32 / 4, t = thread % 4;
  const uint32_t* const first = a + 8 * (thread / 32 * 16 + g);
  uint32_t rows[4] = {first[t], first[64 + t], first[t + 4], first[64 + t + 4]};
  const auto buffer = [&](int matrix) { return buffers + (how == Way::refilled ? 0 : matrix % 2 * kBytes); };
  const auto fetch = [&](int matrix) {
    if (matrix < kMatrices) copy_async(buffer(matrix) + 16 * thread, b + matrix * kBytes + 16 * thread);
    copy_async_commit();
  };
  int sums[8][4] = {};
  fetch(0);
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    copy_async_wait<0>();
    if (how != Way::no_proxy_fence) fence_async_proxy();
    if (how != Way::no_barrier) __syncthreads();
    if (how == Way::warp_missing && thread / 32 == 2) continue;
    if (how != Way::not_arrived) warpgroup_arrive(sums);
    if (how == Way::sums_changed && matrix == 1) ++sums[0][0];
    const uint32_t start =
        matrix_start(shared_address(buffer(matrix)) + (how == Way::other_start ? 2 * kBytes : 0), 128);
    const uint64_t descriptor = matrix_descriptor(start, how == Way::other_stride ? 128 : 256);
    warpgroup_multiply_s8(sums, rows, descriptor, matrix > 0);
    if (how == Way::rows_changed) ++rows[0];
    fetch(matrix + 1);
    if (how != Way::not_waited_for) warpgroup_wait(sums);
  }
  for (int n = 0; n < 8; ++n)
    for (int i = 0; i < 4; ++i) c[64 * (thread / 32 * 16 + g + i / 2 * 8) + 8 * n + 2 * t + i % 2] = sums[n][i];
}

void multiply(Way how) {
  std::mt19937_64 engine(1);
  Array<uint32_t> a(64 * 8);
  Array<unsigned char> b(kMatrices * kBytes);
  Array<int> c(64 * 64);
  for (int64_t i = 0; i < a.size(); ++i) a[i] = static_cast<uint32_t>(engine());
  for (int64_t i = 0; i < b.size(); ++i) b[i] = static_cast<unsigned char>(engine());
  UNITOK_LAUNCH(multiply_by_all, 1, kGroup, 2 * kBytes, nullptr, a.data(), b.data(), c.data(), how);
  launched();
  for (int row = 0; row < 64; ++row)
    for (int column = 0; column < 64; ++column) {
      int sum = 0;
      for (int k = 0; k < 32 * kMatrices; ++k) {
        const int in_row = k % 32, place = k / 32 * kBytes + column / 8 * 256 + in_row / 16 * 128 + column % 8 * 16;
        const auto of_a = static_cast<signed char>(a[8 * row + in_row / 4] >> 8 * (in_row % 4));
        sum += of_a * static_cast<signed char>(b[place + in_row % 16]);
      }
      CHECK(c[64 * row + column] == sum);
    }
}

template <Way How>
void products(bool right) {
  multiply(right ? Way::right : How);
}

}  // namespace

std::vector<Fault> faults_of_warpgroups() {
  return {
      {"product_not_waited_for", products<Way::not_waited_for>, kWrong, nullptr, nullptr},
      {"product_without_arrival", products<Way::not_arrived>, "warpgroup_arrive must come first", nullptr, nullptr},
      {"product_of_changed_sums", products<Way::sums_changed>, "have changed since warpgroup_arrive", nullptr, nullptr},
      {"product_of_changed_rows", products<Way::rows_changed>, "registers have changed", nullptr, nullptr},
      {"product_without_proxy_fence", products<Way::no_proxy_fence>, "async proxy doesn't see", nullptr, nullptr},
      {"product_without_barrier", products<Way::no_barrier>, "async proxy doesn't see", nullptr, nullptr},
      {"product_with_other_stride", products<Way::other_stride>, kWrong, nullptr, nullptr},
      {"product_beyond_shared_memory", products<Way::other_start>, "beyond shared memory", nullptr, nullptr},
      {"product_of_a_refilled_buffer", products<Way::refilled>, "shared memory has changed", nullptr, nullptr},
      {"product_without_a_warp", products<Way::warp_missing>, kStuck, nullptr, nullptr},
  };
}

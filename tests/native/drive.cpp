// Runs the kernels of csrc/cpu without Python, so that sanitizers can watch: ragged shapes, every instruction set, 1 to
// 4 threads, several callers at once. Each result is compared with a naive double loop, if that is short, and with that
// of the plainest set: equal codes, equal or close values, and the same for any number of threads.
//
//     drive [quick | huge]
//
// To add an operation: write a function that runs it on a Shape and compares the result with a loop, declare it in
// drive.h, and add a line to kKernels.
#include <chrono>
#include <cmath>
#include <thread>

#include "api/residual_encode.h"
#include "drive.h"
#include "simd/isa.h"

using namespace unitok;

namespace {

std::string describe(const Shape& s) {
  return isa_name(isa()) + ": rows=" + std::to_string(s.rows) + " width=" + std::to_string(s.width) +
         " codewords=" + std::to_string(s.codewords) + " levels=" + std::to_string(s.levels) +
         " type=" + std::to_string(static_cast<int>(s.type)) + " threads=" + std::to_string(s.threads);
}

Written residual_encode_matches(const Shape& s) {
  std::vector<float> values = random_floats(s.rows * s.width, s.seed);
  const bool with_bad_row = s.rows > 2;
  if (with_bad_row) values[size((s.rows / 2) * s.width)] = s.seed % 2 ? NAN : INFINITY;
  const Bytes z = as_type(values, s.type);
  const std::vector<float> codebooks = random_floats(s.levels * s.codewords * s.width, s.seed + 1);
  Written out{Codes(size(s.rows * s.levels), -7), Bytes(z.size()), {}};
  std::vector<float> level_error(size(s.levels));
  int64_t counts[2];
  const int status =
      residual_encode({z.data(), s.type, s.rows, s.width}, codebooks.data(), s.levels, s.codewords, out.codes.data(),
                      out.values.data(), level_error.data(), counts, {s.threads, false, s.stats});
  CHECK(status == (with_bad_row ? kBadRow : kFine));
  std::vector<double> errors(size(s.levels));
  for (int64_t row = 0; row < s.rows; ++row) {
    std::vector<float> residual(size(s.width)), sum(size(s.width));
    for (int64_t d = 0; d < s.width; ++d) residual[size(d)] = read_value(z, s.type, row * s.width + d);
    if (with_bad_row && row == s.rows / 2) {
      for (int64_t level = 0; level < s.levels; ++level) CHECK(out.codes[size(row * s.levels + level)] == -1);
    } else {
      for (int64_t level = 0; level < s.levels; ++level) {
        const float* const table = codebooks.data() + level * s.codewords * s.width;
        const int64_t code = out.codes[size(row * s.levels + level)];
        check_nearest(residual.data(), table, s.codewords, s.width, code);
        for (int64_t d = 0; d < s.width; ++d) {
          residual[size(d)] -= table[code * s.width + d];
          sum[size(d)] += table[code * s.width + d];
          errors[size(level)] += std::pow(static_cast<double>(residual[size(d)]), 2);
        }
      }
    }
    const Bytes expected = as_type(sum, s.type);
    CHECK(std::equal(expected.begin(), expected.end(), out.values.begin() + row * s.width * size_of(s.type)));
  }
  const double count = static_cast<double>(std::max<int64_t>((s.rows - with_bad_row) * s.width, 1));
  for (int64_t level = 0; level < s.levels; ++level) {
    const double expected = errors[size(level)] / count;
    CHECK(std::fabs(static_cast<double>(level_error[size(level)]) - expected) <= 1e-5 * expected);
  }
  return out;
}

constexpr Kernel kKernels[] = {
    {"residual_encode", residual_encode_matches},
    {"nearest_codeword", nearest_codeword_matches},
    {"moe_residual_encode", moe_residual_encode_matches},
    {"precision fast", fast_has_the_exact_codes},
    {"residual_loss", residual_loss_matches},
    {"moe_residual_encode_backward", moe_residual_encode_backward_matches},
    {"codeword_statistics", codeword_statistics_matches},
    {"residual_decode", residual_decode_matches},
    {"kmeans", kmeans_is_balanced_or_nearest},
    {"hsic", hsic_matches},
    {"sinkhorn_assign", sinkhorn_assign_matches},
    {"ordered_linear", ordered_linear_matches},
    {"residual_straight_through", residual_straight_through_matches},
};

std::vector<Shape> shapes(Effort effort) {
  std::vector<Shape> all;
  uint64_t seed = 0;
  for (int64_t rows : {0, 1, 7, 16, 17, 97, 300})
    for (int64_t width : {1, 3, 16, 33})
      for (int64_t codewords : {1, 2, 15, 64, 65, 300})
        for (int64_t levels : {1, 3}) {
          ++seed;  // other properties vary with the seed; a quick run takes every 13th shape
          const auto type = static_cast<Float>(seed % 3);
          if (!effort.quick || seed % 13 == 0)
            all.push_back({rows, width, codewords, levels, type, 1 + static_cast<int>(seed % 4), seed % 5 == 0, seed});
        }
  return all;
}

void check_kernel(const Kernel& kernel, Effort effort) {
  for (Shape shape : shapes(effort)) {
    Written plainest;
    for (const std::string& set : available_isas()) {
      use_isa(set);
      Written first;
      for (int i = 0; i < 2; ++i, shape.threads = 1 + shape.threads % 4) {
        context = std::string(kernel.name) + " on " + describe(shape);
        Written found = kernel.run(shape);
        if (i == 0) first = found;
        CHECK(found.codes == first.codes && found.values == first.values && found.close == first.close);
      }
      if (set == available_isas().front()) plainest = first;
      CHECK(first.codes == plainest.codes && first.values == plainest.values);
      CHECK(first.close.size() == plainest.close.size());
      for (std::size_t i = 0; i < first.close.size(); ++i)
        check_close(first.close[i], plainest.close[i], first.tolerance);
    }
  }
}

// Several threads call all kernels at once; the pool works for one of them at a time.
void check_callers_at_once(Effort effort) {
  context = "callers at once";
  std::vector<std::thread> callers;
  for (uint64_t caller = 0; caller < 3; ++caller) {
    callers.emplace_back([=] {
      for (int i = 0; i < effort.repeats(20); ++i)
        for (const Kernel& kernel : kKernels)
          kernel.run({200, 9, 40, 2, Float::f32, 1 + i % 4, false, caller + 10 * static_cast<uint64_t>(i)});
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main(int count, char** arguments) {
  const std::string mode = count > 1 ? arguments[1] : "";
  const Effort effort{mode == "quick"};
  const auto start = std::chrono::steady_clock::now();
  const auto done = [&](const char* what) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%6.1f s  %s\n", seconds.count(), what);
    std::fflush(stdout);
  };
  if (mode == "huge") return check_huge(), done("calls beyond 2^33 values"), 0;
  check_addresses(), check_vectors(effort), done("numbers, vectors and addresses");
  check_pool(effort), done("thread pool");
  for (const Kernel& kernel : kKernels) check_kernel(kernel, effort), done(kernel.name);
  check_callers_at_once(effort), done("callers at once");
}

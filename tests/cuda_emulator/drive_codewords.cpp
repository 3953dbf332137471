// residual_decode, its gradient and codeword_statistics, compared with plain loops, bit for bit.
#include "codeword_statistics.h"
#include "drive.h"
#include "groups.h"
#include "residual_decode.h"

using unitok::Float;

namespace {

constexpr Float kTypes[] = {Float::f32, Float::f16, Float::bf16};

// Some codes beyond both ends, and a quarter of them at three codewords, so that there are long groups.
std::vector<int64_t> some_codes(int64_t count, int64_t codewords, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int64_t> codes(static_cast<std::size_t>(count));
  for (int64_t& code : codes) {
    const uint64_t draw = engine();
    code = draw % 4 == 0 ? static_cast<int64_t>(draw / 8 % 3) : static_cast<int64_t>(draw / 8 % (codewords + 2)) - 1;
    if (draw % 97 == 0) code = draw % 2 ? int64_t{1} << 62 : -(int64_t{1} << 62);
  }
  return codes;
}

template <class T>
void check_bytes(const Array<char>& found, const std::vector<T>& expected) {
  CHECK(found.size() == static_cast<int64_t>(expected.size() * sizeof(T)));
  CHECK(expected.empty() || std::memcmp(found.data(), expected.data(), expected.size() * sizeof(T)) == 0);
}

struct Shape {
  int64_t rows, levels, codewords, width;
};

void check_decode(const Shape& shape, Float type, int64_t offset) {
  const auto [rows, levels, codewords, width] = shape;
  const Bytes table = as_type(random_floats(levels * codewords * width, 1), type);
  const Array<int64_t> codes(some_codes(rows * levels, codewords, 2));
  // If an address isn't a multiple of 16, the kernel reads single values.
  const int64_t bytes = unitok::size_of(type);
  Array<char> codebooks(static_cast<int64_t>(table.size()) + offset * bytes), quantized(rows * width * bytes);
  std::copy(table.begin(), table.end(), codebooks.data() + offset * bytes);
  unitok::residual_decode(codes.data(), rows, levels,
                          {codebooks.data() + offset * bytes, type, levels * codewords, width}, quantized.data(),
                          nullptr);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  std::vector<float> sums(static_cast<std::size_t>(rows * width));
  for (int64_t i = 0; i < rows * width; ++i) {
    float& sum = sums[static_cast<std::size_t>(i)];
    for (int64_t level = 0; level < levels; ++level) {
      const int64_t code = codes[i / width * levels + level];
      if (code >= 0 && code < codewords) sum += read_value(table, type, (level * codewords + code) * width + i % width);
    }
  }
  check_bytes(quantized, as_type(sums, type));
}

// Small whole numbers: every order gives the same sums, so that any difference is a wrong row.
void check_sums(const Shape& shape, Float type, int64_t offset) {
  const auto [rows, levels, codewords, width] = shape;
  std::vector<float> values = random_floats(rows * width, 3, 20);
  for (float& value : values) value = std::nearbyint(value);
  const Bytes x = as_type(values, type);
  const Array<int64_t> codes(some_codes(rows * levels, codewords, 4));
  std::vector<float> expected(static_cast<std::size_t>(levels * codewords * width));
  std::vector<int64_t> numbers(static_cast<std::size_t>(levels * codewords));
  for (int64_t i = 0; i < rows * levels; ++i) {
    if (codes[i] < 0 || codes[i] >= codewords) continue;
    const int64_t group = i % levels * codewords + codes[i];
    ++numbers[static_cast<std::size_t>(group)];
    for (int64_t d = 0; d < width; ++d) {
      expected[static_cast<std::size_t>(group * width + d)] += read_value(x, type, i / levels * width + d);
    }
  }
  offset *= unitok::size_of(type);
  Array<char> rows_of_x(static_cast<int64_t>(x.size()) + offset);
  std::copy(x.begin(), x.end(), rows_of_x.data() + offset);
  Array<char> sums(static_cast<int64_t>(expected.size()) * 4),
      workspace(unitok::codeword_statistics_workspace(rows, width, levels, codewords));
  Array<char> gradient(static_cast<int64_t>(expected.size()) * unitok::size_of(type));
  Array<int64_t> counts(levels * codewords);
  unitok::codeword_statistics({rows_of_x.data() + offset, type, rows, width}, codes.data(), levels, codewords,
                              Float::f32, sums.data(), counts.data(), workspace.data(), nullptr);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  check_bytes(sums, expected);
  CHECK(counts.values() == numbers);
  unitok::residual_decode_backward({rows_of_x.data() + offset, type, rows, width}, codes.data(), levels, codewords,
                                   gradient.data(), workspace.data(), nullptr);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  check_bytes(gradient, as_type(expected, type));
}

// Called with so many codewords that the tallies of a warp are not in shared memory.
void check_groups(int64_t rows, int64_t levels, int64_t codewords) {
  const Array<int64_t> codes(some_codes(rows * levels, codewords, 5));
  const unitok::GroupsLayout layout(rows, levels, codewords);
  Array<int32_t> workspace(layout.bytes / 4);
  const unitok::Groups groups = unitok::group_rows(codes.data(), layout, nullptr, workspace.data(), nullptr);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  for (int64_t level = 0; level < levels; ++level) {
    const int32_t* const starts = groups.starts + level * (codewords + 1);
    int64_t place = 0;
    for (int64_t k = 0; k < codewords; ++k) {
      CHECK(starts[k] == place);
      for (int64_t i = 0; i < rows; ++i) {
        if (codes[i * levels + level] == k) CHECK(groups.order[level * rows + place++] == i);
      }
    }
    CHECK(starts[codewords] == place);
  }
}

// In float64: one codeword's rows fill several slots, and a float32 sum would lose the ones between 2^52 and -2^52.
void check_precision() {
  constexpr int64_t kRows = 1500;
  std::vector<float> values(kRows, 1);
  values.front() = 0x1p52f;
  values.back() = -0x1p52f;
  const Array<float> x(values);
  const Array<int64_t> codes(std::vector<int64_t>(kRows, 0));
  Array<char> workspace(unitok::codeword_statistics_workspace(kRows, 1, 1, 1));
  Array<float> sum(1);
  unitok::codeword_statistics({x.data(), Float::f32, kRows, 1}, codes.data(), 1, 1, Float::f32, sum.data(), nullptr,
                              workspace.data(), nullptr);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(sum[0] == kRows - 2);
}

}  // namespace

int main(int count, char** arguments) {
  in_every_order(effort(count, arguments), [](Effort effort) {
    std::vector<Shape> shapes = {{0, 2, 3, 4}, {1, 1, 1, 1}, {77, 3, 5, 13}, {1100, 2, 7, 32}};
    if (!effort.quick) {
      shapes.insert(shapes.end(), {{33, 1, 300, 40}, {2500, 1, 2, 8}, {700, 9, 40, 24}, {60, 2, 3, 300}});
    }
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      for (std::size_t j = 0; j < (effort.quick ? 1 : std::size(kTypes)); ++j) {
        const Float type = kTypes[(i + j) % std::size(kTypes)];
        for (const int64_t offset : {0, 1}) {
          check_decode(shapes[i], type, offset);
          check_sums(shapes[i], type, offset);
        }
      }
    }
    check_groups(1100, 2, 4100);
    check_precision();
  });
}

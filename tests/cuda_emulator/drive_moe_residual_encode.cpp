// moe_residual_encode: the codes of each slot must keep their promise, and their mixture be a plain sum, bit for bit.
#include "moe_residual_encode.h"

#include "chains.h"

using unitok::Float;

namespace {

struct Case {
  int64_t rows, slots, experts, levels, codewords, width;
  int64_t shared_levels = 0, shared_codewords = 1;  // no levels: no shared chain
  Float type = Float::f32, books_type = Float::f32, weight_type = Float::f32;
  Data data = {};
  std::size_t kilobytes = 227;
};

Books books_of(const Case& test, int64_t experts, int64_t levels, int64_t codewords, uint64_t seed) {
  std::vector<float> all;
  for (int64_t table = 0; table < experts * levels; ++table) {
    const std::vector<float> drawn =
        test.data.draw(codewords, test.width, seed + static_cast<uint64_t>(table), true, table % levels);
    all.insert(all.end(), drawn.begin(), drawn.end());
  }
  return {all, test.books_type, experts * levels, codewords, test.width};
}

// Some beyond both ends. The second expert gets no rows, the first one most.
std::vector<int64_t> some_experts(int64_t count, int64_t experts) {
  std::mt19937_64 engine(5);
  std::vector<int64_t> ids(static_cast<std::size_t>(count));
  for (int64_t& id : ids) {
    const uint64_t draw = engine();
    id = draw % 2 ? 0 : static_cast<int64_t>(draw / 2 % static_cast<uint64_t>(experts));
    if (id == 1) id = experts;
    if (draw % 23 == 0) id = -1;
    if (draw % 29 == 0) id = draw % 2 ? int64_t{1} << 40 : -(int64_t{1} << 40);
  }
  return ids;
}

// What one set of chains adds up, over the rows that it takes.
struct Totals {
  explicit Totals(int64_t levels) : squares(static_cast<std::size_t>(levels)) {}

  void add(const Walk& walk) {
    CHECK(walk.wrong == 0);
    for (std::size_t level = 0; level < squares.size(); ++level) squares[level] += walk.squares[level];
    near_ties += walk.near_ties;
    ++items;
  }

  void check_errors(const Array<float>& found, int64_t width) const {
    for (std::size_t level = 0; level < squares.size(); ++level)
      check_mean(found[static_cast<int64_t>(level)], squares[level], items * width);
  }

  std::vector<double> squares;
  int64_t items = 0, near_ties = 0;
};

bool all_are(const int64_t* codes, int64_t count, int64_t what) {
  return std::all_of(codes, codes + count, [=](int64_t code) { return code == what; });
}

void check(const Case& test) {
  constexpr float kSharedWeight = 0.3f;
  const int64_t items = test.rows * test.slots;
  const Books books = books_of(test, test.experts, test.levels, test.codewords, 7);
  const Books shared_books = books_of(test, 1, std::max<int64_t>(test.shared_levels, 1), test.shared_codewords, 400);
  const Items z(test.data.draw(test.rows, test.width, 3, false), test.type, test.width, true, test.rows % 2 == 0);
  const Items weights(random_floats(items, 9), test.weight_type, test.slots, true, true);
  const Array<int64_t> ids(some_experts(items, test.experts));
  const unitok::PackedChains experts = {books.packed(), test.experts, test.levels, test.codewords};
  const unitok::PackedChains shared = {test.shared_levels > 0 ? shared_books.packed() : nullptr, 1, test.shared_levels,
                                       test.shared_codewords};
  Array<int64_t> codes(items * test.levels), shared_codes(test.rows * test.shared_levels), counts(2);
  Array<char> combined(test.rows * test.width * unitok::size_of(test.type));
  Array<float> level_error(test.levels), shared_error(test.shared_levels);
  with_shared_kilobytes(test.kilobytes, [&] {
    Array<char> workspace(unitok::moe_residual_encode_workspace(test.rows, test.slots, experts, shared));
    unitok::moe_residual_encode(
        z.rows(), experts, ids.data(), weights.rows(), shared, kSharedWeight, true, true,
        {codes.data(), shared_codes.data(), combined.data(), level_error.data(), shared_error.data(), counts.data()},
        workspace.data(), nullptr);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
  });

  Totals of_experts(test.levels), of_shared(test.shared_levels);
  std::vector<float> expected;
  for (int64_t i = 0; i < test.rows; ++i) {
    std::vector<float> sum(static_cast<std::size_t>(test.width));
    const auto add = [&](float weight, const Walk& walk) {
      for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += weight * walk.quantized[d];
    };
    for (int64_t item = i * test.slots; item < (i + 1) * test.slots; ++item) {
      const int64_t* const mine = codes.data() + item * test.levels;
      const float weight = weights.row(i)[item - i * test.slots];
      if (!z.good(i) || ids[item] < 0 || ids[item] >= test.experts || !std::isfinite(weight)) {
        CHECK(all_are(mine, test.levels, -1));
        continue;
      }
      const Walk walk(z.row(i), books, ids[item] * test.levels, mine, test.levels);
      of_experts.add(walk);
      add(weight, walk);
    }
    if (test.shared_levels > 0) {
      const int64_t* const mine = shared_codes.data() + i * test.shared_levels;
      if (z.good(i)) {
        const Walk walk(z.row(i), shared_books, 0, mine, test.shared_levels);
        of_shared.add(walk);
        add(kSharedWeight, walk);
      } else {
        CHECK(all_are(mine, test.shared_levels, -1));
      }
    }
    expected.insert(expected.end(), sum.begin(), sum.end());
  }
  check_bytes(combined, as_type(expected, test.type));
  of_experts.check_errors(level_error, test.width);
  of_shared.check_errors(shared_error, test.width);
  CHECK(counts[0] >= 0 && counts[1] == of_experts.near_ties + of_shared.near_ties);
}

}  // namespace

int main(int count, char** arguments) {
  in_every_order(effort(count, arguments), [](Effort effort) {
    const Float f32 = Float::f32, f16 = Float::f16, bf16 = Float::bf16;
    std::vector<Case> cases = {
        {0, 2, 3, 2, 5, 20},
        {90, 2, 4, 2, 70, 32, 3, 20, f32, bf16, f16, {Kind::pairs}, 50},
        {61, 1, 3, 3, 64, 33, 0, 1, bf16},
        {90, 1, 3, 2, 140, 128, 1, 70, f32, f16, f32, {Kind::clusters}, 99},
    };
    if (!effort.quick) {
      cases.insert(cases.end(), {
                                    {1, 1, 1, 1, 1, 1},
                                    {0, 1, 2, 3, 4, 128, 2, 3, f16},
                                    {700, 2, 5, 2, 16, 32, 1, 300, f16, f32, bf16},
                                    {120, 3, 2, 4, 5, 96, 2, 64, f32, f32, f32, {Kind::equal}},
                                });
    }
    const std::string order = context;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      context = order + ", case " + std::to_string(i);
      check(cases[i]);
    }
  });
  std::printf("mixtures are the sums of what their codes name\n");
}

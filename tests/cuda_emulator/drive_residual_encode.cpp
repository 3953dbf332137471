// residual_encode: codes must keep their promise, and values be those of their codewords, bit for bit.
#include "residual_encode.h"

#include <deque>
#include <set>

#include "chain.cuh"
#include "chains.h"

using unitok::Float;
using unitok::Warp;
using unitok::Warpgroup;

namespace {

struct Shape {
  int64_t rows, levels, codewords, width;
};

struct Case {
  Shape shape;
  Float type = Float::f32, books_type = Float::f32;
  Data data = {};
  std::size_t kilobytes = 227;  // of shared memory; with little, codebooks go through a ring
  bool spoilt = false;          // some rows and codewords aren't finite
};

Books books_of(const Case& test) {
  const auto [rows, levels, codewords, width] = test.shape;
  std::vector<float> all;
  for (int64_t level = 0; level < levels; ++level) {
    const std::vector<float> table = test.data.draw(codewords, width, 7 + static_cast<uint64_t>(level), true, level);
    all.insert(all.end(), table.begin(), table.end());
    for (int64_t k = 0; test.spoilt && k < codewords; ++k)
      if (k % 5 == 1) all[all.size() - static_cast<std::size_t>(k * width + 1)] = k % 2 ? NAN : INFINITY;
  }
  return {all, test.books_type, levels, codewords, width};
}

struct Found {
  Found(const Items& z, const Books& books, int64_t levels, bool exact, bool stats)
      : codes(z.count * levels),
        quantized(z.count * z.width * unitok::size_of(z.type)),
        distances(z.count),
        level_error(levels),
        counts(2) {
    Array<char> workspace(unitok::residual_encode_workspace(levels));
    unitok::residual_encode(z.rows(), books.packed(), levels, books.codewords, exact, stats, codes.data(),
                            quantized.data(), distances.data(), level_error.data(), counts.data(), workspace.data(),
                            nullptr);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
  }

  bool same_as(const Found& other) const {
    const auto same = [](const auto& one, const auto& two) {
      return std::memcmp(one.data(), two.data(), static_cast<std::size_t>(one.size()) * sizeof one[0]) == 0;
    };
    return same(codes, other.codes) && same(quantized, other.quantized) && same(distances, other.distances) &&
           same(level_error, other.level_error) && same(counts, other.counts);
  }

  Array<int64_t> codes;
  Array<char> quantized;
  Array<float> distances, level_error;
  Array<int64_t> counts;
};

// Checks all but the codes; returns how many of these break the promise.
int64_t check_but_codes(const Found& found, const Items& z, const Books& books, int64_t levels, bool stats) {
  std::vector<float> quantized;
  std::vector<double> squares(static_cast<std::size_t>(levels));
  int64_t wrong = 0, near_ties = 0, good = 0;
  for (int64_t i = 0; i < z.count; ++i) {
    const int64_t* const codes = found.codes.data() + i * levels;
    if (!z.good(i)) {
      for (int64_t level = 0; level < levels; ++level) CHECK(codes[level] == -1);
      CHECK(std::isnan(found.distances[i]));
      quantized.insert(quantized.end(), static_cast<std::size_t>(z.width), 0.0f);
      continue;
    }
    const Walk walk(z.row(i), books, 0, codes, levels);
    quantized.insert(quantized.end(), walk.quantized.begin(), walk.quantized.end());
    for (std::size_t level = 0; level < squares.size(); ++level) squares[level] += walk.squares[level];
    CHECK(std::fabs(static_cast<double>(found.distances[i]) - walk.squares.back()) <= 1e-5 * walk.squares.back());
    wrong += walk.wrong;
    near_ties += walk.near_ties;
    ++good;
  }
  check_bytes(found.quantized, as_type(quantized, z.type));
  for (std::size_t level = 0; level < squares.size(); ++level)
    check_mean(found.level_error[static_cast<int64_t>(level)], squares[level], good * z.width);
  CHECK(found.counts[0] <= good * levels);
  if (stats) CHECK(found.counts[1] == near_ties);
  return wrong;
}

void check(const Case& test, bool aligned) {
  const auto [rows, levels, codewords, width] = test.shape;
  const Books books = books_of(test);
  const Items z(test.data.draw(rows, width, 3, false), test.type, width, test.spoilt, aligned);
  with_shared_kilobytes(test.kilobytes, [&, levels = levels, width = width] {
    std::deque<Found> last;
    in_every_way(width, [&] {
      std::deque<Found> found;
      // Without the search among the candidates, some codes are wrong on hard data: that proves that it is needed.
      for (const auto& [exact, stats] : {std::pair{true, true}, {true, false}, {false, false}}) {
        found.emplace_back(z, books, levels, exact, stats);
        const int64_t wrong = check_but_codes(found.back(), z, books, levels, exact && stats);
        if (exact) CHECK(wrong == 0);
        if (!exact && test.data.kind == Kind::normal) CHECK(wrong <= z.count * levels / 10);
        if (!exact && (test.data.kind == Kind::pairs || test.data.kind == Kind::clusters)) CHECK(wrong > 0);
      }
      for (std::size_t i = 0; i < last.size(); ++i) CHECK(found[i].same_as(last[i]));
      last = std::move(found);
    });
  });
}

// Two codewords and a row that need nearly the whole bound to find the nearer one. Steps are 1. All that the nearer
// one's score leaves out raises it, and lowers the other's: values of rows and codewords are half a step above or below
// whole ones, and low digits are large. The two distances differ by little more than a near tie.
struct WorstRow {
  static constexpr int kWidth = 32;
  std::vector<float> row, nearer, other;

  explicit WorstRow(uint64_t seed) {
    std::mt19937_64 engine(seed);
    double near, gap;
    do {
      row.clear(), nearer.clear(), other.clear();
      near = gap = 0;
      for (int d = 0; d < kWidth; ++d) {
        const bool first = d < kWidth / 2;
        const auto high = [&](int low, int range) {
          return 256 * static_cast<float>(low + static_cast<int>(engine() % static_cast<unsigned>(range)));
        };
        const float of_row = high(116, 11);
        row.push_back(d == 0 ? 32639.0f : of_row + (first ? 127.49f : 126.51f));
        nearer.push_back((first ? of_row - high(13, 6) : 0) + 127.49f);
        other.push_back((first ? 0 : of_row) - 127.49f);
        const double to_nearer = static_cast<double>(row.back()) - static_cast<double>(nearer.back());
        const double to_other = static_cast<double>(row.back()) - static_cast<double>(other.back());
        near += to_nearer * to_nearer;
        gap += to_other * to_other - to_nearer * to_nearer;
      }
    } while (gap < 1.01 * kNear * near || gap > 1.1 * kNear * near);
  }

  // With their negatives, so that the centre is 0, and with a codeword that makes the codebook's step 1.
  Books books() const {
    std::vector<float> far(kWidth), all;
    far[0] = 32639;
    for (const std::vector<float>& codeword : {far, other, nearer}) {
      all.insert(all.end(), codeword.begin(), codeword.end());
      for (const float value : codeword) all.push_back(-value);
    }
    return {all, Float::f32, 1, 6, kWidth};
  }
};

void check_worst_row(uint64_t seed) {
  const WorstRow worst(seed);
  std::vector<float> rows;
  for (int i = 0; i < 20; ++i) rows.insert(rows.end(), worst.row.begin(), worst.row.end());
  const Books books = worst.books();
  const Items z(rows, Float::f32, WorstRow::kWidth, false, true);
  CHECK(check_but_codes(Found(z, books, 1, true, false), z, books, 1, false) == 0);
  CHECK(check_but_codes(Found(z, books, 1, false, false), z, books, 1, false) == z.count);
}

// If no codeword is finite, codes are still in range.
void check_no_codeword() {
  const Books books(std::vector<float>(70 * 20, NAN), Float::f32, 1, 70, 20);
  const Items z(random_floats(20 * 20, 3), Float::f32, 20, false, true);
  const std::vector<int64_t> codes = Found(z, books, 1, true, true).codes.values();
  CHECK(std::all_of(codes.begin(), codes.end(), [](int64_t code) { return code >= 0 && code < 70; }));
}

// Chunks that a block keeps: all there are, or a ring of three or of two.
enum class Kept { all, three, two };

template <int Width, class Unit>
Kept kept(const Shape& shape, std::size_t kilobytes) {
  unitok::Chains chains{};
  chains.levels = static_cast<int>(shape.levels);
  chains.codewords = static_cast<int>(shape.codewords);
  const auto room = unitok::room_for<Width>(&chains, 1, static_cast<int>(kilobytes << 10), Unit::kTile);
  CHECK(room.bytes() <= static_cast<int64_t>(kilobytes << 10) && room.chunks > 0);
  if (room.chunks == static_cast<int>(((shape.codewords + 63) / 64 * 64 + room.chunk - 1) / room.chunk * shape.levels))
    return Kept::all;
  CHECK(room.chunks == 2 || room.chunks == 3);
  return room.chunks == 3 ? Kept::three : Kept::two;
}

Kept kept(const Case& test) {
  const int64_t width = test.shape.width;
  const auto of = width <= 32 ? kept<32, Warp> : width <= 64 ? kept<64, Warp> : kept<128, Warpgroup>;
  return of(test.shape, test.kilobytes);
}

void check_room() {
  const auto of = [](int64_t levels, int64_t codewords, int64_t width) {
    return kept({{0, levels, codewords, width}});
  };
  CHECK(of(4, 256, 32) == Kept::all && of(8, 1024, 128) == Kept::two);
  CHECK(of(32, 64, 32) == Kept::all && of(6, 300, 32) == Kept::all);  // in chunks of one size alone
}

}  // namespace

int main(int count, char** arguments) {
  in_every_order(effort(count, arguments), [](Effort effort) {
    std::vector<Case> cases = {
        {{0, 2, 5, 20}},
        {{1, 1, 1, 32}},
        {{31, 1, 40, 32}, Float::f32, Float::f32, {Kind::distant}},
        {{97, 4, 64, 20}, Float::f16, Float::bf16, {}, 227, true},
        {{60, 2, 300, 32}, Float::f32, Float::f32, {Kind::pairs, 1e-15f}, 60},
        {{64, 2, 140, 33}, Float::bf16, Float::f32, {Kind::equal}, 99},
        {{52, 2, 70, 128}, Float::f32, Float::f16, {Kind::clusters}, 99},
    };
    if (!effort.quick) {
      cases.insert(cases.end(), {
                                    {{31, 3, 64, 32}, Float::f32, Float::f32, {}, 227, true},
                                    {{300, 2, 64, 32}, Float::f32, Float::bf16, {Kind::pairs}},
                                    {{100, 2, 64, 32}, Float::bf16, Float::f32, {Kind::pairs, 1e15f}},
                                    {{100, 2, 300, 20}, Float::f32, Float::f32, {Kind::far}},
                                    {{100, 2, 70, 64}, Float::f16, Float::f32, {Kind::pairs}},
                                    {{100, 1, 5, 64}, Float::f32, Float::f32, {Kind::equal}, 227, true},
                                    {{65, 2, 300, 64}, Float::f32, Float::f16, {Kind::far}, 99},
                                    {{33, 3, 300, 96}, Float::f32, Float::f32, {}, 99, true},
                                    {{100, 1, 64, 128}, Float::f32, Float::f32, {Kind::pairs, 1e15f}},
                                    {{31, 2, 300, 128}, Float::bf16, Float::bf16, {}, 227, true},
                                    {{20, 1, 600, 128}, Float::f32, Float::f32, {Kind::equal}},
                                    {{20, 1, 1500, 32}, Float::f32, Float::f32, {}, 99},
                                });
    }
    std::set<Kept> ways, wide;
    for (const Case& test : cases) {
      ways.insert(kept(test));
      if (test.shape.width > 64) wide.insert(kept(test));
    }
    CHECK(ways.size() == 3 && (effort.quick || wide.size() == 3));
    check_room();
    const std::string order = context;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      context = order + ", case " + std::to_string(i);
      check(cases[i], i % 2 == 0);
    }
    context = order + ", no codeword";
    check_no_codeword();
    for (uint64_t seed = 0; seed < (effort.quick ? 1 : 10); ++seed) {
      context = order + ", worst row " + std::to_string(seed);
      check_worst_row(seed);
    }
  });
  std::printf("codes are the nearest\n");
}

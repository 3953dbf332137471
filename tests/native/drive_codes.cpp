// The drivers of operations that give or take codes: search, encoding by experts, losses, sums, decoding.
#include "api/codeword_statistics.h"
#include "api/moe_residual_encode.h"
#include "api/nearest_codeword.h"
#include "api/residual_decode.h"
#include "api/residual_encode.h"
#include "api/residual_loss.h"
#include "drive.h"

using namespace unitok;

namespace {

constexpr int64_t kExperts = 3;
constexpr double kHalfStep[] = {1e-5, 0x1p-11 + 1e-5, 0x1p-8 + 1e-5};  // sums in float32, rounded to a type

// Experts with one slot or two, with or without a shared chain. Two of five expert numbers are out of range.
struct Moe {
  explicit Moe(const Shape& s)
      : slots(1 + static_cast<int64_t>(s.seed % 2)),
        shared_levels(s.seed / 2 % 2 == 0 ? 0 : 2),
        codebooks(random_floats(kExperts * s.levels * s.codewords * s.width, s.seed + 1)),
        shared_codebooks(random_floats(shared_levels * (s.codewords + 1) * s.width, s.seed + 2)),
        experts(random_codes(s.rows * slots, -1, kExperts, s.seed + 3)),
        weights(random_floats(s.rows * slots, s.seed + 4)),
        chains{codebooks.data(), kExperts, s.levels, s.codewords},
        shared{shared_codebooks.data(), shared_levels == 0 ? 0 : 1, shared_levels, s.codewords + 1} {}
  Moe(const Moe&) = delete;
  Moe& operator=(const Moe&) = delete;

  Routes routes() const { return {experts.data(), weights.data(), slots}; }
  bool knows(int64_t place) const { return experts[size(place)] >= 0 && experts[size(place)] < kExperts; }
  // Where a codeword of an expert starts.
  int64_t at(int64_t expert, int64_t level, int64_t code, int64_t width) const {
    return ((expert * chains.levels + level) * chains.codewords + code) * width;
  }

  int64_t slots, shared_levels;
  Floats codebooks, shared_codebooks;
  Codes experts;
  Floats weights;
  Chains chains, shared;
};

// Takes a row through a chain by its codes, each of which must be the nearest; returns the sum of the codewords.
Floats follow(const float* row, const float* codebooks, int64_t levels, int64_t codewords, int64_t width,
              const int64_t* codes, Doubles& errors) {
  Floats residual(row, row + width), sum(size(width));
  for (int64_t level = 0; level < levels; ++level) {
    const float* const table = codebooks + level * codewords * width;
    check_nearest(residual.data(), table, codewords, width, codes[level]);
    for (int64_t d = 0; d < width; ++d) {
      residual[size(d)] -= table[codes[level] * width + d];
      sum[size(d)] += table[codes[level] * width + d];
      errors[size(level)] += std::pow(static_cast<double>(residual[size(d)]), 2);
    }
  }
  return sum;
}

void check_errors(const Floats& found, Doubles errors, int64_t rows, int64_t width) {
  for (std::size_t level = 0; level < errors.size(); ++level) {
    const double expected = errors[level] / static_cast<double>(std::max<int64_t>(rows, 1) * width);
    CHECK(std::fabs(static_cast<double>(found[level]) - expected) <= 1e-5 * expected);
  }
}

struct MoeResult {
  Bytes combined;
  Codes codes, shared_codes;
  Floats level_error, shared_error;
  int status;
};

MoeResult encode(const Shape& s, const Moe& moe, const Bytes& z, bool fast) {
  MoeResult out{Bytes(z.size()),
                Codes(size(s.rows * moe.slots * s.levels), -7),
                Codes(size(s.rows * moe.shared_levels), -7),
                Floats(size(s.levels)),
                Floats(size(moe.shared_levels)),
                kFine};
  int64_t counts[2];
  out.status = moe_residual_encode({z.data(), s.type, s.rows, s.width}, moe.chains, moe.routes(), moe.shared, 0.5f,
                                   {out.combined.data(), out.codes.data(), out.shared_codes.data(),
                                    out.level_error.data(), out.shared_error.data(), counts},
                                   {s.threads, fast, s.stats});
  return out;
}

}  // namespace

Written nearest_codeword_matches(const Shape& s) {
  Floats values = random_floats(s.rows * s.width, s.seed);
  const bool with_bad_row = s.rows > 2;
  const int64_t bad_row = with_bad_row ? s.rows / 2 : -1;
  if (with_bad_row) values[size((bad_row + 1) * s.width - 1)] = NAN;
  const Bytes x = as_type(values, s.type);
  const Floats codebook = random_floats(s.codewords * s.width, s.seed + 1);
  Codes codes(size(s.rows), -7);
  Floats squared(size(s.rows));
  int64_t counts[2];
  const int status = nearest_codeword({x.data(), s.type, s.rows, s.width}, codebook.data(), s.codewords, codes.data(),
                                      squared.data(), counts, {s.threads, false, s.stats});
  CHECK(status == (with_bad_row ? kBadRow : kFine));
  for (int64_t n = 0; n < s.rows; ++n) {
    if (n == bad_row) {
      CHECK(codes[size(n)] == -1 && std::isnan(squared[size(n)]));
      squared[size(n)] = 0;  // so that results compare
      continue;
    }
    Floats row(size(s.width));
    for (int64_t d = 0; d < s.width; ++d) row[size(d)] = read_value(x, s.type, n * s.width + d);
    check_nearest(row.data(), codebook.data(), s.codewords, s.width, codes[size(n)]);
    const double expected = squared_distance(row.data(), codebook.data() + codes[size(n)] * s.width, s.width);
    CHECK(std::fabs(static_cast<double>(squared[size(n)]) - expected) <= 1e-5 * expected);
  }
  return {codes, {}, {squared}};
}

Written moe_residual_encode_matches(const Shape& s) {
  Moe moe(s);
  Floats values = random_floats(s.rows * s.width, s.seed);
  const bool with_bad = s.rows > 2;
  const int64_t bad_row = with_bad ? s.rows / 2 : -1, bad_slot = with_bad ? 2 * moe.slots : -1;
  if (with_bad) {
    values[size(bad_row * s.width)] = INFINITY;
    moe.weights[size(bad_slot)] = NAN;
  }
  const Bytes z = as_type(values, s.type);
  const MoeResult out = encode(s, moe, z, false);

  Doubles errors(size(s.levels)), shared_errors(size(moe.shared_levels));
  int64_t routed = 0;
  int status = with_bad ? kBadRow | kBadWeight : kFine;
  for (int64_t n = 0; n < s.rows; ++n) {
    Floats row(size(s.width)), combined(size(s.width));
    for (int64_t d = 0; d < s.width; ++d) row[size(d)] = read_value(z, s.type, n * s.width + d);
    const auto add = [&](float weight, const Floats& quantized) {
      for (std::size_t d = 0; d < combined.size(); ++d) {
        const float part = weight * quantized[d];
        combined[d] += part;
      }
    };
    for (int64_t slot = 0; slot < moe.slots; ++slot) {
      const int64_t place = n * moe.slots + slot;
      const int64_t* const codes = out.codes.data() + place * s.levels;
      if (!moe.knows(place)) status |= kBadExpert;
      if (n == bad_row || place == bad_slot || !moe.knows(place)) {
        CHECK(std::all_of(codes, codes + s.levels, [](int64_t code) { return code == -1; }));
        continue;
      }
      ++routed;
      const float* const table = moe.codebooks.data() + moe.at(moe.experts[size(place)], 0, 0, s.width);
      add(moe.weights[size(place)], follow(row.data(), table, s.levels, s.codewords, s.width, codes, errors));
    }
    const int64_t* const codes = out.shared_codes.data() + n * moe.shared_levels;
    if (n == bad_row) {
      CHECK(std::all_of(codes, codes + moe.shared_levels, [](int64_t code) { return code == -1; }));
    } else if (moe.shared_levels > 0) {
      add(0.5f, follow(row.data(), moe.shared_codebooks.data(), moe.shared_levels, s.codewords + 1, s.width, codes,
                       shared_errors));
    }
    const Bytes expected = as_type(combined, s.type);
    CHECK(std::memcmp(expected.data(), out.combined.data() + n * s.width * size_of(s.type), expected.size()) == 0);
  }
  CHECK(out.status == status);
  check_errors(out.level_error, errors, routed, s.width);
  check_errors(out.shared_error, shared_errors, s.rows - with_bad, s.width);
  Codes all = out.codes;
  all.insert(all.end(), out.shared_codes.begin(), out.shared_codes.end());
  return {all, out.combined, {}};
}

// From 48 columns on the search may use an int8 shortlist.
Written fast_has_the_exact_codes(const Shape& small) {
  Shape s = small;
  s.width += 47;
  s.rows = std::min<int64_t>(s.rows, 97);  // wide rows are slow where each access is watched
  s.codewords = std::min<int64_t>(s.codewords, 70);
  s.levels = std::min<int64_t>(s.levels, 2);
  const Moe moe(s);
  const Bytes z = as_type(random_floats(s.rows * s.width, s.seed), s.type);
  Codes codes[2];
  Bytes quantized[2];
  for (bool fast : {false, true}) {
    codes[fast].assign(size(s.rows * s.levels), -7);
    quantized[fast].resize(z.size());
    Floats level_error(size(s.levels));
    int64_t counts[2];
    const int status = residual_encode({z.data(), s.type, s.rows, s.width}, moe.codebooks.data(), s.levels, s.codewords,
                                       codes[fast].data(), quantized[fast].data(), level_error.data(), counts,
                                       {s.threads, fast, s.stats});
    CHECK(status == kFine);
  }
  CHECK(codes[0] == codes[1] && quantized[0] == quantized[1]);
  if (s.seed % 2 == 0) return {codes[1], quantized[1], {}};
  const MoeResult exact = encode(s, moe, z, false), fast = encode(s, moe, z, true);
  CHECK(exact.codes == fast.codes && exact.shared_codes == fast.shared_codes && exact.combined == fast.combined);
  return {codes[1], quantized[1], {}};
}

Written residual_loss_matches(const Shape& s) {
  const Moe moe(s);
  const Bytes z = as_type(random_floats(s.rows * s.width, s.seed), s.type);
  const Codes codes = random_codes(s.rows * moe.slots * s.levels, s.rows > 2 ? -2 : -1, s.codewords - 1, s.seed + 5);
  const LossWeights weights{1.0f, 0.25f};
  float loss = -1;
  Floats by_z(size(s.rows * s.width), 7), by_codebooks(moe.codebooks.size(), 7);
  const bool with_gradient = s.seed % 4 != 0;
  const int status = residual_loss({z.data(), s.type, s.rows, s.width}, codes.data(), moe.chains, moe.experts.data(),
                                   moe.slots, weights, &loss, with_gradient ? by_z.data() : nullptr,
                                   with_gradient ? by_codebooks.data() : nullptr, s.threads);

  double total = 0;
  Doubles z_slope(by_z.size()), table_slope(by_codebooks.size());
  int expected = kFine;
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(s.rows, 1));
  for (int64_t n = 0; n < s.rows; ++n)
    for (int64_t place = n * moe.slots; place < (n + 1) * moe.slots; ++place) {
      if (!moe.knows(place)) {
        expected |= kBadExpert;
        continue;
      }
      Doubles residual(size(s.width));
      for (int64_t d = 0; d < s.width; ++d)
        residual[size(d)] = static_cast<double>(read_value(z, s.type, n * s.width + d));
      for (int64_t level = 0; level < s.levels; ++level) {
        const int64_t code = codes[size(place * s.levels + level)];
        if (code < -1) expected |= kBadCode;
        if (code < 0) continue;
        const int64_t at = moe.at(moe.experts[size(place)], level, code, s.width);
        for (int64_t d = 0; d < s.width; ++d) {
          const double left = residual[size(d)] -= static_cast<double>(moe.codebooks[size(at + d)]);
          total += left * left;
          z_slope[size(n * s.width + d)] += 2 * scale * 0.25 * left;
          table_slope[size(at + d)] -= 2 * scale * left;
        }
      }
    }
  CHECK(status == expected);
  CHECK(std::fabs(static_cast<double>(loss) - 1.25 * total * scale) <= 1e-5 * 1.25 * total * scale);
  if (!with_gradient) return {{}, {}, {{loss}}};
  check_close(by_z, z_slope, 1e-5);
  check_close(by_codebooks, table_slope, 1e-5);
  return {{}, {}, {{loss}, by_z, by_codebooks}};
}

Written moe_residual_encode_backward_matches(const Shape& s) {
  Moe moe(s);
  const Floats gradient = random_floats(s.rows * s.width, s.seed);
  const Codes codes = random_codes(s.rows * moe.slots * s.levels, -1, s.codewords - 1, s.seed + 5);
  const Codes shared_codes = random_codes(s.rows * moe.shared_levels, -1, s.codewords, s.seed + 6);
  for (int64_t place = 0; place < s.rows * moe.slots; ++place)  // slots without a code may have any weight
    if (codes[size(place * s.levels)] < 0) moe.weights[size(place)] = NAN;
  Floats by_z(gradient.size(), 7), by_weights(moe.weights.size(), 7), by_codebooks(moe.codebooks.size(), 7),
      by_shared(moe.shared_codebooks.size(), 7);
  moe_residual_encode_backward(gradient.data(), s.rows, s.width, moe.chains, moe.routes(), codes.data(), moe.shared,
                               0.5f, shared_codes.data(), by_z.data(), by_weights.data(), by_codebooks.data(),
                               by_shared.data(), s.threads);

  Doubles z_slope(by_z.size()), weight_slope(by_weights.size()), table_slope(by_codebooks.size()),
      shared_slope(by_shared.size());
  for (int64_t n = 0; n < s.rows; ++n) {
    const float* const g = gradient.data() + n * s.width;
    double through = moe.shared_levels > 0 && shared_codes[size(n * moe.shared_levels)] >= 0 ? 0.5 : 0.0;
    for (int64_t place = n * moe.slots; place < (n + 1) * moe.slots; ++place) {
      if (!moe.knows(place) || codes[size(place * s.levels)] < 0) continue;
      const double weight = static_cast<double>(moe.weights[size(place)]);
      through += weight;
      for (int64_t level = 0; level < s.levels; ++level) {
        const int64_t code = codes[size(place * s.levels + level)];
        const int64_t at = moe.at(moe.experts[size(place)], level, code, s.width);
        for (int64_t d = 0; code >= 0 && d < s.width; ++d) {
          weight_slope[size(place)] += static_cast<double>(g[d]) * static_cast<double>(moe.codebooks[size(at + d)]);
          table_slope[size(at + d)] += weight * static_cast<double>(g[d]);
        }
      }
    }
    for (int64_t level = 0; level < moe.shared_levels; ++level) {
      const int64_t code = shared_codes[size(n * moe.shared_levels + level)];
      for (int64_t d = 0; code >= 0 && d < s.width; ++d)
        shared_slope[size((level * (s.codewords + 1) + code) * s.width + d)] += 0.5 * static_cast<double>(g[d]);
    }
    for (int64_t d = 0; d < s.width; ++d) z_slope[size(n * s.width + d)] = through * static_cast<double>(g[d]);
  }
  check_close(by_z, z_slope, 1e-5);
  check_close(by_weights, weight_slope, 1e-5);
  check_close(by_codebooks, table_slope, 1e-5);
  check_close(by_shared, shared_slope, 1e-5);
  return {{}, {}, {by_z, by_weights, by_codebooks, by_shared}};
}

Written codeword_statistics_matches(const Shape& s) {
  const Bytes x = as_type(random_floats(s.rows * s.width, s.seed), s.type);
  const int64_t lowest = s.seed % 2 ? -2 : -1;
  const Codes codes = random_codes(s.rows, lowest, s.codewords - 1, s.seed + 1);
  Floats sums(size(s.codewords * s.width), 7);
  Codes counts(size(s.codewords), 7), expected_counts(size(s.codewords));
  const bool good = codeword_statistics({x.data(), s.type, s.rows, s.width}, codes.data(), s.codewords, sums.data(),
                                        counts.data(), s.threads);
  CHECK(good == std::all_of(codes.begin(), codes.end(), [](int64_t code) { return code >= -1; }));
  Doubles expected(sums.size());
  for (int64_t n = 0; n < s.rows; ++n) {
    const int64_t code = codes[size(n)];
    if (code < 0) continue;
    ++expected_counts[size(code)];
    for (int64_t d = 0; d < s.width; ++d)
      expected[size(code * s.width + d)] += static_cast<double>(read_value(x, s.type, n * s.width + d));
  }
  CHECK(counts == expected_counts);
  check_close(sums, expected, 1e-5);
  return {counts, {}, {sums}};
}

// Both ways: codes to vectors, and the vectors' gradient to the codewords.
Written residual_decode_matches(const Shape& s) {
  const Bytes codebooks = as_type(random_floats(s.levels * s.codewords * s.width, s.seed), s.type);
  const Codes codes = random_codes(s.rows * s.levels, s.seed % 2 ? -2 : -1, s.codewords - 1, s.seed + 1);
  Bytes quantized(size(s.rows * s.width * size_of(s.type)), 7), slope(codebooks.size(), 7);
  const bool good =
      residual_decode(codes.data(), s.rows, s.levels, {codebooks.data(), s.type, s.levels * s.codewords, s.width},
                      quantized.data(), true, s.threads);
  CHECK(good == std::all_of(codes.begin(), codes.end(), [](int64_t code) { return code >= -1; }));
  residual_decode_backward({quantized.data(), s.type, s.rows, s.width}, codes.data(), s.levels, s.codewords,
                           slope.data(), s.threads);

  Floats sums(size(s.rows * s.width)), found(size(s.levels * s.codewords * s.width));
  Doubles expected(found.size());
  for (int64_t n = 0; n < s.rows; ++n)
    for (int64_t level = 0; level < s.levels; ++level) {
      const int64_t code = codes[size(n * s.levels + level)];
      for (int64_t d = 0; code >= 0 && d < s.width; ++d) {
        const int64_t at = (level * s.codewords + code) * s.width + d;
        sums[size(n * s.width + d)] += read_value(codebooks, s.type, at);
        expected[size(at)] += static_cast<double>(read_value(quantized, s.type, n * s.width + d));
      }
    }
  CHECK(quantized == as_type(sums, s.type));
  for (std::size_t i = 0; i < found.size(); ++i) found[i] = read_value(slope, s.type, static_cast<int64_t>(i));
  const double tolerance = kHalfStep[static_cast<int>(s.type)];
  check_close(found, expected, tolerance);
  return {{}, quantized, {found}, 2 * tolerance};
}

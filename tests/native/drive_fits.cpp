// The drivers of operations for training: k-means, HSIC, Sinkhorn's assignment, ordered layers, straight-through
// chains.
#include "api/hsic.h"
#include "api/kmeans.h"
#include "api/ordered_linear.h"
#include "api/residual_straight_through.h"
#include "api/sinkhorn_assign.h"
#include "drive.h"

using namespace unitok;

namespace {

// More is too slow with a sanitizer.
constexpr int64_t kFewRows = 70, kFewCodewords = 20;

// The sum of (HUH) * V over (n - 1)^2, for Gaussians of the rows `members`.
double independence(const Floats& x, int64_t x_width, const Floats& z, int64_t z_width, const Codes& members,
                    double bandwidth) {
  const std::size_t n = members.size();
  Doubles u_sum(n), v_sum(n);
  double cross = 0, u_total = 0, v_total = 0, product = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      const auto kernel = [&](const Floats& rows, int64_t width) {
        const float* const one = rows.data() + members[i] * width;
        const float* const other = rows.data() + members[j] * width;
        return std::exp(-squared_distance(one, other, width) / (2 * bandwidth * bandwidth));
      };
      const double a = kernel(x, x_width), b = kernel(z, z_width);
      product += i == j ? a * b : 2 * a * b;
      u_sum[i] += a, v_sum[i] += b;
      if (i != j) u_sum[j] += a, v_sum[j] += b;
    }
  for (std::size_t i = 0; i < n; ++i) cross += u_sum[i] * v_sum[i], u_total += u_sum[i], v_total += v_sum[i];
  const double count = static_cast<double>(n);
  return (product - 2 / count * cross + u_total * v_total / (count * count)) / ((count - 1) * (count - 1));
}

}  // namespace

Written kmeans_is_balanced_or_nearest(const Shape& s) {
  const int64_t codewords = std::min({s.codewords, s.rows, kFewCodewords});
  if (s.rows == 0) return {};
  const Floats rows = random_floats(s.rows * s.width, s.seed);
  Doubles draws(size(codewords));
  std::mt19937_64 engine(s.seed);
  for (double& draw : draws) draw = std::uniform_real_distribution<double>(0, 1)(engine);
  Codes chosen(size(codewords), -7);
  kmeans_start(rows.data(), s.rows, s.width, codewords, draws.data(), chosen.data(), s.threads);
  Written out{chosen, {}, {}};
  std::sort(chosen.begin(), chosen.end());
  CHECK(chosen.front() >= 0 && chosen.back() < s.rows);
  CHECK(std::adjacent_find(chosen.begin(), chosen.end()) == chosen.end());

  for (bool balanced : {false, true}) {
    Floats codebook;
    for (int64_t k = 0; k < codewords; ++k) {
      const auto row = rows.begin() + out.codes[size(k)] * s.width;
      codebook.insert(codebook.end(), row, row + s.width);
    }
    Codes codes(size(s.rows), -7), sizes(size(codewords));
    kmeans(rows.data(), s.rows, s.width, codebook.data(), codewords, 3, balanced, codes.data(), s.threads);
    for (int64_t n = 0; n < s.rows; ++n) {
      if (!balanced) check_nearest(rows.data() + n * s.width, codebook.data(), codewords, s.width, codes[size(n)]);
      CHECK(codes[size(n)] >= 0 && codes[size(n)] < codewords);
      ++sizes[size(codes[size(n)])];
    }
    for (int64_t rows_of_one : sizes)
      if (balanced) CHECK(rows_of_one >= s.rows / (2 * codewords) && rows_of_one * codewords < 2 * s.rows + codewords);
    out.codes.insert(out.codes.end(), codes.begin(), codes.end());
    out.close.push_back(codebook);
  }
  return out;
}

// Some calls have a segment that is large enough to be split among the threads.
Written hsic_matches(const Shape& s) {
  const bool large = s.rows == 300 && s.levels == 1;
  const int64_t rows = large ? 540 : std::min(s.rows, kFewRows), segments = large ? 1 : 3;
  const int64_t x_width = std::min<int64_t>(s.width, 17), z_width = 1 + s.width % 5;
  Floats x = random_floats(rows * x_width, s.seed), z = random_floats(rows * z_width, s.seed + 1);
  for (int64_t n = 0; n < rows; ++n) z[size(n * z_width)] += x[size(n * x_width)];
  const bool with_bad_row = rows > 2;
  if (with_bad_row) z[size(rows / 2 * z_width)] = NAN;
  const Codes of = random_codes(rows, large ? 0 : -1, segments - 1, s.seed + 2);
  const bool with_gradient = s.seed % 4 != 1;
  Floats values(size(segments), 7), pull(with_gradient ? z.size() : 0, 7);
  HsicOptions options;
  options.bandwidth = s.seed % 2 ? 1.5 : 0;
  options.normalised = s.seed % 3 == 0;
  options.threads = s.threads;
  const bool left_out = hsic(x.data(), x_width, z.data(), z_width, of.data(), rows, segments, values.data(),
                             with_gradient ? pull.data() : nullptr, options);
  const bool any_outside = std::any_of(of.begin(), of.end(), [](int64_t segment) { return segment < 0; });
  CHECK(left_out == (with_bad_row || any_outside));
  for (int64_t segment = 0; options.bandwidth > 0 && segment < segments; ++segment) {
    Codes members;
    for (int64_t n = 0; n < rows; ++n)
      if (of[size(n)] == segment && !(with_bad_row && n == rows / 2)) members.push_back(n);
    double expected = 0, scale = 1;
    if (members.size() > 1) {
      expected = independence(x, x_width, z, z_width, members, options.bandwidth);
      if (options.normalised)
        scale = std::sqrt(independence(x, x_width, x, x_width, members, options.bandwidth) *
                          independence(z, z_width, z, z_width, members, options.bandwidth));
    }
    CHECK(std::fabs(static_cast<double>(values[size(segment)]) - expected / scale) <= 1e-5 * expected / scale + 1e-7);
  }
  for (int64_t d = 0; with_gradient && with_bad_row && d < z_width; ++d) CHECK(pull[size(rows / 2 * z_width + d)] == 0);
  return {{}, {}, {values, pull}, 1e-4};
}

Written sinkhorn_assign_matches(const Shape& s) {
  const int64_t rows = std::min(s.rows, kFewRows), codewords = std::min<int64_t>(s.codewords, 70);
  Floats x = random_floats(rows * s.width, s.seed);
  const Floats codebook = random_floats(codewords * s.width, s.seed + 1);
  const bool with_bad_row = rows > 2;
  if (with_bad_row) x[size(rows / 2 * s.width)] = INFINITY;
  Written out{Codes(size(rows), -7), {}, {}};
  const bool bad =
      sinkhorn_assign(x.data(), rows, s.width, codebook.data(), codewords, 0.05, 3, out.codes.data(), s.threads);
  CHECK(bad == with_bad_row);
  for (int64_t n = 0; n < rows; ++n)
    CHECK(out.codes[size(n)] >= (with_bad_row && n == rows / 2 ? -1 : 0) && out.codes[size(n)] < codewords);
  if (with_bad_row) CHECK(out.codes[size(rows / 2)] == -1);
  return out;
}

Written ordered_linear_matches(const Shape& s) {
  const int64_t outputs = std::min<int64_t>(s.codewords, 65);
  const bool wide = s.seed % 2, wide_weight = s.seed / 2 % 2, relu = s.seed / 4 % 2;
  const Floats x = random_floats(s.rows * s.width, s.seed), weight = random_floats(outputs * s.width, s.seed + 1),
               some = random_floats(outputs, s.seed + 2);
  const Doubles x8(x.begin(), x.end()), weight8(weight.begin(), weight.end()), bias(some.begin(), some.end());
  Doubles y(size(s.rows * outputs));
  ordered_linear(
      {wide ? static_cast<const void*>(x8.data()) : x.data(), wide, s.rows, s.width},
      {wide_weight ? static_cast<const void*>(weight8.data()) : weight.data(), wide_weight, outputs, s.width},
      bias.data(), relu, y.data(), s.threads);
  for (int64_t n = 0; n < s.rows; ++n)
    for (int64_t o = 0; o < outputs; ++o) {
      double c[8] = {};
      for (int64_t d = 0; d < s.width; ++d)
        c[d % 8] = std::fma(x8[size(n * s.width + d)], weight8[size(o * s.width + d)], c[d % 8]);
      const double total = ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7])) + bias[size(o)];
      CHECK(y[size(n * outputs + o)] == (relu ? std::max(total, 0.0) : total));
    }
  const char* const bytes = reinterpret_cast<const char*>(y.data());
  return {{}, Bytes(bytes, bytes + y.size() * sizeof(double)), {}};
}

// Values, statistics and gradients of a chain; each row is followed in double precision.
Written residual_straight_through_matches(const Shape& s) {
  const auto estimator = static_cast<Estimator>(s.seed % 3);
  const Bytes z = as_type(random_floats(s.rows * s.width, s.seed), s.type);
  const Floats codebooks = random_floats(s.levels * s.codewords * s.width, s.seed + 1);
  const Codes codes = random_codes(s.rows * s.levels, -2, s.codewords - 1, s.seed + 2);
  const Floats gradient = random_floats(s.rows * s.width, s.seed + 3), pulls = random_floats(s.levels, s.seed + 4);
  const Chains chain{codebooks.data(), 1, s.levels, s.codewords};
  const Rows rows{z.data(), s.type, s.rows, s.width};
  Bytes quantized(z.size(), 7);
  Floats errors(size(s.levels), 7), sums(codebooks.size(), 7), by_z(gradient.size(), 7), by_codebooks(sums.size(), 7);
  Codes counts(size(s.levels * s.codewords), 7), expected_counts(counts.size());
  residual_straight_through(rows, codes.data(), chain, quantized.data(), errors.data(), s.stats ? sums.data() : nullptr,
                            s.stats ? counts.data() : nullptr, s.threads);
  residual_straight_through_backward(gradient.data(), pulls.data(), rows, codes.data(), chain, estimator, by_z.data(),
                                     s.stats ? by_codebooks.data() : nullptr, s.threads);

  Floats total(gradient.size());
  Doubles error(errors.size()), used(errors.size()), sum(sums.size()), z_slope(by_z.size()), table_slope(sums.size());
  for (int64_t n = 0; n < s.rows; ++n) {
    Doubles x(size(s.width));
    for (int64_t d = 0; d < s.width; ++d) x[size(d)] = static_cast<double>(read_value(z, s.type, n * s.width + d));
    for (int64_t level = 0; level < s.levels; ++level) {
      const int64_t code = codes[size(n * s.levels + level)];
      if (code < 0) continue;
      const int64_t at = (level * s.codewords + code) * s.width;
      double xx = 0, cc = 0, vv = 0, vg = 0, qg = 0;
      const auto c = [&](int64_t d) { return static_cast<double>(codebooks[size(at + d)]); };
      const auto g = [&](int64_t d) { return static_cast<double>(gradient[size(n * s.width + d)]); };
      for (int64_t d = 0; d < s.width; ++d) xx += x[size(d)] * x[size(d)], cc += c(d) * c(d);
      const double per_x = 1 / std::max(std::sqrt(xx), 1e-6), per_c = 1 / std::max(std::sqrt(cc), 1e-6);
      for (int64_t d = 0; d < s.width; ++d) {
        const double v = x[size(d)] * per_x + c(d) * per_c;
        vv += v * v, vg += v * g(d), qg += c(d) * per_c * g(d);
      }
      vv = std::max(vv, 1e-12);
      for (int64_t d = 0; d < s.width; ++d) {
        const double u = x[size(d)] * per_x, after = x[size(d)] - c(d);
        const double turned = std::sqrt(cc) * per_x * (g(d) + 2 * qg * u - 2 * vg / vv * (u + c(d) * per_c));
        const double pull = static_cast<double>(pulls[size(level)]) * after;
        z_slope[size(n * s.width + d)] += pull + (estimator == Estimator::rotation   ? turned
                                                  : estimator == Estimator::straight ? g(d)
                                                                                     : 0);
        table_slope[size(at + d)] += (estimator == Estimator::none ? g(d) : 0) - pull;
        sum[size(at + d)] += x[size(d)];
        total[size(n * s.width + d)] += codebooks[size(at + d)];
        error[size(level)] += after * after;
        x[size(d)] = after;
      }
      ++used[size(level)];
      ++expected_counts[size(level * s.codewords + code)];
    }
  }
  for (int64_t level = 0; level < s.levels; ++level)
    error[size(level)] /= std::max(used[size(level)], 1.0) * static_cast<double>(s.width);
  CHECK(quantized == as_type(total, s.type));
  check_close(errors, error, 1e-5);
  // If u and c are nearly opposite, the rotation divides by what is left of their sum.
  check_close(by_z, z_slope, estimator == Estimator::rotation ? 1e-2 : 1e-5);
  if (!s.stats) return {{}, quantized, {errors, by_z}, 1e-2};
  CHECK(counts == expected_counts);
  check_close(sums, sum, 1e-5);
  check_close(by_codebooks, table_slope, 1e-5);
  return {counts, quantized, {errors, by_z, sums, by_codebooks}, 1e-2};
}

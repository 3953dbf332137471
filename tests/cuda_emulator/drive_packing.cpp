// Packed codebooks, and the bound of packed.cuh on the score, by a model of the score on the host.
#include "packed.cuh"

#include <numeric>

#include "chains.h"

using unitok::Float;
using unitok::Limits;
using unitok::PackedLayout;

namespace {

constexpr int kTogether = 16;  // rows that share a step

double sum_of_squares(const std::vector<int>& values) {
  return std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
}

// Steps of a row or a codeword, and the two digits that they are written in.
struct Digits {
  std::vector<int> high, low;

  void put(int steps) {
    high.push_back((steps + 128) >> 8);
    low.push_back(steps - 256 * high.back());
  }
};

struct Codeword {
  Digits digits;
  std::vector<double> centred;
  double half;      // |c'|^2 / (512 t), as it was packed
  double absolute;  // |C|_1
  double low;       // |L_c|
};

// A packed codebook, read back and compared with the one that was given.
class Packed {
 public:
  explicit Packed(const Books& books)
      : width(books.width), layout_(static_cast<int>(books.codewords), static_cast<int>(width)) {
    const char* const from = books.packed();
    const auto read_float = [&](int64_t at) {
      float value;
      std::memcpy(&value, from + at, 4);
      return value;
    };
    std::memcpy(&limits, from + layout_.limits(), sizeof limits);
    const double step = limits.per_step > 0 ? 1 / static_cast<double>(limits.per_step) : 0;
    for (int column = 0; column < layout_.width; ++column) centre.push_back(read_float(4 * column));
    for (int k = 0; k < layout_.codewords; ++k) {
      const bool there = k < books.codewords && all_finite(books.codeword(0, k), width);
      const float half = read_float(layout_.halves() + 4 * k);
      CHECK(there ? std::isfinite(half) : half == INFINITY);
      Codeword codeword = {{}, {}, static_cast<double>(half), 0, 0};
      double square = 0;
      for (int column = 0; column < layout_.width; ++column) {
        const char* const digits = from + layout_.digits() + unitok::digits_of(k, column, layout_.width);
        const int high = static_cast<signed char>(digits[0]), low = static_cast<signed char>(digits[unitok::kLow]);
        codeword.digits.put(256 * high + low);
        CHECK(codeword.digits.high.back() == high && codeword.digits.low.back() == low);
        const float value = read_float(layout_.values() + 4 * (int64_t{k} * layout_.width + column));
        double centred = 0;
        if (k < books.codewords && column < width) {
          CHECK(unitok::bits_of(value) == unitok::bits_of(books.codeword(0, k)[column]));
          if (there)
            centred = static_cast<double>(value) - static_cast<double>(centre[static_cast<std::size_t>(column)]);
        } else {
          CHECK(value == 0);
        }
        CHECK(std::fabs(256 * high + low - centred / (step > 0 ? step : 1)) <= 0.51);
        codeword.centred.push_back(centred);
        codeword.absolute += std::abs(256 * high + low);
        square += centred * centred;
      }
      codeword.low = std::sqrt(sum_of_squares(codeword.digits.low));
      if (!there) continue;
      const double expected = square * static_cast<double>(limits.per_step) / 512;
      CHECK(std::fabs(codeword.half - expected) <= 1e-6 * expected);
      CHECK(codeword.half <= static_cast<double>(limits.half) &&
            codeword.absolute <= static_cast<double>(limits.absolute));
      CHECK(codeword.low <= static_cast<double>(limits.low) * (1 + 0x1p-23));
      codewords.push_back(std::move(codeword));
    }
  }

  const int64_t width;
  Limits limits;
  std::vector<float> centre;
  std::vector<Codeword> codewords;  // those that are finite

 private:
  PackedLayout layout_;
};

// The largest error of the scores of 16 rows, as a share of the bound.
double worst_share(const Packed& packed, const std::vector<float>& rows) {
  const std::size_t width = static_cast<std::size_t>(packed.width);
  float farthest = 0;
  for (std::size_t i = 0; i < rows.size(); ++i)
    farthest = std::max(farthest, std::fabs(rows[i] - packed.centre[i % width]));
  const float step = std::max(farthest * (1 / unitok::kSteps), packed.limits.half * (1 / unitok::kMostBias));
  const float per_step = 1 / step;
  const double s = 1 / static_cast<double>(per_step), t = 1 / static_cast<double>(packed.limits.per_step);
  double worst = 0;
  for (std::size_t first = 0; first < rows.size(); first += width) {
    Digits digits;
    double square = 0;
    std::vector<double> centred(width);
    for (std::size_t d = 0; d < width; ++d) {
      const float difference = rows[first + d] - packed.centre[d];
      digits.put(static_cast<int>(std::nearbyint(difference * per_step)));
      CHECK(digits.high.back() >= -128 && digits.high.back() <= 127);
      centred[d] = static_cast<double>(rows[first + d]) - static_cast<double>(packed.centre[d]);
      square += centred[d] * centred[d];
    }
    const double low = std::sqrt(sum_of_squares(digits.low));
    for (const Codeword& codeword : packed.codewords) {
      int64_t score = std::lrint(codeword.half * static_cast<double>(per_step));
      double exact = 0;
      for (std::size_t d = 0; d < width; ++d) {
        score -= 256 * digits.high[d] * codeword.digits.high[d] + digits.high[d] * codeword.digits.low[d] +
                 digits.low[d] * codeword.digits.high[d];
        exact += codeword.centred[d] * (codeword.centred[d] / 2 - centred[d]);
      }
      const double columns = static_cast<double>(width), bias = codeword.half * static_cast<double>(per_step);
      const double bound =
          (0.51 * (codeword.absolute + 2 * columns + std::sqrt(columns * square) / s) + low * codeword.low) / 256 + 1 +
          0x1p-21 * bias;
      CHECK(std::abs(score) < int64_t{1} << 30);
      worst = std::max(worst, std::fabs(static_cast<double>(score) - exact / (256 * s * t)) / bound);
    }
  }
  return worst;
}

void check_random_rows(int64_t groups) {
  for (const Data& data :
       {Data{}, Data{Kind::far}, Data{Kind::clusters}, Data{Kind::pairs, 1e15f}, Data{Kind::normal, 1e-15f}}) {
    for (const int64_t width : {20, 32, 128}) {
      std::vector<float> drawn = data.draw(19, width, 1, true);
      drawn[0] = NAN;
      const Packed packed(Books(drawn, Float::f32, 1, 19, width));
      for (int64_t group = 0; group < groups; ++group) {
        const Data of =
            group % 4 == 3 ? Data{data.kind, data.scale / 1000} : data;  // steps of rows and codewords differ
        CHECK(worst_share(packed, of.draw(kTogether, width, static_cast<uint64_t>(group) + 50, false)) < 1);
      }
    }
  }
}

// All that a score leaves out has one sign: values are half a step above whole steps, and low digits are large. The
// largest value makes the step 1 on both sides; codewords come in pairs of opposite sign, so that the centre is 0.
void check_worst_rows(int64_t groups) {
  constexpr int64_t kWidth = 32;
  double worst = 0;
  for (int64_t group = 0; group < groups; ++group) {
    std::mt19937_64 engine(static_cast<uint64_t>(group));
    const auto draw = [&](std::vector<float>& to) {
      const int sign = engine() % 2 ? 1 : -1;
      for (int64_t d = 0; d < kWidth; ++d) {
        const int high = d == 0 ? 127 : 110 + static_cast<int>(engine() % 16);
        to.push_back(static_cast<float>(sign) * (static_cast<float>(256 * high + 127) + (d == 0 ? 0 : 0.49f)));
      }
    };
    std::vector<float> codewords, rows;
    for (int k = 0; k < 8; ++k) {
      draw(codewords);
      for (int64_t d = 0; d < kWidth; ++d) codewords.push_back(-codewords[codewords.size() - kWidth]);
    }
    for (int i = 0; i < kTogether; ++i) draw(rows);
    worst = std::max(worst, worst_share(Packed(Books(codewords, Float::f32, 1, 16, kWidth)), rows));
  }
  CHECK(worst > 0.9 && worst < 1);
}

}  // namespace

int main(int count, char** arguments) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const bool quick = true;
#else
  const bool quick = effort(count, arguments).quick;
#endif
  in_every_order({quick}, [&](Effort) { check_worst_rows(2); });
  context = "worst rows";
  check_worst_rows(quick ? 10 : 500);
  context = "random rows";
  check_random_rows(quick ? 20 : 5000);  // of 16 rows, 15 times: 1.2 million
  std::printf("scores keep within their bound\n");
}

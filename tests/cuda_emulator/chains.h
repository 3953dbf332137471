// What the drivers of encoding share: data that is hard to search, and a plain loop in float64 to compare codes with.
#pragma once

#include "drive.h"
#include "encode.h"
#include "pack_codebooks.h"

// The promise: a code is the nearest one, the lowest among ties, unless the two best squared distances differ by less
// than this share of the best.
constexpr double kNear = 1e-5;

enum class Kind {
  normal,
  far,       // from zero, and close to each other
  clusters,  // two of them, each as above, so that no centre helps
  pairs,     // of codewords that are so close that all digits are needed to find the nearer one
  distant,   // rows far from all codewords, which are about equally near
  equal,     // small whole numbers: many distances, and some codewords, are equal
};

struct Data {
  Kind kind = Kind::normal;
  float scale = 1;

  // Rows, or a table of codewords; a different one for each seed. Levels after the first are near zero, like residuals.
  std::vector<float> draw(int64_t count, int64_t width, uint64_t seed, bool codewords, int64_t level = 0) const {
    std::vector<float> values = random_floats(count * width, seed);
    const std::vector<float> apart = random_floats(count * width, seed + 1000);
    for (int64_t i = 0; i < count * width; ++i) {
      float& value = values[static_cast<std::size_t>(i)];
      const int64_t row = i / width;
      if (kind == Kind::equal) value = std::nearbyint(0.7f * value);
      if (kind == Kind::far || kind == Kind::clusters) value *= 1e-3f;
      if (kind == Kind::distant && codewords) value *= 1e-5f;
      if (kind == Kind::pairs && codewords && row % 2 == 1)
        value = values[static_cast<std::size_t>(i - width)] + 1e-4f * apart[static_cast<std::size_t>(i)];
      if (level == 0 && (kind == Kind::far || (kind == Kind::clusters && row % 3 == 0))) value += 1000;
      value *= level == 0 ? scale : scale / 2;
    }
    return values;
  }
};

// Codebooks (tables, K, D) of a type, packed as the kernels take them.
class Books {
 public:
  Books(const std::vector<float>& drawn, unitok::Float type, int64_t tables, int64_t codewords, int64_t width)
      : codewords(codewords),
        width(width),
        values_(drawn.size()),
        packed_(tables * unitok::packed_bytes(codewords, width)) {
    const Bytes bytes = as_type(drawn, type);
    for (std::size_t i = 0; i < drawn.size(); ++i) values_[i] = read_value(bytes, type, static_cast<int64_t>(i));
    Array<char> given(static_cast<int64_t>(bytes.size()));
    std::copy(bytes.begin(), bytes.end(), given.data());
    unitok::pack_codebooks({given.data(), type, tables * codewords, width}, tables, packed_.data(), nullptr);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
  }

  const char* packed() const { return packed_.data(); }
  const float* codeword(int64_t table, int64_t k) const { return &values_[at(table, k)]; }

  const int64_t codewords, width;

 private:
  std::size_t at(int64_t table, int64_t k) const { return static_cast<std::size_t>((table * codewords + k) * width); }

  std::vector<float> values_;
  Array<char> packed_;
};

inline bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float x) { return std::isfinite(x); });
}

// Follows a row along the codes that were found for it.
struct Walk {
  std::vector<float> left, quantized;  // after the last level
  std::vector<double> squares;         // of what each level leaves
  int64_t wrong = 0, near_ties = 0;    // codes that break the promise; levels where it allows another code

  Walk(const float* row, const Books& books, int64_t first_table, const int64_t* codes, int64_t levels)
      : left(row, row + books.width), quantized(static_cast<std::size_t>(books.width)) {
    for (int64_t level = 0; level < levels; ++level) {
      CHECK(codes[level] >= 0 && codes[level] < books.codewords);
      take(books, first_table + level, codes[level]);
    }
  }

 private:
  void take(const Books& books, int64_t table, int64_t code) {
    double best = INFINITY, next = INFINITY, found = INFINITY;
    int64_t nearest = -1;
    for (int64_t k = 0; k < books.codewords; ++k) {
      const float* const c = books.codeword(table, k);
      if (!all_finite(c, books.width)) continue;
      double square = 0;
      for (std::size_t d = 0; d < left.size(); ++d) {
        const double difference = static_cast<double>(left[d]) - static_cast<double>(c[d]);
        square += difference * difference;
      }
      if (k == code) found = square;
      if (square < best) {
        next = best;
        best = square;
        nearest = k;
      } else {
        next = std::min(next, square);
      }
    }
    const bool allowed = code == nearest || (found > best && found - best < kNear * best);
    wrong += !allowed;
    near_ties += next - best < kNear * best;
    double square = 0;
    const float* const c = books.codeword(table, code);
    for (std::size_t d = 0; d < left.size(); ++d) {
      left[d] -= c[d];
      quantized[d] += c[d];
      square += static_cast<double>(left[d]) * static_cast<double>(left[d]);
    }
    squares.push_back(square);
  }
};

// Rows of a type, at an address that is a multiple of 16 or not. If `spoil`, some have a value that isn't finite.
class Items {
 public:
  Items(std::vector<float> drawn, unitok::Float type, int64_t width, bool spoil, bool aligned)
      : type(type),
        width(width),
        count(static_cast<int64_t>(drawn.size()) / width),
        values_(drawn.size()),
        offset_(aligned ? 0 : unitok::size_of(type)),
        given_(static_cast<int64_t>(drawn.size()) * unitok::size_of(type) + offset_) {
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int64_t row = 0; spoil && row < count; ++row)
      if (row % 17 == 5) drawn[static_cast<std::size_t>(row * width + row % width)] = bad[row % 3];
    const Bytes bytes = as_type(drawn, type);
    std::copy(bytes.begin(), bytes.end(), given_.data() + offset_);
    for (std::size_t i = 0; i < drawn.size(); ++i) values_[i] = read_value(bytes, type, static_cast<int64_t>(i));
  }

  unitok::Rows rows() const { return {given_.data() + offset_, type, count, width}; }
  const float* row(int64_t i) const { return values_.data() + i * width; }
  bool good(int64_t i) const { return all_finite(row(i), width); }

  const unitok::Float type;
  const int64_t width, count;

 private:
  std::vector<float> values_;
  int64_t offset_;
  Array<char> given_;
};

// Checks the mean of squares, which kernels add up in float32.
inline void check_mean(float found, double sum, int64_t values) {
  const double mean = values == 0 ? 0 : sum / static_cast<double>(values);
  CHECK(std::fabs(static_cast<double>(found) - mean) <= 1e-5 * mean);
}

template <class T>
void check_bytes(const Array<char>& found, const std::vector<T>& expected) {
  CHECK(found.size() == static_cast<int64_t>(expected.size() * sizeof(T)));
  CHECK(expected.empty() || std::memcmp(found.data(), expected.data(), expected.size() * sizeof(T)) == 0);
}

// Once by wgmma, if the kernels have that for the width, and once by mma.sync.
template <class Body>
void in_every_way(int64_t width, Body body) {
  const std::string before = context;
  for (const char* const wish : {"1", "0"}) {
    setenv("UNITOK_WGMMA", wish, 1);
    const bool by_warpgroups = unitok::by_warpgroups(width);
#ifdef UNITOK_EMULATED
    CHECK(by_warpgroups == (width > 64 && *wish == '1'));
#endif
    if (!by_warpgroups && *wish == '1') continue;
    context = before + (by_warpgroups ? ", by wgmma" : "");
    body();
  }
  context = before;
}

// On a device with that much shared memory.
template <class Body>
void with_shared_kilobytes([[maybe_unused]] std::size_t kilobytes, Body body) {
#ifdef UNITOK_EMULATED
  const std::size_t before = emulator::settings.shared_bytes;
  emulator::settings.shared_bytes = kilobytes << 10;
  body();
  emulator::settings.shared_bytes = before;
#else
  body();
#endif
}

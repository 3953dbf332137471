// Real calls on arrays beyond 2^33 values, in little memory: one small piece of memory is mapped again and again, and
// only the ends of an array have pages of their own. An offset that wraps goes outside, where nothing is mapped, or to
// the wrong piece. Pieces are 3 x 2^20 bytes, so that no wrap at a power of two ends at the same place of a piece.
//
// Tested: rows and quantised rows beyond 2^33 values and 2^34 bytes. Not tested: as many codes (2^23 are written here,
// in 2^26 bytes; 2^33 would take minutes of search). All offsets are int64, and -Wconversion is an error for csrc/cpu.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "api/residual_encode.h"
#include "check.h"
#include "simd/isa.h"

using namespace unitok;

namespace {

constexpr int64_t kPiece = int64_t{3} << 20;

// `size` bytes, a whole number of pieces. The first and the last piece have their own memory; those between share one.
class Repeated {
 public:
  explicit Repeated(int64_t size) : size_(size) {
    CHECK(size % kPiece == 0 && size >= 3 * kPiece);
    const int file = memfd_create("repeated", 0);
    CHECK(file >= 0 && ftruncate(file, 3 * kPiece) == 0);
    // Reserves as much unmapped room on both sides, to catch wrong offsets.
    void* const room = mmap(nullptr, bytes(3 * size), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(room != MAP_FAILED);
    data_ = static_cast<char*>(room) + size;
    for (int64_t at = 0; at < size; at += kPiece) {
      const int64_t piece = at == 0 ? 0 : at + kPiece < size ? 1 : 2;
      CHECK(mmap(data_ + at, bytes(kPiece), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, piece * kPiece) !=
            MAP_FAILED);
    }
    close(file);
  }
  ~Repeated() { munmap(data_ - size_, bytes(3 * size_)); }
  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;

  char* data() const { return data_; }
  int64_t size() const { return size_; }
  // The start of the piece that has byte `offset`.
  char* piece(int64_t offset) const { return data_ + offset / kPiece * kPiece; }

 private:
  static std::size_t bytes(int64_t size) { return static_cast<std::size_t>(size); }
  int64_t size_;
  char* data_;
};

// The last rows have the same results as in a small array.
void encode_reaches_the_last_row() {
  constexpr int64_t kWidth = 1024, kCodewords = 2, kRowBytes = 2 * kWidth, kPieceRows = kPiece / kRowBytes;
  constexpr int64_t kRows = ((int64_t{1} << 33) / kWidth / kPieceRows + 2) * kPieceRows;
  static_assert(kRows * kWidth > int64_t{1} << 33);
  Repeated z(kRows * kRowBytes), quantized(kRows * kRowBytes);
  for (int64_t piece = 0; piece < 3; ++piece) {  // first, between, last
    const Bytes values = as_type(random_floats(kPiece / 2, static_cast<uint64_t>(piece)), Float::bf16);
    std::memcpy(z.piece(piece < 2 ? piece * kPiece : z.size() - 1), values.data(), values.size());
  }
  const std::vector<float> codebook = random_floats(kCodewords * kWidth, 9);
  std::vector<int64_t> codes(static_cast<std::size_t>(kRows));
  const EncodeOptions options{2, false, false};
  float error;
  int64_t counts[2];
  CHECK(residual_encode({z.data(), Float::bf16, kRows, kWidth}, codebook.data(), 1, kCodewords, codes.data(),
                        quantized.data(), &error, counts, options) == kFine);
  for (int64_t first : {int64_t{0}, kPieceRows, kRows - kPieceRows}) {
    std::vector<int64_t> expected_codes(kPieceRows);
    Bytes expected(kPiece);
    residual_encode({z.data() + first * kRowBytes, Float::bf16, kPieceRows, kWidth}, codebook.data(), 1, kCodewords,
                    expected_codes.data(), expected.data(), &error, counts, options);
    CHECK(std::equal(expected_codes.begin(), expected_codes.end(), codes.begin() + first));
    CHECK(std::memcmp(expected.data(), quantized.data() + first * kRowBytes, kPiece) == 0);
  }
}

void a_row_s_address_has_64_bits() {
  const char* const base = reinterpret_cast<const char*>(uintptr_t{1} << 20);
  for (Float type : {Float::f32, Float::f16, Float::bf16})
    for (int64_t width : {int64_t{1}, int64_t{7}, int64_t{1} << 20})
      for (int64_t row : {int64_t{1} << 31, (int64_t{1} << 33) + 5}) {
        const Rows rows{base, type, row + 1, width};
        const auto expected = reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(row) *
                                                                      static_cast<uintptr_t>(width) *
                                                                      static_cast<uintptr_t>(size_of(type));
        CHECK(reinterpret_cast<uintptr_t>(rows.row(row)) == expected);
      }
}

}  // namespace

void check_addresses() {
  context = "addresses";
  a_row_s_address_has_64_bits();
}

void check_huge() {
  use_isa(available_isas().back());  // only the best: plain loops over 2^33 values take minutes
  context = "residual_encode beyond 2^33 values";
  encode_reaches_the_last_row();
}

// Sums of the rows of each codeword.
//
// A codeword's rows are added in row order in double precision, and the sum is rounded once. No sum is split, so the
// bits are the same for any number of threads.
#ifndef UNITOK_SUMS_SUMS_H
#define UNITOK_SUMS_SUMS_H

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "runtime/parallel.h"
#include "search/groups.h"
#include "simd/number.h"
#include "simd/vec.h"

namespace unitok::UNITOK_ISA {

constexpr int kSumColumns = 32;                 // columns of one codeword that registers hold
constexpr int64_t kSumTask = int64_t{1} << 15;  // values that are worth a task

// Adds columns first .. first + columns - 1 of some rows and rounds to float32; returns whether the sums are finite.
inline bool sum_columns(const Rows& x, const int64_t* rows, int64_t count, int64_t first, int64_t columns, float* to) {
  constexpr int kParts = kSumColumns / 8;
  const int64_t offset = first * size_of(x.type);
  D8 total[kParts];
  for (D8& part : total) part = zero8();
  const bool direct = x.type == Float::f32 && columns == kSumColumns;
  float wide[kSumColumns + kLanes] = {};
  for (int64_t i = 0; i < count; ++i) {
    if (i + 8 < count) __builtin_prefetch(x.row(rows[i + 8]) + offset);
    const char* const row = x.row(rows[i]) + offset;
    if (!direct) widen(row, x.type, columns, wide);
    const float* const values = direct ? reinterpret_cast<const float*>(row) : wide;
    for (int part = 0; part < kParts; ++part) total[part] = add(total[part], load8(values + 8 * part));
  }
  double sums[kSumColumns], check = 0;
  for (int part = 0; part < kParts; ++part) store8(sums + 8 * part, total[part]);
  for (int64_t d = 0; d < columns; ++d) {
    to[d] = static_cast<float>(sums[d]);
    check += sums[d] * 0;
  }
  return check == 0;
}

// Writes the sums (K, D) in `type`, rounded to float32 first; returns whether all of them are finite.
inline bool sum_groups(const Rows& x, const Groups& groups, Float type, void* sums, int threads) {
  const int64_t codewords = groups.codewords(), total = groups.total(), bytes = x.width * size_of(type);
  char* const out = static_cast<char*>(sums);
  const int64_t worth = std::max<int64_t>((total + codewords) * x.width / kSumTask, 1);
  const int64_t tasks = threads > 1 ? std::min<int64_t>({worth, 8 * int64_t{threads}, codewords}) : 1;
  std::atomic<bool> finite{true};
  // A task takes the codewords that start in its share of the rows and of the codewords, both counted.
  const auto first_of = [&](int64_t task) {
    int64_t low = 0, high = codewords;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if ((groups.start(middle) + middle) * tasks < task * (total + codewords)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  parallel(tasks, threads, [&](int64_t task, int) {
    const int64_t last = task + 1 < tasks ? first_of(task + 1) : codewords;
    for (int64_t k = task > 0 ? first_of(task) : 0; k < last; ++k) {
      if (k % 64 == 0 || groups.size(k) >= kRowsPerCheck) check_interrupt();
      if (groups.size(k) == 0) {
        std::memset(out + k * bytes, 0, static_cast<std::size_t>(bytes));
        continue;
      }
      for (int64_t d = 0; d < x.width; d += kSumColumns) {
        float part[kSumColumns];
        const int64_t columns = std::min<int64_t>(kSumColumns, x.width - d);
        if (!sum_columns(x, groups.rows(k), groups.size(k), d, columns, part)) finite = false;
        narrow(part, type, columns, out + k * bytes + d * size_of(type));
      }
    }
  });
  return finite;
}

}  // namespace unitok::UNITOK_ISA

#endif  // UNITOK_SUMS_SUMS_H

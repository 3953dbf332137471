// The rows of each codeword, in row order.
#pragma once

#include <cstdint>

#include "runtime/memory.h"

namespace unitok {

// A stable counting sort of rows by code. Rows whose code is not in 0 .. codewords - 1 belong to no group.
class Groups {
 public:
  Groups() = default;
  // codes: `count` of them, `stride` apart.
  Groups(const int64_t* codes, int64_t stride, int64_t count, int64_t codewords)
      : codewords_(codewords), ends_(codewords + 1), rows_(count) {
    for (int64_t k = 0; k <= codewords; ++k) ends_[k] = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t code = codes[i * stride];
      if (code >= 0 && code < codewords) {
        ++ends_[code + 1];
      } else if (code != -1) {
        in_range_ = false;
      }
    }
    for (int64_t k = 0; k < codewords; ++k) ends_[k + 1] += ends_[k];
    for (int64_t i = 0; i < count; ++i) {  // ends_[k] walks from the start of group k to its end
      const int64_t code = codes[i * stride];
      if (code >= 0 && code < codewords) rows_[ends_[code]++] = i;
    }
  }

  int64_t codewords() const { return codewords_; }
  int64_t total() const { return codewords_ > 0 ? ends_[codewords_ - 1] : 0; }
  int64_t start(int64_t k) const { return k > 0 ? ends_[k - 1] : 0; }
  int64_t size(int64_t k) const { return ends_[k] - start(k); }
  const int64_t* rows(int64_t k) const { return rows_.data() + start(k); }
  bool in_range() const { return in_range_; }  // whether every code is -1 or a codeword's

 private:
  int64_t codewords_ = 0;
  bool in_range_ = true;
  Buffer<int64_t> ends_, rows_;
};

}  // namespace unitok

// The rows of each codeword, in row order, at every level.
#pragma once

#include <cstdint>

#include "errors.h"

namespace unitok {

// Rows whose code is not in 0 .. K - 1 belong to no group.
struct Groups {
  const int32_t* order;   // (L, N): at each level the rows' numbers, by code and then by row
  const int32_t* starts;  // (L, K + 1): where each code begins in it, and where the last one ends
};

// The sizes of the workspace for N < 2^31 rows.
struct GroupsLayout {
  GroupsLayout(int64_t count, int64_t levels, int64_t codewords);

  int64_t count, levels, codewords;
  int64_t chunk;   // rows that a warp goes through
  int64_t chunks;  // of a level
  int64_t bytes;   // of workspace
};

// A stable counting sort of each level's codes (N, L). Integers alone decide where a row goes, so the order is always
// the same. Writes counts (L, K) unless null.
Groups group_rows(const int64_t* codes, const GroupsLayout& layout, int64_t* counts, void* workspace,
                  cudaStream_t stream);

}  // namespace unitok

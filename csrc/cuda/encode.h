// Rows through chains of codebooks: the launches that residual_encode and moe_residual_encode share.
#pragma once

#include <cstdint>

#include "../cpu/simd/number.h"
#include "errors.h"

namespace unitok {

// The items of one launch on one set of chains.
struct Chains {
  const unsigned char* packed;  // (groups, levels) packed codebooks
  int groups, levels, codewords;
  const int32_t* order;   // (items,): items by group; null if there is one group, of all rows
  const int32_t* starts;  // (groups + 1,): where each group begins in it, and where the last one ends
  int64_t items;          // rows times slots; items of no group aren't in the order
  int slots;              // items of a row: item / slots is its row
  int64_t* codes;         // (items, levels)
  float* distances;       // (items,): squared length of what the last level leaves; or null
  void* quantized;  // (items, width) in the rows' type: the sum of the codewords in level order; or null, as always
                    // with an order
  float* parts;     // (blocks, warps, levels + 3): squares left after each level, rows, searches again, near ties
};

// The kernel's arguments. If not exact, it leaves out the search among a row's candidates. No operation asks for that;
// the drivers do, to show that the search is needed.
struct EncodeCall {
  Rows rows;
  Chains chains[2];
  bool exact, stats, whole;  // whole: rows can be read and written in packs of 16 bytes
};

// Bytes of the parts of chains of this many levels, on the current device.
int64_t parts_bytes(int64_t levels);

// The first `count` of the chains, 1 or 2, over the same rows, in one launch.
void encode_rows(const Rows& rows, const Chains* chains, int count, bool exact, bool stats, cudaStream_t stream);

// Whether that uses wgmma: for rows of 65 to 128 columns, if sm_90a was compiled for, the current device has compute
// capability 9.0, and UNITOK_WGMMA is 1, since no device has run it yet. Both ways give equal codes.
bool by_warpgroups(int64_t width);
void encode_by_warpgroups(const Rows& rows, const Chains* chains, int count, bool exact, bool stats,
                          cudaStream_t stream);

// Sums up the parts of both: errors (levels,) of each, and counts (searches made again, near ties).
void finish_parts(const Rows& rows, const Chains* chains, int count, float* error, float* second_error, int64_t* counts,
                  cudaStream_t stream);

}  // namespace unitok

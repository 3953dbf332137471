// Codebooks as residual_encode takes them.
#pragma once

#include "../cpu/simd/number.h"
#include "errors.h"

namespace unitok {

constexpr int64_t kWidest = 128;             // columns of a row that the tensor cores search
constexpr int64_t kMostCodewords = 1 << 20;  // of a codebook, likewise

// Bytes of one packed codebook, a multiple of 128; packed codebooks follow one another.
int64_t packed_bytes(int64_t codewords, int64_t width);

// codebooks (tables K, D) of any type -> packed (tables, packed_bytes), from an address that is a multiple of 128.
void pack_codebooks(const Rows& codebooks, int64_t tables, void* packed, cudaStream_t stream);

}  // namespace unitok

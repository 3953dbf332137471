#include "residual_encode.h"

#include "encode.h"

namespace unitok {

int64_t residual_encode_workspace(int64_t levels) { return parts_bytes(levels); }

void residual_encode(const Rows& z, const void* packed, int64_t levels, int64_t codewords, bool exact, bool stats,
                     int64_t* codes, void* quantized, float* distances, float* level_error, int64_t* counts,
                     void* workspace, cudaStream_t stream) {
  Chains chains{};
  chains.packed = static_cast<const unsigned char*>(packed);
  chains.groups = 1;
  chains.levels = static_cast<int>(levels);
  chains.codewords = static_cast<int>(codewords);
  chains.items = z.count;
  chains.slots = 1;
  chains.codes = codes;
  chains.quantized = quantized;
  chains.distances = distances;
  chains.parts = static_cast<float*>(workspace);
  encode_rows(z, &chains, 1, exact, stats, stream);
  finish_parts(z, &chains, 1, level_error, nullptr, counts, stream);
}

}  // namespace unitok

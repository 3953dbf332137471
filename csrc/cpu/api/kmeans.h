// Lloyd's k-means on finite float32 rows.
#pragma once

#include <cstdint>

namespace unitok {

// Draws the start: each next row with a probability proportional to its squared distance from the rows drawn before.
//   rows (N, D); draws: K uniform numbers in [0, 1) -> chosen: K row numbers.
void kmeans_start(const float* rows, int64_t count, int64_t width, int64_t codewords, const double* draws,
                  int64_t* chosen, int threads);

// Alternates: codewords (K, D) move to the means of their rows, and rows to their nearest codeword or the balanced one,
// until nothing changes or `iterations` are done. codes (N) are those of the final codebook.
void kmeans(const float* rows, int64_t count, int64_t width, float* codebook, int64_t codewords, int64_t iterations,
            bool balanced, int64_t* codes, int threads);

}  // namespace unitok

// The search by wgmma, in a source of its own because it is compiled for sm_90a alone.
#include "launch.cuh"

namespace unitok {

void encode_by_warpgroups(const Rows& rows, const Chains* chains, int count, bool exact, bool stats,
                          cudaStream_t stream) {
  launch<128, Warpgroup>(rows, chains, count, exact, stats, stream);
}

}  // namespace unitok

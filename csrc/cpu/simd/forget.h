// Undefines the include guards of all headers that are read once per instruction set, so that the next set reads them
// again. A new such header adds a line; each_isa.h explains.
#undef UNITOK_SIMD_VEC_H
#undef UNITOK_SIMD_VEC_X86_H
#undef UNITOK_SEARCH_CHAIN_H
#undef UNITOK_SEARCH_DIFFERENCING_H
#undef UNITOK_SEARCH_PACKED_H
#undef UNITOK_SEARCH_SEARCH_H
#undef UNITOK_SEARCH_SHORTLIST_H
#undef UNITOK_SUMS_GAUSSIAN_H
#undef UNITOK_SUMS_GRAM_H
#undef UNITOK_SUMS_SUMS_H
#undef UNITOK_TRANSPORT_FLOW_H
#undef UNITOK_TRANSPORT_PRICES_H
#undef UNITOK_TRANSPORT_SCORER_H

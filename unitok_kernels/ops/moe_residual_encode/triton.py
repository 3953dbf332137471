"""Residual encoding by experts on a GPU: codebooks are packed, then one launch per slot takes rows grouped by expert.

A program takes rows of one expert through its chain. With the last slot, it also takes them through the shared chain
and combines the codewords of all slots. Only codes are passed from one slot's launch to the next. Rows too wide for
registers go through their chains elsewhere (`ops/_triton/streaming.py`), and one launch combines their codewords.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unitok_kernels import checks
from unitok_kernels.ops._triton import configs, streaming
from unitok_kernels.ops._triton.grouping import find_group, group_rows
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops._triton.packing import pack
from unitok_kernels.ops._triton.segments import cut
from unitok_kernels.ops._triton.tiles import WIDEST, finite_rows, load_rows, search, store_rows
from unitok_kernels.ops.codeword_statistics.triton import add_rows
from unitok_kernels.ops.common import wide
from unitok_kernels.ops.moe_residual_encode import reference
from unitok_kernels.ops.residual_decode.triton import residual_decode_backward, sum_codewords
from unitok_kernels.ops.residual_encode.triton import finish


@triton.jit
def _chain(
    p_z, p_tables, p_digits, p_scales, first_table, p_codes, p_part, i_rows, m_rows, K, L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
    EXACT: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """r_0 = z;  code_l = argmin_k |r_l - C_lk|^2;  r_{l+1} = r_l - C_l,code_l.

    first_table: number of the chain's first codebook. p_codes: (BN,) pointers to each row's first code. p_part:
    (L + 1,) float32, the squared residuals after each level, and the number of rows. Returns how many searches were
    redone, and near ties.
    """
    b_r = load_rows(p_z, i_rows, m_rows, D, BD)
    m_good = finite_rows(b_r) & m_rows
    b_r = tl.where(m_good[:, None], b_r, 0.0)
    rescored, near_ties = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    for level in tl.range(0, L, disable_licm=True):  # what is computed ahead of the loop takes registers
        table = tl.cast(first_table, tl.int64) + level
        p_table = p_tables + table * K * D
        b_codes, again, near = search(
            b_r, m_good, p_table, p_digits, p_scales, table, K, D, BD, BN, BK, EVEN, EXACT, STATS
        )
        b_r = b_r - load_rows(p_table, b_codes, m_good, D, BD)
        tl.store(p_codes + level, tl.where(m_good, b_codes, -1).to(tl.int64), mask=m_rows)
        tl.store(p_part + level, tl.sum(b_r * b_r))
        rescored += again
        near_ties += near
    tl.store(p_part + L, tl.sum(m_good.to(tl.float32), axis=0))
    return rescored, near_ties


@triton.jit
def _rounded_product(b_x, b_y, end):
    """Give x y in float32, rounded before anything is added: the compiler can't know that end is never below 0."""
    b_bits = tl.cast(b_x * b_y, tl.int32, bitcast=True) | tl.minimum(end, 0).to(tl.int32)
    return b_bits.to(tl.float32, bitcast=True)


@triton.jit
def _combined(
    p_tables, p_shared, p_ids, p_weights, p_codes, p_shared_codes, shared_weight, i_rows, m_rows, end,
    S, K, L, SHARED_K, SHARED_L, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Compute sum_s w_s Q_{e_s}(z) + shared_weight Q_shared(z) of rows from their codes."""
    b_combined = tl.zeros((BN, BD), tl.float32)
    for s in range(S):
        i_pairs = i_rows * S + s
        b_weight = tl.load(p_weights + i_pairs, mask=m_rows, other=0.0).to(tl.float32)
        b_weight = tl.where(b_weight * 0.0 == 0.0, b_weight, 0.0)  # a bad slot decodes to zeros, not to 0 * NaN
        i_first = tl.load(p_ids + i_pairs, mask=m_rows, other=0) * L * K  # codes of a bad expert are -1
        b_quantized = sum_codewords(p_codes + i_pairs * L, p_tables, i_first, m_rows, K, L, D, BD, BN)
        b_combined += _rounded_product(b_weight[:, None], b_quantized, end)
    if SHARED:
        p_row_shared = p_shared_codes + i_rows * SHARED_L
        b_quantized = sum_codewords(p_row_shared, p_shared, 0, m_rows, SHARED_K, SHARED_L, D, BD, BN)
        b_combined += _rounded_product(tl.cast(shared_weight, tl.float32), b_quantized, end)
    return b_combined


@triton.jit
def _combine(
    p_tables, p_shared, p_ids, p_weights, p_codes, p_shared_codes, p_combined,
    shared_weight, N, S, K, L, SHARED_K, SHARED_L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Combine the codewords of a tile of rows."""
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_combined = _combined(
        p_tables, p_shared, p_ids, p_weights, p_codes, p_shared_codes, shared_weight, i_rows, m_rows, N,
        S, K, L, SHARED_K, SHARED_L, D, BD, BN, SHARED,
    )  # fmt: skip
    store_rows(p_combined, b_combined, i_rows, m_rows, D, BD)


@triton.jit
def _kernel(
    p_z, p_tables, p_digits, p_scales, p_shared, p_shared_digits, p_shared_scales, p_ids, p_weights, p_order, p_starts,
    p_codes, p_shared_codes, p_combined, p_parts, p_shared_parts,
    shared_weight, N, E, S, slot, K, L, SHARED_K, SHARED_L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, EVEN: tl.constexpr,
    EXACT: tl.constexpr, STATS: tl.constexpr, CHAINS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """One slot of combined = sum_s w_s Q_{e_s}(z) + shared_weight Q_shared(z); the last slot's launch sums it up.

    p_order, p_starts: rows by this slot's expert. p_parts: (S, programs, L + 3) float32, as in residual_encode.
    p_shared_parts: (programs, SHARED_L + 3); its searches are counted in p_parts. CHAINS: 2 with the shared chain.
    """
    program = tl.program_id(0)
    group, first, end = find_group(p_starts, program, N, E, BN, BE)
    if group > E:
        return
    i_slot = first + tl.arange(0, BN)
    m_rows = i_slot < end
    i_rows = tl.load(p_order + i_slot, mask=m_rows, other=0)
    p_row_codes = p_codes + i_rows * S * L
    p_part = p_parts + (tl.cast(slot, tl.int64) * tl.num_programs(0) + program) * (L + 3)
    if group == E:
        for level in range(L):
            tl.store(p_row_codes + slot * L + level, tl.full((BN,), -1, tl.int64), mask=m_rows)

    rescored, near_ties = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    for chain in tl.range(tl.where(group < E, 0, 1), CHAINS, disable_licm=True):  # the expert's, then the shared one
        again, near = _chain(
            p_z,
            tl.where(chain == 0, p_tables, p_shared),
            tl.where(chain == 0, p_digits, p_shared_digits),
            tl.where(chain == 0, p_scales, p_shared_scales),
            tl.where(chain == 0, group * L, 0),
            tl.where(chain == 0, p_row_codes + slot * L, p_shared_codes + i_rows * SHARED_L),
            tl.where(chain == 0, p_part, p_shared_parts + tl.cast(program, tl.int64) * (SHARED_L + 3)),
            i_rows,
            m_rows,
            tl.where(chain == 0, K, SHARED_K),
            tl.where(chain == 0, L, SHARED_L),
            D,
            BD,
            BN,
            BK,
            EVEN,
            EXACT,
            STATS,
        )
        rescored += again
        near_ties += near
    tl.store(p_part + L + 1, rescored.to(tl.float32))
    tl.store(p_part + L + 2, near_ties.to(tl.float32))

    if LAST:
        tl.debug_barrier()  # other threads read the codes than wrote them
        b_combined = _combined(
            p_tables, p_shared, p_ids, p_weights, p_codes, p_shared_codes, shared_weight, i_rows, m_rows, end,
            S, K, L, SHARED_K, SHARED_L, D, BD, BN, CHAINS == 2,
        )  # fmt: skip
        store_rows(p_combined, b_combined, i_rows, m_rows, D, BD)


@triton.jit
def _backward(
    p_gradient, p_tables, p_ids, p_weights, p_codes, p_shared_codes, p_by_z, p_by_weights, p_weighted, p_numbers,
    shared_weight, N, E, S, K, L, SHARED_L,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """by_z = (sum_s w_s + shared_weight) g;  by_weights_s = Q_{e_s}(z) . g;  weighted_s = w_s g.

    Slots and shared chains whose first code is -1 have weight 0. p_numbers: (L, N S) int64, (e L + level) K + code,
    or -1 if one of them is out of range.
    """
    i_rows = tl.cast(tl.program_id(0), tl.int64) * BN + tl.arange(0, BN)
    m_rows = i_rows < N
    b_gradient = load_rows(p_gradient, i_rows, m_rows, D, BD)
    b_total = tl.zeros((BN,), tl.float32)
    for s in range(S):
        i_pairs = i_rows * S + s
        b_expert = tl.load(p_ids + i_pairs, mask=m_rows, other=-1)
        m_expert = (b_expert >= 0) & (b_expert < E)
        i_first = b_expert * L * K
        b_quantized = sum_codewords(p_codes + i_pairs * L, p_tables, i_first, m_expert, K, L, D, BD, BN)
        tl.store(p_by_weights + i_pairs, tl.sum(b_quantized * b_gradient, axis=1), mask=m_rows)
        m_good = tl.load(p_codes + i_pairs * L, mask=m_rows, other=-1) >= 0
        b_weight = tl.load(p_weights + i_pairs, mask=m_good, other=0.0).to(tl.float32)
        b_total += b_weight
        if WEIGHTED:
            store_rows(p_weighted, b_weight[:, None] * b_gradient, i_pairs, m_rows, D, BD)
            for level in range(L):
                b_code = tl.load(p_codes + i_pairs * L + level, mask=m_rows, other=-1)
                b_number = tl.where(m_expert & (b_code >= 0) & (b_code < K), i_first + level * K + b_code, -1)
                tl.store(p_numbers + tl.cast(level, tl.int64) * N * S + i_pairs, b_number, mask=m_rows)
    if SHARED:
        m_good = tl.load(p_shared_codes + i_rows * SHARED_L, mask=m_rows, other=-1) >= 0
        b_total += tl.where(m_good, tl.cast(shared_weight, tl.float32), 0.0)
    store_rows(p_by_z, b_total[:, None] * b_gradient, i_rows, m_rows, D, BD)


def moe_residual_encode(
    z: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    shared_codebooks: Tensor | None,
    shared_weight: float,
    precision: str,
    check_finite: bool | None,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Group the rows and launch the kernels."""
    if checks.reads_data(check_finite, z):
        reference.check_data(z, codebooks, expert_ids, expert_weights, shared_codebooks)
    (rows, width), slots = z.shape, expert_ids.shape[1]
    experts, levels, codewords, _ = codebooks.shape
    shared_levels, shared_codewords = (0, 0) if shared_codebooks is None else shared_codebooks.shape[:2]
    shared = codebooks if shared_codebooks is None else shared_codebooks
    if shared.dtype != codebooks.dtype:
        codebooks, shared = wide(codebooks), wide(shared)
    chosen = torch.where(torch.isfinite(expert_weights), expert_ids, -1)
    if width > WIDEST:
        return _encode_wide(z, codebooks, expert_ids, expert_weights, chosen, shared_codebooks, shared_weight)
    config = configs.mixture(target_of(z), width)
    programs = triton.cdiv(rows, config.block_rows) + experts  # as many as E + 1 groups can take
    combined = torch.empty_like(z)
    codes = z.new_empty(rows, slots, levels, dtype=torch.int64)
    shared_codes = z.new_empty(rows, shared_levels, dtype=torch.int64)
    parts = z.new_zeros(slots * programs, levels + 3, dtype=torch.float32)  # zeros: not every program has rows
    shared_parts = z.new_zeros(programs, shared_levels + 3, dtype=torch.float32)
    packed = pack(codebooks, config)
    shared_packed = packed if shared_codebooks is None else pack(shared, config)
    is_even = codewords % config.block_columns == 0 and shared_codewords % config.block_columns == 0
    for slot, keys in enumerate(chosen.unbind(1)):
        order, starts = group_rows(keys, experts)
        is_last = slot == slots - 1
        launch(
            _kernel, (programs,),
            z, codebooks, *packed, shared, *shared_packed, expert_ids, expert_weights, order, starts,
            codes, shared_codes, combined, parts, shared_parts, shared_weight, rows, experts, slots, slot,
            codewords, levels, shared_codewords, shared_levels,
            config=config, D=width, BD=configs.power_of_two(width, 32), BN=config.block_rows, BK=config.block_columns,
            BE=configs.power_of_two(experts + 1), EVEN=is_even, EXACT=precision == "exact", STATS=stats,
            CHAINS=2 if is_last and shared_codebooks is not None else 1, LAST=is_last,
        )  # fmt: skip

    level_error, counts = _errors(parts, width)
    # Searches of the shared chain are in the other counts already.
    shared_error = z.new_empty(0) if shared_codebooks is None else _errors(shared_parts, width)[0]
    return combined, codes, shared_codes, level_error, shared_error, counts


def _errors(parts: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Sum up what programs leave behind: level_error, and the counts of searches again and near ties."""
    levels = parts.shape[1] - 3
    level_error = parts.new_empty(levels)
    counts = parts.new_empty(2, dtype=torch.int64)
    launch(
        finish, (levels + 1,), parts, level_error, counts, parts.shape[0], levels,
        config=configs.SUMS, D=width, BP=configs.SUMS.block_rows,
    )  # fmt: skip
    return level_error, counts


def _encode_wide(
    z: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    chosen: Tensor,
    shared_codebooks: Tensor | None,
    shared_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Take rows wider than a tile through one chain after another, `chosen` (N, S) being -1 for none."""
    (rows, width), (levels, codewords) = z.shape, codebooks.shape[1:3]
    slots = [streaming.encode(z, codebooks, groups) for groups in chosen.unbind(1)]
    codes = torch.stack([slot.codes for slot in slots], 1)
    level_error, counts = _errors(torch.cat([slot.parts for slot in slots]), width)
    shared, shared_codes, shared_error = codebooks, codes.new_empty(rows, 0), level_error.new_empty(0)
    if shared_codebooks is not None:
        shared = shared_codebooks
        shared_codes, _, parts = streaming.encode(z, shared.unsqueeze(0))
        shared_error, more = _errors(parts, width)
        counts = counts + more
    config = configs.combining(target_of(z), width)
    combined = torch.empty_like(z)
    launch(
        _combine, (triton.cdiv(rows, config.block_rows),),
        codebooks, shared, expert_ids, expert_weights, codes, shared_codes, combined,
        shared_weight, rows, len(slots), codewords, levels, shared.shape[-2], shared_codes.shape[1],
        config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows,
        SHARED=shared_codebooks is not None,
    )  # fmt: skip
    return combined, codes, shared_codes, level_error, shared_error, counts


def moe_residual_encode_backward(
    gradient: Tensor,
    codebooks: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    codes: Tensor,
    shared_codebooks: Tensor | None,
    shared_weight: float,
    shared_codes: Tensor,
    with_codebooks: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel of the rows, and sum up by codeword."""
    (rows, width), (_, slots, levels) = gradient.shape, codes.shape
    experts, _, codewords, _ = codebooks.shape
    config = configs.gathering(target_of(gradient), width)
    by_z = torch.empty_like(gradient, dtype=torch.float32)
    by_weights = torch.empty_like(expert_weights, dtype=torch.float32)
    pairs = rows * slots if with_codebooks else 0
    weighted, numbers = by_z.new_empty(pairs, width), codes.new_empty(levels, pairs)
    launch(
        _backward, (triton.cdiv(rows, config.block_rows),),
        gradient, codebooks, expert_ids, expert_weights, codes, shared_codes, by_z, by_weights, weighted, numbers,
        shared_weight, rows, experts, slots, codewords, levels, shared_codes.shape[1],
        config=config, D=width, BD=configs.power_of_two(width), BN=config.block_rows,
        SHARED=shared_codebooks is not None, WEIGHTED=with_codebooks,
    )  # fmt: skip
    by_codebooks, by_shared = by_z.new_empty(0), by_z.new_empty(0)
    if with_codebooks:
        by_codebooks = add_rows(weighted, cut(numbers, experts * levels * codewords))
        by_codebooks = by_codebooks.view(experts, levels, codewords, width)
        if shared_codebooks is not None:
            shared_sums = residual_decode_backward(wide(gradient), shared_codes, shared_codebooks.shape[1])
            by_shared = shared_weight * shared_sums
    return by_z, by_codebooks, by_weights, by_shared

"""The balanced assignment on a GPU, without waiting for the device: prices by sweeps, then shortest paths.

It solves the transport problem of `balanced.py`. The dual gives each codeword a price: above 0 if the codeword is full,
below 0 if it has as few rows as it may; rows take the codeword of least distance + price. A fixed number of sweeps over
all rows raises the prices of codewords with too many rows and lowers those with too few, as does `prices.h` in
csrc/cpu/transport. Only the device knows how many rows are misplaced then, so a single program follows, which loops
until none is: each turn sends one row along every edge of the cheapest path from a codeword with too many to one with
too few. Since rows start at their best codewords under the prices, that ends at the optimum, whatever the prices are.

The sweeps are quick. The program is not: it uses one multiprocessor, and in each turn it looks at all rows' codes for
each codeword of the path. It keeps N x K distances in float64 and K^2 losses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from unitok_kernels.ops._triton import configs
from unitok_kernels.ops._triton.launch import launch, target_of
from unitok_kernels.ops.common import finite_rows, wide

_SWEEPS = 30
_FIRST_STEP = 0.02  # first change of a price, in units of the mean squared distance


@triton.jit
def _find_losses(
    code, p_distance, p_codes, p_members, p_loss, p_loser, N, K,
    BK: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """loss[code, k] = min over the rows of a codeword of d_nk - d_n,code, and the first row that attains it."""
    o_n, o_m, o_k = tl.arange(0, BN), tl.arange(0, BM), tl.arange(0, BK)
    count = tl.full((), 0, tl.int32)
    for i_n in range(0, N, BN):
        m_member = tl.load(p_codes + i_n + o_n, mask=i_n + o_n < N, other=-1) == code
        b_member = m_member.to(tl.int32)
        tl.store(p_members + count + tl.cumsum(b_member, axis=0) - 1, i_n + o_n, mask=m_member)
        count += tl.sum(b_member, axis=0)
    tl.debug_barrier()  # other threads read the members than wrote them
    b_loss = tl.full((BK,), float("inf"), tl.float64)
    b_loser = tl.zeros((BK,), tl.int32)
    for i_m in range(0, count, BM):
        m_rows = i_m + o_m < count
        i_rows = tl.load(p_members + i_m + o_m, mask=m_rows, other=0)
        p_rows = p_distance + i_rows.to(tl.int64) * K
        m_distance = m_rows[:, None] & ((o_k < K) & (o_k != code))[None, :]
        b_regret = tl.load(p_rows[:, None] + o_k[None, :], mask=m_distance, other=float("inf"))
        b_regret -= tl.load(p_rows + code, mask=m_rows, other=0.0)[:, None]
        b_least = tl.min(b_regret, axis=0)
        b_who = tl.min(tl.where(b_regret == b_least[None, :], i_rows[:, None], N), axis=0)
        b_loser = tl.where(b_least < b_loss, b_who, b_loser)
        b_loss = tl.minimum(b_loss, b_least)
    tl.store(p_loss + code * BK + o_k, b_loss, mask=o_k < K)
    tl.store(p_loser + code * BK + o_k, b_loser, mask=o_k < K)
    tl.debug_barrier()  # before the next codeword's members overwrite them


@triton.jit
def _find_path(p_loss, p_reach, p_before, b_excess, rounding, K, BK: tl.constexpr, BI: tl.constexpr):
    """Find the cost of the cheapest path to each node from one with too many (Bellman-Ford).

    p_before gets the node before each on its path, or -1.
    """
    o_i, o_k = tl.arange(0, BI), tl.arange(0, BK)
    b_reach = tl.where(b_excess > 0, 0.0, float("inf")).to(tl.float64)
    b_before = tl.full((BK,), -1, tl.int32)
    rounds = K + 1
    while rounds > 0:
        tl.store(p_reach + o_k, b_reach)
        tl.debug_barrier()
        b_through = tl.full((BK,), float("inf"), tl.float64)
        b_start = tl.full((BK,), -1, tl.int32)
        for i_i in range(0, K + 1, BI):
            b_edge = tl.load(p_loss + (i_i + o_i)[:, None] * BK + o_k[None, :])
            b_edge += tl.load(p_reach + i_i + o_i)[:, None]
            b_least = tl.min(b_edge, axis=0)
            b_who = tl.min(tl.where(b_edge == b_least[None, :], (i_i + o_i)[:, None], BK), axis=0)
            b_start = tl.where(b_least < b_through, b_who, b_start)
            b_through = tl.minimum(b_through, b_least)
        m_better = b_through < b_reach - rounding
        b_before = tl.where(m_better, b_start, b_before)
        b_reach = tl.where(m_better, b_through, b_reach)
        rounds = tl.where(tl.sum(m_better.to(tl.int32), axis=0) > 0, rounds - 1, 0)
        tl.debug_barrier()  # all threads have read what is written next
    tl.store(p_before + o_k, b_before)
    tl.debug_barrier()
    return b_reach


@triton.jit
def _move_rows(
    p_distance, p_farthest, p_codes, p_excess, p_flow, p_bounds, p_members, p_loss, p_loser, p_reach, p_before, N, K,
    BK: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Send rows along cheapest paths until no node has too many; a single program does it.

    Nodes are the codewords, and the sink as number K. p_excess: (BK,) int64, rows that have arrived at a node and not
    gone on. p_flow: (BK,) int64, rows that go on to the sink. p_loss: (BK, BK) float64, infinity where not set.
    """
    o_k = tl.arange(0, BK)
    b_excess, b_flow = tl.load(p_excess + o_k), tl.load(p_flow + o_k)
    fewest, most = tl.load(p_bounds), tl.load(p_bounds + 1)
    rounding = 1e-12 * tl.load(p_farthest)  # so that a cycle of cost 0 never seems to gain
    left = tl.sum(tl.maximum(b_excess, 0), axis=0)
    if left > 0:
        for code in range(K):
            _find_losses(code, p_distance, p_codes, p_members, p_loss, p_loser, N, K, BK, BN, BM)
    while left > 0:
        tl.store(p_loss + o_k * BK + K, tl.where(b_flow < most, 0.0, float("inf")), mask=o_k < K)
        tl.store(p_loss + K * BK + o_k, tl.where(b_flow > fewest, 0.0, float("inf")), mask=o_k < K)
        b_reach = _find_path(p_loss, p_reach, p_before, b_excess, rounding, K, BK, BI)
        b_reach = tl.where(b_excess < 0, b_reach, float("inf"))
        end = tl.min(tl.where(b_reach == tl.min(b_reach, axis=0), o_k, K), axis=0)
        node, steps = end, K + 1  # a path has no more edges
        start = tl.load(p_before + node)
        while (start >= 0) & (steps > 0):
            if (start < K) & (node < K):
                tl.store(p_codes + tl.load(p_loser + start * BK + node), tl.cast(node, tl.int64))
            b_flow += ((o_k == start) & (node == K)).to(tl.int64) - ((o_k == node) & (start == K)).to(tl.int64)
            node, steps = start, steps - 1
            start = tl.load(p_before + node)
        b_excess += (o_k == end).to(tl.int64) - (o_k == node).to(tl.int64)
        tl.debug_barrier()  # other threads read the codes than wrote them
        node, steps = end, K + 2
        while (node >= 0) & (steps > 0):
            if node < K:
                _find_losses(node, p_distance, p_codes, p_members, p_loss, p_loser, N, K, BK, BN, BM)
            node, steps = tl.load(p_before + node), steps - 1
        left -= 1


def balanced_codes(x: Tensor, codebook: Tensor) -> Tensor:
    """Find the assignment of least inertia that keeps the bounds; (N, D), (K, D) -> (N,), -1 for bad rows."""
    rows, codewords = x.shape[0], codebook.shape[0]
    good = finite_rows(x)
    data = torch.where(good.unsqueeze(1), wide(x).double(), 0)
    distance = torch.cdist(data, codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    count = good.sum()
    fewest, most = count // (2 * codewords), -(-2 * count // codewords)
    codes, flow = _sweep(distance, good, fewest, most)
    nodes = configs.power_of_two(codewords + 1)
    excess = torch.cat([_sizes(codes, codewords) - flow, (flow.sum() - count).unsqueeze(0)])
    excess, flow = pad(excess, (0, nodes - codewords - 1)), pad(flow, (0, nodes - codewords))
    reach, before = distance.new_empty(nodes), codes.new_empty(nodes, dtype=torch.int32)
    loss, loser = distance.new_full((nodes, nodes), torch.inf), before.new_empty(nodes, nodes)
    members = before.new_empty(rows)
    tile = configs.paths(target_of(x), nodes)
    launch(
        _move_rows, (1,),
        distance, distance.max(), codes, excess, flow, torch.stack([fewest, most]), members, loss, loser, reach,
        before, rows, codewords,
        config=tile, BK=nodes, BN=tile.block_columns, BM=tile.block_rows, BI=tile.block_rows,
    )  # fmt: skip
    return codes


def _sizes(codes: Tensor, codewords: int) -> Tensor:
    """Count each codeword's rows."""
    named = codes.clamp(min=0)
    return torch.zeros(codewords, dtype=torch.int64, device=codes.device).scatter_add(0, named, (codes >= 0).long())


def _sweep(distance: Tensor, good: Tensor, fewest: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Find prices by sweeps; give the rows' codes and the codewords' flow to the sink at the best of them."""
    codewords = distance.shape[1]
    numbers = torch.arange(codewords, device=distance.device)
    prices = distance.new_zeros(codewords)
    step = torch.full_like(prices, _FIRST_STEP) * torch.where(good, distance.amin(1), 0).sum() / good.sum().clamp(min=1)
    side = torch.zeros_like(prices)
    least = distance.new_full((), torch.inf)
    best_codes, best_flow = torch.zeros_like(good, dtype=torch.int64), torch.zeros_like(numbers)
    for _ in range(_SWEEPS):
        cost = distance + prices
        codes = torch.where(cost == cost.amin(1, keepdim=True), numbers, codewords - 1).amin(1)
        codes = torch.where(good, codes, -1)
        sizes = _sizes(codes, codewords)
        flow = torch.where(prices == 0, sizes.clamp(fewest, most), torch.where(prices > 0, most, fewest))
        over = (sizes - flow).double()
        off = over.abs().sum()
        best_codes, best_flow = torch.where(off < least, codes, best_codes), torch.where(off < least, flow, best_flow)
        least = torch.minimum(least, off)
        now = over.sign()
        step = step * torch.where(now * side > 0, 1.3, torch.where(now * side < 0, 0.5, 1.0))
        side = torch.where(now != 0, now, side)
        moved = prices + now * (over.abs() / (flow + 1)).clamp(max=1) * step
        prices = torch.where(prices * moved < 0, 0, moved)  # at price 0, a codeword only has to keep its bounds
    return best_codes, best_flow

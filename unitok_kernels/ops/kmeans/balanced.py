"""Assignment of rows to codewords, with bounds on the number of rows per codeword."""

from __future__ import annotations

import torch
from torch import Tensor


def bounds(num_rows: int, num_codewords: int) -> tuple[int, int]:
    """Give the fewest and the most rows that a codeword may have: floor(N / 2K) and ceil(2N / K)."""
    return num_rows // (2 * num_codewords), -(-2 * num_rows // num_codewords)


def balanced_codes(rows: Tensor, codebook: Tensor) -> Tensor:
    """Find the assignment of least inertia that keeps the bounds.

    This is a transport problem: rows flow to codewords, and from each codeword between `fewest` and `most` of them flow
    on to one sink. Rows start at their nearest codeword. Then, as long as a codeword has too many rows, one row moves
    along each edge of the cheapest path from there to a node with too few. (Successive shortest paths: no path is ever
    cheaper than an earlier one, so the result is the optimum.) All N x K distances are kept: this form is readable, not
    scalable.

    Args:
        rows: (N, D) float.
        codebook: (K, D), same dtype.

    Returns:
        Tensor: codes (N,) int64, each used between floor(N / 2K) and ceil(2N / K) times.

    Source:
        Ahuja, Magnanti and Orlin, "Network Flows", 1993, section 9.7.
    """
    num_codewords = sink = len(codebook)
    fewest, most = bounds(len(rows), num_codewords)
    distance = torch.stack([(rows.double() - word).square().sum(1) for word in codebook.double()], 1)
    codes = distance.argmin(1)
    counts = torch.bincount(codes, minlength=num_codewords)
    flow = counts.clamp(fewest, most)  # to the sink, which needs N rows
    excess = torch.cat([counts - flow, flow.sum()[None] - len(rows)])

    loss = torch.full((sink + 1, sink + 1), torch.inf, dtype=torch.float64, device=rows.device)
    loser = torch.full_like(loss, -1, dtype=torch.int64)
    changed = list(range(num_codewords))
    while bool((excess > 0).any()):
        for code in changed:  # for each other codeword, the row that loses least by going there
            members = (codes == code).nonzero().squeeze(1)
            regret = distance[members] - distance[members, code, None]
            if len(members) > 0:
                loss[code, :sink], place = regret.min(0)
                loser[code, :sink] = members[place]
            else:
                loss[code, :sink] = torch.inf
        loss[:sink, sink] = torch.where(flow < most, 0, torch.inf)
        loss[sink, :sink] = torch.where(flow > fewest, 0, torch.inf)
        path = _cheapest_path(loss, excess)
        moved = [(int(loser[start, end]), end) for start, end in path if sink not in (start, end)]
        for row, end in moved:
            codes[row] = end
        for start, end in path:
            if end == sink:
                flow[start] += 1
            if start == sink:
                flow[end] -= 1
        excess[path[0][0]] -= 1
        excess[path[-1][1]] += 1
        changed = [node for edge in path for node in edge if node != sink]
    return codes


def _cheapest_path(loss: Tensor, excess: Tensor) -> list[tuple[int, int]]:
    """Find the edges of the cheapest path from a node with too many to one with too few (Bellman-Ford)."""
    distance = torch.where(excess > 0, 0.0, torch.inf).double()
    before = torch.full_like(excess, -1)
    rounding = 1e-12 * torch.where(loss.isfinite(), loss, 0).abs().max()  # so that no cycle of cost 0 seems to gain
    for _ in range(len(loss)):
        through, start = (distance[:, None] + loss).min(0)
        better = through < distance - rounding
        if not bool(better.any()):
            break
        distance, before = torch.where(better, through, distance), torch.where(better, start, before)
    end = int(torch.where(excess < 0, distance, torch.inf).argmin())
    path: list[tuple[int, int]] = []
    while int(before[end]) >= 0:
        path.insert(0, (int(before[end]), end))
        end = path[0][0]
    return path

"""Information-theoretic metrics of codes: entropies, and mutual information between labels.

Everything is in bits, in float64 from int64 counts. Import these functions from `unitok.metrics`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unitok.metrics.counts import expert_level_codes, tally

_PAIRS_AT_ONCE = 2**13  # cells of the expected mutual information that are summed at a time


def code_entropy(codes: Tensor) -> Tensor:
    """The entropy of the codes of each level: H_l = -sum_k p_lk log2 p_lk; at most log2(K).

    Args:
        codes: (N, L) int64.

    Returns:
        (L,) float64, bits.

    Raises:
        ValueError: codes is not (N, L).

    Source: UniTok, arXiv 2511.12922.
    """
    return torch.tensor(
        [_entropy(_counts(level[level >= 0])) for level in _levels("code_entropy", codes)], dtype=torch.float64
    )


def token_entropy(codes: Tensor, experts: Tensor | None = None) -> float:
    """The entropy of the tokens (level, code), or (expert, level, code), pooled over all levels.

    H = -sum_t p_t log2 p_t over distinct tokens t; at most log2(L K), or log2(E L K) with experts.

    Args:
        codes: (N, L) int64.
        experts: (N,) int64, the top expert of each row, which makes its codes distinct from other experts'; or None.

    Returns:
        Bits.

    Raises:
        ValueError: codes is not (N, L), or experts not (N,).

    Source: UniTok, arXiv 2511.12922 (the entropy it reports as 9.63 and 10.42 bits).
    """
    return _entropy(_counts(expert_level_codes("token_entropy", codes, experts)[0]))


def mutual_information(a: Tensor, b: Tensor, normalised: bool = False) -> float:
    """Mutual information of two labellings, such as expert and domain: I = H(a) + H(b) - H(a, b).

    normalised: 2 I / (H(a) + H(b)); 1 if each label determines the other, or both are constant.

    Args:
        a: (N,) int64 labels; rows with a negative label in either are skipped.
        b: (N,) int64 labels.
        normalised: divide by the mean entropy.

    Returns:
        Bits, or in [0, 1].

    Raises:
        ValueError: a and b are not two vectors of one length.

    Source: Cover and Thomas, Elements of Information Theory, ch. 2.
    """
    a, b = _paired("mutual_information", a, b)
    entropy_a, entropy_b, joint = (
        _entropy(_counts(a)),
        _entropy(_counts(b)),
        _entropy(_counts(_pair_labels(a, b))),
    )
    information = max(entropy_a + entropy_b - joint, 0.0)  # in this order max keeps nan
    if not normalised:
        return information
    return 2 * information / (entropy_a + entropy_b) if entropy_a + entropy_b else 1.0


def level_entropy_given_expert(codes: Tensor, experts: Tensor) -> Tensor:
    """The entropy that each level adds to the expert id: H(c_l | e) = H(c_l, e) - H(e); at most log2(K).

    Args:
        codes: (N, L) int64.
        experts: (N,) int64, the top expert of each row.

    Returns:
        (L,) float64, bits; 0 for a level that only repeats the expert.

    Raises:
        ValueError: codes is not (N, L), or experts not (N,).

    Source: UniTok.
    """
    return _level_entropy_given_expert("level_entropy_given_expert", codes, experts)


def _level_entropy_given_expert(what: str, codes: Tensor, experts: Tensor) -> Tensor:
    pairs = [_paired(what, level, experts) for level in _levels(what, codes)]
    gains = [_entropy(_counts(_pair_labels(level, expert))) - _entropy(_counts(expert)) for level, expert in pairs]
    return torch.tensor(gains, dtype=torch.float64).clamp(min=0)


def adjusted_mutual_information(a: Tensor, b: Tensor) -> float:
    """Mutual information of two labellings, adjusted for chance: 0 by chance, 1 if equivalent.

    AMI = (I - E[I]) / ((H(a) + H(b)) / 2 - E[I]), E over random pairings with the same label counts.

    Args:
        a: (N,) int64 labels; rows with a negative label in either are skipped.
        b: (N,) int64 labels.

    Returns:
        At most 1, and 1 where both are constant; 0 where chance explains every bit (all labels distinct).

    Raises:
        ValueError: a and b are not two vectors of one length.

    Source: Vinh, Epps and Bailey, Information Theoretic Measures for Clusterings Comparison, JMLR 11, 2010.
    """
    a, b = _paired("adjusted_mutual_information", a, b)
    if not len(a):
        return math.nan
    counts_a, counts_b = _counts(a), _counts(b)
    if len(counts_a) == len(counts_b) == 1:
        return 1.0
    mean_entropy = (_entropy(counts_a) + _entropy(counts_b)) / 2
    expected = _expected_mutual_information(counts_a, counts_b)
    reach = mean_entropy - expected
    return (mutual_information(a, b) - expected) / reach if reach > 1e-9 * mean_entropy else 0.0


def level_adjusted_mutual_information(codes: Tensor) -> Tensor:
    """The adjusted mutual information of every pair of levels.

    Args:
        codes: (N, L) int64.

    Returns:
        (L, L) float64, symmetric, with a diagonal of 1; elsewhere near 0 if no level repeats another.

    Raises:
        ValueError: codes is not (N, L).

    Source: Vinh, Epps and Bailey, JMLR 11, 2010.
    """
    levels = _levels("level_adjusted_mutual_information", codes)
    table = torch.eye(len(levels), dtype=torch.float64)
    for i, j in torch.combinations(torch.arange(len(levels))).tolist():
        table[i, j] = table[j, i] = adjusted_mutual_information(levels[i], levels[j])
    return table


def redundant_levels(
    codes: Tensor, experts: Tensor, *, min_entropy: float = 1.0, max_information: float = 0.9
) -> dict[int, str]:
    """Find the levels that add no information: they repeat the expert id, or an earlier level.

    Level l is redundant if H(c_l | e) < min_entropy, or AMI(c_l, c_j) > max_information for some j < l.

    Args:
        codes: (N, L) int64.
        experts: (N,) int64, the top expert of each row.
        min_entropy: least entropy given the expert, in bits, that a level must have.
        max_information: most adjusted mutual information with an earlier level, between 0 and 1.

    Returns:
        The redundant levels, counted from 0, each with its reasons as a phrase; empty for no rows.

    Raises:
        ValueError: codes is not (N, L), or experts not (N,).

    Source: UniTok. (The entropy given all other levels is near 0 on finite data, so it can't be used.)
    """
    entropy = _level_entropy_given_expert("redundant_levels", codes, experts).tolist()
    shared = level_adjusted_mutual_information(codes).tolist()
    found = {}
    for level, bits in enumerate(entropy):
        reasons = [f"{bits:.2f} bits given the expert, under {min_entropy:g}"] if bits < min_entropy else []
        reasons += [
            f"repeats level {earlier} (adjusted mutual information {shared[level][earlier]:.2f})"
            for earlier in range(level)
            if shared[level][earlier] > max_information
        ]
        if reasons:
            found[level] = "; ".join(reasons)
    return found


def _levels(what: str, codes: Tensor) -> tuple[Tensor, ...]:
    if codes.ndim != 2:
        raise ValueError(f"{what}: codes must be (N, L), got shape {tuple(codes.shape)}. Pass ids.codes.")
    return codes.unbind(1)


def _counts(labels: Tensor) -> Tensor:
    return tally(labels)[1]


def _entropy(counts: Tensor) -> float:
    if not counts.numel():
        return math.nan
    p = counts.double() / counts.sum()
    return float((p * p.reciprocal().log2()).sum())


def _paired(what: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"{what}: labels must be two vectors of one length, got {tuple(a.shape)} and {tuple(b.shape)}. "
            "Pass one label per row in both."
        )
    valid = (a >= 0) & (b >= 0)
    return a[valid], b[valid]


def _pair_labels(a: Tensor, b: Tensor) -> Tensor:
    return a * (int(b.max()) + 1) + b if len(b) else b


def _expected_mutual_information(counts_a: Tensor, counts_b: Tensor) -> float:
    """E[I] in bits between random labellings with these label counts: Vinh, Epps and Bailey 2010, eq. 24a.

    sum over labels i, j and overlaps n of  n/N log2(N n / (a_i b_j)) P(n),  P hypergeometric(N, a_i, b_j).
    """
    total = int(counts_a.sum())
    (a_sizes, a_times), (b_sizes, b_times) = tally(counts_a), tally(counts_b)
    log_factorial = torch.lgamma(torch.arange(1, total + 2, dtype=torch.float64))
    expected = 0.0
    # Labels of equal count contribute equally, so the sum runs over distinct pairs of counts.
    for cell in torch.arange(len(a_sizes) * len(b_sizes)).split(_PAIRS_AT_ONCE):
        i, j = cell // len(b_sizes), cell % len(b_sizes)
        a, b, times = a_sizes[i], b_sizes[j], (a_times[i] * b_times[j]).double()
        # Only overlaps near the mean matter: by Bernstein's bound all others together have P < 2 exp(-50).
        mean = a.double() * b / total
        reach = 50 / 3 + (2500 / 9 + 100 * mean).sqrt()
        low = torch.maximum((a + b - total).clamp(min=1), (mean - reach).floor().long())
        high = torch.minimum(torch.minimum(a, b), (mean + reach).ceil().long())
        lengths = high - low + 1
        pair = torch.arange(len(cell)).repeat_interleave(lengths)
        n = torch.arange(len(pair)) + (low - (lengths.cumsum(0) - lengths))[pair]
        ways = log_factorial[a] + log_factorial[b] + log_factorial[total - a] + log_factorial[total - b]
        a, b = a[pair], b[pair]
        log_p = ways[pair] - log_factorial[total] - log_factorial[n] - log_factorial[a - n]
        log_p -= log_factorial[b - n] + log_factorial[total - a - b + n]
        gain = n.double() / total * (n.double() * total / (a.double() * b)).log2()
        expected += float((times[pair] * gain * log_p.exp()).sum())
    return expected

"""Tokenizer metrics against brute force, scikit-learn and a published fault: levels repeating the expert."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from unitok import metrics


def entropy_of(labels: list) -> float:
    total = len(labels)
    return -sum(n / total * math.log2(n / total) for n in Counter(labels).values())


def made_codes(rows: int = 400, levels: int = 3, size: int = 16, experts: int = 3, seed: int = 0):
    """Skewed codes with some rows that could not be encoded, and the experts; the last expert has no rows."""
    g = torch.Generator().manual_seed(seed)
    codes = (torch.rand(rows, levels, generator=g) ** 2 * size).long()
    codes[torch.rand(rows, generator=g) < 0.05] = -1
    return codes, torch.randint(experts - 1, (rows,), generator=g)


def test_collision_rate_counts_the_ids_that_are_missing() -> None:
    tokens = torch.tensor([[1, 2], [1, 2], [1, 3], [2, 1], [1, 2], [-1, 2]])
    assert metrics.collision_rate(tokens) == pytest.approx(1 - 3 / 5)
    assert metrics.collision_rate(tokens[2:4]) == 0
    assert math.isnan(metrics.collision_rate(tokens[:0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_indistinguishable_rows_are_equal_to_the_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitok.metrics.usage.ROWS_AT_ONCE", 7)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert metrics.indistinguishable_rate(x) == 0
    x[3], x[30], x[12] = x[5], x[5], x[20]
    x[7], x[8], x[9] = 0.0, -0.0, torch.tensor([0.0, -0.0] * 3)
    assert metrics.indistinguishable_rate(x) == pytest.approx((2 + 1 + 2) / 40)
    assert metrics.indistinguishable_rate(x.t().contiguous().t()) == pytest.approx(5 / 40)
    assert math.isnan(metrics.indistinguishable_rate(x[:0]))


def test_equal_hashes_are_not_taken_for_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.zeros(2, dtype=torch.int64))  # weights of 1: sums
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [3.0, 3.0]])
    assert metrics.indistinguishable_rate(x) == 1 / 4


def test_entropies_are_those_of_the_counts() -> None:
    codes, experts = made_codes()
    valid = codes[:, 0] >= 0
    rows, expert = codes[valid].tolist(), experts[valid].tolist()
    for level, bits in enumerate(metrics.code_entropy(codes).tolist()):
        assert bits == pytest.approx(entropy_of([row[level] for row in rows]))
    pooled = [(level, code) for row in rows for level, code in enumerate(row)]
    assert metrics.token_entropy(codes) == pytest.approx(entropy_of(pooled))
    full = [(e, level, code) for row, e in zip(rows, expert, strict=True) for level, code in enumerate(row)]
    assert metrics.token_entropy(codes, experts) == pytest.approx(entropy_of(full))
    for level, bits in enumerate(metrics.level_entropy_given_expert(codes, experts).tolist()):
        each = [[row[level] for row, e in zip(rows, expert, strict=True) if e == chosen] for chosen in set(expert)]
        assert bits == pytest.approx(sum(len(part) / len(rows) * entropy_of(part) for part in each))


def test_uniform_codes_reach_the_maximum() -> None:
    codes = torch.stack([torch.arange(256).roll(shift) for shift in range(4)], dim=1)
    assert metrics.token_entropy(codes) == pytest.approx(10)
    assert metrics.code_entropy(codes).tolist() == pytest.approx([8] * 4)
    assert metrics.perplexity(codes).tolist()[0] == pytest.approx([256] * 4)
    assert metrics.utilisation(codes, 256).tolist() == [[1] * 4]
    assert metrics.code_entropy(torch.zeros(5, 1, dtype=torch.int64)).tolist() == [0]


def test_use_of_the_codebooks_is_counted_by_expert_and_level() -> None:
    codes, experts = made_codes()
    dead = metrics.dead_codes(codes, 16, experts, 3)
    used = metrics.utilisation(codes, 16, experts, 3)
    varied = metrics.perplexity(codes, experts, 3)
    assert dead.shape == used.shape == varied.shape == (3, 3)
    assert dead[2].tolist() == [16] * 3
    assert varied[2].tolist() == used[2].tolist() == [0] * 3
    for expert in range(2):
        for level in range(3):
            own = [c for c in codes[experts == expert, level].tolist() if c >= 0]
            assert dead[expert, level] == 16 - len(set(own))
            assert used[expert, level] == pytest.approx(len(set(own)) / 16)
            assert varied[expert, level] == pytest.approx(2 ** entropy_of(own))
    assert torch.equal(metrics.dead_codes(codes, 16), metrics.dead_codes(codes, 16, experts * 0, 1))


def test_mutual_information_is_that_of_the_counts() -> None:
    domain = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, -1])
    assert metrics.mutual_information(domain, domain) == pytest.approx(2)
    assert metrics.mutual_information(domain, domain // 2) == pytest.approx(1)
    assert metrics.mutual_information(domain, domain // 2, normalised=True) == pytest.approx(2 / 3)
    assert metrics.mutual_information(domain[:8], torch.tensor([0, 1] * 4)) == 0
    assert metrics.mutual_information(domain * 0, domain * 0, normalised=True) == 1
    with pytest.raises(ValueError, match=r"two vectors of one length, got \(9,\) and \(8,\)"):
        metrics.mutual_information(domain, domain[:8])


def test_normalised_mutual_information_is_that_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.metrics")
    codes, experts = made_codes(seed=1)
    codes = codes.clamp(min=0)
    ours = metrics.mutual_information(codes[:, 0], experts, normalised=True)
    assert ours == pytest.approx(cluster.normalized_mutual_info_score(codes[:, 0].numpy(), experts.numpy()))


@pytest.mark.parametrize(
    ("rows", "size_a", "size_b", "tied"),
    [
        (50, 3, 40, 0.0),
        (300, 8, 8, 0.5),
        (2000, 2, 300, 0.2),
        (5000, 64, 64, 0.9),
        (30000, 2, 2, 0.1),
    ],
)
def test_adjusted_mutual_information_is_that_of_scikit_learn(rows: int, size_a: int, size_b: int, tied: float) -> None:
    cluster = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(rows)
    a = (rng.random(rows) ** 2 * size_a).astype(np.int64)
    b = np.where(rng.random(rows) < tied, a % size_b, rng.integers(size_b, size=rows))
    a[:2], b[:2] = [0, 1], [1, 0]  # two labels at least on both sides
    ours = metrics.adjusted_mutual_information(torch.from_numpy(a), torch.from_numpy(b))
    assert ours == pytest.approx(cluster.adjusted_mutual_info_score(a, b), abs=1e-9)


def test_adjusted_mutual_information_is_one_or_zero_at_its_ends() -> None:
    a = torch.arange(1000) % 10
    assert metrics.adjusted_mutual_information(a, (a + 3) % 10) == pytest.approx(1)
    assert metrics.adjusted_mutual_information(a * 0, a * 0) == 1
    assert metrics.adjusted_mutual_information(a * 0, a) == 0
    assert metrics.adjusted_mutual_information(torch.arange(50), torch.arange(50)) == 0
    assert math.isnan(metrics.adjusted_mutual_information(a[:0], a[:0]))
    skipped = torch.where(torch.arange(1000) < 500, a, -1)
    assert metrics.adjusted_mutual_information(skipped, a) == pytest.approx(1)


def test_large_codebooks_need_no_large_table() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(65536, (20000, 2), generator=g)
    table = metrics.level_adjusted_mutual_information(codes)
    assert table.diagonal().tolist() == [1, 1]
    assert abs(float(table[0, 1])) < 0.02
    assert metrics.dead_codes(codes, 65536)[0, 0] == 65536 - len(codes[:, 0].unique())


def test_levels_that_repeat_the_expert_are_found() -> None:
    """The fault of published tokens: levels b and c hold one code per expert, so a and d say it all."""
    g = torch.Generator().manual_seed(0)
    experts = torch.randint(8, (4000,), generator=g)
    codes = torch.randint(256, (4000, 4), generator=g)
    codes[:, 1], codes[:, 2] = experts * 7 + 3, (experts * 31) % 256
    found = metrics.redundant_levels(codes, experts)
    assert set(found) == {1, 2}
    assert found[1] == "0.00 bits given the expert, under 1"
    assert "repeats level 1 (adjusted mutual information 1.00)" in found[2]


def test_levels_that_repeat_each_other_are_found_whatever_their_names() -> None:
    g = torch.Generator().manual_seed(0)
    experts = torch.randint(8, (4000,), generator=g)
    codes = torch.randint(64, (4000, 3), generator=g)
    assert metrics.redundant_levels(codes, experts) == {}
    codes[:, 2] = torch.randperm(64, generator=g)[codes[:, 0]]
    assert metrics.redundant_levels(codes, experts) == {2: "repeats level 0 (adjusted mutual information 1.00)"}
    assert metrics.redundant_levels(codes, experts, max_information=1.1) == {}


def test_relative_error_is_the_share_of_the_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitok.metrics.usage.ROWS_AT_ONCE", 3)
    target = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)) + 5
    assert metrics.relative_error(target, target) == 0
    assert metrics.relative_error(target, torch.zeros(10, 4)) == pytest.approx(1)
    assert metrics.relative_error(target, target * 0.9) == pytest.approx(0.01, rel=1e-5)
    assert metrics.relative_error(target * 1e-25, target * 0.9e-25) == pytest.approx(0.01, rel=1e-5)
    assert math.isnan(metrics.relative_error(target[:0], target[:0]))
    with pytest.raises(ValueError, match=r"of target's shape \(10, 4\), got \(9, 4\)"):
        metrics.relative_error(target, target[:9])


def test_nothing_to_measure_is_nan_or_unused() -> None:
    none = torch.zeros(0, 3, dtype=torch.int64)
    experts = none[:, 0]
    assert all(math.isnan(bits) for bits in metrics.code_entropy(none).tolist())
    assert all(math.isnan(bits) for bits in metrics.level_entropy_given_expert(none, experts).tolist())
    assert math.isnan(metrics.token_entropy(none))
    assert math.isnan(metrics.mutual_information(experts, experts))
    assert metrics.dead_codes(none, 5, experts, 2).tolist() == [[5] * 3] * 2
    assert metrics.perplexity(none, experts, 2).tolist() == [[0] * 3] * 2
    assert metrics.redundant_levels(none, experts) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda flat, codes: metrics.perplexity(codes, codes[:, :1]), r"experts \(N,\), got \(4, 2\) and \(4, 1\)"),
        (lambda flat, codes: metrics.perplexity(flat), r"perplexity: codes must be \(N, L\)"),
        (lambda flat, codes: metrics.perplexity(codes, flat, 1), "perplexity: experts must be below 1, got 2"),
        (lambda flat, codes: metrics.utilisation(codes, 9, flat, 2), "experts must be below 2, got 2"),
        (lambda flat, codes: metrics.dead_codes(codes, 2), "dead_codes: codes must be below 2, got 2"),
        (lambda flat, codes: metrics.collision_rate(flat), r"tokens must be \(N, T\), got shape \(4,\)"),
        (
            lambda flat, codes: metrics.indistinguishable_rate(codes),
            r"floating point, got torch.int64 of shape \(4, 2\)",
        ),
        (lambda flat, codes: metrics.code_entropy(flat), r"code_entropy: codes must be \(N, L\), got shape \(4,\)"),
        (lambda flat, codes: metrics.redundant_levels(flat, flat), r"codes must be \(N, L\), got shape \(4,\)"),
        (lambda flat, codes: metrics.level_adjusted_mutual_information(flat), r"codes must be \(N, L\)"),
        (lambda flat, codes: metrics.redundant_levels(codes, flat[:3]), "two vectors of one length"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message: str) -> None:
    flat = torch.full((4,), 2)
    with pytest.raises(ValueError, match=message):
        call(flat, torch.full((4, 2), 2))

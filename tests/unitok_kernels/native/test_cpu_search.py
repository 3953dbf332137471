"""The search of the CPU kernels on inputs made to break it, and the bound that csrc/cpu/search/search.h rests on.

One random draw describes an input; every instruction set and number of threads must give the same codes for it, and
these must keep the promise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import unitok_kernels as uk
from tests.unitok_kernels.helpers import oracle
from tests.unitok_kernels.helpers.oracle import integers, normal
from unitok_kernels import backends

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(not backends.available()["cpu"], reason="the native module is not built"),
]

searched = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The instruction set and the number of threads are put back."""
    from unitok_kernels import _cpu

    before, threads = _cpu.instruction_set(), torch.get_num_threads()
    yield
    _cpu.use_instruction_set(before)
    torch.set_num_threads(threads)


def everywhere(operation: Callable[..., Any], *arguments: Any, **keywords: Any) -> list[Any]:
    """What the operation's CPU kernel gives on each instruction set, with 1, 2 and 3 threads on each."""
    from unitok_kernels import _cpu

    if "cpu" not in backends.having(operation.__name__):
        pytest.skip(f"{operation.__name__} has no CPU kernel")
    results = []
    for instructions in _cpu.instruction_sets():
        _cpu.use_instruction_set(instructions)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(operation(*arguments, backend="cpu", **keywords))
    return results


def assert_all_equal(results: list[Any], *fields: str) -> None:
    for field in fields:
        first = getattr(results[0], field)
        assert all(torch.equal(getattr(other, field), first) for other in results[1:]), field


def moved(x: Tensor, steps: Tensor) -> Tensor:
    """Each value moved by so many units in its last place, -1, 0 or 1."""
    far = torch.where(steps > 0, torch.inf, -torch.inf)
    return torch.where(steps == 0, x, torch.nextafter(x, far.to(x.dtype)))


def _plain(rows: int, codewords: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    return normal(rows, width, seed=seed), normal(codewords, width, seed=seed + 1)


def _whole_numbers(rows: int, codewords: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ties everywhere, and no rounding at all."""
    return integers(3, rows, width, seed=seed).float(), integers(3, codewords, width, seed=seed + 1).float()


def _near_duplicates(rows: int, codewords: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Few codewords, each there many times, with some values moved by one unit in the last place."""
    x, few = normal(rows, width, seed=seed), normal(max(1, codewords // 7), width, seed=seed + 1)
    steps = integers(2, codewords, width, seed=seed + 2, low=-1) * (integers(4, codewords, 1, seed=seed + 3) == 0)
    return x, moved(few[integers(len(few), codewords, seed=seed + 4)], steps)


def _midpoints(rows: int, codewords: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows halfway between two codewords, moved by one unit in the last place."""
    codebook = normal(codewords, width, seed=seed + 1)
    one, other = (codebook[integers(codewords, rows, seed=seed + i)] for i in (2, 3))
    return moved((one + other) / 2, integers(2, rows, width, seed=seed, low=-1)), codebook


def _far_clusters(rows: int, codewords: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clusters at +1000 and -1000: no mean to centre on helps."""
    x, codebook = _midpoints(rows, codewords, width, seed)
    side = torch.tensor([-1000.0, 1000.0])
    return x + side[integers(2, rows, 1, seed=seed + 5)], codebook + side[integers(2, codewords, 1, seed=seed + 6)]


KINDS = (_plain, _whole_numbers, _near_duplicates, _midpoints, _far_clusters)

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "columns": lambda x: x.T.contiguous().T,
    "every second": lambda x: x.repeat_interleave(2, 0)[::2],
    "from the middle": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "expanded": lambda x: x[:1].expand_as(x),
}


@dataclasses.dataclass(frozen=True)
class Input:
    """One search; printed by hypothesis when it fails."""

    kind: Callable[[int, int, int, int], tuple[Tensor, Tensor]]
    rows: int
    codewords: int
    width: int
    seed: int
    scale: float
    layout: str
    dtype: torch.dtype

    def tensors(self) -> tuple[Tensor, Tensor]:
        x, codebook = self.kind(self.rows, self.codewords, self.width, self.seed)
        return LAYOUTS[self.layout]((x * self.scale).to(self.dtype)), codebook * self.scale


def inputs(scales: st.SearchStrategy[float], most_codewords: int = 600) -> st.SearchStrategy[Input]:
    return st.builds(
        Input,
        kind=st.sampled_from(KINDS),
        rows=st.integers(0, 200),
        codewords=st.integers(1, most_codewords),
        width=st.integers(1, 70),
        seed=st.integers(0, 10**6),
        scale=scales,
        layout=st.sampled_from(sorted(LAYOUTS)),
        # Half types belong to the scales that they can hold.
        dtype=st.just(torch.float32),
    )


PROMISED = st.sampled_from([1e-15, 1e-9, 1e-3, 1.0, 1.0, 1.0, 1e6, 1e12])  # and 1000 times that in far clusters
HALVES = inputs(st.just(1.0), 100).flatmap(
    lambda drawn: st.sampled_from(
        [dataclasses.replace(drawn, dtype=dtype) for dtype in (torch.float16, torch.bfloat16)],
    )
)
WITHIN = st.one_of(inputs(PROMISED), HALVES)
PRECISION = st.sampled_from(["exact", "fast"])


@searched
@given(WITHIN, PRECISION)
def test_nearest_codeword_keeps_the_promise_everywhere(drawn, precision):
    x, codebook = drawn.tensors()
    results = everywhere(uk.nearest_codeword, x, codebook, precision=precision)
    assert_all_equal(results, "codes")
    oracle.assert_nearest(results[0].codes, x.float(), codebook)


@searched
@given(WITHIN, PRECISION, st.integers(1, 4))
def test_residual_encode_keeps_the_promise_everywhere(drawn, precision, levels):
    x, codebook = drawn.tensors()
    codebooks = torch.stack([codebook * 0.5**level for level in range(levels)])
    results = everywhere(uk.residual_encode, x, codebooks, precision=precision)
    assert_all_equal(results, "codes", "quantized")
    codes, quantized, level_error = results[0]
    residuals = oracle.assert_chain(codes, x, codebooks)
    assert torch.equal(quantized, oracle.level_order_sum(codes, codebooks, x.dtype))
    reference = uk.residual_encode(x, codebooks, backend="reference")
    agreed = (reference.codes == codes).all(1)
    assert torch.equal(reference.quantized[agreed], quantized[agreed])
    if drawn.rows:
        torch.testing.assert_close(level_error.double(), residuals.double().square().mean((1, 2)), rtol=1e-5, atol=0)


@searched
@given(WITHIN, PRECISION, st.integers(1, 5), st.integers(1, 2), st.booleans())
def test_moe_residual_encode_keeps_the_promise_everywhere(drawn, precision, experts, slots, shared):
    x, codebook = drawn.tensors()
    scales = torch.linspace(0.5, 1.5, experts).view(-1, 1, 1, 1) * torch.tensor([1.0, 0.5]).view(-1, 1, 1)
    codebooks = codebook * scales
    ids = integers(experts, drawn.rows, slots, seed=drawn.seed)
    weights = normal(drawn.rows, slots, seed=drawn.seed + 1)
    arguments = (x, codebooks, ids, weights, codebooks[0] if shared else None, 0.7)
    results = everywhere(uk.moe_residual_encode, *arguments, precision=precision)
    assert_all_equal(results, "codes", "combined", *(["shared_codes"] if shared else []))
    found = results[0]
    for expert in range(experts):
        rows, slot = (ids == expert).nonzero().T
        oracle.assert_chain(found.codes[rows, slot], x[rows], codebooks[expert])
    reference = uk.moe_residual_encode(*arguments, backend="reference")
    agreed = (reference.codes == found.codes).all(2).all(1)
    if shared:
        oracle.assert_chain(found.shared_codes, x, codebooks[0])
        agreed &= (reference.shared_codes == found.shared_codes).all(1)
    assert torch.equal(reference.combined[agreed], found.combined[agreed])


@searched
@given(inputs(st.sampled_from([1e-45, 1e-42, 1e-38, 1e-30, 1e-20, 1e17, 1e18])))
def test_codes_are_one_beyond_the_promise_too(drawn):
    """Denormal values, squares that underflow, and sums that stay just finite."""
    if drawn.kind is _far_clusters:
        drawn = dataclasses.replace(drawn, scale=min(drawn.scale, 1e14))
    x, codebook = drawn.tensors()
    assert_all_equal(everywhere(uk.residual_encode, x, codebook[None]), "codes", "quantized")


@searched
@given(inputs(PROMISED), st.integers(1, 16))
def test_few_rows_and_many_get_the_same_codes(drawn, few):
    """Up to 16 rows are searched without packing the codebook."""
    x, codebook = drawn.tensors()
    codebooks = torch.stack([codebook, codebook / 2])
    whole = uk.residual_encode(x, codebooks, backend="cpu")
    for rows in (slice(0, few), slice(few, 2 * few), slice(0, 1), slice(0, 17), slice(-few, None)):
        part = uk.residual_encode(x[rows], codebooks, backend="cpu")
        assert torch.equal(part.codes, whole.codes[rows])
        assert torch.equal(part.quantized, whole.quantized[rows])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", [3, 17, 200])
def test_a_bad_value_anywhere_is_found_and_harms_no_other_row(bad, rows):
    x, codebooks = normal(rows, 37), normal(2, 50, 37, seed=1)
    clean = uk.residual_encode(x, codebooks, backend="cpu")
    for place in (0, 15, 16, 31, 32, 36):  # in whole vectors and in what is left over
        broken = x.index_put((torch.tensor(rows // 2), torch.tensor(place)), torch.tensor(bad))
        with oracle.raises(f"z must be finite, got .* at row {rows // 2}"):
            uk.residual_encode(broken, codebooks, backend="cpu")
        found = everywhere(uk.residual_encode, broken, codebooks, check_finite=False)
        assert_all_equal(found, "codes", "quantized")
        expected = clean.codes.clone()
        expected[rows // 2] = -1
        assert torch.equal(found[0].codes, expected)
        codebook = codebooks.index_put((torch.tensor(1), torch.tensor(49), torch.tensor(place)), torch.tensor(bad))
        with oracle.raises(r"codebooks must be finite, got .* at index \(1, 49\)"):
            uk.residual_encode(x, codebook, backend="cpu")


# The bound, on the block search's arithmetic as search.h describes it.


def chain_scores(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the block search by one float32 FMA chain, how far they are off, and the bound on that; each (N, K)."""
    mean = codebook.double().mean(0).float()
    rows, table = x - mean, codebook - mean
    exact_rows, exact_table = x.double() - mean.double(), codebook.double() - mean.double()
    half_norms = exact_table.square().sum(1) / 2
    score = half_norms.float().expand(len(x), -1)
    for d in range(x.shape[1]):  # a float64 product of floats is exact, so this rounds as an FMA does
        score = (score.double() - rows[:, d, None].double() * table[:, d].double()).float()
    truth = half_norms - exact_rows @ exact_table.T
    steps, longest = x.shape[1] + 4, exact_table.norm(dim=1).max()
    bound = steps * 2**-24 * (exact_rows.norm(dim=1, keepdim=True) * longest + longest**2 / 2) + steps * 2.0**-126
    return score, (score.double() - truth).abs(), bound.expand(score.shape)


def adversarial(width: int, seed: int, rows: int = 12_500, codewords: int = 16) -> tuple[Tensor, Tensor]:
    """Rows of every kind, with values of all sizes among them."""
    parts = [kind(rows // 5, codewords, width, seed + i) for i, kind in enumerate(KINDS)]
    codebook = parts[seed % 5][1]
    x = torch.cat([part[0] for part in parts])
    return x * 2.0 ** integers(9, len(x), width, seed=seed, low=-8), codebook


@pytest.mark.parametrize("width", [1, 2, 3, 8, 16, 32, 64, 128])
def test_no_score_is_further_off_than_the_bound(width):
    worst = 0.0
    x, codebook = adversarial(width, seed=width)
    for _ in range(3):  # 8 widths: 10^5 rows, and twice the worst of them moved a little
        _, error, bound = chain_scores(x, codebook)
        share = (error / bound).max(1).values
        worst = max(worst, float(share.max()))
        again = x[share.argsort(descending=True)[:100]].repeat(40, 1)
        x = moved(again, integers(2, *again.shape, seed=width, low=-1))
    assert worst <= 1
    # Nor is it far too wide: where there are few terms, errors do come near to it.
    assert worst > (0.15 if width <= 3 else 0.02)


@pytest.mark.parametrize("kind", [_near_duplicates, _midpoints, _far_clusters])
def test_without_the_bound_codes_would_be_wrong_and_with_it_no_wrong_one_is_kept(kind):
    x, codebook = kind(3000, 41, 24, 0)
    score, _, bound = chain_scores(x, codebook)
    two = score.double().topk(2, dim=1, largest=False)
    first = two.indices[:, 0]
    kept = two.values[:, 1] - two.values[:, 0] > 2 * bound[:, 0]
    distance = oracle.squared_distances(x, codebook)
    wrong = distance.gather(1, first[:, None]).squeeze(1) > distance.min(1).values
    assert wrong.any()
    assert not (wrong & kept).any()
    *_, stats = uk.residual_encode(x, codebook[None], stats=True, backend="cpu")
    assert int(stats.rescored_rows) > 0


def test_codes_without_rescoring_break_the_promise_where_clusters_are_far_apart():
    x, codebook = oracle.two_clusters()
    score, _, _ = chain_scores(x, codebook)
    assert oracle.wrong_share(score.argmin(1), x, codebook) > 0.1


@pytest.mark.parametrize("width", [1, 2, 31, 32, 47])
@pytest.mark.parametrize("ratio", [1e-6, 1.0, 1e6])
def test_rows_and_codewords_of_other_sizes_and_at_the_corners_keep_the_promise(run, sampled, width, ratio):
    # what is rounded to 16 bits: one scale for all rows of a block, one for the codebook, and sums up to their limit
    signs = integers(2, 300, width, seed=3).mul(2).sub(1).float()
    x = torch.cat([normal(300, width), signs, signs * 3, torch.zeros(3, width)]) * ratio
    codebook = torch.cat([normal(90, width, seed=1), signs[:50], signs[:50] * 3, -signs[:5]])
    x = sampled(x)
    oracle.assert_nearest(run(uk.nearest_codeword, x, codebook).codes, x, codebook)
    one = torch.cat([x, x[:1] * 1e4])  # a row that takes the block's whole scale
    oracle.assert_nearest(run(uk.nearest_codeword, one, codebook).codes, one, codebook)


@pytest.mark.parametrize("width", [4, 32, 128, 200])
def test_a_score_of_zero_keeps_its_code_where_denormals_are_flushed(width: int) -> None:
    """The best codeword is twice the row, so that its centred score is 0 but for the number of its vector in it."""
    row = torch.zeros(width)
    row[:2] = 1
    codebook = torch.zeros(64, width)
    for k in range(64):
        sign = -1.0 if k < 32 else 1.0
        if k % 32 == 1:
            codebook[k] = 2 * sign * row
        else:
            codebook[k, 2 + k % 32 % (width - 2)] = sign * (8.0 + k % 32)  # in pairs: the mean is 0
    rows = row.repeat(40, 1)
    expected = torch.cdist(rows.double(), codebook.double()).argmin(1)
    flushes = torch.set_flush_denormal(True)
    try:
        found = everywhere(uk.residual_encode, rows, codebook[None])
        nearest = everywhere(uk.nearest_codeword, rows, codebook)
    finally:
        torch.set_flush_denormal(False)
    assert flushes
    assert all(torch.equal(result.codes[:, 0], expected) for result in found)
    assert all(torch.equal(result.codes, expected) for result in nearest)

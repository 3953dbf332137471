"""The benchmarks' own promises: a wrong level fails, a row says where it is from, the bars are computed from rows."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bars, inputs, peers, plot, report
from benchmarks.checks import ChainCheck, CloseCheck, InertiaCheck, SameCodes, near_truth, truth
from benchmarks.harness import Level, Race, Record, WrongResultError, native, ours, quantile
from unitok_kernels import nearest_codeword, residual_encode


def record(operation: str, case: str, level: str, milliseconds: float, **others: Any) -> Record:
    values: dict[str, Any] = {field.name: None for field in dataclasses.fields(Record)}
    values |= {"operation": operation, "case": case, "level": level, "min_ms": milliseconds, "ratio": 1.0, **others}
    values |= dict.fromkeys(("p20_ms", "p50_ms", "p80_ms"), milliseconds)
    values |= {"rounds": 7, "device": "a machine", "cores": 2, "threads": 2, "instruction_set": "avx2"}
    return Record(**values | {"torch": "2", "date": "2026-01-02", "commit": "abc"})


@pytest.fixture
def chain() -> tuple[torch.Tensor, torch.Tensor]:
    return inputs.normal(300, 8), inputs.codebooks(3, 16, 8)


def test_right_levels_pass_and_are_timed(chain) -> None:
    z, codebooks = chain
    levels = [*ours("residual_encode", residual_encode), Level("torch", peers.chain(peers.nearest_expanded))]
    race = Race("residual_encode", "small", levels, chain, check=ChainCheck(z, codebooks), flops=1e6, rounds=3)
    race.prepare()
    for _ in range(race.rounds):
        race.one_round()
    records = race.records()
    assert [r.level for r in records] == [level.name for level in levels]
    assert records[0].ratio == 1
    assert all(r.rounds == 3 and 0 < r.min_ms <= r.p20_ms <= r.p50_ms <= r.p80_ms for r in records)
    assert records[-1].ratio == pytest.approx(records[-1].min_ms / records[0].min_ms)
    assert records[0].gflops == pytest.approx(1e-3 / (records[0].min_ms / 1e3))


def test_a_level_that_takes_the_second_nearest_codeword_fails(chain) -> None:
    z, codebooks = chain

    def second(r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.cdist(r, c).topk(2, largest=False).indices[:, 1]

    race = Race("x", "y", [Level("wrong", peers.chain(second))], chain, check=ChainCheck(z, codebooks))
    with pytest.raises(WrongResultError, match="wrong: 300 of 300 rows"):
        race.prepare()


def test_one_code_beyond_the_margin_fails(chain) -> None:
    z, codebooks = chain
    codes = truth(z, codebooks)
    near_truth("right", codes, z, codebooks, codes, 1e-5)
    wrong = codes.clone()
    wrong[7, 2] = (wrong[7, 2] + 1) % 16
    with pytest.raises(WrongResultError, match="level 3"):
        near_truth("wrong", wrong, z, codebooks, codes, 1e-5)


def test_an_exact_tie_may_go_either_way() -> None:
    codebooks = inputs.codebooks(1, 4, 8)
    codebooks[0, 3] = codebooks[0, 1]
    z = codebooks[0, 1:2].clone() + 0.01
    near_truth("tied", torch.tensor([[3]]), z, codebooks, truth(z, codebooks), 1e-5)


def test_quantized_that_is_not_the_sum_of_its_codewords_fails(chain) -> None:
    z, codebooks = chain
    found = residual_encode(z, codebooks)
    bent = found._replace(quantized=found.quantized.nextafter(torch.tensor(torch.inf)))
    check = ChainCheck(z, codebooks)
    check(Level("ours, here", residual_encode), found)
    with pytest.raises(WrongResultError, match="level order"):
        check(Level("ours, here", residual_encode), bent)


def test_instruction_sets_that_disagree_at_a_tie_fail() -> None:
    same, level = SameCodes(), Level("ours, avx2", print, isa="avx2")
    same(level, torch.tensor([1, 2]))
    same(Level("torch", print), torch.tensor([1, 3]))
    with pytest.raises(WrongResultError, match="another instruction set"):
        same(level, torch.tensor([1, 3]))


def test_a_gradient_that_is_off_fails() -> None:
    check = CloseCheck((torch.ones(3), torch.ones(2)), 1e-5)
    check(Level("right", print), (torch.ones(3), torch.ones(2) + 1e-6))
    with pytest.raises(WrongResultError, match="result 1"):
        check(Level("wrong", print), (torch.ones(3), torch.ones(2) + 1e-4))
    with pytest.raises(WrongResultError, match="nan"):
        check(Level("wrong", print), (torch.ones(3), torch.full((2,), torch.nan)))


def test_a_codebook_may_be_better_than_expected_but_not_worse() -> None:
    x, level = torch.tensor([[0.0], [1.0], [5.0]]), Level("ours", print)
    check = InertiaCheck(x, torch.tensor([[2.0], [9.0]]))
    for right in (torch.tensor([[2.0], [90.0]]), torch.tensor([[0.5], [5.0]])):
        check(level, (right, None))
    for wrong in (torch.tensor([[2.1], [9.0]]), torch.tensor([[torch.nan], [torch.nan]])):
        with pytest.raises(WrongResultError, match="above that of Lloyd"):
            check(level, (wrong, None))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of memory")
def test_extra_memory_counts_scratch_and_leaves_the_result_out() -> None:
    def call(rows: int) -> torch.Tensor:
        scratch = torch.ones(64 * 2**18)  # 64 MiB
        return scratch[: rows * 2**18].clone()

    race = Race("x", "y", [Level("ours", call)], (32,), check=lambda *_: None, small=(1,))
    race.prepare()
    assert race.extra["ours"] == pytest.approx(64, abs=3)


def test_the_backend_and_the_instruction_set_are_put_back(chain, monkeypatch) -> None:
    monkeypatch.setenv("UNITOK_BACKEND", "reference")
    before = None if native() is None else native().instruction_set()
    levels = ours("nearest_codeword", nearest_codeword)
    Race("x", "y", levels, (chain[0], chain[1][0]), check=lambda *_: None).prepare()
    assert (None if native() is None else native().instruction_set()) == before
    assert os.environ["UNITOK_BACKEND"] == "reference"


def test_a_csv_has_the_columns_and_reads_back(tmp_path) -> None:
    rows = [
        record("hsic", "a", "ours", 1.5, extra_mib=2.0, fma_peak_gflops=378.0),
        record("hsic", "a", "torch", 6.0, ratio=4.0),
        record("kmeans", "b", "ours", 2.0),
    ]
    report.write(rows, tmp_path)
    with (tmp_path / "hsic.csv").open() as file:
        header = next(csv.reader(file))
    assert {"device", "cores", "instruction_set", "date", "commit", "torch", "case", "level"} <= set(header)
    assert {"min_ms", "p20_ms", "p50_ms", "p80_ms", "gflops", "peak_percent", "extra_mib", "ratio"} <= set(header)
    assert report.read(tmp_path) == rows
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_bars_are_computed_from_the_rows() -> None:
    rows = [
        record(bars.ENCODE, bars.LONG, "ours, avx2", 10.0, peak_percent=79.9),
        record(bars.ENCODE, bars.LONG, "ours, generic", 30.0, peak_percent=30.0),
        record(bars.ENCODE, bars.LONG, bars.FAISS, 28.0),
        record(bars.ENCODE, bars.LONG, bars.COMPILED, 49.0),
        record(bars.ENCODE, bars.HUGE, "ours, avx2", 176.0, extra_mib=15.0),
    ]
    verdicts = {v.name.removeprefix(f"{bars.ENCODE} "): v for v in bars.judge(rows)}
    assert verdicts[f"{bars.LONG}: over faiss Flat"].met is True
    assert verdicts[f"{bars.LONG}: over torch.compile"] == bars.Verdict(
        f"{bars.ENCODE} {bars.LONG}: over torch.compile", "≥ 5 x", "4.9 x", False
    )
    assert verdicts[f"{bars.LONG}: of the FMA peak"].met is False
    assert verdicts[f"{bars.LONG}: over eager"].met is None
    assert verdicts[f"{bars.HUGE}: extra memory"].met is True
    assert verdicts[f"{bars.HUGE}: time per row, above the 64k case's"].measured == "10 %"


def test_every_bar_is_of_a_case_and_a_level_that_the_benchmarks_run() -> None:
    asked = set()

    class Seen(dict):
        def __missing__(self, key: tuple[str, str, str]) -> Record:
            asked.add(key)
            return record(*key, 1.0, peak_percent=1.0, extra_mib=1.0)

    for bar in bars.BARS:
        bar.judge(Seen())
    sources = {path.stem.removeprefix("bench_"): path.read_text() for path in Path("benchmarks/ops").glob("bench_*.py")}
    shared = Path("benchmarks/peers.py").read_text()
    for operation, case, level in asked:
        if operation != "training_step":  # its case is put together from constants
            assert f'"{case}"' in sources[operation], case
        assert level == "ours" or f'"{level}"' in sources[operation] + shared, level


def test_the_page_shows_a_miss_as_it_is() -> None:
    rows = [record(bars.ENCODE, bars.LONG, "ours", 10.0), record(bars.ENCODE, bars.LONG, bars.EAGER, 5.0)]
    page = report.tables(rows)
    assert f"| {bars.ENCODE} {bars.LONG}: over eager | ≥ 16 x | 0.5 x | **no** |" in page
    assert "| torch eager | 5.00 |" in page
    assert "2026-01-02, commit abc" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0"), (0.012345, "0.0123"), (1.5, "1.50"), (99.96, "100"), (1234.5, "1,230"), (14.71, "14.7")],
)
def test_numbers_have_three_digits(value, text) -> None:
    assert plot.number(value) == text


def test_percentiles_lie_between_the_rounds() -> None:
    assert quantile([3.0], 0.2) == 3.0
    assert quantile([5.0, 1.0, 2.0, 3.0, 4.0, 6.0], 0.2) == pytest.approx(2.0)
    assert quantile([1.0, 2.0], 0.5) == 1.5


def test_every_family_has_a_look_of_its_own() -> None:
    assert len(set(plot.FAMILIES.values())) == len(plot.FAMILIES)
    assert plot.family("torch.compile") == "torch.compile"
    assert plot.family("torch eager") == "torch"
    assert plot.family("one residual_encode") is None


@pytest.mark.skipif(native() is None, reason="the native module is not built")
def test_the_probe_runs_on_every_instruction_set() -> None:
    kernels = native()
    before, peaks = kernels.instruction_set(), []
    try:
        for isa in kernels.instruction_sets():
            kernels.use_instruction_set(isa)
            peaks.append(kernels.fma_peak(1))
    finally:
        kernels.use_instruction_set(before)
    assert all(peak > 0 for peak in peaks)

"""The GPU benchmarks without a GPU: a dry run, the cases on another backend, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import report
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import cases as gpu_cases
from benchmarks.harness import Level, WrongResultError

ROOT = Path(__file__).parents[2]


def test_a_dry_run_checks_times_and_writes_under_runs(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **one}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = tmp_path / "runs/bench-gpu"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    records = report.read(written)
    assert {"residual_encode", "nearest_codeword"} <= {record.operation for record in records}
    assert all(record.level == "ours, triton" for record in records if record.ratio == 1)
    assert {record.device for record in records} == {"Triton's interpreter"}
    page = (written / "gpu.md").read_text()
    assert "| level | ms, min | p20 | p50 | p80 |" in page
    assert "Notes:" in page
    assert (written / "triton-s-interpreter.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "there is no GPU here; --dry-run runs it on Triton's interpreter."),
        (["--dry-run"], "the dry run needs TRITON_INTERPRET=1, set before it starts."),
    ],
)
def test_what_it_needs_is_said_in_a_line(arguments, told, monkeypatch, capsys) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(arguments) == 1
    assert capsys.readouterr() == ("", f"benchmarks.gpu: {told}\n")


DEVICE = {"device": "Some GPU, 80 GB", "cores": 132, "threads": 2, "instruction_set": "sm_90"}
DEVICE |= {"torch": "2", "date": "2026-01-02", "commit": "abc"}


@pytest.mark.parametrize("make", gpu_cases.MAKERS, ids=lambda make: make.__name__)
def test_every_case_runs_and_its_check_lets_through_what_is_right(make, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = lambda operation, call, device: [Level("ours, reference", partial(call, backend="reference"))]  # noqa: E731
    monkeypatch.setattr(gpu_cases, "ours", levels)
    ((name, shape),) = gpu_cases.TOYS.items()
    case = make(name, shape, "cpu")
    rows, notes, wrong = gpu.race(case, True, DEVICE)
    assert (notes, wrong) == ([], [])
    assert [row.level for row in rows] == [level.name for level in case.levels]
    assert len(rows) > 1
    assert rows[0].ratio == 1


def case(*levels: Level) -> gpu_cases.Case:
    def check(level: Level, result: Any) -> None:
        if result != 1:
            raise WrongResultError(f"{level.name}: {result}, not 1")

    return gpu_cases.Case("hsic", "small", [Level("ours, triton", lambda: 1), *levels], (), check)


def test_a_peer_that_is_wrong_or_fails_is_named_and_not_timed() -> None:
    rows, notes, wrong = gpu.race(case(Level("wrong", lambda: 2), Level("broken", lambda: [][0])), True, DEVICE)
    assert [row.level for row in rows] == ["ours, triton"]
    assert wrong == []
    assert notes == [
        "hsic, small, wrong: refused: wrong: 2, not 1",
        "hsic, small, broken: failed: list index out of range",
    ]


def test_a_wrong_result_of_ours_is_told_apart() -> None:
    rows, notes, wrong = gpu.race(case(Level("ours, cuda", lambda: 3)), True, DEVICE)
    assert [row.level for row in rows] == ["ours, triton"]
    assert (notes, wrong) == ([], ["hsic, small, ours, cuda: refused: ours, cuda: 3, not 1"])


def test_the_run_fails_and_publishes_nothing_where_ours_is_wrong(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(gpu, "cases", lambda dry: [case(Level("ours, cuda", lambda: 3)), case()])
    monkeypatch.setattr(gpu, "DRY", tmp_path)
    assert gpu.main(["--dry-run"]) == 1
    assert "ours, cuda: 3, not 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_page_holds_every_device_that_has_a_result(tmp_path: Path) -> None:
    for name in ("Some GPU, 80 GB", "Another"):
        rows, _, _ = gpu.race(case(Level("torch eager", lambda: 1)), True, {**DEVICE, "device": name})
        gpu.publish(rows, ["rectokens: not installed"], tmp_path / "results", tmp_path / "docs/gpu.md")
    assert {path.name for path in (tmp_path / "results").glob("*.csv")} == {"some-gpu-80-gb.csv", "another.csv"}
    page = (tmp_path / "docs/gpu.md").read_text()
    assert page.index("## Another") < page.index("## Some GPU, 80 GB")
    assert "sm_90, 132 multiprocessors, torch 2, 2026-01-02, commit abc" in page
    assert page.count("- rectokens: not installed") == 2

"""Autotuning with a clock of our own: nothing without the variable, once a bucket with it, and kept."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton

import unitok_kernels as uk
from tests.unitok_kernels.helpers.fake_cuda import fake_cuda
from unitok_kernels.ops._triton import tuning
from unitok_kernels.ops._triton.configs import TARGETS, Config
from unitok_kernels.ops._triton.launch import collecting
from unitok_kernels.ops._triton.tuning import CHANGES, NONE, Change

RULE = Config(64, 32, 4, 2)
PLACE = f"Some GPU, triton {triton.__version__}, unitok {uk.__version__}"


class Device:
    """A launcher, the Configs that it was called with, and how long each takes."""

    def __init__(self) -> None:
        self.calls: list[Config] = []
        self.timed = 0
        self.best = Config(64, 64, 4, 2)
        self.launcher = tuning.tuned(self.encode)

    def encode(self, x: torch.Tensor, table: torch.Tensor, precision: str, weight: float) -> Config:
        self.calls.append(tuning.changed(RULE))
        return self.calls[-1]

    def milliseconds(self, call: Any, return_mode: str) -> float:
        assert return_mode == "median"
        self.timed += 1
        config = call()
        if config.block_rows > 64:
            raise RuntimeError("out of resource: shared memory")
        return 1.0 if config == self.best else 2.0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make a device whose autotuning is asked for, and an empty cache."""
    monkeypatch.setenv("UNITOK_AUTOTUNE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning, "FakeTensor", Config)  # the tensors here are fake ones, and stand for real ones
    made = Device()
    monkeypatch.setattr("triton.testing.do_bench", made.milliseconds)
    tuning.kept.cache_clear()
    with fake_cuda():
        yield made
    tuning.kept.cache_clear()


def call(device: Device, rows: int = 1000, width: int = 32, precision: str = "exact", weight: float = 1.0) -> Config:
    return device.launcher(torch.empty(rows, width, device="cuda"), torch.empty(4, width), precision, weight)


def test_the_fastest_is_found_once_a_bucket_and_what_fails_is_left_out(device):
    assert call(device) == device.best
    assert device.timed == len(CHANGES)
    assert call(device, 1024, weight=2.0) == device.best  # in the same bucket
    assert device.timed == len(CHANGES)
    for other in ({"rows": 1025}, {"width": 20}, {"precision": "fast"}):
        before = device.timed
        call(device, **other)
        assert device.timed == before + len(CHANGES)


def test_it_is_kept_for_other_processes_beside_what_they_found(device, tmp_path):
    call(device)
    file = tmp_path / "unitok/autotune.json"
    (kept,) = json.loads(file.read_text())[PLACE].items()
    assert kept == ("encode 1024x32:float32 4x32:float32 exact", [1, 2, 1, 0])
    file.write_text(json.dumps({"Another GPU": {"encode": [1, 1, 1, 1]}, **json.loads(file.read_text())}))
    call(device, precision="fast")
    assert {place: len(buckets) for place, buckets in json.loads(file.read_text()).items()} == {
        "Another GPU": 1,
        PLACE: 2,
    }
    assert os.listdir(file.parent) == ["autotune.json"]  # nothing half-written lies about
    tuning.kept.cache_clear()  # as in a new process
    before = device.timed
    assert call(device) == device.best
    assert device.timed == before


@pytest.mark.parametrize("text", ["", "[1, 2]", json.dumps({PLACE: 3}), json.dumps({PLACE: {"encode": 7}})])
def test_a_file_that_is_not_ours_is_replaced(text, device, tmp_path):
    (tmp_path / "unitok").mkdir()
    (tmp_path / "unitok/autotune.json").write_text(text)
    assert call(device) == device.best
    assert len(json.loads((tmp_path / "unitok/autotune.json").read_text())[PLACE]) == 1


def test_a_cache_that_cannot_be_written_is_no_error(device, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert call(device) == device.best
    assert call(device) == device.best
    assert device.timed == len(CHANGES)


def test_the_rule_s_own_failure_is_the_caller_s(device, monkeypatch):
    def broken(call: Any, return_mode: str) -> float:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("triton.testing.do_bench", broken)
    with pytest.raises(RuntimeError, match="no such kernel"):
        call(device)


@contextmanager
def tracing() -> Iterator[None]:
    """What a launcher is called with while torch traces, as far as it is looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "FunctionalTensor", torch.Tensor)
        yield


@contextmanager
def capturing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        yield


@pytest.mark.parametrize("state", [tracing, capturing])
def test_nothing_is_timed_while_tracing_or_capturing_but_what_was_kept_is_used(state, device):
    with state():
        assert call(device) == RULE
    assert device.timed == 0
    call(device)
    with state():
        assert call(device) == device.best


def test_fake_and_interpreted_tensors_take_the_rule(device, monkeypatch, tmp_path):
    monkeypatch.undo()
    assert call(device) == RULE
    assert device.launcher(torch.empty(9, 32, device="cpu"), torch.empty(4, 32), "exact", 1.0) == RULE
    assert device.timed == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, "", "0"])
def test_without_the_variable_launchers_are_left_as_they_are(value, monkeypatch):
    monkeypatch.delenv("UNITOK_AUTOTUNE", raising=False)
    if value is not None:
        monkeypatch.setenv("UNITOK_AUTOTUNE", value)
    assert tuning.tuned(call) is call


def test_changes_stay_within_what_a_config_may_be():
    assert NONE.of(RULE) == RULE
    assert Change(rows=0.5, warps=0.5, stages=-1).of(Config(1, 16, 1, 1)) == Config(1, 16, 1, 1)
    assert len(set(CHANGES)) == len(CHANGES)


@pytest.mark.parametrize("name", ["nearest_codeword", "residual_encode"])
def test_searches_are_tuned(name, monkeypatch):
    """A launcher cuts its work up as it is told to, and its grid and what it allocates follow."""
    module = importlib.import_module(f"unitok_kernels.ops.{name}.triton")
    grids = []
    for change in (NONE, Change(rows=0.5)):
        with fake_cuda(), collecting(TARGETS["sm_90"]) as launches, tuning.changing(change):
            tables = torch.empty(*([4] if name == "residual_encode" else []), 256, 32, device="cuda")
            getattr(module, name)(torch.empty(1 << 14, 32, device="cuda"), tables, "exact", None, False)
        grids.append(next(launch.grid[0] for launch in launches if launch.kernel.fn.__module__ == module.__name__))
    assert grids[1] == 2 * grids[0]

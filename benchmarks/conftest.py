"""Make the runs comparable: one thread policy for all libraries, one report at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

# Libraries read these variables when they load. Each has its own OpenMP or BLAS, whose idle threads would otherwise
# spin on the cores that the next library is measured on.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from benchmarks import harness, report


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("unitok")
    group.addoption("--quick", action="store_true", help="small cases and 3 rounds, written to runs/bench")


def pytest_configure(config: pytest.Config) -> None:
    harness.use_threads()
    config.stash[harness.RECORDS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        heavy = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]


@contextmanager
def visible(config: pytest.Config) -> Iterator[None]:
    """Print despite pytest's capture, on a new line."""
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print()
        yield


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[..., None]:
    """Check the levels of a case, then time them; pytest-benchmark runs the rounds and keeps the numbers."""
    config = request.config

    def run(operation: str, case: str, levels: list[harness.Level], inputs: tuple, **options: object) -> None:
        if config.getoption("--quick"):
            options["rounds"] = 3
        benchmark.group = operation
        contest = harness.Race(operation, case, levels, inputs, **options)
        contest.prepare()
        benchmark.pedantic(contest.one_round, rounds=contest.rounds, warmup_rounds=0)
        records = contest.records()
        benchmark.extra_info |= {record.level: record.min_ms for record in records}
        config.stash[harness.RECORDS] += records
        with visible(config):
            report.print_case(records)

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    if records := session.config.stash[harness.RECORDS]:
        folder = Path("runs/bench") if session.config.getoption("--quick") else report.RESULTS
        with visible(session.config):
            report.write(records, folder)

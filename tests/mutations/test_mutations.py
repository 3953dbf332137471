"""A few damages of every kind of file; `python -m tests.mutations` does thousands, each loader in its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations.mutate import MUTATIONS, mutated
from tests.mutations.run import BAD, outcome
from tests.mutations.samples import SAMPLES, Sample, make

EACH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mutations")
    make(made)
    return made


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: f"{s.file}-{s.load.__name__.strip('_<>')}")
def test_damage_is_refused_in_one_line_or_changes_nothing(sample: Sample, folder: Path) -> None:
    file = folder / sample.file
    whole, expected = file.read_bytes(), sample.load(folder)
    found = []
    try:
        for seed in range(EACH):
            how, damaged = mutated(whole, seed)
            file.write_bytes(damaged)
            found.append((seed, how, *outcome(sample, folder, expected)))
    finally:
        file.write_bytes(whole)
    assert [result for result in found if result[2] in BAD] == []
    assert any(result[2] == "refused" for result in found)


def test_other_content_and_errors_are_told(folder: Path) -> None:
    """The measure itself: a loader that reads something else, or raises something else, is found."""
    assert outcome(Sample("x", lambda _: 1), folder, 2)[0] == "other content"
    assert outcome(Sample("x", lambda _: {}["x"]), folder, 2)[0] == "error"
    assert outcome(Sample("x", lambda _: 1), folder, 1)[0] == "as written"
    assert {mutated(b"0123456789" * 50, seed)[0] for seed in range(60)} == {how.__name__ for how in MUTATIONS}

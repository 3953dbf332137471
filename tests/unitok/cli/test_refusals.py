"""The command line: what it refuses to overwrite, to read and to write, and in which words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from tests.unitok.cli.runs import TINY, refused, unitok
from unitok import Tokenizer
from unitok.cli.app import app
from unitok.ids.collisions import RESOLVERS
from unitok.tokenizer import ADD_MODES
from unitok.training.trainer import HISTORY


def test_nothing_is_overwritten_without_force(tmp_path: Path, catalogue: Path, fitted: Path, table: Path) -> None:
    before = {path: path.read_bytes() for path in fitted.iterdir()}
    assert "must hold no tokenizer yet" in refused("fit", catalogue, "--out", fitted, *TINY)
    assert "there already" in refused("tokenize", fitted, catalogue, "--out", table)
    (tmp_path / "kept.npy").write_text("kept")
    assert "there already" in refused("decode", fitted, table, "--out", tmp_path / "kept.npy")
    assert (tmp_path / "kept.npy").read_text() == "kept"
    assert {path: path.read_bytes() for path in fitted.iterdir()} == before
    (tmp_path / HISTORY).write_text("somebody's")
    assert HISTORY in refused("fit", catalogue, "--out", tmp_path, *TINY)


def test_force_deletes_nothing_before_the_settings_are_found_to_fit(
    tmp_path: Path, catalogue: Path, fitted: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(fitted, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    line = refused("fit", catalogue, "--out", out, "--top-k", 99, *TINY, "--force")
    assert "--top-k" in line
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_force_starts_a_fit_over(tmp_path: Path, catalogue: Path, fitted: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(fitted, out)
    result = unitok("fit", catalogue, "--out", out, "--epochs", 2, *TINY, "--force")
    assert "resuming" not in result.stderr
    assert Tokenizer.from_pretrained(out).config.epochs == 2
    assert len((out / HISTORY).read_text().splitlines()) == 2


def _spoil_width(domain: Path) -> None:
    np.save(domain / "embeddings.npy", np.load(domain / "embeddings.npy")[:, :16])
    (domain / "embeddings.json").unlink()  # which has a digest of them


def _spoil_value(domain: Path) -> None:
    x = np.load(domain / "embeddings.npy")
    x[7, 3] = np.nan
    np.save(domain / "embeddings.npy", x)


def _spoil(name: str, content: bytes | None = None) -> Callable[[Path], None]:
    def spoil(domain: Path) -> None:
        whole = (domain / name).read_bytes()
        (domain / name).write_bytes(whole[: len(whole) // 2] if content is None else content)

    return spoil


def _drop_column(domain: Path) -> None:
    pq.write_table(pq.read_table(domain / "items.parquet").drop_columns("item_id"), domain / "items.parquet")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil_width, "have the width of the tokenizer's, 32, got 16"),
        (_spoil_value, "got nan in row 7"),
        (_spoil("embeddings.npy"), "whole .npy file"),
        (_spoil("embeddings.npy", b"no array"), "whole .npy file"),
        (_spoil("items.parquet"), "can't be read"),
        (_drop_column, "Add item_id"),
        (_spoil("embeddings.json", b"[1, 2]"), "JSON object with model and template"),
        (_spoil("embeddings.json", b'{"model": "m", "template": "t"}'), "got 'm' and 't'"),
    ],
)
def test_broken_items_are_refused_and_leave_nothing_half_written(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, domain: Path, fitted: Path
) -> None:
    spoil(domain)
    out = tmp_path / "out.parquet"
    assert said in refused("tokenize", fitted, domain, "--out", out)
    assert said in refused("report", fitted, domain)
    assert said in refused("add-domain", fitted, domain, "--out", out, "--name", "new")
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [domain]  # no half-written file either


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("unitok.json", b"[]"),
        ("unitok.json", b'{"format": 1}'),
        ("unitok.json", b"\xff\xfe\x00"),
        ("unitok.json", b'{"format": 99}'),
        ("model.safetensors", b"no weights"),
        ("model.safetensors", None),
    ],
)
def test_broken_tokenizers_are_refused(
    name: str, content: bytes | None, tmp_path: Path, catalogue: Path, fitted: Path, table: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(fitted, broken)
    _spoil(name, content)(broken)
    for args in (("report", broken, catalogue), ("decode", broken, table, "--out", tmp_path / "x.npy")):
        assert "must hold a whole tokenizer" in refused(*args)
    (broken / name).unlink()
    assert f"must hold {name}" in refused("report", broken, catalogue)


def test_broken_id_tables_are_refused_with_their_path(
    tmp_path: Path, catalogue: Path, fitted: Path, table: Path
) -> None:
    file = tmp_path / "ids.parquet"
    whole = pq.read_table(table)

    def said_of(spoiled: pa.Table) -> str:
        pq.write_table(spoiled, file)
        line = refused("decode", fitted, file, "--out", tmp_path / "x.npy")
        assert str(file) in line
        existing = refused("tokenize", fitted, catalogue, "--existing", file, "--out", tmp_path / "y.parquet")
        assert existing == line
        return line

    def with_column(name: str, values: pa.Array) -> pa.Table:
        return whole.set_column(whole.column_names.index(name), name, values)

    assert "Add c1" in said_of(whole.drop_columns("c1"))
    assert "c0 must be an integer" in said_of(with_column("c0", pa.array(["x"] * 120)))
    assert "got [16, 0, 0] in row 0" in said_of(
        with_column("c0", pa.array([16] * 120))
        .drop_columns(["c1", "c2"])
        .append_column("c1", pa.array([0] * 120))
        .append_column("c2", pa.array([0] * 120))
    )
    assert "expert must be an integer" in said_of(with_column("expert", pa.nulls(120, pa.int32())))
    assert "suffix must be an integer" in said_of(with_column("suffix", pa.array([0.5] * 120)))
    assert "domain must be text" in said_of(with_column("domain", pa.array([1] * 120)))
    assert "must have 3 levels" in said_of(whole.append_column("c3", pa.array([0] * 120)))
    note = json.loads(whole.schema.metadata[b"unitok"])
    for part, value in (("base", "0" * 16), ("experts", ["0" * 16]), ("experts", [*note["tokenizer"]["experts"], "0"])):
        foreign = {**note, "tokenizer": {**note["tokenizer"], part: value}}
        assert "of tokenizer" in said_of(whole.replace_schema_metadata({"unitok": json.dumps(foreign)}))
    for broken in ("7", json.dumps({**note, "tokenizer": "0" * 16})):
        assert "metadata must be whole" in said_of(whole.replace_schema_metadata({"unitok": broken}))
    short = [text.rpartition("<")[0] for text in whole["semantic_id"].to_pylist()]  # without suffixes
    bare = with_column("suffix", pa.nulls(120, pa.int32())).replace_schema_metadata(None)
    bare = bare.set_column(2, "semantic_id", pa.array(short))
    pq.write_table(bare, file)
    unitok("decode", fitted, file, "--out", tmp_path / "bare.npy")
    line = refused("tokenize", fitted, catalogue, "--existing", file, "--out", tmp_path / "y.parquet")
    assert "IDs must be resolved by suffix, got no suffix. Pass --resolver none." in line
    file.write_bytes(table.read_bytes()[:500])
    assert "can't be read" in refused("decode", fitted, file, "--out", tmp_path / "x.npy")
    line = refused(
        "tokenize", fitted, catalogue, "--existing", table, "--resolver", "none", "--out", tmp_path / "y.parquet"
    )
    assert "resolved by none, got suffix" in line
    assert "in row 0" in refused("decode", fitted, "<a_0><b_0>", "--json")
    assert "one file of IDs, or IDs as text" in refused("decode", fitted, table, table, "--json")


def test_paths_that_lead_nowhere_are_refused(tmp_path: Path, catalogue: Path, fitted: Path, table: Path) -> None:
    nowhere, file = tmp_path / "nowhere", tmp_path / "file"
    file.write_text("")
    assert "nothing there" in refused("fit", nowhere, "--out", tmp_path / "x")
    assert "got a file" in refused("fit", file, "--out", tmp_path / "x")
    assert "no domain to read" in refused("fit", tmp_path, "--out", tmp_path / "x")
    assert "got zoo. There: beauty, kitchen" in refused("fit", catalogue, "--domains", "zoo", "--out", nowhere)
    assert "must be a folder, got a file" in refused("fit", catalogue, "--out", file)
    assert "must hold unitok.json" in refused("report", nowhere, catalogue)
    assert "nothing there" in refused("decode", fitted, nowhere, "--json")
    assert "must be a file, got a folder" in refused("tokenize", fitted, catalogue, "--out", tmp_path)
    assert str(file) in refused("tokenize", fitted, catalogue, "--out", file / "ids.parquet")


def test_a_folder_that_may_not_be_written_to_is_named(
    tmp_path: Path, catalogue: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "locked")

    # Raised where a folder would be, since the user who runs the tests may be allowed everything.
    monkeypatch.setattr(os, "mkdir", denied)
    line = refused("tokenize", fitted, catalogue, "--out", tmp_path / "ids.parquet")
    assert line == f"error: {tmp_path / 'ids.parquet'}: Permission denied"
    assert refused("fit", catalogue, "--out", tmp_path / "x", *TINY) == "error: locked: Permission denied"


def test_a_bug_or_debugging_keeps_the_traceback(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        unitok("report", fitted / "nowhere", fitted, env={"UNITOK_DEBUG": "1"})
    monkeypatch.setattr("unitok_kernels.residual_encode", lambda *_: [][0])
    with pytest.raises(IndexError):
        unitok("doctor")


def test_options_name_what_the_library_takes(fitted: Path, catalogue: Path, tmp_path: Path) -> None:
    for command, option, names in (("tokenize", "resolver", RESOLVERS), ("add-domain", "mode", ADD_MODES)):
        shown = {each.name: each.metavar for each in typer.main.get_command(app).commands[command].params}[option]
        assert shown.replace(" ", "") == "|".join(names)
        help_text = unitok(command, "--help").stdout
        assert all(part in help_text for part in shown.split())  # no name is broken
    out = ("--out", tmp_path / "x")
    for args in (
        ("tokenize", fitted, catalogue, *out, "--resolver", "none at all"),
        ("fit", catalogue, *out, "--preset", "best"),
        ("fit", catalogue, *out, "--epochs", 0),
        ("fit", catalogue, *out, "--num-experts", 2, "--top-k", 3),
        ("fit", catalogue, *out, "--embedding-model", "alone"),
        ("fit", catalogue),
        ("decode", fitted, "<a_0><b_0><c_0><d_0>"),
        ("fti",),
    ):
        assert not unitok(*args, code=2).stdout
    assert not (tmp_path / "x").exists()

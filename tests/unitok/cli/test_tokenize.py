"""The command line of IDs: what becomes of items that changed, in which formats IDs are written, and of odd names."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import unitok as unitok_package
from tests.unitok.cli.runs import TINY, refused, unitok
from unitok import Tokenizer
from unitok.data import read_domain, write_domain
from unitok.ids.collisions import CHANGED
from unitok.ids.table import IdTable
from unitok_kernels import backends


@pytest.fixture
def changed(tmp_path: Path, catalogue: Path, fitted: Path) -> tuple[Path, Path, Path]:
    """A domain, the table of its IDs, and the domain after items 3 and 8 got other embeddings."""
    x = np.array(read_domain(catalogue / "beauty").embeddings)
    write_domain(tmp_path / "old" / "beauty", x)
    unitok("tokenize", fitted, tmp_path / "old", "--out", tmp_path / "old.parquet")
    x[[3, 8]] = -x[[3, 8]]
    write_domain(tmp_path / "new" / "beauty", np.concatenate([x, x[:5]]))
    return tmp_path / "old", tmp_path / "old.parquet", tmp_path / "new"


def test_items_whose_codes_changed_are_named_with_the_choice(
    changed: tuple[Path, Path, Path], fitted: Path, tmp_path: Path
) -> None:
    _, existing, new = changed
    out = tmp_path / "new.parquet"
    before = pq.read_table(existing)["semantic_id"].to_pylist()
    run = ("tokenize", fitted, new, "--existing", existing, "--out", out)
    line = refused(*run)
    assert "items must have the codes of that table, got 2 that differ: beauty:3 was <a_" in line
    assert "Pass --changed keep for their old IDs or --changed renew for new ones" in line
    assert not out.exists()
    result = unitok(*run, "--changed", "keep", "--json")
    assert "2 items of --existing with other codes now keep their old IDs: beauty:3 was " in result.stderr
    found = json.loads(result.stdout)
    assert (found["kept"], found["added"]) == (60, 5)
    assert [each["item"] for each in found["changed"]] == ["beauty:3", "beauty:8"]
    assert before[3].startswith(found["changed"][0]["old"])
    assert pq.read_table(out)["semantic_id"].to_pylist()[:60] == before
    result = unitok(*run, "--changed", "renew", "--force", "--json")
    assert "2 items of --existing with other codes now get new IDs" in result.stderr
    found = json.loads(result.stdout)
    assert (found["kept"], found["added"]) == (58, 5)
    after = pq.read_table(out)
    texts = after["semantic_id"].to_pylist()
    assert [row for row in range(60) if texts[row] != before[row]] == [3, 8]
    assert [texts[row].startswith(each["new"]) for row, each in zip((3, 8), found["changed"], strict=True)] == [
        True
    ] * 2
    assert len(set(texts)) == 65
    assert after["item_id"].to_pylist() == list(range(65))
    assert "|".join(CHANGED) in unitok("tokenize", "--help").stdout


@pytest.mark.parametrize("choice", CHANGED)
def test_changed_items_are_noticed_without_a_resolver_too(
    choice: str, changed: tuple[Path, Path, Path], fitted: Path, tmp_path: Path
) -> None:
    old, existing, new = changed
    out, settings = tmp_path / "out.parquet", ("--resolver", "none", "--changed", choice)
    unitok("tokenize", fitted, old, "--out", existing, "--force", "--resolver", "none")
    run = ("tokenize", fitted, new, "--existing", existing, "--out", out, *settings)
    if choice == "fail":
        assert "got 2 that differ" in refused(*run)
        return
    unitok(*run)
    before, after = (pq.read_table(file)["semantic_id"].to_pylist() for file in (existing, out))
    differ = [row for row in range(60) if after[row] != before[row]]
    assert differ == ([3, 8] if choice == "renew" else [])


def test_items_that_an_import_numbered_anew_keep_their_ids(fitted: Path, catalogue: Path, tmp_path: Path) -> None:
    x, names = np.array(read_domain(catalogue / "beauty").embeddings), [f"B{row:02d}" for row in range(60)]
    for data, rows, first in (("old", x, None), ("new", np.concatenate([x[-1:] + 1, x[:-1]]), "A")):
        write_domain(
            tmp_path / data / "beauty",
            rows,
            items={"source_id": ([first] if first else []) + names[: 60 - bool(first)]},
        )
    tables = [tmp_path / "old.parquet", tmp_path / "new.csv"]
    unitok("tokenize", fitted, tmp_path / "old", "--out", tables[0])
    found = unitok("tokenize", fitted, tmp_path / "new", "--existing", tables[0], "--out", tables[1], "--json").stdout
    assert [json.loads(found)[key] for key in ("kept", "added", "changed")] == [59, 1, []]
    before, after = (IdTable.read(file) for file in tables)
    text_of = dict(zip(before.source_ids, before.ids.to_text(), strict=True))
    assert after.source_ids == [*names, "A"]
    assert {**text_of, "A": after.ids.to_text()[-1]} == dict(zip(after.source_ids, after.ids.to_text(), strict=True))
    assert after.table["item_id"].to_pylist() == [*range(1, 60), -1, 0]  # B59 is gone, and its number another's


def test_a_table_without_names_gets_them(fitted: Path, catalogue: Path, table: Path, tmp_path: Path) -> None:
    older = pq.read_table(table)
    pq.write_table(older.drop_columns("source_id"), tmp_path / "older.parquet")
    out = tmp_path / "out.parquet"
    unitok("tokenize", fitted, catalogue, "--existing", tmp_path / "older.parquet", "--out", out)
    assert pq.read_table(out).equals(older)
    for name in ("beauty", "kitchen"):  # the same items, of which no names are known
        write_domain(tmp_path / "bare" / name, np.array(read_domain(catalogue / name).embeddings))
    unitok("tokenize", fitted, tmp_path / "bare", "--existing", out, "--out", tmp_path / "bare.parquet")
    assert pq.read_table(tmp_path / "bare.parquet").equals(older)


@pytest.mark.parametrize("choice", ["fail", "keep"])
def test_ids_of_other_items_are_not_kept(choice: str, fitted: Path, catalogue: Path, tmp_path: Path) -> None:
    x = np.array(read_domain(catalogue / "beauty").embeddings)  # without names
    for data, rows in (("old", x), ("new", np.concatenate([x[-1:], x]))):
        write_domain(tmp_path / data / "beauty", rows)
    existing, out = tmp_path / "old.parquet", tmp_path / "out.parquet"
    unitok("tokenize", fitted, tmp_path / "old", "--out", existing)
    run = ("tokenize", fitted, tmp_path / "new", "--existing", existing, "--out", out, "--changed")
    line = refused(*run, choice)
    assert "They may be numbered otherwise there, or its IDs may be another tokenizer's" in line
    assert not out.exists()
    unitok(*run, "renew")


def test_tables_of_another_tokenizer_are_refused_or_said(catalogue: Path, fitted: Path, tmp_path: Path) -> None:
    other, ids = tmp_path / "other", tmp_path / "ids.csv"
    unitok("fit", catalogue, "--out", other, "--epochs", 1, "--seed", 5, *TINY)
    unitok("tokenize", other, catalogue, "--out", ids)
    decoded = ("decode", fitted, ids, "--out", tmp_path / "x.npy")
    keep = ("tokenize", fitted, catalogue, "--existing", ids, "--out", tmp_path / "y.csv", "--changed", "keep")
    for command in (decoded, keep):
        assert f"{ids}: IDs must be of tokenizer " in refused(*command)
    (tmp_path / "ids.csv.unitok.json").unlink()
    said = f"{ids}: nothing there says which tokenizer made these IDs; they are taken for this one's\n"
    assert unitok(*decoded).stderr == said
    result = unitok(*keep, code=1)
    assert result.stderr.startswith(said)
    assert "its IDs may be another tokenizer's" in result.stderr


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_link_to_a_file_of_another_name_is_written_to(
    ending: str, fitted: Path, catalogue: Path, table: Path, tmp_path: Path
) -> None:
    link, target = tmp_path / f"ids.{ending}", tmp_path / "store" / "0a1b"  # as DVC and git-annex keep files
    target.parent.mkdir()
    target.touch()
    link.symlink_to(target)
    unitok("tokenize", fitted, catalogue, "--out", link, "--force")
    assert link.is_symlink()
    read = IdTable.read(link)
    assert read.is_noted
    assert read.keys == IdTable.read(table).keys


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_is_written_as_its_name_says_and_read_again(
    ending: str, fitted: Path, catalogue: Path, table: Path, tmp_path: Path
) -> None:
    file, again = tmp_path / f"ids.{ending}", tmp_path / "again.parquet"
    unitok("tokenize", fitted, catalogue, "--out", file)
    lines = file.read_text().splitlines()
    assert len(lines) == 120 + (ending == "csv")
    unitok("tokenize", fitted, catalogue, "--existing", file, "--out", again)
    assert pq.read_table(again).equals(pq.read_table(table))
    for name, ids in (("a.npy", file), ("b.npy", table)):
        unitok("decode", fitted, ids, "--out", tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_other_names_of_outputs_are_refused_before_any_work(tmp_path: Path, table: Path) -> None:
    nowhere = tmp_path / "nowhere"  # would be refused first, if anything were read
    for name in ("ids.txt", "ids", "ids.json"):
        line = refused("tokenize", nowhere, nowhere, "--out", tmp_path / name)
        assert line == f"error: --out: file must be named *.parquet, *.csv, *.jsonl, got {tmp_path / name}. " + (
            "Give it such an ending."
        )
    for name in ("x.csv", "x"):
        line = refused("decode", nowhere, table, "--out", tmp_path / name)
        assert line == f"error: --out: must be named *.npy, got {tmp_path / name}. Give it that ending."
    assert not list(tmp_path.iterdir())


def test_ids_as_text_may_have_spaces(fitted: Path, table: Path) -> None:
    text = pq.read_table(table)["semantic_id"][0].as_py()
    plain, spaced = (
        unitok("decode", fitted, each, "--json").stdout for each in (text, f" {text.replace('><', '> <')}")
    )
    assert plain == spaced


def test_a_catalogue_is_no_domain(tmp_path: Path, fitted: Path, catalogue: Path) -> None:
    for command in (("check-domain", fitted, catalogue), ("add-domain", fitted, catalogue, "--out", tmp_path / "x")):
        step = f"Name one of them, such as {catalogue / 'beauty'}."
        got = "must be the folder of one domain, got a catalogue of beauty, kitchen"
        assert refused(*command) == f"error: {catalogue}: {got}. {step}"


def test_a_model_that_is_not_there_is_named(tmp_path: Path, table: Path, catalogue: Path) -> None:
    for command in (("decode", table), ("tokenize", catalogue), ("check-domain", catalogue / "beauty")):
        out = (
            ()
            if command[0] == "check-domain"
            else ("--out", tmp_path / f"x.{'npy' if command[0] == 'decode' else 'csv'}")
        )
        line = refused(command[0], tmp_path / "nope", command[1], *out)
        assert f"{tmp_path / 'nope'}" in line
        assert "check the path" in line


def test_add_domain_says_what_the_check_says_and_adds_it(tmp_path: Path, domain: Path, fitted: Path) -> None:
    beauty = np.array(read_domain(domain).embeddings[:])
    noise = np.random.default_rng(0).standard_normal(beauty.shape)
    write_domain(tmp_path / "far", (beauty[:1] + 1e-2 * noise).astype(np.float16))
    said = unitok("add-domain", fitted, tmp_path / "far", "--out", tmp_path / "a").stdout
    assert said.startswith("far among the experts before: no go: score 0.")
    found = json.loads(unitok("add-domain", fitted, tmp_path / "far", "--out", tmp_path / "b", "--json").stdout)
    assert not found["check"]["passes"]
    assert "far" in Tokenizer.from_pretrained(tmp_path / "b").domains
    write_domain(tmp_path / "few", beauty[:20])  # too few to check, enough to add
    found = json.loads(unitok("add-domain", fitted, tmp_path / "few", "--out", tmp_path / "c", "--json").stdout)
    assert found["check"] is None


def test_add_domain_leaves_no_folder_of_a_failure(
    tmp_path: Path, domain: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    added = ("add-domain", fitted, domain, "--name", "garden", "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # once the folder has been made
        assert "No space left" in refused(*added)
    assert not out.exists()
    assert "must be a new domain's name" in refused(*added[:3], "--name", "beauty", "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in refused(*added)
    assert (out / "notes.txt").read_text() == "mine"


def test_names_are_shown_as_they_are(tmp_path: Path, catalogue: Path, fitted: Path) -> None:
    name = "[red]rot[bold]"
    shutil.copytree(catalogue / "beauty", tmp_path / "cat" / name)
    folder, ids = tmp_path / "cat" / name, tmp_path / "ids.parquet"
    assert f"{name} against the training domains" in unitok("check-domain", fitted, folder).stdout
    assert name in unitok("report", fitted, tmp_path / "cat").stdout
    unitok("tokenize", fitted, tmp_path / "cat", "--out", ids, env={"FORCE_COLOR": "1"})
    text = pq.read_table(ids)["semantic_id"][0].as_py()
    assert f" {name} " in unitok("decode", fitted, text, "--items", tmp_path / "cat").stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_table(tmp_path: Path, fitted: Path) -> None:
    os.mkfifo(tmp_path / "ids.parquet")
    assert "got a pipe or a device. Check the path." in refused("decode", fitted, tmp_path / "ids.parquet", "--json")


def test_two_tables_are_compared_item_by_item(changed: tuple[Path, Path, Path], fitted: Path, tmp_path: Path) -> None:
    _, before, new = changed
    after, items = tmp_path / "new.parquet", tmp_path / "changed.csv"
    unitok("tokenize", fitted, new, "--existing", before, "--changed", "renew", "--out", after)
    shown = unitok("ids", "diff", before, after)
    row = next(line for line in shown.stdout.splitlines() if "beauty" in line)
    assert "60" in row
    assert f"{58 / 60:.2%}" in row
    result = unitok("ids", "diff", before, after, "--items", items, "--json")
    assert "7 items written to" in result.stderr
    found = json.loads(result.stdout)["overall"]
    assert {name: found[name] for name in ("kept", "changed", "added", "vanished")} == {
        "kept": 58,
        "changed": 2,
        "added": 5,
        "vanished": 0,
    }
    assert [line.split(",")[1] for line in items.read_text().splitlines()[1:]] == ["3", "8", *map(str, range(60, 65))]
    assert "the file is there already" in refused("ids", "diff", before, after, "--items", items)
    result = unitok("ids", "diff", before, after, "--most-churn", "0.01", code=1)
    assert "beauty" in result.stdout
    assert "3.33% of the items in both have other IDs, more than 1.00%" in result.stderr
    unitok("ids", "diff", before, after, "--most-churn", "0.05")
    table = pq.read_table(before)
    other = table.set_column(0, "domain", [["another"] * len(table)])
    pq.write_table(other.replace_schema_metadata(None), tmp_path / "other.parquet")
    result = unitok("ids", "diff", before, tmp_path / "other.parquet", "--most-churn", "1", code=1)
    assert "no item is in both tables" in result.stderr
    assert "Give it such an ending" in refused("ids", "diff", before, after, "--items", tmp_path / "changed.txt")


def test_a_retrained_tokenizer_is_aligned(
    catalogue: Path, fitted: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, out, after = tmp_path / "newer", tmp_path / "aligned", tmp_path / "after.parquet"
    unitok("fit", catalogue, "--out", newer, "--epochs", 3, "--seed", 1, *TINY)
    shown = unitok("ids", "align", newer, table, catalogue, "--out", out).stdout
    assert "What 120 items keep" in shown
    result = unitok("ids", "align", newer, table, catalogue, "--out", out, "--force", "--json")
    found = json.loads(result.stdout)
    assert found["items"] == 120
    assert found["after"][1] > found["before"][1] + 0.1
    unitok("tokenize", out, catalogue, "--out", after)
    share = json.loads(unitok("ids", "diff", table, after, "--json").stdout)["overall"]
    assert [share["expert"], *share["prefixes"]] == pytest.approx(found["after"])
    assert "a tokenizer is there already" in refused("ids", "align", newer, table, catalogue, "--out", out)
    rows, elsewhere = pq.read_table(table), tmp_path / "elsewhere"
    few = rows.take([0, 7])  # which don't tell how many codes there are
    pq.write_table(few.replace_schema_metadata(None), tmp_path / "few.parquet")
    result = unitok("ids", "align", fitted, tmp_path / "few.parquet", catalogue, "--out", tmp_path / "two", "--json")
    assert json.loads(result.stdout)["before"] == [1.0] * 4
    other = rows.set_column(0, "domain", [[f"another {name}" for name in rows["domain"].to_pylist()]])
    pq.write_table(other.replace_schema_metadata(None), tmp_path / "other.parquet")
    message = refused("ids", "align", fitted, tmp_path / "other.parquet", catalogue, "--out", elsewhere)
    assert "got none of them" in message
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refused("ids", "align", fitted, table, catalogue, "--out", elsewhere)
    assert "ids align needs scipy, which isn't installed: pip install 'unitok-kernels[align]'" in message
    message = refused("tokenize", fitted, catalogue, "--resolver", "least_cost", "--out", tmp_path / "ids.csv")
    assert "--resolver least_cost needs scipy" in message
    assert not elsewhere.exists()


@pytest.mark.skipif(not backends.available()["cpu"], reason="the native module is not built")
def test_a_folder_of_shards_gets_a_folder_of_tables(
    catalogue: Path, fitted: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, shards, out = read_domain(catalogue / "beauty"), tmp_path / "beauty", tmp_path / "ids"
    shards.mkdir()
    rows = pa.array(np.asarray(part.embeddings).tolist(), pa.list_(pa.float32()))
    names = [f"item {number}" for number in range(len(rows))]
    for number, start in enumerate((0, 25)):
        few = pa.table({"source_id": names[start:], "embedding": rows[start:]}).slice(0, 25 if start == 0 else None)
        pq.write_table(few, shards / f"{number}.parquet")
    shown = unitok("tokenize", fitted, shards, "--out", out)
    assert "60 items of 2 shards" in shown.stdout
    assert "going on" not in shown.stderr
    written = pa.concat_tables([pq.read_table(out / f"{number}.parquet") for number in range(2)])
    codes = ["c0", "c1", "c2", "expert"]
    wanted = pq.read_table(table)
    wanted = wanted.filter(pc.equal(wanted["domain"], "beauty"))
    assert written.select(codes).to_pydict() == wanted.select(codes).to_pydict()
    assert "a table is there already" in refused("tokenize", fitted, shards, "--out", out)
    server = importlib.import_module("unitok.serving").ServingTokenizer
    tokenized, calls = server.tokenize, iter(range(2))

    def stopped(*args: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return tokenized(*args)

    with monkeypatch.context() as patched:
        patched.setattr(server, "tokenize", stopped)
        assert "interrupted" in unitok("tokenize", fitted, shards, "--out", tmp_path / "later", code=130).stderr
    assert "going on at item 25 of 60" in unitok("tokenize", fitted, shards, "--out", tmp_path / "later").stderr
    tables = [pq.read_table(folder / "1.parquet") for folder in (out, tmp_path / "later")]
    assert tables[0].equals(tables[1])
    found = json.loads(unitok("tokenize", fitted, shards, "--out", out, "--force", "--json").stdout)
    assert (found["items"], found["shards"], found["domain"]) == (60, 2, "beauty")
    message = refused("tokenize", fitted, shards, "--out", tmp_path / "more", "--resolver", "reassign")
    assert "--resolver: of shards it must be suffix, got reassign" in message
    assert "must know it, got 'garden'" in refused(
        "tokenize", fitted, shards, "--out", tmp_path / "more", "--domain", "garden"
    )
    assert "must be a folder, got a file" in refused("tokenize", fitted, shards, "--out", table)
    assert "must be another folder" in refused("tokenize", fitted, shards, "--out", shards, "--force")
    (tmp_path / "empty").mkdir()
    message = refused("tokenize", fitted, tmp_path / "empty", "--out", tmp_path / "more")
    assert "must be a catalogue, a domain's folder, or a folder of Parquet shards" in message
    assert not (tmp_path / "more").exists()


def test_shards_need_the_native_module_and_say_so(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.parquet").touch()
    for name in ("unitok.serving", "unitok.sharded.tokenizing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(unitok_package, "serving", raising=False)
    monkeypatch.setitem(sys.modules, "unitok_kernels.numpy", None)
    message = refused("tokenize", fitted, tmp_path, "--out", tmp_path / "out")
    assert "shards are tokenized by the native module alone" in message

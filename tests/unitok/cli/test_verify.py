"""`unitok verify` finds everything that was written, and names each damaged part."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.mutations.samples import make
from tests.unitok.cli.runs import refused, unitok

PARTS = {
    "tokenizer/unitok.json": ("tokenizer", "tokenizer"),
    "tokenizer/model.safetensors": ("tokenizer", "tokenizer"),
    "recommender/recommender.json": ("recommender", "recommender"),
    "recommender/config.json": ("recommender", "recommender"),
    "recommender/items.safetensors": ("recommender", "recommender"),
    "catalogue/books/embeddings.npy": ("domain", "catalogue/books"),
    "catalogue/books/embeddings.json": ("domain", "catalogue/books"),
    "catalogue/books/items.parquet": ("domain", "catalogue/books"),
    "catalogue/games/interactions.parquet": ("domain", "catalogue/games"),
    "ids.parquet": ("table", "ids.parquet"),
    "ids.csv": ("table", "ids.csv"),
    "run/checkpoint.safetensors": ("checkpoint", "run/checkpoint.safetensors"),
    "training/best.safetensors": ("checkpoint", "training/best.safetensors"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    make(folder)
    return folder


def test_what_is_whole_is_said_to_be(written: Path) -> None:
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    said = json.loads(unitok("verify", written, "--json").stdout)
    assert said["whole"]
    assert {(part["kind"], part["path"]) for part in said["found"]} >= {
        (kind, str(written / path)) for kind, path in PARTS.values()
    }
    assert "0 damaged" in unitok("verify", written / "tokenizer", written / "ids.parquet").stdout
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("file", PARTS)
def test_a_flipped_bit_is_named(file: str, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "copy")
    damaged = bytearray((tmp_path / "copy" / file).read_bytes())
    # The last part of a parquet file is its footer, with statistics that nobody reads.
    damaged[len(damaged) // 10 if file.endswith(".parquet") else len(damaged) * 2 // 3] ^= 4
    (tmp_path / "copy" / file).write_bytes(damaged)
    kind, path = PARTS[file]
    said = json.loads(unitok("verify", tmp_path / "copy", "--json", code=1).stdout)
    assert [(part["kind"], part["path"]) for part in said["found"] if not part["whole"]] == [
        (kind, str(tmp_path / "copy" / path))
    ]
    lines = unitok("verify", tmp_path / "copy", code=1).stderr.splitlines()
    (line,) = (line for line in lines if line.startswith("damaged"))
    assert line.startswith(f"damaged  {kind}")


@pytest.mark.parametrize("file", PARTS)
def test_a_file_stands_for_what_it_is_part_of(file: str, written: Path) -> None:
    (part,) = json.loads(unitok("verify", written / file, "--json").stdout)["found"]
    assert part["whole"]
    assert (part["kind"], part["path"]) == (PARTS[file][0], str(written / PARTS[file][1]))


def test_a_domain_that_is_not_embedded_yet_is_read_whole(written: Path, tmp_path: Path) -> None:
    for name in ("items.parquet", "interactions.parquet"):
        shutil.copy(written / "catalogue" / "books" / name, tmp_path / name)
    assert "40 items, 32 interactions" in unitok("verify", tmp_path).stdout
    damaged = bytearray((tmp_path / "interactions.parquet").read_bytes())
    damaged[len(damaged) // 10] ^= 4
    (tmp_path / "interactions.parquet").write_bytes(damaged)
    assert "damaged  domain" in unitok("verify", tmp_path, code=1).stderr


def test_files_of_others_are_left_out_and_broken_settings_are_not(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "tokenizer", tmp_path / "tokenizer")
    pq.write_table(pa.table({"sold": [1, 2]}), tmp_path / "sales.parquet")
    assert "1 part whole, 0 damaged" in unitok("verify", tmp_path).stdout
    for name in ("unitok.json", "tokenizer.json"):  # the second as older releases called it
        (tmp_path / "tokenizer" / "unitok.json").rename(tmp_path / "tokenizer" / name)
        (tmp_path / "tokenizer" / name).write_text("{")
        assert "damaged  tokenizer" in unitok("verify", tmp_path, code=1).stderr


def test_what_should_be_beside_a_file_is_missed(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "catalogue" / "books", tmp_path / "books")
    (tmp_path / "books" / "embeddings.npy").unlink()
    assert "got nothing there. Embed again" in unitok("verify", tmp_path, code=1).stderr
    shutil.copy(written / "ids.csv.unitok.json", tmp_path / "ids.csv.unitok.json")
    said = json.loads(unitok("verify", tmp_path, "--json", code=1).stdout)["found"]
    assert [part["kind"] for part in said if not part["whole"]] == ["table", "domain"]


def test_a_pipe_is_not_waited_for(tmp_path: Path, written: Path) -> None:
    shutil.copytree(written / "tokenizer", tmp_path / "tokenizer")
    os.mkfifo(tmp_path / "pipe.parquet")
    assert "1 part whole, 0 damaged" in unitok("verify", tmp_path).stdout


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    assert "got nothing there" in refused("verify", tmp_path / "none")
    (tmp_path / "notes.txt").write_text("mine")
    assert "something that UniTok wrote" in refused("verify", tmp_path)

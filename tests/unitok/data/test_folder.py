"""The folder format: what is written is read, and every broken file gets one line that names it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unitok.data import (
    CatalogueError,
    EmbeddingInfo,
    Interactions,
    read_catalogue,
    read_domain,
    read_interactions,
    write_domain,
)

INFO = EmbeddingInfo(model="made", template="{title}")
EVENTS = Interactions(
    user_ids=np.array([0, 0, 1]),
    item_ids=np.array([2, 0, 4]),
    positions=np.array([0, 1, 0]),
    timestamps=np.array([10, 20, 30]),
)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, num_items in (("beta", 5), ("alpha", 3)):
        write_domain(
            tmp_path / name,
            rng.standard_normal((num_items, 4)).astype(np.float16),
            items={"title": [f"{name} {i}" for i in range(num_items)]},
            interactions=EVENTS if name == "beta" else None,
            embedding=INFO,
            source="made",
        )
    return tmp_path


def test_reads_what_was_written(catalogue: Path) -> None:
    domains = read_catalogue(catalogue)
    assert list(domains) == ["alpha", "beta"]
    beta = domains["beta"]
    assert beta.name == "beta"
    assert beta.embeddings.dtype == np.float16
    np.testing.assert_array_equal(beta.embeddings, np.load(catalogue / "beta/embeddings.npy"))
    assert beta.keys.dtype == np.int64
    assert beta.keys.tolist() == [0, 1, 2, 3, 4]
    assert beta.titles == [f"beta {i}" for i in range(5)]
    assert beta.embedding == INFO


def test_chooses_domains_by_name(catalogue: Path) -> None:
    assert list(read_catalogue(catalogue, ["beta"])) == ["beta"]
    with pytest.raises(CatalogueError, match=r"names must be .* got gamma\. There: alpha, beta\."):
        read_catalogue(catalogue, ["beta", "gamma"])


def test_one_domain_is_a_catalogue(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(read_catalogue(catalogue / "beta")) == ["beta"]
    monkeypatch.chdir(catalogue / "beta")
    assert list(read_catalogue(".")) == ["beta"]


def test_embeddings_are_enough(tmp_path: Path) -> None:
    write_domain(tmp_path / "bare", np.ones((2, 3), np.float32))
    bare = read_domain(tmp_path / "bare")
    assert (bare.titles, bare.embedding) == (None, None)
    assert bare.keys.tolist() == [0, 1]


def test_embeddings_may_be_tensors(tmp_path: Path) -> None:
    rows = torch.arange(8.0).reshape(4, 2).T  # in no row's order
    write_domain(tmp_path / "made", rows, embedding=INFO)  # type: ignore[arg-type]
    read = read_domain(tmp_path / "made")
    assert (read.embeddings.tolist(), read.embedding) == (rows.tolist(), INFO)


@pytest.mark.parametrize(
    "edit", [lambda text: text.replace("made", "mine"), lambda text: text.replace('"digest"', '"x"')]
)
def test_info_that_was_edited_says_how_to_write_ones_own(catalogue: Path, edit: Callable[[str], str]) -> None:
    file = catalogue / "beta" / "embeddings.json"
    file.write_text(edit(file.read_text()))
    step = r"If you changed it, write it with model and template alone; else embed again\.$"
    with pytest.raises(
        CatalogueError, match=rf"json: embedding info must be as it was written, got another one\. {step}"
    ):
        read_domain(catalogue / "beta")
    file.write_text(json.dumps({"model": "mine", "template": "t"}))
    assert read_domain(catalogue / "beta").embedding == EmbeddingInfo("mine", "t")


def test_other_folders_are_no_domains(catalogue: Path) -> None:
    (catalogue / "notes").mkdir()
    (catalogue / "README.md").write_text("hello")
    assert list(read_catalogue(catalogue)) == ["alpha", "beta"]


def test_items_in_another_order_keep_their_titles(catalogue: Path) -> None:
    table = pa.table({"item_id": [2, 0, 1], "title": ["two", "zero", None]})
    pq.write_table(table, catalogue / "alpha/items.parquet")
    assert read_domain(catalogue / "alpha").titles == ["zero", "", "two"]


def test_reads_interactions_in_order_of_user_and_position(catalogue: Path) -> None:
    table = pa.table({"user_id": [1, 0, 0], "item_id": [4, 0, 2], "position": [0, 1, 0]})
    pq.write_table(table, catalogue / "beta/interactions.parquet")
    events = read_interactions(catalogue / "beta")
    for column in ("user_ids", "item_ids", "positions"):
        np.testing.assert_array_equal(getattr(events, column), getattr(EVENTS, column))
        assert getattr(events, column).dtype == np.int64
    assert events.timestamps is None


def test_interactions_keep_their_timestamps(catalogue: Path) -> None:
    np.testing.assert_array_equal(read_interactions(catalogue / "beta").timestamps, [10, 20, 30])


def test_overwrites_only_with_force(catalogue: Path) -> None:
    alpha = catalogue / "alpha"
    (alpha / "mine.txt").write_text("keep")
    mapped = read_domain(alpha).embeddings
    before = mapped.copy()
    with pytest.raises(CatalogueError, match="path must be free"):
        write_domain(alpha, np.ones((1, 4), np.float32))
    write_domain(alpha, np.ones((1, 4), np.float32), force=True)
    domain = read_domain(alpha)
    assert (len(domain.keys), domain.titles, domain.embedding) == (1, None, None)
    assert (alpha / "mine.txt").read_text() == "keep"
    np.testing.assert_array_equal(mapped, before)  # who reads the old one goes on reading it


def save(array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "embeddings.npy", array)


def table(name: str, **columns: object) -> Callable[[Path], object]:
    return lambda folder: pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def truncate(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


BROKEN_DOMAINS = {
    "no embeddings": (lambda folder: (folder / "embeddings.npy").unlink(), "embeddings.npy", "nothing there"),
    "truncated rows": (truncate("embeddings.npy", 150), "embeddings.npy", "can't be read"),
    "truncated header": (truncate("embeddings.npy", 20), "embeddings.npy", "can't be read"),
    "empty file": (content("embeddings.npy", b""), "embeddings.npy", "can't be read"),
    "pickle": (content("embeddings.npy", pickle.dumps([1.0])), "embeddings.npy", "can't be read"),
    "objects": (save(np.array([["a", None]], dtype=object)), "embeddings.npy", "can't be read"),
    "rank 1": (save(np.ones(5, np.float32)), "embeddings.npy", r"got \(5,\)"),
    "rank 3": (save(np.ones((5, 2, 2), np.float32)), "embeddings.npy", r"got \(5, 2, 2\)"),
    "integers": (save(np.ones((5, 4), np.int8)), "embeddings.npy", "got int8"),
    "float64": (save(np.ones((5, 4))), "embeddings.npy", "got float64"),
    "no rows": (save(np.ones((0, 4), np.float32)), "embeddings.npy", r"got \(0, 4\)"),
    "no columns": (save(np.ones((5, 0), np.float32)), "embeddings.npy", r"got \(5, 0\)"),
    "more rows than items": (save(np.ones((6, 4), np.float32)), "items.parquet", "6, got 5"),
    "id twice": (table("items", item_id=[0, 1, 1, 3, 4]), "items.parquet", "got 1 in the place of 2"),
    "id missing": (table("items", item_id=[0, 1, 2, 3, 5]), "items.parquet", "got 5 in the place of 4"),
    "id null": (table("items", item_id=[0, 1, None, 3, 4]), "items.parquet", "got 1 nulls"),
    "id text": (table("items", item_id=list("01234")), "items.parquet", "got string"),
    "no id": (table("items", title=list("abcde")), "items.parquet", "got title. Add item_id"),
    "broken items": (truncate("items.parquet", 40), "items.parquet", "can't be read"),
    "broken info": (content("embeddings.json", b'{"model": '), "embeddings.json", "can't be read"),
    "info without model": (content("embeddings.json", b'{"template": ""}'), "embeddings.json", "model"),
    "info a list": (content("embeddings.json", b"[1]"), "embeddings.json", "can't be read"),
}


@pytest.mark.parametrize("case", BROKEN_DOMAINS)
def test_a_broken_domain_is_refused_with_its_file(catalogue: Path, case: str) -> None:
    damage, file, message = BROKEN_DOMAINS[case]
    damage(catalogue / "beta")
    with pytest.raises(CatalogueError, match=message) as caught:
        read_catalogue(catalogue)
    text = str(caught.value)
    assert text.startswith(str(catalogue / "beta" / file))
    assert ", got " in text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_names_the_first_row_that_is_not_finite(tmp_path: Path, value: float) -> None:
    embeddings = np.ones((9000, 2), np.float16)  # more than one block of the check
    embeddings[[8500, 8700], 1] = value
    write_domain(tmp_path / "bad", embeddings)
    with pytest.raises(CatalogueError, match=f"must be finite, got {value} in row 8500"):
        read_domain(tmp_path / "bad")


def plant_bomb(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (folder / "exploded",))

    np.save(folder / "embeddings.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)


def test_no_pickle_is_ever_run(catalogue: Path) -> None:
    plant_bomb(catalogue / "beta")
    with pytest.raises(CatalogueError):
        read_domain(catalogue / "beta")
    assert not (catalogue / "beta/exploded").exists()


BROKEN_INTERACTIONS = {
    "missing": (lambda folder: (folder / "interactions.parquet").unlink(), "nothing there"),
    "broken": (truncate("interactions.parquet", 40), "can't be read"),
    "unknown item": (
        table("interactions", user_id=[0], item_id=[5], position=[0]),
        "0 and 4, got 5 in row 0",
    ),
    "negative item": (table("interactions", user_id=[0], item_id=[-1], position=[0]), "got -1 in row 0"),
    "no item": (table("interactions", user_id=[0], position=[0]), "Add item_id"),
    "user null": (
        table("interactions", user_id=pa.array([None], pa.int32()), item_id=[0], position=[0]),
        "1 nulls",
    ),
}


@pytest.mark.parametrize("case", BROKEN_INTERACTIONS)
def test_broken_interactions_are_refused_with_their_file(catalogue: Path, case: str) -> None:
    damage, message = BROKEN_INTERACTIONS[case]
    damage(catalogue / "beta")
    with pytest.raises(CatalogueError, match=message) as caught:
        read_interactions(catalogue / "beta")
    assert str(caught.value).startswith(str(catalogue / "beta/interactions.parquet"))


def test_what_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="must be a folder, got nothing there"):
        read_catalogue(tmp_path / "nowhere")
    with pytest.raises(CatalogueError, match="got no domain to read"):
        read_catalogue(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogueError, match="must be a folder, got a file"):
        read_catalogue(tmp_path / "file")


def test_domains_of_one_catalogue_are_alike(catalogue: Path) -> None:
    other = {"model": "other", "template": "{title}"}
    (catalogue / "beta/embeddings.json").write_text(json.dumps(other))
    with pytest.raises(CatalogueError, match=r"beta.embeddings\.json: embedding must be .*as in alpha"):
        read_catalogue(catalogue)
    np.save(catalogue / "beta/embeddings.npy", np.ones((5, 7), np.float32))
    with pytest.raises(CatalogueError, match=r"beta.embeddings\.npy: width must be 4, as in alpha, got 7"):
        read_catalogue(catalogue)


def test_reading_imports_no_torch() -> None:
    code = "import sys, unitok.data; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.data
def test_reads_the_real_catalogue(real_catalogue: Path) -> None:
    office = read_catalogue(real_catalogue, ["office_products"])["office_products"]
    assert office.embeddings.shape == (2420, 384)
    assert office.titles is not None
    assert len(office.titles) == 2420
    events = read_interactions(real_catalogue / "office_products")
    assert len(events.item_ids) == 53258
    assert len(np.unique(events.user_ids)) == 4905

"""Embeddings of a domain's items: what is written, and what an interruption leaves to go on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.unitok.data.published import write_published
from unitok.data import (
    CatalogueError,
    EmbeddingInfo,
    embed_domain,
    find_domains,
    import_domain,
    read_catalogue,
    read_domain,
    read_interactions,
    write_domain,
)
from unitok.storage.whole import BusyError

WIDTH, ITEMS, BLOCK = 6, 23, 4
TITLES = [f"item {i}" for i in range(ITEMS)]


def encode(texts: list[str]) -> NDArray[Any]:
    """Numbers of a text alone."""
    return np.stack([np.frombuffer(sha256(text.encode()).digest()[:WIDTH], np.uint8) for text in texts]) + 1.0


def unit(x: NDArray[Any]) -> NDArray[Any]:
    return (x / np.linalg.norm(x.astype(np.float32), axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    items = {"title": TITLES, "text": [f"{title} . made" for title in TITLES]}
    write_domain(tmp_path / "cat" / "made", None, items=items, text_template="{title} . made")
    return tmp_path / "cat" / "made"


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if not file.name.startswith(".unitok")}


WHOLE = {"items.parquet", "embeddings.npy", "embeddings.json", ".embedded.npy", ".embedded.digests"}


def embed(folder: Path, encoder: Callable[[list[str]], NDArray[Any]] = encode, **settings: Any) -> EmbeddingInfo:
    return embed_domain(folder, encoder, "made", **{"block_rows": BLOCK, **settings})


def test_a_domain_without_embeddings_reads_as_incomplete(domain: Path) -> None:
    assert list(find_domains(domain.parent)) == ["made"]
    with pytest.raises(CatalogueError, match=r"embeddings\.npy: .* got nothing there\. Make them with `unitok embed`"):
        read_catalogue(domain.parent)


def test_embeds_what_was_imported(tmp_path: Path) -> None:
    found = import_domain("yelp", *write_published(tmp_path, "yelp"), k_core=4)
    folder = tmp_path / "yelp"
    write_domain(
        folder, None, items=found.items, interactions=found.interactions, text_template=found.template, source="made"
    )
    info = embed(folder)
    assert info == EmbeddingInfo("made", found.template)
    domain = read_domain(folder)
    np.testing.assert_array_equal(domain.embeddings, unit(encode(found.items["text"])))
    assert (domain.titles, domain.embedding) == (found.items["title"], info)
    np.testing.assert_array_equal(read_interactions(folder).item_ids, found.interactions.item_ids)
    assert (folder / "SOURCE.md").read_text() == "made"


def test_settings_reach_the_encoder_and_the_record(domain: Path) -> None:
    info = embed(domain, template="query: {title}", dtype=np.float32, unit_length=False)
    assert info == EmbeddingInfo("made, lengths kept", "query: {title}")
    embeddings = read_domain(domain).embeddings
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, encode([f"query: {title}" for title in TITLES]))


def test_rows_are_in_the_order_of_item_id(domain: Path) -> None:
    table = pa.table({"item_id": [2, 0, 1], "text": ["two", "zero", None]})
    pq.write_table(table, domain / "items.parquet")
    assert embed(domain).template == "{text}"
    np.testing.assert_array_equal(read_domain(domain).embeddings, unit(encode(["zero", "", "two"])))


@pytest.mark.parametrize("failing_call", range(1, 7))
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_goes_on_where_it_was(domain: Path, tmp_path: Path, failing_call: int, error: type[BaseException]) -> None:
    other = tmp_path / "uninterrupted"
    shutil.copytree(domain, other)
    embed(other)
    calls = 0

    def failing(texts: list[str]) -> NDArray[Any]:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise error
        return encode(texts)

    with pytest.raises(error):
        embed(domain, failing)
    assert not {"embeddings.npy", "embeddings.json"} & files(domain)
    for partial in domain.glob(".partial*"):
        with partial.open("ab") as file:
            file.write(b"half a row")  # as a kill in the midst of a write leaves it
    told: list[int] = []
    embed(domain, progress=lambda done, total: told.append(done))
    assert told == [*range((failing_call - 1) * BLOCK, ITEMS, BLOCK), ITEMS]
    assert files(domain) == WHOLE
    for name in ("embeddings.npy", "embeddings.json"):
        assert (domain / name).read_bytes() == (other / name).read_bytes()


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def swap_rows(file: Path) -> None:
    content = file.read_bytes()
    first, second = content[128 : 128 + 2 * WIDTH], content[128 + 2 * WIDTH : 128 + 4 * WIDTH]
    file.write_bytes(content[:128] + second + first + content[128 + 4 * WIDTH :])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "header": lambda rows: flip(rows, 90),
    "first row": lambda rows: flip(rows, 128),
    "last row": lambda rows: flip(rows, -1),
    "two rows swapped": swap_rows,
    "rows cut": lambda rows: os.truncate(rows, 128 + 5 * WIDTH),
    "header cut": lambda rows: os.truncate(rows, 70),
    "rows gone": lambda rows: rows.unlink(),
    "digests cut": lambda rows: os.truncate(rows.with_suffix(".digests"), 100),
    "digests gone": lambda rows: rows.with_suffix(".digests").unlink(),
    **{
        f"digests {place}": lambda rows, place=place: flip(rows.with_suffix(".digests"), place) for place in (3, 17, 40)
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_partial_file_gives_no_wrong_row(domain: Path, damage: str) -> None:
    def failing(texts: list[str]) -> NDArray[Any]:
        if "item 13 . made" in texts:
            raise InterruptedError
        return encode(texts)

    with pytest.raises(InterruptedError):
        embed(domain, failing)
    DAMAGE[damage](next(domain.glob(".partial*.npy")))
    embed(domain)
    np.testing.assert_array_equal(read_domain(domain).embeddings, unit(encode([f"{title} . made" for title in TITLES])))
    assert files(domain) == WHOLE


def test_a_partial_file_that_changes_while_it_grows_is_not_taken(domain: Path) -> None:
    def spoiling(texts: list[str]) -> NDArray[Any]:
        if "item 22 . made" in texts:
            flip(next(domain.glob(".partial*.npy")), 140)
        return encode(texts)

    with pytest.raises(CatalogueError, match=r"embeddings must stay as they were written .*, got other bytes\. Let"):
        embed(domain, spoiling)
    assert not (domain / "embeddings.npy").exists()
    embed(domain)
    np.testing.assert_array_equal(read_domain(domain).embeddings, unit(encode([f"{title} . made" for title in TITLES])))


@pytest.mark.parametrize("other", ["the same work", "other work"])
def test_a_second_run_is_refused_and_changes_nothing(domain: Path, other: str) -> None:
    refusals: list[BaseException | None] = []

    def second() -> None:
        try:
            embed(domain, **({"template": "{title}"} if other == "other work" else {}))
        except BaseException as error:
            refusals.append(error)

    def first(texts: list[str]) -> NDArray[Any]:
        before = {file: file.read_bytes() for file in domain.glob(".partial*")}
        thread = Thread(target=second)
        thread.start()
        thread.join()
        assert {file: file.read_bytes() for file in domain.glob(".partial*")} == before
        return encode(texts)

    embed(domain, first)
    assert len(refusals) == 6
    for error in refusals:
        assert isinstance(error, BusyError)
        assert f"must be free to write to, got process {os.getpid()} on " in str(error)
    np.testing.assert_array_equal(read_domain(domain).embeddings, unit(encode([f"{title} . made" for title in TITLES])))


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="path must be a domain's folder, got nothing there"):
        embed(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


class Drifting:
    """An encoder whose rows differ from call to call, as those of padded batches do in their last bits."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> NDArray[Any]:
        self.texts += texts
        return encode(texts) + len(self.texts)


@pytest.mark.parametrize("again", ["by force", "imported anew"])
@pytest.mark.parametrize("settings", [{}, {"dtype": np.float32}, {"unit_length": False}])
def test_unchanged_texts_keep_their_rows(domain: Path, again: str, settings: dict[str, Any]) -> None:
    embed(domain, Drifting(), **settings)
    before = dict(zip(TITLES, np.array(read_domain(domain).embeddings), strict=True))
    titles = [f"new {i}" if i % 5 == 0 else TITLES[i % ITEMS] for i in range(30)][::-1]
    items = {"title": titles, "text": [f"{title} . made" for title in titles]}
    if again == "imported anew":
        write_domain(domain, None, items=items, text_template="{title} . made", force=True)
        assert not (domain / "embeddings.npy").exists()
    else:
        pq.write_table(pa.table({"item_id": np.arange(30), **items}), domain / "items.parquet")
    drifting, kept = Drifting(), list[int]()
    embed(domain, drifting, force=True, on_kept=kept.append, **settings)
    assert kept == [24]
    assert drifting.texts == [f"{title} . made" for title in titles if title.startswith("new")]
    after = read_domain(domain).embeddings
    for title, row in zip(titles, after, strict=True):
        assert title.startswith("new") or np.array_equal(row, before[title])


@pytest.mark.parametrize(
    ("model", "changed"),
    [("made", {"anew": True}), ("other", {}), ("made", {"dtype": np.float32}), ("made", {"unit_length": False})],
)
def test_rows_of_other_work_are_not_kept(domain: Path, model: str, changed: dict[str, Any]) -> None:
    embed(domain)
    drifting, kept = Drifting(), list[int]()
    embed_domain(domain, drifting, model, force=True, on_kept=kept.append, **changed)
    assert (kept, len(drifting.texts)) == ([0], ITEMS)


def test_rows_that_were_changed_are_not_kept(domain: Path) -> None:
    embed(domain)
    before = np.array(read_domain(domain).embeddings)
    written = np.lib.format.open_memmap(domain / "embeddings.npy", mode="r+")
    written[7] = 0  # in the place, and so under its other name, too
    written.flush()
    kept = list[int]()
    embed(domain, force=True, on_kept=kept.append)
    assert kept == [ITEMS - 1]
    np.testing.assert_array_equal(read_domain(domain).embeddings, before)


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        (lambda texts: encode(texts)[:-1], r"\(0, 6\)"),
        (lambda texts: encode([*texts, "more"]), r"\(2, 6\)"),
        (lambda texts: encode(texts)[0], r"\(6,\)"),
    ],
)
def test_an_encoder_returns_a_row_per_text(
    domain: Path, encoder: Callable[[list[str]], NDArray[Any]], shape: str
) -> None:
    embed(domain)
    items = {"text": [f"{TITLES[0]} . made", "new"]}  # a row that is kept, and one that is made
    pq.write_table(pa.table({"item_id": np.arange(2), **items}), domain / "items.parquet")
    with pytest.raises(
        CatalogueError, match=rf"encode must return a row for each of 1 texts, got the shape {shape}\. "
    ):
        embed(domain, encoder, force=True)


def test_items_that_are_replaced_meanwhile_are_refused(domain: Path) -> None:
    def replacing(texts: list[str]) -> NDArray[Any]:
        if texts[-1].startswith(TITLES[-1]):  # by a program that takes no lock
            pq.write_table(pa.table({"item_id": np.arange(ITEMS), "text": TITLES}), domain / "items.parquet")
        return encode(texts)

    with pytest.raises(
        CatalogueError, match=r"items must stay until all are embedded, got other bytes\. Run it again\."
    ):
        embed(domain, replacing)
    assert not (domain / "embeddings.npy").exists()
    assert any(name.startswith(".partial") for name in files(domain))
    embed(domain)
    np.testing.assert_array_equal(read_domain(domain).embeddings, unit(encode(TITLES)))


def test_rows_of_two_widths_do_not_get_into_one_file(domain: Path) -> None:
    embed(domain)
    items = {"text": [*TITLES, "item 3 . made", "new"]}
    pq.write_table(pa.table({"item_id": np.arange(ITEMS + 2), **items}), domain / "items.parquet")
    for rows in (BLOCK, ITEMS + 2):
        with pytest.raises(CatalogueError, match=r"width of those made before .*, \d, got \d\. .* anew"):
            embed(domain, lambda texts: encode(texts)[:, : 4 + ("new" in texts)], force=True, block_rows=rows)


@pytest.mark.parametrize(
    "changed",
    [{"template": "{title}"}, {"dtype": np.float32}, {"unit_length": False}, {"block_rows": 5}, {"model": "b"}],
)
def test_other_work_starts_anew(domain: Path, changed: dict[str, Any]) -> None:
    model = changed.pop("model", "made")

    def failing(texts: list[str]) -> NDArray[Any]:
        if texts[0] != f"{TITLES[0]} . made":
            raise InterruptedError
        return encode(texts)

    with pytest.raises(InterruptedError):
        embed(domain, failing)
    told: list[int] = []
    embed_domain(domain, encode, model, **{"block_rows": BLOCK, **changed}, progress=lambda done, _: told.append(done))
    assert told[0] == 0
    assert files(domain) == WHOLE


def test_replaces_only_with_force(domain: Path) -> None:
    embed(domain)
    mapped = read_domain(domain).embeddings
    before = np.array(mapped)
    with pytest.raises(CatalogueError, match=r"embeddings must not be there yet, got some\."):
        embed(domain, template="{title}")

    def failing(texts: list[str]) -> NDArray[Any]:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        embed(domain, failing, template="{title}", force=True)
    np.testing.assert_array_equal(read_domain(domain).embeddings, before)  # until the new ones are whole
    embed(domain, template="{title}", force=True)
    np.testing.assert_array_equal(mapped, before)
    np.testing.assert_array_equal(read_domain(domain).embeddings, unit(encode(TITLES)))
    assert read_domain(domain).embedding == EmbeddingInfo("made", "{title}")


@pytest.mark.parametrize(("value", "settings"), [(0, {}), (np.nan, {}), (1e9, {"unit_length": False})])
def test_refuses_what_is_not_finite(domain: Path, value: float, settings: dict[str, Any]) -> None:
    def odd(texts: list[str]) -> NDArray[Any]:
        rows = encode(texts)
        rows[[text.startswith("item 9 ") for text in texts]] = value
        return rows

    with pytest.raises(
        CatalogueError, match=r"items\.parquet: embeddings must be finite, got NaN or infinity for item 9\."
    ):
        embed(domain, odd, **settings)
    assert not (domain / "embeddings.npy").exists()


def test_refuses_texts_that_are_not_there(domain: Path) -> None:
    with pytest.raises(CatalogueError, match=r"template: must name fields among {title}, {text}, got '{brand}'\."):
        embed(domain, template="{brand}")
    pq.write_table(pa.table({"item_id": [0], "title": ["t"]}), domain / "items.parquet")
    with pytest.raises(CatalogueError, match=r"must have a column text, or a template, got title\. Choose columns"):
        embed(domain)
    pq.write_table(
        pa.table({"item_id": pa.array([], pa.int32()), "text": pa.array([], pa.string())}), domain / "items.parquet"
    )
    with pytest.raises(CatalogueError, match="items must be at least one, got none"):
        embed(domain)
    (domain / "items.parquet").unlink()
    with pytest.raises(CatalogueError, match=r"items\.parquet: table must be .*, got nothing there"):
        embed(domain)


def test_a_domain_is_not_written_over_others(domain: Path) -> None:
    with pytest.raises(
        CatalogueError, match=r"path must hold no folders of domains, got those of made\. Name a folder"
    ):
        write_domain(domain.parent, None, items={"title": TITLES}, force=True)
    with pytest.raises(CatalogueError, match="path must be a folder, got a file"):
        write_domain(domain / "items.parquet", None, items={"title": TITLES}, force=True)

"""The generated catalogue is repeatable and has what real ones have: skew, duplicates, structure, drift."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unitok.data import CatalogueError, Domain, Interactions, generate_catalogue, read_catalogue, read_interactions
from unitok.data.generated.words import DOMAINS

NUM_ITEMS = 400


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated")
    generate_catalogue(path, items_per_domain=NUM_ITEMS)
    return path


@pytest.fixture(scope="module")
def domains(path: Path) -> dict[str, Domain]:
    return read_catalogue(path)


@pytest.fixture(params=DOMAINS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def domain(domains: dict[str, Domain], name: str) -> Domain:
    return domains[name]


@pytest.fixture
def texts(path: Path, name: str) -> list[str]:
    return pq.read_table(path / name / "items.parquet")["text"].to_pylist()


@pytest.fixture
def events(path: Path, name: str) -> Interactions:
    return read_interactions(path / name)


def digests(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_same_seed_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    generate_catalogue(tmp_path, items_per_domain=NUM_ITEMS)
    assert digests(tmp_path) == digests(path)


def test_another_seed_is_another_catalogue(domains: dict[str, Domain], tmp_path: Path) -> None:
    generate_catalogue(tmp_path, items_per_domain=NUM_ITEMS, seed=1)
    other = read_catalogue(tmp_path)["kitchen"]
    assert other.titles != domains["kitchen"].titles
    assert other.embedding != domains["kitchen"].embedding  # no one model made both


def test_a_domain_does_not_depend_on_the_others(path: Path, tmp_path: Path) -> None:
    generate_catalogue(tmp_path, domains=["outdoors"], items_per_domain=NUM_ITEMS)
    assert digests(tmp_path / "outdoors") == digests(path / "outdoors")


def test_default_domains_are_of_unequal_size(tmp_path: Path) -> None:
    generate_catalogue(tmp_path, domains=["outdoors", "books_and_games"], width=16)
    sizes = {name: domain.embeddings.shape for name, domain in read_catalogue(tmp_path).items()}
    assert sizes == {"books_and_games": (700, 16), "outdoors": (1500, 16)}


def test_the_smallest_catalogue_works(tmp_path: Path) -> None:
    generate_catalogue(tmp_path, domains=["beauty"], items_per_domain=20, width=8)
    assert read_catalogue(tmp_path)["beauty"].embeddings.shape == (20, 8)
    assert np.bincount(read_interactions(tmp_path / "beauty").user_ids).min() == 5


def test_says_that_it_is_generated(path: Path, domain: Domain, name: str) -> None:
    assert "seed 0" in (path / name / "SOURCE.md").read_text()
    assert domain.embedding is not None
    assert "generated" in domain.embedding.model


def test_embeddings_have_unit_length(domain: Domain) -> None:
    assert domain.embeddings.dtype == np.float16
    lengths = np.linalg.norm(domain.embeddings.astype(np.float32), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)


def test_titles_are_readable(domain: Domain) -> None:
    assert domain.titles is not None
    for title in domain.titles:
        assert "  " not in title
        assert not set("{}") & set(title)
        assert 20 < len(title) < 120


def test_texts_name_three_levels_of_category(domain: Domain, texts: list[str], name: str) -> None:
    for text in texts:
        category, subcategory, product = text.split(" . Category: ")[1].split(" > ")[1:]
        assert product in DOMAINS[name].categories[category][1][subcategory]


def test_embeddings_are_equal_exactly_where_texts_are(domain: Domain, texts: list[str]) -> None:
    _, by_text = np.unique(texts, return_inverse=True)
    _, by_row = np.unique(domain.embeddings, axis=0, return_inverse=True)
    pairs = {(int(a), int(b)) for a, b in zip(by_text, by_row, strict=True)}
    assert len(pairs) == by_text.max() + 1 == by_row.max() + 1
    assert 0 < NUM_ITEMS - len(pairs) <= 0.02 * NUM_ITEMS  # a small share of duplicates


def cosines(a: Domain, b: Domain) -> np.ndarray:
    return a.embeddings.astype(np.float32) @ b.embeddings.astype(np.float32).T


def test_items_are_closer_within_their_category_and_domain(domains: dict[str, Domain], path: Path) -> None:
    table = pq.read_table(path / "kitchen/items.parquet")
    categories = np.array([text.split(" > ")[1] for text in table["text"].to_pylist()])
    kitchen, outdoors = domains["kitchen"], domains["outdoors"]
    same = categories[:, None] == categories
    within = cosines(kitchen, kitchen)
    across = cosines(kitchen, outdoors)
    assert within[same].mean() > within[~same].mean() + 0.1
    assert within.mean() > across.mean() + 0.1


def test_domains_share_structure(domains: dict[str, Domain]) -> None:
    kitchen, outdoors = domains["kitchen"], domains["outdoors"]
    brands = [np.array([title.split(" ")[0] for title in d.titles or []]) for d in (kitchen, outdoors)]
    same = brands[0][:, None] == brands[1]
    across = cosines(kitchen, outdoors)
    assert across[same].mean() > across[~same].mean() + 0.05


def test_histories_are_whole_and_in_order(events: Interactions) -> None:
    lengths = np.bincount(events.user_ids)
    assert lengths.min() == 5
    assert lengths.max() <= 50
    assert 8 <= lengths.mean() <= 10
    same_user = np.diff(events.user_ids) == 0
    assert (np.diff(events.positions)[same_user] == 1).all()
    assert events.timestamps is not None
    assert (np.diff(events.timestamps)[same_user] > 0).all()
    assert len(np.unique(events.user_ids * NUM_ITEMS + events.item_ids)) == len(events.item_ids)  # no repeats


def test_popularity_is_skewed(events: Interactions) -> None:
    counts = np.sort(np.bincount(events.item_ids, minlength=NUM_ITEMS))[::-1]
    assert counts[: NUM_ITEMS // 10].sum() > 0.3 * counts.sum()
    assert (counts > 0).mean() > 0.9


def test_tastes_are_narrow_and_drift(domain: Domain, events: Interactions) -> None:
    x = domain.embeddings.astype(np.float32)[events.item_ids]
    starts = np.flatnonzero(events.positions == 0)
    ends = np.append(starts[1:], len(x)) - 1
    next_to_each_other = (x[starts] * x[starts + 1]).sum(axis=1).mean()
    first_and_last = (x[starts] * x[ends]).sum(axis=1).mean()
    of_two_users = (x[starts] * np.roll(x[starts], 1, axis=0)).sum(axis=1).mean()
    assert next_to_each_other > of_two_users + 0.1
    assert next_to_each_other > first_and_last + 0.1


def test_refuses_to_overwrite(tmp_path: Path) -> None:
    generate_catalogue(tmp_path, domains=["beauty"], items_per_domain=20, width=8)
    before = digests(tmp_path)
    with pytest.raises(CatalogueError, match="got beauty"):
        generate_catalogue(tmp_path, items_per_domain=20, width=8)
    with pytest.raises(CatalogueError, match="got beauty"):
        generate_catalogue(tmp_path, domains=["kitchen"], items_per_domain=20, width=8, force=True)
    assert digests(tmp_path) == before
    generate_catalogue(tmp_path, domains=["beauty"], items_per_domain=21, width=8, force=True)
    assert len(read_catalogue(tmp_path)["beauty"].keys) == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domains": ["cars"]}, "domains must be among beauty, .*cars"),
        ({"domains": []}, "domains must be among"),
        ({"items_per_domain": 19}, "items_per_domain must be at least 20, got 19"),
        ({"width": 7}, "width must be at least 8, got 7"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_refuses_arguments_that_do_not_fit(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"generate_catalogue: {message}"):
        generate_catalogue(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()

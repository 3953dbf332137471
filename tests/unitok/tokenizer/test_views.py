"""Views: vectors beside the embeddings come into the IDs, and whatever has none is as it would be without views."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unitok import Tokenizer, UniTokConfig
from unitok.data import Domain
from unitok.storage.digest import sealed
from unitok.storage.pair import SETTINGS
from unitok_kernels import backends

BEHAVIOUR, IMAGE = 6, 5


def vectors(rows: int, width: int, seed: int, missing: int = 5) -> Tensor:
    """Unit rows of a few clusters that have nothing to do with the embeddings; some are missing."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(8, width, generator=generator)[torch.randint(8, (rows,), generator=generator)]
    found = F.normalize(found + 0.1 * torch.randn(rows, width, generator=generator), dim=1)
    found[::missing] = torch.nan
    return found


@pytest.fixture(scope="module")
def views(small_domains: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Behaviour of two domains, named in another order than they are fitted in, and images of one."""
    rows = {name: len(x) for name, x in small_domains.items()}
    return {
        "behaviour": {name: vectors(rows[name], BEHAVIOUR, seed) for seed, name in enumerate(("games", "books"))},
        "image": {"books": vectors(rows["books"], IMAGE, 7, missing=10)},
    }


@pytest.fixture(scope="module")
def config(make_config) -> UniTokConfig:
    return make_config(epochs=3, codebook_size=16)


@pytest.fixture(scope="module")
def both(small_domains: dict[str, Tensor], config: UniTokConfig, views) -> Tokenizer:
    """Fitted with both views; nobody changes it."""
    return Tokenizer.fit(small_domains, config, views=views)


@pytest.fixture(scope="module")
def plain(small_domains: dict[str, Tensor], config: UniTokConfig) -> Tokenizer:
    """Fitted without views; nobody changes it."""
    return Tokenizer.fit(small_domains, config)


def of(views, name: str) -> dict[str, Tensor]:
    return {view: given[name] for view, given in views.items() if name in given}


def test_without_a_domain_s_name_all_is_as_if_there_were_no_views(
    both: Tokenizer, plain: Tokenizer, small_domains, strangers
) -> None:
    for x in (*small_domains.values(), strangers):
        for field in ("codes", "experts", "shared_codes"):
            assert torch.equal(getattr(both.tokenize(x), field), getattr(plain.tokenize(x), field))
        assert torch.equal(both.decode(both.tokenize(x)), plain.decode(plain.tokenize(x)))
    x = small_domains["toys"]  # which has no view
    assert torch.equal(both.tokenize(x, "toys").codes, plain.tokenize(x, "toys").codes)
    assert both.check_domain(strangers) == plain.check_domain(strangers)
    assert [record["loss"] for record in both.history] == [record["loss"] for record in plain.history]


def test_items_without_vectors_go_by_their_embeddings(both, small_domains, views) -> None:
    for name in ("books", "games"):
        x, given = small_domains[name], of(views, name)
        alone, seen = both.tokenize(x, name), both.tokenize(x, name, views=given)
        assert (seen.experts == both.domains[name].expert).all()
        assert (alone.experts == both.domains[name].expert).all()
        none = torch.stack([rows.isnan().all(1) for rows in given.values()]).all(0)
        assert 0 < int(none.sum()) < len(x)
        assert seen[none.nonzero()[:, 0]].equals(alone[none.nonzero()[:, 0]])
        assert (seen.codes != alone.codes).any(1)[~none].float().mean() > 0.5
        nothing = {view: torch.full_like(rows, torch.nan) for view, rows in given.items()}
        assert both.tokenize(x, name, views=nothing).equals(alone)
        assert both.tokenize(x, name, views={}).equals(alone)


def test_an_item_s_id_depends_on_its_own_vectors_alone(both, small_domains, views) -> None:
    x, given = small_domains["books"], of(views, "books")
    together = both.tokenize(x, "books", views=given)
    for rows in (slice(0, 1), slice(3, 20), slice(399, 400)):
        alone = both.tokenize(x[rows], "books", views={view: b[rows] for view, b in given.items()})
        assert alone.equals(together[torch.arange(len(x))[rows]])
    swapped = dict(reversed(given.items()))
    assert both.tokenize(x, "books", views=swapped).equals(together)


def test_ids_tell_of_the_vectors(both, small_domains, views) -> None:
    x, b = small_domains["games"], views["behaviour"]["games"]
    has = ~b.isnan().any(1)
    cluster = (b[has] @ b[has].T > 0.8).float()

    def agreement(given) -> float:
        """How much more often items of one first code are of one cluster of behaviour than any two are."""
        code = both.tokenize(x, "games", views=given).codes[has, 0]
        same = (code[:, None] == code).float() - torch.eye(int(has.sum()))
        return float((same * cluster).sum() / same.sum() / cluster.mean())

    assert agreement(of(views, "games")) > 2 * agreement(None)


def test_codes_are_the_nearest_to_latents_and_vectors_together(both, small_domains, views) -> None:
    x, given = small_domains["books"], of(views, "books")
    found, own = both.encode(x, "books", given), both.model.viewed["books"]
    vectors = torch.cat([given["behaviour"], given["image"]], 1)
    row = torch.cat([found.z, torch.where(vectors.isnan(), 0, (vectors - own.means) * own.scales)], 1).double()
    chain = torch.cat([both.model.quantizer.codebooks[both.domains["books"].expert], own.codebooks], 2).double()
    for level, codebook in enumerate(chain):
        code = torch.cdist(row, codebook).argmin(1)
        assert torch.equal(code, found.ids.codes[:, level])
        row = row - codebook[code]
    for columns, view in ((slice(0, BEHAVIOUR), "behaviour"), (slice(BEHAVIOUR, None), "image")):
        known = ((vectors - own.means) * own.scales)[:, columns][~given[view].isnan().any(1)]
        assert known.mean(0).abs().max() < 1e-5
        spread = (found.z - found.z.mean(0)).square().sum(1).mean()  # the weight of a view is 1
        torch.testing.assert_close(known.square().sum(1).mean(), spread)


def test_more_weight_brings_more_of_the_vectors_and_less_of_the_embeddings(both, small_domains, config, views) -> None:
    heavy = Tokenizer.fit(small_domains, UniTokConfig.from_dict({**config.to_dict(), "view_weight": 20.0}), views=views)

    def errors(tokenizer: Tokenizer) -> tuple[float, float]:
        """Of the vectors, and of the embeddings, by the ID alone."""
        x, given, own = small_domains["games"], of(views, "games"), tokenizer.model.viewed["games"]
        ids = tokenizer.tokenize(x, "games", views=given)
        told = sum(codebook[code] for codebook, code in zip(own.codebooks, ids.codes.T, strict=True))
        missed = (told / own.scales + own.means - given["behaviour"]).square().sum(1).nanmean()
        return float(missed), float((tokenizer.decode(ids) - x).square().sum(1).mean())

    assert errors(heavy)[0] < 0.8 * errors(both)[0]
    assert errors(heavy)[1] > errors(both)[1]


def test_items_without_vectors_are_quantised_as_well_as_others(both, small_domains, views) -> None:
    def error(given) -> float:
        return both.report(small_domains["books"], "books", views=given).domains["books"].error_of_latents_by_id

    assert error(None) < 0.85 * error(of(views, "books"))


def test_vectors_of_any_scale_give_the_same_ids(both, small_domains, config, views) -> None:
    large = {view: {name: 1024 * b for name, b in given.items()} for view, given in views.items()}
    found = Tokenizer.fit(small_domains, config, views=large)
    for name in ("books", "games"):
        seen = found.tokenize(small_domains[name], name, views=of(large, name))
        assert seen.equals(both.tokenize(small_domains[name], name, views=of(views, name)))


def test_a_report_measures_the_ids_with_their_vectors(both, small_domains, views) -> None:
    report = both.report(small_domains, views=views)
    books = both.encode(small_domains["books"], "books", of(views, "books"))
    one = both.report(small_domains["books"], "books", views=of(views, "books")).domains["books"]
    missed = (books.z - books.z_hat).square().sum() / books.z.square().sum()
    assert report.domains["books"].error_of_latents == pytest.approx(float(missed), rel=1e-4)
    assert one == report.domains["books"]
    assert report.domains["toys"] == both.report(small_domains).domains["toys"]
    assert report.domains["books"] != both.report(small_domains).domains["books"]


def test_a_saved_one_gives_the_same_ids_with_torch_and_without(both, small_domains, views, tmp_path: Path) -> None:
    both.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == both.fingerprint()
    x, given = small_domains["books"], of(views, "books")
    expected = both.tokenize(x, "books", views=given)
    assert again.tokenize(x, "books", views=given).equals(expected)
    if not backends.available()["cpu"]:
        return
    server = importlib.import_module("unitok.serving").load(tmp_path)
    arrays = {view: b.numpy() for view, b in given.items()}
    for rows in (slice(None), slice(0, 0), slice(4, 5)):
        found = server.tokenize(x[rows].numpy(), "books", views={view: b[rows] for view, b in arrays.items()})
        assert np.array_equal(found.codes, expected.codes[rows].numpy())
        assert np.array_equal(found.experts, expected.experts[rows].numpy())
    assert np.array_equal(server.tokenize(x.numpy(), "books").codes, both.tokenize(x, "books").codes.numpy())
    for call in (
        lambda: server.tokenize(x.numpy(), "books", views={"sound": arrays["image"]}),
        lambda: server.tokenize(x.numpy(), "toys", views=arrays),
        lambda: server.tokenize(x.numpy(), "books", views={"image": arrays["image"][:, 1:]}),
    ):
        with pytest.raises(ValueError, match=r"^tokenize: views\S* must \S[^\n]*, got [^\n]+\. [A-Z][^\n]+\.$"):
            call()


def test_one_without_views_is_saved_as_releases_before_know_it(small_domains, make_config, tmp_path: Path) -> None:
    Tokenizer.fit(small_domains, make_config(epochs=2)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert "views" not in settings
    assert not [name for name in settings["config"] if "view" in name]


def test_what_it_remembers_is_found_by_the_items_names(both, small_domains, views, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(both)
    x, b = small_domains["games"], views["behaviour"]["games"]
    names = [f"asin-{row}" for row in range(len(x))]
    named = Domain("games", x.numpy(), np.arange(len(x)), source_ids=names)
    assert tokenizer.recall(named)["behaviour"].isnan().all()
    tokenizer.remember(named, {"behaviour": b})
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    torch.testing.assert_close(again.recall(named)["behaviour"], b, rtol=0, atol=0, equal_nan=True)
    turned = Domain("games", x.numpy()[::-1], np.arange(len(x)), source_ids=names[::-1])
    torch.testing.assert_close(again.recall(turned)["behaviour"], b.flip(0), rtol=0, atol=0, equal_nan=True)
    newer = Domain("newer", x.numpy(), np.arange(len(x)), source_ids=["", *names[1:-1], "asin-new"])
    found = again.recall(newer, "games")["behaviour"]
    torch.testing.assert_close(found[1:-1], b[1:-1], rtol=0, atol=0, equal_nan=True)
    assert found[[0, -1]].isnan().all()
    assert again.recall(newer) == {}  # the domain `newer` has no view
    other = Domain("books", small_domains["books"].numpy(), np.arange(400), source_ids=[*names, *map(str, range(160))])
    assert again.recall(other)["behaviour"].isnan().all()


def test_items_without_names_are_known_by_number_and_embedding(both, small_domains, views) -> None:
    tokenizer = copy.deepcopy(both)
    x, b = small_domains["games"], views["behaviour"]["games"]
    plain = Domain("games", x.numpy(), np.arange(len(x)))
    tokenizer.remember(plain, {"behaviour": b})
    torch.testing.assert_close(tokenizer.recall(plain)["behaviour"], b, rtol=0, atol=0, equal_nan=True)
    tokenizer.remember(plain, {"behaviour": 2 * b})
    torch.testing.assert_close(tokenizer.recall(plain)["behaviour"], 2 * b, rtol=0, atol=0, equal_nan=True)
    moved = Domain("games", np.roll(x.numpy(), 1, 0), np.arange(len(x)))
    assert tokenizer.recall(moved)["behaviour"].isnan().all()  # each number is another item's now


def test_a_domain_that_is_added_goes_by_its_embeddings(both, small_domains, views, strangers) -> None:
    tokenizer = copy.deepcopy(both)
    before = tokenizer.tokenize(small_domains["books"], "books", views=of(views, "books"))
    tokenizer.add_domain("new", strangers)
    assert tokenizer.tokenize(small_domains["books"], "books", views=of(views, "books")).equals(before)
    assert tokenizer.recall(Domain("new", strangers.numpy(), np.arange(len(strangers)))) == {}


def test_views_that_do_not_fit_are_refused_when_fitting(small_domains, config, views, refuses) -> None:
    books = views["image"]["books"]
    half = books.clone()
    half[3, 2] = torch.nan
    infinite = books.clone()
    infinite[4, 1] = torch.inf
    odd = {
        "views['image']['books']": [books[:-1], books[0], half, infinite, books[:, :0], 1e300 * books.double()],
        "views['image']": [torch.full_like(books, torch.nan)],
    }
    for argument, values in odd.items():
        for value in values:
            with refuses("fit", argument):
                Tokenizer.fit(small_domains, config, views={"image": {"books": value.double()}})
    with refuses("fit", "views['image']['books']", TypeError):
        Tokenizer.fit(small_domains, config, views={"image": {"books": books.long()}})
    with refuses("fit", "views['image']"):
        Tokenizer.fit(small_domains, config, views={"image": {"boks": books}})
    for given in ([books], {"image": books}, {3: {"books": books}}):
        with pytest.raises(TypeError, match=r"^fit: views"):
            Tokenizer.fit(small_domains, config, views=given)


@pytest.mark.parametrize("change", [{"preset": "public_code"}, {"num_experts": 0}])
def test_views_need_a_chain_for_each_expert(change, small_domains, make_config, views, refuses) -> None:
    with refuses("fit", "views"):
        Tokenizer.fit(small_domains, make_config(**change), views=views)


@pytest.mark.parametrize(("preset", "top_k"), [("shared_first", 1), ("paper", 2), ("shared_first", 2)])
def test_every_preset_takes_views(preset: str, top_k: int, small_domains, make_config, views, tmp_path: Path) -> None:
    tokenizer = Tokenizer.fit(small_domains, make_config(epochs=2, preset=preset, top_k=top_k), views=views)
    tokenizer.save_pretrained(tmp_path)
    x, given = small_domains["books"], of(views, "books")
    found = tokenizer.encode(x, "books", given)
    assert Tokenizer.from_pretrained(tmp_path).tokenize(x, "books", views=given).equals(found.ids)
    assert (found.ids.codes != tokenizer.tokenize(x, "books").codes).any(1).float().mean() > 0.5
    missed, without = (x - tokenizer.decode(ids) for ids in (found.ids, tokenizer.tokenize(x)))
    assert missed.square().sum() < 1.5 * without.square().sum()
    if found.ids.slot_codes is not None:
        assert torch.equal(found.ids.slot_codes[:, 0], found.ids.codes)
    if backends.available()["cpu"]:
        server = importlib.import_module("unitok.serving").load(tmp_path)
        served = server.tokenize(x.numpy(), "books", views={view: b.numpy() for view, b in given.items()})
        for field in ("codes", "experts", "shared_codes", "slot_codes"):
            ours, theirs = getattr(found.ids, field), getattr(served, field)
            assert (ours is None and theirs is None) or np.array_equal(theirs, ours.numpy())


def test_views_that_do_not_fit_are_refused_when_tokenizing(both, small_domains, views, refuses) -> None:
    x, image = small_domains["books"], views["image"]["books"]
    with refuses("tokenize", "views"):
        both.tokenize(x, "books", views={"imag": image})
    for domain in (None, "games", "toys"):
        rows = len(small_domains[domain]) if domain else 400
        with refuses("tokenize", "views"):
            both.tokenize(small_domains[domain or "books"], domain, views={"image": vectors(rows, IMAGE, 0)})
    for value in (image[:, 1:], image[:-1]):
        with refuses("tokenize", "views['image']"):
            both.tokenize(x, "books", views={"image": value})
    with refuses("tokenize", "views", TypeError):
        both.tokenize(x, "books", views=image)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"domain": "toys"}, "toys"),
        ({"domain": "gone"}, "gone"),
        ({"domain": "games"}, "distinct"),
        ({"domain": 3}, "distinct"),
        ({"views": None}, "views"),
        ({"views": [{"name": "behaviour"}]}, "width"),
        ({"views": [{"name": "behaviour", "width": BEHAVIOUR}]}, "views.0"),
        ({"views": [{"name": "behaviour", "width": 2**40}]}, "views.0"),
        ({"views": [{"name": "behaviour", "width": True}]}, "width"),
        ({"views": 2 * [{"name": "behaviour", "width": BEHAVIOUR}]}, "distinct"),
        ({"more": 1}, "views"),
    ],
)
def test_settings_of_views_are_held_against_the_weights(change, named: str, both: Tokenizer, tmp_path: Path) -> None:
    both.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    del settings["digest"]
    settings["views"][0] |= change
    (tmp_path / SETTINGS).write_text(json.dumps(sealed(settings)))
    with pytest.raises(ValueError, match=r"must hold a whole tokenizer") as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert named in str(caught.value)


def test_a_view_that_is_remembered_later_leaves_the_other_and_no_id_is_another_s(
    both, small_domains, views, tmp_path: Path
) -> None:
    tokenizer, x = copy.deepcopy(both), small_domains["books"]
    before, items = tokenizer.fingerprint(), Domain("books", x.numpy(), np.arange(len(x)))
    for view, own in of(views, "books").items():
        tokenizer.remember(items, {view: own})
    for view, own in tokenizer.recall(items).items():
        torch.testing.assert_close(own, views[view]["books"], equal_nan=True)
    assert tokenizer.fingerprint() == before


def test_an_item_that_shares_its_name_is_known_otherwise_and_the_others_by_theirs(both, small_domains, views) -> None:
    tokenizer, x = copy.deepcopy(both), small_domains["books"]
    names = [f"B{row}" for row in range(len(x))]
    tokenizer.remember(Domain("books", x.numpy(), np.arange(len(x)), source_ids=names), of(views, "books"))
    again = Domain("books", torch.cat([x, x[:1]]).numpy(), np.arange(len(x) + 1), source_ids=[*names, names[0]])
    found = tokenizer.recall(again)["behaviour"]
    torch.testing.assert_close(found[1 : len(x)], views["behaviour"]["books"][1:], equal_nan=True)
    assert found[[0, len(x)]].isnan().all()


def test_a_report_refuses_views_of_no_domain_that_it_measures(both, small_domains, views, refuses) -> None:
    with refuses("report", "views['behaviour']"):
        both.report(small_domains, views={"behaviour": {**views["behaviour"], "bokks": views["behaviour"]["books"]}})
    for odd in ({"behaviour": views["behaviour"]["books"]}, [1]):
        with refuses("report", "views['behaviour']" if isinstance(odd, dict) else "views", TypeError):
            both.report(small_domains, views=odd)


def test_vectors_beyond_what_searches_can_tell_are_refused(both, small_domains, views, refuses) -> None:
    own = of(views, "books")
    huge = own["behaviour"].clone()
    huge[3] = 1e20
    with refuses("tokenize", "views['behaviour']"):
        both.tokenize(small_domains["books"], "books", views={**own, "behaviour": huge})


@pytest.mark.parametrize("weight", [float("inf"), 1e80, 0.0])
def test_a_weight_that_drowns_all_else_is_refused(weight: float, make_config, refuses) -> None:
    with refuses("UniTokConfig", "view_weight"):
        make_config(view_weight=weight)


@pytest.mark.parametrize(("name", "value"), [("scales", torch.nan), ("codebooks", torch.inf), ("vectors", torch.inf)])
def test_values_of_views_that_cannot_be_are_refused_when_loading(name: str, value: float, both, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(both)
    own = tokenizer.model.viewed["books"]
    if name == "vectors":
        own.keys, own.vectors = torch.tensor([1]), own.vectors.new_zeros(1, own.vectors.shape[1])
    setattr(own, name, torch.full_like(getattr(own, name), value))
    tokenizer.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="from_pretrained"):
        Tokenizer.from_pretrained(tmp_path / "saved")

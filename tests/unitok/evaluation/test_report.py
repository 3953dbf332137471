"""The report against figures that are counted by hand here, on few items with planted duplicates."""

from __future__ import annotations

import copy
import io
import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import Tensor

from unitok import Report, SemanticIds, Tokenizer

K, LEVELS = 16, 3


@pytest.fixture(scope="module")
def items(small_domains: dict[str, Tensor]) -> dict[str, Tensor]:
    """Some books thrice and twice, and games that are books."""
    books = small_domains["books"][:60]
    games = small_domains["games"][:30]
    return {"books": torch.cat([books, books[:2], books[:1]]), "games": torch.cat([games, books[5:8]])}


@pytest.fixture(scope="module")
def tokenizer(fitted) -> Tokenizer:
    return fitted(preset="shared_first", top_k=2)


@pytest.fixture(scope="module")
def report(tokenizer: Tokenizer, items: dict[str, Tensor]) -> Report:
    return tokenizer.report(items)


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer, items: dict[str, Tensor]) -> dict[str, SemanticIds]:
    return {name: tokenizer.tokenize(x) for name, x in items.items()}


def rows(ids: SemanticIds) -> list[tuple[int, ...]]:
    return [(*codes, experts[0]) for codes, experts in zip(ids.codes.tolist(), ids.experts.tolist(), strict=True)]


def missed_share(values: list) -> float:
    return 1 - len(set(values)) / len(values)


def entropy(values: list) -> float:
    return -sum(n / len(values) * math.log2(n / len(values)) for n in Counter(values).values())


def hsic_by_the_equation(x: Tensor, z: Tensor) -> float:
    def centred(points: Tensor) -> Tensor:
        squared = (points[:, None] - points).square().sum(2)
        kernel = torch.exp(-squared / (2 * squared[squared > 0].median()))
        centre = torch.eye(len(points), dtype=torch.float64) - 1 / len(points)
        return centre @ kernel @ centre

    return float((centred(x.double()) * centred(z.double())).sum()) / (len(x) - 1) ** 2


def test_collisions_are_counted_within_and_across_domains(report: Report, items, ids) -> None:
    for name, figures in report.domains.items():
        assert figures.items == len(items[name])
        assert figures.collision_rate == pytest.approx(missed_share(rows(ids[name])))
        assert figures.resolved_collision_rate == 0
    assert report.domains["books"].indistinguishable_rate == pytest.approx(3 / 63)
    assert report.domains["games"].indistinguishable_rate == 0
    together = rows(ids["books"]) + rows(ids["games"])
    assert report.overall.items == 96
    assert report.overall.collision_rate == pytest.approx(missed_share(together))
    assert report.overall.indistinguishable_rate == pytest.approx(6 / 96)
    apart = sum(f.collision_rate * f.items for f in report.domains.values()) / 96
    assert report.overall.collision_rate >= apart + 3 / 96 - 1e-12  # the games that are books collide here alone
    assert report.overall.resolved_collision_rate == 0


def test_errors_are_those_of_all_chains_and_of_the_id_alone(tokenizer: Tokenizer, report: Report, items, ids) -> None:
    model, parts = tokenizer.model, {}
    shared, experts = (c.detach().double() for c in (model.quantizer.shared_codebooks, model.quantizer.codebooks))
    for name, x in items.items():
        z, logits = model.encode(x)
        p = torch.softmax(logits, 1).gather(1, ids[name].experts)
        p = p / p.sum(1, keepdim=True)
        base = sum(shared[level][ids[name].shared_codes[:, level]] for level in range(LEVELS))
        slots = [
            sum(experts[ids[name].experts[:, s], level, ids[name].slot_codes[:, s, level]] for level in range(LEVELS))
            for s in range(2)
        ]
        z_hat = base + p[:, :1] * slots[0] + p[:, 1:] * slots[1]
        by_id = model.mean_weights.sum() * slots[0] + model.mean_shared[ids[name].experts[:, 0]]
        parts[name] = (x, z.double(), z_hat, by_id)
    whole = tuple(torch.cat(values) for values in zip(*parts.values(), strict=True))
    for figures, (x, z, z_hat, by_id) in [
        *((report.domains[name], part) for name, part in parts.items()),
        (report.overall, whole),
    ]:
        energy = z.square().sum()
        assert figures.error_of_latents == pytest.approx(float((z - z_hat).square().sum() / energy), rel=1e-3)
        assert figures.error_of_latents_by_id == pytest.approx(float((z - by_id).square().sum() / energy), rel=1e-3)
        for value, latents in ((figures.reconstruction, z_hat), (figures.reconstruction_by_id, by_id)):
            with torch.no_grad():
                missed = (x - model.decoder(latents.float())).square().sum(1).mean()
            assert value == pytest.approx(float(missed), rel=1e-3)
    assert report.overall.error_of_latents < report.overall.error_of_latents_by_id


def test_information_is_that_of_the_counts(report: Report, ids) -> None:
    together = rows(ids["books"]) + rows(ids["games"])
    labels = ["books"] * 63 + ["games"] * 33
    experts = [row[-1] for row in together]
    assert report.code_entropy == pytest.approx([entropy([row[level] for row in together]) for level in range(LEVELS)])
    tokens = [(level, row[level]) for row in together for level in range(LEVELS)]
    assert report.token_entropy == pytest.approx(entropy(tokens))
    assert report.token_entropy_limit == pytest.approx(math.log2(LEVELS * K))
    with_expert = [(row[-1], level, row[level]) for row in together for level in range(LEVELS)]
    assert report.token_entropy_with_expert == pytest.approx(entropy(with_expert))
    told = entropy(experts) + entropy(labels) - entropy(list(zip(experts, labels, strict=True)))
    assert report.expert_domain_information == pytest.approx(told)
    most = (entropy(experts) + entropy(labels)) / 2
    assert report.expert_domain_information_normalised == pytest.approx(told / most)
    given = [entropy([(row[level], row[-1]) for row in together]) - entropy(experts) for level in range(LEVELS)]
    assert report.level_entropy_given_expert == pytest.approx(given)
    assert report.redundant_levels == {}
    assert torch.tensor(report.level_information).diagonal().tolist() == [1.0] * LEVELS


def test_experts_and_codewords_are_counted(report: Report, ids) -> None:
    together = rows(ids["books"]) + rows(ids["games"])
    assert report.expert_load == pytest.approx([sum(row[-1] == e for row in together) / 96 for e in range(3)])
    for name, column in zip(ids, zip(*report.expert_by_domain, strict=True), strict=True):
        counts = Counter(row[-1] for row in rows(ids[name]))
        assert column == pytest.approx([counts[e] / len(ids[name]) for e in range(3)])
        assert report.domains[name].own_expert == pytest.approx(max(counts.values()) / len(ids[name]))
    weighted = sum(f.own_expert * f.items for f in report.domains.values()) / 96
    assert report.overall.own_expert == pytest.approx(weighted)
    for expert in range(3):
        for level in range(LEVELS):
            counts = Counter(row[level] for row in together if row[-1] == expert)
            assert report.dead_codes[expert][level] == K - len(counts)
            assert report.utilisation[expert][level] == pytest.approx(len(counts) / K)
            values = [row[level] for row in together if row[-1] == expert]
            expected = 2 ** entropy(values) if values else 0
            assert report.perplexity[expert][level] == pytest.approx(expected)


def test_hsic_and_its_variance_are_those_of_the_equation(tokenizer: Tokenizer, report: Report, items) -> None:
    values = []
    for name, x in items.items():
        z, _ = tokenizer.model.encode(x)
        values.append(hsic_by_the_equation(x, z))
        assert report.domains[name].hsic == pytest.approx(values[-1], rel=1e-5)
        scale = math.sqrt(hsic_by_the_equation(x, x) * hsic_by_the_equation(z, z))
        assert report.domains[name].cka == pytest.approx(values[-1] / scale, rel=1e-5)
        values[-1] = hsic_by_the_equation(x[:33], z[:33])  # on as many items as the smaller domain has
    mean = sum(values) / 2
    assert report.hsic_variance == pytest.approx(sum((v - mean) ** 2 for v in values) / 2, rel=1e-4)
    assert math.isnan(report.overall.hsic)


def test_it_is_plain_data_and_a_table(report: Report, items) -> None:
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["overall"]["hsic"] is None
    assert plain["domains"]["books"]["items"] == 63
    assert plain["domains"]["games"]["hsic"] == report.domains["games"].hsic
    screen = io.StringIO()
    Console(file=screen, width=200).print(report.to_table())
    text = screen.getvalue()
    for word in (*items, "all", "63", "96", f"{report.overall.collision_rate:.2%}", "own expert"):
        assert word in text
    assert text.count("by ID") == 2
    summary = "\n".join(report.summary())
    assert f"token entropy {report.token_entropy:.2f} of {math.log2(LEVELS * K):.2f} bits" in summary
    assert "nan" not in summary


@pytest.mark.parametrize("name", ["[/b]", "[red]", 7])
def test_names_of_domains_are_no_markup(report: Report, name: str) -> None:
    screen = io.StringIO()
    Console(file=screen, width=200).print(replace(report, domains={name: report.overall}).to_table())
    assert f" {name} " in screen.getvalue()


def test_one_domain_is_measured_alone_as_among_others(tokenizer: Tokenizer, report: Report, items) -> None:
    alone = tokenizer.report(items["books"], "books")
    assert alone.domains == {"books": report.domains["books"]}
    assert alone.hsic_variance == 0
    unnamed = tokenizer.report(items["books"].numpy())
    assert unnamed.domains == {"items": report.domains["books"]}


def test_an_added_domain_is_measured_by_its_own_expert(tokenizer: Tokenizer, make_items) -> None:
    tokenizer, x = copy.deepcopy(tokenizer), make_items(50, seed=8)
    tokenizer.add_domain("music", x)
    report = tokenizer.report({"music": x, "unheard of": x})
    assert report.domains["music"].own_expert == 1
    assert [shares[0] for shares in report.expert_by_domain] == [0, 0, 0, 1]
    assert report.expert_by_domain[3][1] == 0


def test_few_items_are_measured_and_none_are_refused(tokenizer: Tokenizer, items, refuses) -> None:
    some = tokenizer.report({"books": items["books"], "games": items["games"][:3], "toys": items["games"][:0]})
    assert some.overall.items == 66
    for name in ("games", "toys"):
        assert math.isnan(some.domains[name].hsic)
    assert some.hsic_variance == 0
    assert 0 < some.overall.own_expert <= 1
    assert some.overall.reconstruction > 0
    json.dumps(some.to_dict(), allow_nan=False)
    with refuses("report", "x's rows"):
        tokenizer.report(items["books"][:0])
    with refuses("report", "x"):
        tokenizer.report(items["books"][:, 1:])

"""What an epoch's record says, and that an alarm names its cause and is silent where all is well."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from unitok import Tokenizer, UniTokConfig
from unitok.metrics.dependence import equal_hsic
from unitok.model.network import Routing
from unitok.training.monitor import Snapshot, alarms, describe
from unitok_kernels import hsic
from unitok_kernels.nn import MoEResidualOutput

ROWS, EXPERTS, LEVELS, SIZE = 600, 3, 3, 16
NAMES = ["books", "games", "toys"]


def planted(experts: Tensor | None = None, codes: Tensor | None = None, probs: Tensor | None = None) -> Snapshot:
    """Items evenly over experts and codewords, but for what is planted."""
    generator = torch.Generator().manual_seed(0)
    experts = torch.arange(ROWS) % EXPERTS if experts is None else experts
    codes = torch.randint(SIZE, (ROWS, LEVELS), generator=generator) if codes is None else codes
    probs = torch.nn.functional.one_hot(experts, EXPERTS).float() if probs is None else probs
    z = torch.zeros(ROWS, 4)
    found = MoEResidualOutput(z, codes[:, None], None, torch.zeros(()), torch.zeros(LEVELS))
    return Snapshot(z, Routing(probs, experts[:, None], torch.ones(ROWS, 1)), found)


def record_of(snapshot: Snapshot, **more) -> dict:
    domains = torch.arange(ROWS) % 3
    record = describe(snapshot, domains, NAMES, EXPERTS, SIZE) | {"hsic": dict.fromkeys(NAMES, 0.01)} | more
    return json.loads(json.dumps(record))  # as it is read back from the history


def even_codes() -> Tensor:
    return torch.randint(SIZE, (ROWS, LEVELS), generator=torch.Generator().manual_seed(1))


def test_a_healthy_record_raises_no_alarm() -> None:
    record = record_of(planted())
    assert alarms(record) == []
    assert alarms({"epoch": 0, "loss": 1.0}) == []  # of the warm-up
    skewed = torch.cat([torch.zeros(500), torch.ones(80), torch.full((20,), 2)]).long()
    assert alarms(record_of(planted(experts=skewed))) == []  # a small domain's expert is no collapse


def test_the_record_is_that_of_the_items() -> None:
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]).repeat(200, 1)
    codes = even_codes()
    codes[:300, 0] = 7
    record = record_of(planted(codes=codes, probs=probs))
    assert [record["router_entropy"][name] for name in NAMES] == pytest.approx([1.0, 1.5, 0.0], abs=1e-6)
    assert record["expert_load"] == pytest.approx([1 / 3] * 3)
    assert record["expert_by_domain"] == torch.eye(3).tolist()  # domains and experts are both i mod 3
    experts = torch.arange(ROWS) % EXPERTS
    for expert in range(EXPERTS):
        for level in range(LEVELS):
            counts = torch.bincount(codes[experts == expert, level], minlength=SIZE).double()
            p = counts[counts > 0] / counts.sum()
            assert record["utilisation"][expert][level] == pytest.approx(len(p) / SIZE)
            assert record["perplexity"][expert][level] == pytest.approx(math.exp(float(-(p * p.log()).sum())))
    dead = [sum(SIZE - SIZE * record["utilisation"][e][level] for e in range(EXPERTS)) for level in range(LEVELS)]
    assert record["dead_codes"] == pytest.approx(dead)
    distinct = len({(*row, e) for row, e in zip(codes.tolist(), experts.tolist(), strict=True)})
    assert record["collision_rate"] == pytest.approx(1 - distinct / ROWS)


def test_router_collapse_is_named() -> None:
    experts = torch.zeros(ROWS, dtype=torch.int64)
    experts[:200] = 1
    (alarm,) = alarms(record_of(planted(experts=experts)))
    assert alarm.startswith("router collapse: expert 2 gets 0.00% of the items")
    assert "0 67%" in alarm
    assert "learning rate" in alarm


def test_a_dead_codebook_is_named() -> None:
    codes = even_codes()
    codes[torch.arange(ROWS) % EXPERTS == 1, 2] = 5
    (alarm,) = alarms(record_of(planted(codes=codes)))
    assert alarm.startswith("dead codebook: expert 1 uses 6.2% of the codewords of level 2")


def test_a_level_that_repeats_the_expert_is_named() -> None:
    codes = even_codes()
    codes[:, 1] = torch.arange(ROWS) % EXPERTS
    found = [alarm for alarm in alarms(record_of(planted(codes=codes))) if "redundant" in alarm]
    assert len(found) == 1
    assert found[0].startswith("redundant level: level 1 (0.00 bits given the expert")


def test_a_level_that_repeats_another_is_named() -> None:
    codes = even_codes()
    codes[:, 2] = (codes[:, 0] * 5 + 3) % SIZE
    (alarm,) = alarms(record_of(planted(codes=codes)))
    assert alarm.startswith("redundant level: level 2 (repeats level 0")


def test_a_domain_whose_latents_know_little_of_it_is_named() -> None:
    values = {"books": 0.66, "games": 0.1, "toys": 0.64}
    (alarm,) = alarms(record_of(planted(), normalised_hsic=values))
    assert alarm.startswith("domain behind: the latents keep little of the embeddings of games")
    assert "0.1, of the others 0.65" in alarm
    assert alarms(record_of(planted(), normalised_hsic=values | {"games": 0.3})) == []


def clustered(clusters: int, spread: float, seed: int) -> Tensor:
    """Items of length 1 around centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, 12, generator=generator)
    which = torch.randint(clusters, (300,), generator=generator)
    x = centres[which] + spread * torch.randn(300, 12, generator=generator)
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("seed", range(10))
def test_two_healthy_domains_raise_no_alarm_however_unlike_they_are(seed: int) -> None:
    """HSIC itself is 5 to 10 times as high for few tight clusters, which is no fault of the fit."""
    domains = {"tight": clustered(3, 0.1, seed), "loose": clustered(60, 0.5, seed + 100)}
    settings = {"codebook_size": 16, "codebook_dim": 8, "num_levels": 2, "encoder_widths": (32,)}
    history = Tokenizer.fit(domains, UniTokConfig(epochs=3, batch_size=128, seed=seed, **settings)).history
    assert [alarm for record in history for alarm in record["alarms"]] == []
    raw, scaled = history[-1]["equal_hsic"], history[-1]["normalised_hsic"]
    assert raw["tight"] > 3 * raw["loose"]
    assert scaled["tight"] < 3 * scaled["loose"]


def test_latents_that_forgot_a_domain_raise_the_alarm() -> None:
    x = torch.cat([clustered(40, 0.5, 0), clustered(40, 0.5, 1)])
    domains = torch.arange(2).repeat_interleave(300)
    z = x.clone()
    for forgotten in (torch.full((300, 12), 0.3), torch.randn(300, 12, generator=torch.Generator().manual_seed(0))):
        z[300:] = forgotten
        values = equal_hsic(x, z, domains, ["a", "b"], normalised=True)
        (alarm,) = alarms(record_of(planted(), normalised_hsic=values))
        assert "of b, with" in alarm


def test_domains_are_compared_on_equally_many_rows() -> None:
    """Independent x and z: all that HSIC shows is its bias, which falls with the number of rows."""
    sizes = (2000, 60, 10)
    domains = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    x, z = torch.randn(2, sum(sizes), 8, generator=torch.Generator().manual_seed(0))
    unequal = hsic(x, z, domains, num_segments=3)
    assert unequal[1] > 10 * unequal[0]
    equal = equal_hsic(x, z, domains, ["books", "games", "toys"])
    assert list(equal) == ["books", "games"]  # ten rows are too few to tell
    assert 0.5 < equal["games"] / equal["books"] < 2
    assert equal_hsic(x[-10:], z[-10:], domains[-10:], ["books", "games", "toys"]) == {}


def test_a_dropped_domain_is_named() -> None:
    (alarm,) = alarms(record_of(planted(), hsic={"books": 0.01, "games": None, "toys": 0.01}))
    assert alarm.startswith("domain dropped: too few rows of games in the batches")
    assert "min_domain_rows" in alarm
    assert alarms(record_of(planted(), hsic={"books": 0.01})) == []


def test_several_causes_are_all_named() -> None:
    codes = torch.zeros(ROWS, LEVELS, dtype=torch.int64)
    record = record_of(planted(torch.zeros(ROWS).long(), codes), hsic={"books": 0.01, "games": 0.01, "toys": None})
    record["normalised_hsic"] = {"books": 0.7, "games": 0.05}
    kinds = {alarm.split(":")[0] for alarm in alarms(record)}
    assert kinds == {"router collapse", "dead codebook", "redundant level", "domain behind", "domain dropped"}


def test_a_snapshot_gives_some_of_its_items() -> None:
    snapshot = planted()
    rows = torch.tensor([5, 2, 9])
    some = snapshot.select(rows)
    assert torch.equal(some.routing.experts, snapshot.routing.experts[rows])
    assert torch.equal(some.quantized.codes, snapshot.quantized.codes[rows])
    assert some.quantized.shared_codes is None
    assert len(some.z) == len(some.routing.probs) == len(some.routing.weights) == len(some.quantized.quantized) == 3

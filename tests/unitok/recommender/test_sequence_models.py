"""The sequence models: what they learn, and that their search finds what transformers' own finds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from unitok import SemanticIds
from unitok.recommender import (
    CausalRecommender,
    Histories,
    HybridRecommender,
    RQRecommender,
    SequenceRecommender,
    T5Recommender,
    TokenTable,
    gpt2_config,
)
from unitok.recommender.rq_transformer import RQTransformer
from unitok.recommender.saving import HEAD, SETTINGS

HISTORY, ITEMS = 6, 90


def ids(items: int = ITEMS, *, suffix: bool = True) -> SemanticIds:
    """IDs of 3 levels of 5 codes and 2 experts, crowded: some items share all of theirs."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(5, (items, 3), generator=generator)
    experts = torch.randint(2, (items, 1), generator=generator)
    found = SemanticIds(codes, experts, codebook_size=5, num_experts=2)
    return found.assign(range(items)) if suffix else found


def make(kind: str, table: TokenTable, beam: int = 8) -> SequenceRecommender:
    """A tiny model whose weights are large enough that no two scores are alike."""
    from transformers import LlamaConfig, T5Config

    sizes = {"history": HISTORY, "beam": beam}
    found: SequenceRecommender
    if kind == "t5":
        config = T5Config(d_model=16, num_layers=2, num_decoder_layers=2, num_heads=2, d_kv=8, d_ff=32)
        found = T5Recommender.create(table, config, **sizes)
    elif kind == "rq":
        found = RQRecommender.create(table, gpt2_config(16, 2, 2), **sizes)
    elif kind == "hybrid":
        content = torch.randn(len(table), 5, generator=torch.Generator().manual_seed(2))
        known = Histories.from_lists(histories(*[HISTORY] * 20, items=len(table)).tolist())
        found = HybridRecommender.create(table, gpt2_config(16, 2, 2), histories=known, content=content, **sizes)
    else:
        llama = LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
        )
        found = CausalRecommender.create(table, llama if kind == "llama" else gpt2_config(16, 2, 2), **sizes)
    torch.manual_seed(1)
    for parameter in found.model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return found


GENERATING = pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])  # transformers' `generate` knows them
KINDS = pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "rq"])


def histories(*lengths: int, most: int = HISTORY, items: int = ITEMS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(items, (length,), generator=generator) for length in lengths]
    return torch.stack([F.pad(row, (most - len(row), 0), value=-1) for row in rows])


def generated(recommender: SequenceRecommender, history: torch.Tensor, count: int) -> list[int]:
    """The items that `generate` names, one history at a time and with a function called for every beam."""
    table = recommender.table
    rows = {tuple(row): number for number, row in enumerate(table.tokens.tolist())}
    allowed: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for row in rows:
        for depth, token in enumerate(row):
            allowed[row[:depth]].add(token)
    read = torch.cat([torch.tensor([table.start]), table.tokens[history[history >= 0]].flatten()])[None]
    prompt = 1 if recommender.kind == "t5" else read.shape[1]
    found = recommender.model.generate(
        read,
        attention_mask=torch.ones_like(read),
        num_beams=recommender.beam,
        num_return_sequences=count,
        max_new_tokens=table.width,
        do_sample=False,
        renormalize_logits=True,
        prefix_allowed_tokens_fn=lambda _, tokens: sorted(allowed[tuple(tokens[prompt:].tolist())]),
    )
    return [rows[tuple(row)] for row in found[:, prompt:].tolist()]


@GENERATING
def test_the_search_finds_what_generate_finds(kind: str) -> None:
    recommender = make(kind, TokenTable.of(ids()))
    asked = histories(0, 1, 4, HISTORY, 4, 2)
    ranked = recommender.rank(asked, 8, exclude_seen=False)
    assert [generated(recommender, history, 8) for history in asked] == ranked.tolist()


def written(model: RQTransformer, table: TokenTable, items: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The logits of (B, T) wanted tokens after (B, H) items, as the docstring of RQTransformer has them."""
    embeddings = model.trunk.get_input_embeddings().weight
    x = torch.stack([embeddings[table.tokens[row]].sum(1) + model.items.weight[row] for row in items])
    begin = embeddings[table.start].expand(len(x), 1, -1)
    state = model.trunk(inputs_embeds=torch.cat([begin, x], 1)).last_hidden_state[:, -1]
    logits = [state @ embeddings.T]
    for step, token in zip(model.follow, wanted.T, strict=False):
        state = state + step.layers(torch.cat([state, embeddings[token]], 1))
        logits.append(state @ embeddings.T)
    return torch.stack(logits, 1)


def log_probabilities(recommender: SequenceRecommender, items: torch.Tensor) -> torch.Tensor:
    """log p of the last of (B, H) items after those before it, token by token, without a trie or a cache."""
    table = recommender.table
    wanted, width = table.tokens[items[:, -1]], table.width
    before = F.pad(table.tokens[items[:, :-1]].flatten(1), (1, 0), value=table.start)
    if recommender.kind == "t5":
        shifted = F.pad(wanted[:, :-1], (1, 0), value=table.start)
        logits = recommender.model(input_ids=before, decoder_input_ids=shifted).logits
    elif recommender.kind == "rq":
        logits = written(recommender.model, table, items[:, :-1], wanted)
    else:
        logits = recommender.model(input_ids=torch.cat([before, wanted[:, :-1]], 1)).logits[:, -width:]
    chosen = logits.gather(2, wanted[:, :, None])[:, :, 0]
    for row, tokens in enumerate(wanted):
        for depth in range(width):
            children = table.tokens[(table.tokens[:, :depth] == tokens[:depth]).all(1), depth].unique()
            chosen[row, depth] -= logits[row, depth, children].logsumexp(0)
    return chosen.sum(1)


@KINDS
@torch.no_grad()
def test_probabilities_are_of_the_catalogue_and_ranked_exactly(kind: str) -> None:
    recommender = make(kind, TokenTable.of(ids()), beam=ITEMS)
    asked = histories(3, 5)
    for history, ranked in zip(asked, recommender.rank(asked, ITEMS, exclude_seen=False), strict=True):
        after = F.pad(history[history >= 0].expand(ITEMS, -1), (0, 1))
        after[:, -1] = torch.arange(ITEMS)
        found = log_probabilities(recommender, after)
        assert found.exp().sum() == pytest.approx(1, abs=1e-4)
        assert found.argsort(descending=True).tolist() == ranked.tolist()


@KINDS
@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_users(kind: str) -> None:
    recommender = make(kind, TokenTable.of(ids()))
    rows = [torch.tensor([4, 8, 15, 16, 23, 42, 7]), torch.tensor([81, 3]), torch.tensor([5, 5, 60])]
    batch = torch.stack([F.pad(row, (0, 7 - len(row)), value=-1) for row in rows])
    first = 0 if kind != "t5" else -1  # a T5 is asked for the last item alone
    places = [(row, place) for row in rows for place in (range(len(row)) if first == 0 else [len(row) - 1])]
    each = [-log_probabilities(recommender, row[None, : place + 1]) for row, place in places]
    torch.testing.assert_close(recommender.loss(batch), torch.cat(each).mean())


def test_a_model_of_one_token_an_item_is_a_softmax_over_items() -> None:
    recommender = make("gpt2", TokenTable.items(30), beam=1)
    items = torch.tensor([[3, 1, 4, 1], [5, 9, -1, -1]])
    tokens = F.pad(items[:, :-1] + 2, (1, 0), value=1)
    logits = recommender.model(input_ids=tokens).logits[:, :, 2:]
    expected = F.cross_entropy(logits.flatten(0, 1), items.flatten(), ignore_index=-1)
    torch.testing.assert_close(recommender.loss(items), expected)
    ranked = recommender.rank(torch.tensor([[3, 1, 4]]), 40, exclude_seen=False)
    assert ranked[0, :30].tolist() == logits[0, 3].argsort(descending=True).tolist()
    assert ranked[0, 30:].tolist() == [-1] * 10


@pytest.mark.parametrize("alike", [False, True])
def test_one_token_an_item_is_ranked_by_the_logits_of_the_items_that_may_be_named(alike: bool) -> None:
    recommender = make("gpt2", TokenTable.items(30), beam=1)
    if alike:  # equal scores take the first item
        embedded = recommender.model.get_input_embeddings().weight.data
        embedded[10:20] = embedded[20:30]
    asked = torch.tensor([[-1, -1, 3], [-1, 4, 1], [5, 9, 2], [-1, -1, -1], [-1, 7, 7]])
    some = [4, 12, 3, 22, 9, 29]
    for ranking, rows in ((recommender, range(30)), (recommender.within(torch.tensor(some)), some)):
        ways: list[tuple[dict[str, Any], bool, set[int]]] = [
            ({}, True, set(rows)),
            ({"exclude_seen": False}, False, set(rows)),
            ({"deny": [4, 9, 20]}, True, set(rows) - {4, 9, 20}),
            ({"allow": [3]}, True, {3}),
        ]
        for way, exclude_seen, left in ways:
            for history, ranked in zip(asked, ranking.rank(asked, 12, **way).tolist(), strict=True):
                history = history[history >= 0]
                logits = recommender.model(input_ids=F.pad(history + 2, (1, 0), value=1)[None]).logits[0, -1, 2:]
                order = logits.argsort(descending=True, stable=True).tolist()
                seen = set(history.tolist()) if exclude_seen else set()
                found = [item for item in order if item in left - seen][:12]
                assert ranked == found + [-1] * (12 - len(found))


@KINDS
def test_a_rank_hangs_on_no_other_query_and_on_nothing_random(kind: str) -> None:
    recommender = make(kind, TokenTable.of(ids()), beam=ITEMS)
    recommender.model.train()  # dropout must not play a part
    asked = histories(2, HISTORY, 0, 5)
    together = recommender.rank(asked, ITEMS, exclude_seen=False)
    assert recommender.model.training
    assert torch.equal(
        together, torch.cat([recommender.rank(history[None], ITEMS, exclude_seen=False) for history in asked])
    )
    wider = F.pad(asked, (3, 0), value=-1)
    wider[1, :3] = 7  # older than what is looked at
    assert torch.equal(recommender.rank(wider, ITEMS, exclude_seen=False), together)
    assert recommender.rank(asked[:0], 5, exclude_seen=False).shape == (0, 5)


def test_an_item_that_was_never_met_is_read_by_its_tokens() -> None:
    # Its own embedding has had no gradient: two items of one ID are then one item to the model.
    table = TokenTable.of(ids(suffix=False))
    recommender = RQRecommender.create(table, gpt2_config(16, 2, 2), history=HISTORY)
    first, second = next(
        (a, b) for a in range(ITEMS) for b in range(a) if torch.equal(table.tokens[a], table.tokens[b])
    )
    asked = torch.tensor([[3, first], [3, second]])
    one, other = recommender.rank(asked, ITEMS, exclude_seen=False).tolist()
    assert one == other
    with torch.no_grad():
        recommender.model.items.weight[first] += 5 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    one, other = recommender.rank(asked, ITEMS, exclude_seen=False).tolist()
    assert one != other


def test_equal_scores_take_the_first_id() -> None:
    recommender = make("gpt2", TokenTable.of(ids()))
    for parameter in recommender.model.parameters():
        torch.nn.init.zeros_(parameter)
    tokens = recommender.table.tokens
    probability = torch.ones(ITEMS, dtype=torch.float64)
    for depth in range(tokens.shape[1]):
        for row in range(ITEMS):
            alike = (tokens[:, :depth] == tokens[row, :depth]).all(1)
            probability[row] /= len(tokens[alike, depth].unique())
    order = sorted(range(ITEMS), key=lambda row: (-round(float(probability[row]), 9), tokens[row].tolist()))
    recommender.beam = ITEMS
    assert recommender.rank(histories(3), ITEMS, exclude_seen=False)[0].tolist() == order


def test_items_that_share_an_id_share_a_name() -> None:
    crowded = ids(suffix=False)
    table = TokenTable.of(crowded)
    assert torch.equal(table.names, crowded.groups())
    recommender = make("gpt2", table, beam=ITEMS)
    count = int(crowded.groups().max()) + 1
    ranked = recommender.rank(histories(4), ITEMS, exclude_seen=False)[0]
    assert count < ITEMS
    assert sorted(ranked[:count].tolist()) == list(range(count))
    assert (ranked[count:] == -1).all()


def test_within_ranks_the_items_that_it_is_given() -> None:
    recommender = make("llama", TokenTable.of(ids()), beam=ITEMS)
    rows = torch.arange(20, 50)
    everything = recommender.rank(histories(4), ITEMS, exclude_seen=False)[0]
    some = recommender.within(rows).rank(histories(4), 40, exclude_seen=False)[0]
    assert sorted(some[:30].tolist()) == rows.tolist()
    assert (some[30:] == -1).all()
    assert everything.shape == (ITEMS,)
    assert recommender.within(rows[:1]).rank(histories(4, 0), 2, exclude_seen=False).tolist() == [[20, -1], [20, -1]]


@KINDS
def test_spans_ask_for_every_item(kind: str) -> None:
    recommender = make(kind, TokenTable.of(ids()))
    lengths = torch.tensor([1, 3, 20, HISTORY + 1])
    seen = Histories(F.pad(lengths.cumsum(0), (1, 0)), torch.arange(31), torch.arange(4))
    drawn = [recommender.spans(seen, torch.Generator().manual_seed(seed)) for seed in range(5)]
    for spans in drawn:
        ends = spans.first + spans.length
        user = torch.searchsorted(seen.offsets, spans.first, right=True)
        assert torch.equal(user, torch.searchsorted(seen.offsets, ends - 1, right=True))
        if kind == "t5":
            starts = set(seen.offsets[:-1].tolist())
            assert (ends - 1).tolist() == [place for place in range(31) if place not in starts]
            assert int(spans.length.max()) == HISTORY + 1
            assert spans.targets.unique().tolist() == [1]
        else:
            covered = [range(*pair) for pair in zip(spans.first.tolist(), ends.tolist(), strict=True)]
            assert sorted(place for part in covered for place in part) == list(range(31))
            assert int(spans.length.max()) <= HISTORY + 1
            assert torch.equal(spans.targets, spans.length)
    if kind != "t5":
        assert len({tuple(spans.first.tolist()) for spans in drawn}) > 1


@KINDS
def test_a_saved_recommender_ranks_alike(kind: str, tmp_path: Path) -> None:
    recommender = make(kind, TokenTable.of(ids()))
    recommender.about = {"domains": {"books": ITEMS}}
    recommender.save_pretrained(tmp_path)
    loaded = SequenceRecommender.from_pretrained(tmp_path)
    assert (type(loaded), loaded.history, loaded.beam) == (type(recommender), HISTORY, 8)
    assert loaded.about == recommender.about
    assert torch.equal(loaded.table.groups, ids().groups())
    assert torch.equal(
        loaded.rank(histories(3, 5), 8, exclude_seen=False), recommender.rank(histories(3, 5), 8, exclude_seen=False)
    )


@KINDS
def test_a_folder_of_truncated_or_missing_weights_is_refused(
    kind: str, tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    make(kind, TokenTable.of(ids())).save_pretrained(tmp_path)
    assert (tmp_path / HEAD).exists() == (kind == "rq")
    for file in tmp_path.glob("*.safetensors"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with refuses("from_pretrained", "directory"):
            SequenceRecommender.from_pretrained(tmp_path)
        file.write_bytes(whole)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[next(name for name in weights if "norm" in name or "ln" in name)]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with refuses("from_pretrained", "directory") as caught:
        SequenceRecommender.from_pretrained(tmp_path)
    assert "model.safetensors isn't the one that recommender.json was written with" in str(caught.value)
    forget_digests(tmp_path)
    with refuses("from_pretrained", "directory") as caught:
        SequenceRecommender.from_pretrained(tmp_path)
    assert "no weights for" in str(caught.value)
    make("gpt2", TokenTable.items(5)).save_pretrained(tmp_path, force=True)
    assert not (tmp_path / HEAD).exists()


def forget_digests(folder: Path) -> None:
    """Make settings what releases before wrote, which vouch for no other file and not for themselves."""
    settings = json.loads((folder / SETTINGS).read_text())
    del settings["files"], settings["digest"]
    settings["format"] = 1
    (folder / SETTINGS).write_text(json.dumps(settings))


@pytest.mark.parametrize("kind", [CausalRecommender, RQRecommender])
def test_a_configuration_is_copied_and_made_to_fit(kind: Any) -> None:
    from transformers import LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=999, pad_token_id=998, dtype="bfloat16")
    before, table = config.to_dict(), TokenTable.of(ids())
    recommender = kind.create(table, config, history=HISTORY)
    assert config.to_dict() == before
    assert {parameter.dtype for parameter in recommender.model.parameters()} == {torch.float32}
    assert recommender.rank(histories(3), 4, exclude_seen=False).shape == (1, 4)


@pytest.mark.parametrize("before", [False, True])
def test_a_missing_file_is_named(before: bool, tmp_path: Path, refuses: Callable[..., Any]) -> None:
    make("gpt2", TokenTable.items(5)).save_pretrained(tmp_path)
    if before:
        forget_digests(tmp_path)
    for name in ("items.safetensors", "model.safetensors", "config.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with refuses("from_pretrained", "directory", FileNotFoundError) as caught:
            SequenceRecommender.from_pretrained(tmp_path)
        assert f"must hold {name}" in str(caught.value)
        (tmp_path / name).write_bytes(whole)
    assert len(SequenceRecommender.from_pretrained(tmp_path).table) == 5


def test_what_does_not_fit_is_refused(refuses: Callable[..., Any]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

    table = TokenTable.of(ids())
    recommender = make("gpt2", table)
    for wrong in (
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(2, 3),
        torch.tensor([[3, -1]]),
        torch.tensor([[ITEMS]]),
    ):
        with refuses("rank", "histories"):
            recommender.rank(wrong, 3, exclude_seen=False)
    with refuses("rank", "k"):
        recommender.rank(histories(2), 0, exclude_seen=False)
    with refuses("CausalRecommender", "beam"):
        CausalRecommender(recommender.model, table, beam=0)
    small = {"n_embd": 8, "n_layer": 1, "n_head": 1}
    for config in (GPT2Config(vocab_size=9, **small), GPT2Config(vocab_size=99, n_positions=9, **small)):
        with refuses("CausalRecommender", "model"):
            CausalRecommender(GPT2LMHeadModel(config), table)
    rq = make("rq", table).model
    other = TokenTable(table.tokens, table.vocab_size + 1)
    for model, asked, history in (
        (rq, TokenTable.items(ITEMS), 6),
        (rq, other, 6),
        (rq, table, 7),
        (rq.trunk, table, 6),
    ):
        with refuses("RQRecommender", "model"):
            RQRecommender(model, asked, history=history)
    with refuses("CausalRecommender", "model"):
        mamba = MambaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1, state_size=2)
        CausalRecommender(MambaForCausalLM(mamba), table)

"""Makes `saved_before/`: what the code of a commit saves, and what that code answers with it.

Run it with the code of that commit first on PYTHONPATH; it replaces the folder beside it. Nothing is kept whose
answers hang on the last bits: weights are drawn anew until noise of a millionth changes no ID and no ranking.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from unitok.commands.tokenize import resolve, tokenize_parts

import unitok
from unitok import EmbeddingInfo, Tokenizer, UniTokConfig
from unitok.data import Domain, Interactions
from unitok.recommender import (
    CausalRecommender,
    Histories,
    RQRecommender,
    SequenceRecommender,
    T5Recommender,
    TokenTable,
    TrainingConfig,
    fit,
    gpt2_config,
)

OUT = Path(__file__).resolve().parent / "saved_before"
ITEMS = {"books": 68, "games": 60, "toys": 64, "music": 62}
ADDED = "music"
INFO = EmbeddingInfo("encoder-of-before", "{title} . Category: {category}")
CONFIG = UniTokConfig(
    epochs=2,
    num_levels=3,
    codebook_size=8,
    codebook_dim=8,
    encoder_widths=(16,),
    batch_size=64,
    min_domain_rows=16,
    validation_fraction=0.05,
    learning_rate=1e-2,
    seed=0,
)
INTERRUPTED = replace(CONFIG, epochs=3)
TRAINING = TrainingConfig(epochs=3, batch_size=32, learning_rate=2e-2, patience=0, validation_users=80, seed=0)
K, QUERIES, LONGEST = 10, 24, 7
NOISE, DRAWS = 1e-6, 5


class InterruptedRunError(Exception):
    """What ends a run after its second epoch."""


def interrupt(record):
    if record["epoch"] == 1:
        raise InterruptedRunError


def make_items(rows, seed):
    """Unit rows in tight clusters, some of them twice: IDs collide."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(20, 16)) + 1.5 * generator.normal(size=16)
    items = centres[generator.integers(20, size=rows)] + 0.25 * generator.normal(size=(rows, 16))
    items[-4:] = items[:4]
    return (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(np.float32)


def make_interactions(num_items, seed):
    """Users who walk through 20 of the items, mostly in order."""
    generator = np.random.default_rng(seed)
    walk = generator.permutation(num_items)[:20]
    users, items, positions = [], [], []
    for user in range(120):
        length, start = generator.integers(2, 10), generator.integers(20)
        users += [user] * length
        positions += range(length)
        straight = walk[(start + np.arange(length)) % len(walk)]
        strayed = generator.random(length) < 0.1
        items += np.where(strayed, generator.integers(num_items, size=length), straight).tolist()
    return Interactions(*(np.array(column, dtype=np.int64) for column in (users, items, positions)))


def make_histories(num_items, seed):
    """Histories of 0 items and more, some longer than the recommenders look at; -1 pads on the left."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(num_items, size=(QUERIES, LONGEST))
    lengths = np.arange(QUERIES) % (LONGEST + 1)
    rows[np.arange(LONGEST)[None] < LONGEST - lengths[:, None]] = -1
    return rows.astype(np.int64)


def noisy(tensors, seed):
    generator = torch.Generator().manual_seed(seed)
    for value in tensors:
        if value.is_floating_point():
            value.mul_(1 + NOISE * torch.randn(value.shape, generator=generator))


@torch.no_grad()
def is_steady(model, answers):
    """Whether the answers stay as they are under noise on the weights."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    before, same = answers(), True
    for seed in range(DRAWS):
        noisy(model.parameters(), seed)
        same &= all(np.array_equal(*pair) for pair in zip(before, answers(), strict=True))
        model.load_state_dict(kept)
    return same


def ranked(recommender, histories, rows):
    """The rankings of the whole catalogue and of some rows."""
    return [one.rank(histories, K).numpy() for one in (recommender, recommender.within(rows))]


@torch.no_grad()
def make_recommender(kind, table, config, histories, rows):
    for seed in range(20):
        recommender = kind.create(table, config, history=5, beam=10, seed=0)
        generator = torch.Generator().manual_seed(seed)
        for parameter in recommender.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if is_steady(recommender.model, partial(ranked, recommender, histories, rows)):
            print(f"{kind.__name__}: spread by seed {seed}")
            return recommender
    raise SystemExit(f"{kind.__name__}: no seed gives steady rankings")


def with_noise(folder, to, seed):
    """Copy a run, with noise on the weights that it goes on from."""
    shutil.copytree(folder, to)
    with safe_open(to / "checkpoint.safetensors", "pt") as file:
        note, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    noisy([value for name, value in tensors.items() if name.startswith("model.")], seed)
    save_file(tensors, to / "checkpoint.safetensors", note)


def codes_after_resuming(folder, items):
    tokenizer = Tokenizer.fit(items, INTERRUPTED, directory=folder)
    return {name: tokenizer.tokenize(x, name).codes.numpy() for name, x in items.items()}


def recommender_after_resuming(folder, histories):
    recommender = SequenceRecommender.from_pretrained(OUT / "rq")
    return recommender, fit(recommender, histories, TRAINING, directory=folder)


def main():
    print("code of", Path(unitok.__file__).parent, "torch", torch.__version__, "transformers", transformers.__version__)
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    scratch = Path(tempfile.mkdtemp())
    items = {name: make_items(rows, seed) for seed, (name, rows) in enumerate(ITEMS.items())}
    fitted_on = {name: x for name, x in items.items() if name != ADDED}
    expected = {f"x_{name}": x for name, x in items.items()}

    # A tokenizer with a domain that was added, and the table of its IDs.
    tokenizer = Tokenizer.fit(fitted_on, CONFIG, embedding=INFO)
    tokenizer.add_domain(ADDED, items[ADDED], embedding=INFO)
    tokenizer.save_pretrained(OUT / "tokenizer")
    assert is_steady(
        tokenizer.model, lambda: [tokenizer.tokenize(x, name).tokens("top1_shared") for name, x in items.items()]
    ), "tokenizer: IDs hang on the last bits"
    for name, x in items.items():
        ids = tokenizer.tokenize(x, name).assign(range(len(x)))
        expected |= {f"{field}_{name}": getattr(ids, field).numpy() for field in ("codes", "experts", "suffix")}
        expected[f"shared_codes_{name}"] = ids.shared_codes.numpy()
        expected[f"text_{name}"] = np.array(ids.to_text()[:5])
        expected[f"decoded_{name}"] = tokenizer.decode(ids[:5]).numpy()
        print(name, len(x), "items; suffixes above 0:", int((ids.suffix > 0).sum()))
    parts = {name: Domain(name, x, np.arange(len(x)), embedding=INFO) for name, x in items.items()}
    table = resolve(parts, tokenize_parts(tokenizer, parts), "suffix")
    table.write(OUT / "ids.parquet", tokenizer, "suffix")
    ids = table.ids
    expected |= {
        "table_domain": np.repeat(list(items), [len(x) for x in items.values()]),
        "table_item_id": np.concatenate([part.keys for part in parts.values()]),
        "table_semantic_id": np.array(ids.to_text()),
        "table_codes": ids.codes.numpy(),
        "table_expert": ids.experts[:, 0].numpy(),
        "table_suffix": ids.suffix.numpy(),
    }

    # Recommenders of every kind.
    histories = torch.from_numpy(make_histories(len(ids), seed=1))
    first = ITEMS["books"]
    rows = torch.arange(first, first + ITEMS["games"])
    expected |= {"histories": histories.numpy(), "rows": rows.numpy()}
    t5 = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2, dropout_rate=0.0
    )
    tokens, alone = TokenTable.of(ids), TokenTable.items(len(ids))
    gpt2 = gpt2_config(16, 1, 2, dropout=0.0)
    kinds = {
        "rq": (RQRecommender, tokens, gpt2),
        "causal": (CausalRecommender, tokens, gpt2),
        "t5": (T5Recommender, tokens, t5),
        "items": (CausalRecommender, alone, gpt2),
    }
    for name, (kind, own, config) in kinds.items():
        recommender = make_recommender(kind, own, config, histories, rows)
        if name == "rq":
            recommender.about = {"model": "rq", "domains": ITEMS}
        recommender.save_pretrained(OUT / name)
        expected[f"rank_{name}"], expected[f"rank_within_{name}"] = ranked(recommender, histories, rows)
        loaded = SequenceRecommender.from_pretrained(OUT / name)
        assert np.array_equal(loaded.rank(histories, K), expected[f"rank_{name}"])

    # A tokenizer's run that was interrupted, and what it comes to.
    try:
        Tokenizer.fit(fitted_on, INTERRUPTED, embedding=INFO, directory=OUT / "checkpoint", on_epoch=interrupt)
        raise SystemExit("the fit was not interrupted")
    except InterruptedRunError:
        pass
    shutil.copytree(OUT / "checkpoint", scratch / "tokenizer")
    resumed = codes_after_resuming(scratch / "tokenizer", fitted_on)
    for seed in range(DRAWS):
        with_noise(OUT / "checkpoint", scratch / f"tokenizer-{seed}", seed)
        again = codes_after_resuming(scratch / f"tokenizer-{seed}", fitted_on)
        assert all(np.array_equal(again[name], codes) for name, codes in resumed.items()), "resumed codes are unsteady"
    expected |= {f"resumed_codes_{name}": codes for name, codes in resumed.items()}

    # A recommender's run that was interrupted; it began at the weights in rq/.
    interactions = make_interactions(len(ids), seed=2)
    met = Histories.of(interactions, len(ids))
    expected |= {f"interactions_{name}": getattr(interactions, name) for name in ("user_ids", "item_ids", "positions")}
    try:
        fit(
            SequenceRecommender.from_pretrained(OUT / "rq"),
            met,
            TRAINING,
            directory=OUT / "recommender-run",
            on_epoch=interrupt,
        )
        raise SystemExit("the fit was not interrupted")
    except InterruptedRunError:
        pass
    shutil.copytree(OUT / "recommender-run", scratch / "recommender")
    recommender, records = recommender_after_resuming(scratch / "recommender", met)
    print("resumed:", [(record["epoch"], round(record["loss"], 4), round(record["ndcg"], 4)) for record in records])
    assert max(records, key=lambda record: record["ndcg"])["epoch"] == 2, "the epoch that was resumed must be the best"
    resumed = ranked(recommender, histories, rows)
    assert is_steady(recommender.model, partial(ranked, recommender, histories, rows)), "resumed rankings are unsteady"
    for seed in range(DRAWS):
        with_noise(OUT / "recommender-run", scratch / f"recommender-{seed}", seed)
        again = ranked(recommender_after_resuming(scratch / f"recommender-{seed}", met)[0], histories, rows)
        assert all(np.array_equal(*pair) for pair in zip(again, resumed, strict=True)), "resumed rankings are unsteady"
    expected["resumed_rank"], expected["resumed_rank_within"] = resumed
    expected |= {f"resumed_{name}": np.array([record[name] for record in records]) for name in ("loss", "ndcg")}

    np.savez_compressed(OUT / "expected.npz", **expected)
    shutil.rmtree(scratch)
    print(sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file()), "bytes")


if __name__ == "__main__":
    main()

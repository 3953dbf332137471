"""Compare the constrained beam search with that of transformers: first the lists of items, then the times.

python -m benchmarks.beam CATALOGUE_FOLDER [--domain office_products] [--tokenizer FOLDER]

Without --tokenizer, one is fitted for two epochs; the recommender is trained for --epochs. --keep saves the figures for
the page of `benchmarks.studies.ranking.recommendation`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import WrongResultError
from benchmarks.studies.experiments import origin, tensor
from unitok import Tokenizer, UniTokConfig
from unitok.data import read_catalogue, read_interactions
from unitok.recommender import CausalRecommender, Histories, TokenTable, TrainingConfig, fit

FIGURES = Path("docs/results/beam.json")
NEAR = 1e-4  # if float32 log-probabilities differ by less, two computations may order items differently
LEAST_ALIKE = 0.99


def main() -> None:
    """Check the lists, time both searches, print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("--domain", default="office_products")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--epochs", type=int, default=2, help="0 keeps the recommender's random weights")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--beam", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16, help="users per batch in transformers")
    parser.add_argument("--keep", action="store_true", help=f"add the figures to {FIGURES}")
    options = parser.parse_args()
    domain = read_catalogue(options.data)[options.domain]
    items = tensor(domain.embeddings)
    if options.tokenizer:
        tokenizer = Tokenizer.from_pretrained(options.tokenizer)
    else:
        tokenizer = Tokenizer.fit({options.domain: items}, UniTokConfig(epochs=2))
    table = TokenTable.of(tokenizer.tokenize(items, options.domain).assign(domain.keys))
    folder = options.data if (options.data / "interactions.parquet").exists() else options.data / options.domain
    histories = Histories.of(read_interactions(folder), len(items))
    recommender = CausalRecommender.create(table, beam=options.beam)
    if options.epochs:
        fit(recommender, histories, TrainingConfig(epochs=options.epochs, patience=0))
    asked = histories.queries("test").histories[: options.users]

    ours, seconds = timed(lambda: recommender.rank(asked, options.beam, exclude_seen=False))  # as `generate` does
    theirs, their_seconds = timed(lambda: generated(recommender, asked, options.beam, options.batch))
    alike = check(recommender, asked, ours, theirs)
    row = {
        "catalogue": options.domain,
        "users": len(asked),
        "beam": options.beam,
        "ours": seconds,
        "transformers": their_seconds,
        "ratio": their_seconds / seconds,
        "alike": alike,
        "origin": origin(),
    }
    print(
        f"{len(asked):,} users, beam {options.beam}: ours {seconds:.1f} s, transformers {their_seconds:.1f} s, "
        f"{row['ratio']:.1f} times as long; {alike:.2%} of the lists equal, the others up to near ties"
    )
    if options.keep:
        before = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
        others = [old for old in before if old["catalogue"] != options.domain]
        FIGURES.write_text(json.dumps([*others, row], indent=1) + "\n")


def timed(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Call once; return the result and the seconds."""
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


@torch.inference_mode()
def generated(recommender: CausalRecommender, histories: Tensor, beam: int, batch: int) -> Tensor:
    """Search with transformers' `generate`: for each beam, a dict gives the tokens that may follow its prefix."""
    table, width = recommender.table, recommender.table.width
    item_of = {tuple(tokens): name for tokens, name in zip(table.tokens.tolist(), table.names.tolist(), strict=True)}
    children: dict[tuple[int, ...], list[int]] = {}
    for tokens in item_of:
        for depth in range(width):
            children.setdefault(tokens[:depth], []).append(tokens[depth])
    children = {prefix: sorted(set(tokens)) for prefix, tokens in children.items()}
    lengths = (histories >= 0).sum(1)
    ranked = torch.full((len(histories), beam), -1)
    for rows in lengths.argsort(stable=True).split(batch):  # similar lengths together, as in ours
        longest = int(lengths[rows].max())
        kept = histories[rows, histories.shape[1] - longest :]
        tokens = table.tokens[kept.clamp(min=0)].where((kept >= 0)[:, :, None], table.pad).flatten(1)
        start = 1 + longest * width
        prompt = torch.full((len(rows), start), table.pad)
        prompt[:, 1:] = tokens
        begins = (longest - lengths[rows]) * width
        prompt[torch.arange(len(rows)), begins] = table.start
        found = recommender.model.generate(
            input_ids=prompt,
            attention_mask=(torch.arange(start) >= begins[:, None]).long(),
            num_beams=beam,
            num_return_sequences=beam,
            max_new_tokens=width,
            min_new_tokens=width,
            do_sample=False,
            length_penalty=0.0,
            renormalize_logits=True,
            prefix_allowed_tokens_fn=lambda _, row, start=start: children[tuple(row[start:].tolist())],
            pad_token_id=table.pad,
        )
        names = [item_of[tuple(path)] for path in found[:, start:].tolist()]
        ranked[rows] = torch.tensor(names).view(len(rows), beam)
    return ranked


def check(recommender: CausalRecommender, histories: Tensor, ours: Tensor, theirs: Tensor) -> float:
    """Check that the lists are equal, except for items whose log-probabilities are nearly tied.

    Returns the share of the lists that are exactly equal.
    """
    equal = (ours == theirs).all(1)
    for row in (~equal).nonzero()[:, 0].tolist():
        one, other = (scores(recommender, histories[row], names[row]) for names in (ours, theirs))
        if not torch.allclose(one, other, rtol=0, atol=NEAR):
            raise WrongResultError(f"beam: query {row}: scores of the lists differ by {(one - other).abs().max():.2e}")
    if (share := float(equal.double().mean())) < LEAST_ALIKE:
        raise WrongResultError(f"beam: only {share:.1%} of the lists are equal; near ties don't explain that")
    return share


@torch.inference_mode()
def scores(recommender: CausalRecommender, history: Tensor, names: Tensor) -> Tensor:
    """Score items after one history directly: the log-probability of their tokens among the children of each prefix."""
    table = recommender.table
    path, row_of = table.tokens, torch.empty(int(table.names.max()) + 1, dtype=torch.int64)
    row_of[table.names] = torch.arange(len(table))
    read = torch.cat([torch.tensor([table.start]), path[history[history >= 0]].flatten()])
    chosen = path[row_of[names]]
    logits = recommender.model(torch.cat([read.expand(len(names), -1), chosen], 1)).logits[:, len(read) - 1 : -1]
    total = torch.zeros(len(names))
    for depth in range(table.width):
        under = (path[None, :, :depth] == chosen[:, None, :depth]).all(2)
        allowed = torch.zeros(len(names), table.vocab_size, dtype=torch.bool)
        allowed[under.nonzero()[:, 0], path[under.nonzero()[:, 1], depth]] = True
        total += logits[:, depth].masked_fill(~allowed, -torch.inf).log_softmax(1).gather(1, chosen[:, [depth]])[:, 0]
    return total


if __name__ == "__main__":
    main()

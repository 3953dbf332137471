"""What behaviour in the IDs costs items without any: their collisions, and zero-shot, beside IDs of text alone.

python -m benchmarks.studies.ranking.behaviour CATALOGUE_FOLDER

Tokenizers are those of `item_ids`; missing ones are fitted, on all domains. For each domain that is --left-out,
tokenizers with behaviour and without are fitted on all others, for six epochs. The tables of docs/results/behaviour.md
are made by every run; the text around them is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from benchmarks.studies.experiments import DEFAULT, RUNS, origin, seeded, tensor
from benchmarks.studies.pages import FOLDER, write
from benchmarks.studies.ranking.item_ids import BEHAVIOUR, UNITOK, Places, Users, tokenizer
from benchmarks.studies.ranking.page import grid, origin_lines
from benchmarks.studies.ranking.settings import RESULTS
from unitok import SemanticIds, Tokenizer
from unitok.data import behaviour, find_domains, read_catalogue
from unitok.data.folder import INTERACTIONS

EPOCHS = 6  # of the fits without a domain
BLANK = 0.1  # share of the items whose vectors are taken away

Domains = Mapping[str, Tensor]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("--tokenizers", type=Path, default=Path("runs/experiments"), help="where tokenizers are kept")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--left-out", nargs="*", default=["office_products"], help="domains to leave out of a fit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, default=FOLDER / "behaviour.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    places = Places(options.data, Path(), options.tokenizers, RESULTS)
    items = {name: tensor(domain.embeddings) for name, domain in read_catalogue(options.data).items()}
    if unknown := set(options.left_out) - set(items):
        raise SystemExit(f"--left-out must be among {', '.join(items)}, got {', '.join(sorted(unknown))}.")
    vectors = {
        name: behaviour(Users.of(name, options.data).histories, len(items[name]))
        for name, folder in find_domains(options.data).items()
        if (folder / INTERACTIONS).exists()
    }
    pairs = [tuple(tokenizer(kind, seed, places) for kind in (UNITOK, BEHAVIOUR)) for seed in options.seeds]
    lines = [*origin_lines([origin()]), "", "### IDs of items with and without vectors", ""]
    lines += grid(COLLISIONS, [collisions(name, items[name], vectors[name], pairs) for name in vectors])
    lines += ["", "### Zero-shot", ""]
    rows = [unnamed(name, x, pairs) for name, x in items.items()]
    for name in options.left_out:
        others = [fitted(name, items, vectors, seed) for seed in options.seeds]
        rows.append(unnamed(f"{name}, left out of the fit", items[name], others, name))
    write(options.page, [*lines, *grid(ZERO_SHOT, rows)])
    print(options.page)


COLLISIONS = [
    "domain",
    "items without behaviour",
    "collisions, text alone",
    "with behaviour",
    "with behaviour, none given",
]
COLLISIONS += ["a tenth, text alone: share an ID", "the same tenth, no vectors, others with theirs"]


def collisions(name: str, x: Tensor, vectors: Tensor, pairs: Sequence[tuple[Tokenizer, ...]]) -> list[str]:
    """Count items that share IDs: of text alone, with vectors, without any, and a tenth without among others with."""
    blank = torch.rand(len(x), generator=torch.Generator().manual_seed(0)) < BLANK
    some, none = vectors.clone(), torch.full_like(vectors, torch.nan)
    some[blank] = torch.nan
    columns: list[list[float]] = [[], [], [], [], []]
    for plain, joined in pairs:
        text = plain.tokenize(x, name)
        own = [joined.tokenize(x, name, views={"behaviour": given}) for given in (vectors, none, some)]
        found = [shared(text), shared(own[0]), shared(own[1]), shared(text, blank), shared(own[2], blank)]
        for column, value in zip(columns, found, strict=True):
            column.append(value)
    absent = float(vectors.isnan().any(1).float().mean())
    return [name, f"{absent:.2%}", *(spread(column, "{:.2%}") for column in columns)]


ZERO_SHOT = ["domain, not named", "IDs equal", "check, text alone", "check, with behaviour"]
ZERO_SHOT += ["x error by ID, text alone", "with behaviour", "own expert added: text alone", "with behaviour"]


def unnamed(title: str, x: Tensor, pairs: Sequence[tuple[Tokenizer, ...]], new: str | None = None) -> list[str]:
    """Compare tokenizers with and without behaviour on items whose domain isn't named; then as a domain of its own."""
    same = [plain.tokenize(x).codes.equal(joined.tokenize(x).codes) for plain, joined in pairs]
    cells = [f"{sum(same)} of {len(same)}"]

    def both(figure: Callable[[Tokenizer], float], form: str) -> None:
        cells.extend(spread([figure(pair[which]) for pair in pairs], form) for which in (0, 1))

    both(lambda one: one.check_domain(x).score, "{:.4f}")
    both(lambda one: one.report(x).overall.reconstruction_by_id, "{:.4f}")
    if new is None:
        return [title, *cells, "", ""]
    for pair in pairs:
        for one in pair:
            one.add_domain(new, x)
    both(lambda one: one.report(x, new).overall.reconstruction_by_id, "{:.4f}")
    return [title, *cells]


def fitted(left_out: str, items: Domains, vectors: Domains, seed: int) -> tuple[Tokenizer, Tokenizer]:
    """Fit a tokenizer with behaviour and one without on all domains but one."""
    config = seeded(RUNS[DEFAULT], seed, EPOCHS).config
    known = {name: x for name, x in items.items() if name != left_out}
    views = {"behaviour": {name: rows for name, rows in vectors.items() if name != left_out}}
    return Tokenizer.fit(known, config), Tokenizer.fit(known, config, views=views)


def shared(ids: SemanticIds, among: Tensor | None = None) -> float:
    """Return the share of the items, or of some of them, whose ID is another item's, too."""
    groups = ids.groups()
    alike = torch.bincount(groups)[groups] > 1
    return float((alike if among is None else alike[among]).double().mean())


def spread(values: list[float], form: str) -> str:
    """Write a mean, and the smallest and largest value."""
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(mean(values))} ({form.format(min(values))} to {form.format(max(values))})"


if __name__ == "__main__":
    main()

"""`unitok demo`: the whole way, from a generated catalogue to IDs that say something."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.commands.files import replacing
from unitok.commands.fitting import fit_and_save, report_and_save, show_report, start_over
from unitok.commands.inputs import stated_embedding
from unitok.commands.options import Json
from unitok.commands.terminal import Refusal, console, print_json, say
from unitok.config import UniTokConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unitok.commands.id_table import IdTable
    from unitok.trie import PrefixTrie

# Small enough for seconds on two cores; 64 codewords a level, so that a few thousand items share some of them.
CONFIG = UniTokConfig(epochs=15, batch_size=256, codebook_size=64, codebook_dim=16, encoder_widths=(128, 64))
_SAMPLES, _NEIGHBOURS = 3, 3  # rows a domain in the two tables
_STYLES = ("bold green", "green", "cyan", "blue")  # of a token that is shared, by level


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for everything.", show_default=False)],
    items: Annotated[
        int | None,
        typer.Option(min=20, metavar="N", help="Items of each of the four domains.", show_default="700 to 3,000"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the catalogue and of the fit.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo.")] = False,
    as_json: Json = False,
) -> None:
    """Generate a catalogue of four shops, fit a tokenizer, and look at the IDs. Nothing is downloaded.

    For example:

        unitok demo --out runs/demo
        unitok demo --out runs/tiny --items 200 --force
    """
    from dataclasses import replace

    import torch

    from unitok.commands.tokenize import resolve, tokenize_parts
    from unitok.data import generate_catalogue, read_catalogue

    began = time.perf_counter()
    torch.set_num_threads(1)  # matrices this small gain nothing from a second one, and lose much on a busy machine
    if out.is_dir() and any(out.iterdir()) and not force:
        raise Refusal(f"{out}: the folder must be empty, got files in it. Choose another, or pass --force.")
    catalogue, folder, table = out / "catalogue", out / "tokenizer", out / "ids.parquet"
    say(f"generating a catalogue in {catalogue}")
    generate_catalogue(catalogue, seed=seed, items_per_domain=items, force=force)
    parts = read_catalogue(catalogue)
    start_over(folder)
    tokenizer = fit_and_save(
        parts,
        replace(CONFIG, seed=seed),
        folder,
        embedding=stated_embedding(parts),
        again="run the demo again with --force",
    )
    report = report_and_save(tokenizer, parts, folder)
    found = resolve(parts, tokenize_parts(tokenizer, parts), "suffix")
    with replacing(table, force=True) as partial:
        found.write(partial, tokenizer, "suffix")
    titles = [title for part in parts.values() for title in part.titles or []]
    tour = Tour.of(found, titles)
    if as_json:
        print_json({"out": str(out), "report": report.to_dict(), **tour.to_dict()})
        return
    # As it was called, where it isn't on the path: `.venv/bin/unitok` from `make demo`.
    program = "unitok" if shutil.which("unitok") or Path(sys.argv[0]).name != "unitok" else sys.argv[0]
    screen = console()
    screen.print()
    show_report(report)
    screen.print(_REPORT_KEY, style="dim")
    tour.show(screen)
    screen.print(
        f"\nDone in {time.perf_counter() - began:.0f} s. Everything is in {out}:\n"
        f"  catalogue/     four domains of items, embeddings and users' histories\n"
        f"  tokenizer/     the tokenizer, history.jsonl (a line an epoch) and report.json\n"
        f"  ids.parquet    every item with its ID\n"
        f"Next:\n"
        f"  {program} decode {folder} '{tour.text(tour.samples[0][0])}' --items {catalogue}\n"
        f"  {program} report {folder} {catalogue} --plot {out / 'report.png'}\n"
        f"  {program} fit --help",
        markup=False,
        soft_wrap=True,
    )


_REPORT_KEY = (
    "collisions: items that share an ID; resolved: the same once a suffix numbers them; equal inputs: those that "
    "nothing could split. z error: of the latents, relative; x error: of the embeddings; with all chains, and by the "
    "ID alone. own expert: share of a domain's items in its main expert."
)
_ID_KEY = (
    "<a_><b_><c_><d_>: four codes, from coarse to fine. <e_>: the expert whose codebooks they are of, by the router's "
    "choice. <f_>: a number for items that share all of that; the last two above are word for word the same."
)
_NEAREST_KEY = (
    "shared: leading codes that an item has in common with the one in bold, whose expert it shares. Nothing but IDs is "
    "compared, and the tokenizer never saw a title."
)


@dataclass(frozen=True, eq=False)
class Tour:
    """What the demo shows of the IDs.

    Attributes:
        found: all items with their IDs.
        titles: of all items.
        samples: rows of the first table, by section.
        nearest: row -> the rows nearest to it by ID prefix, with the number of codes they share.
    """

    found: IdTable
    titles: Sequence[str]
    samples: list[list[int]]
    nearest: dict[int, list[tuple[int, int]]]

    @classmethod
    def of(cls, found: IdTable, titles: Sequence[str]) -> Tour:
        """Choose items worth showing: some of each domain, two that are equal, and those in good company."""
        import torch

        from unitok.trie import PrefixTrie

        ids = found.ids
        # The expert first: a code means something within its expert's codebooks alone.
        trie = PrefixTrie.build(torch.cat([ids.experts[:, :1], ids.codes], 1))
        rows_of: dict[str, list[int]] = {}
        for row, domain in enumerate(found.table["domain"].to_pylist()):
            rows_of.setdefault(domain, []).append(row)
        nearest = {}
        for rows in rows_of.values():
            company = {row: _company(trie, row, titles) for row in rows}
            best = max(rows, key=lambda row: sum(shared for _, shared in company[row]))
            nearest[best] = company[best]
        samples = [rows[:: max(1, len(rows) // _SAMPLES)][:_SAMPLES] for rows in rows_of.values()]
        return cls(found, titles, [*samples, _twins(found, titles)], nearest)

    def text(self, row: int) -> str:
        """An item's ID."""
        text: str = self.found.table["semantic_id"][row].as_py()
        return text

    def domain(self, row: int) -> str:
        """An item's domain."""
        name: str = self.found.table["domain"][row].as_py()
        return name

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON."""

        def item(row: int) -> dict[str, Any]:
            return {"domain": self.domain(row), "title": self.titles[row], "semantic_id": self.text(row)}

        nearest = [
            {**item(row), "nearest": [{**item(other), "shared_codes": shared} for other, shared in company]}
            for row, company in self.nearest.items()
        ]
        return {"items": [item(row) for rows in self.samples for row in rows], "nearest": nearest}

    def show(self, screen: Console) -> None:
        """Print both tables."""
        from rich.text import Text

        table = _table("Items and their semantic IDs", "domain")
        for rows in self.samples:
            for row in rows:
                table.add_row(self.domain(row), Text(self.titles[row]), self.text(row))
            table.add_section()
        screen.print(table)
        screen.print(_ID_KEY, style="dim", markup=False)

        table = _table("Nearest items by ID prefix", "shared")
        levels = self.found.ids.num_levels
        for row, company in self.nearest.items():
            table.add_row("", Text(self.titles[row], style="bold"), Text(self.text(row), style="bold"))
            for place, (other, shared) in enumerate(company):
                cells = (f"{shared} of {levels}", Text("  " + self.titles[other]), _coloured(self.text(other), shared))
                table.add_row(*cells, end_section=place == len(company) - 1)
        screen.print(table)
        screen.print(_NEAREST_KEY, style="dim")


def _table(title: str, first: str) -> Table:
    from rich.table import Table

    table = Table(title=f"\n{title}", title_justify="left")
    table.add_column(first, no_wrap=True)
    table.add_column("item")
    table.add_column("semantic ID", no_wrap=True)
    return table


def _company(trie: PrefixTrie, row: int, titles: Sequence[str]) -> list[tuple[int, int]]:
    """The rows nearest to a row, each title once, with the number of codes that they share with it."""
    seen, found = {titles[row]}, []
    for other, depth in zip(*trie.nearest(row, 4 * _NEIGHBOURS), strict=True):
        if titles[other] not in seen and depth > 1:  # at depth 1 the expert alone is shared
            seen.add(titles[other])
            found.append((int(other), int(depth) - 1))
    return found[:_NEIGHBOURS]


def _twins(found: IdTable, titles: Sequence[str]) -> list[int]:
    """Two items that are word for word the same, so that the suffix alone tells them apart."""
    suffix = found.ids.suffix
    if suffix is None:
        return []
    for second in (suffix == 1).nonzero()[:, 0].tolist():
        same = (found.ids.groups() == found.ids.groups()[second]).nonzero()[:, 0].tolist()
        if pair := [row for row in same if row != second and titles[row] == titles[second]]:
            return [pair[0], second]
    return []


def _coloured(text: str, shared: int) -> Text:
    from rich.text import Text

    tokens = text.replace("><", ">\n<").splitlines()
    return Text.assemble(
        *(
            (token, _STYLES[min(level, len(_STYLES) - 1)] if level < shared else "")
            for level, token in enumerate(tokens)
        )
    )

"""The tables, the CSVs, the plot and the page of the benchmarks.

`make bench` calls it at the end of a run; `python -m benchmarks.report` rewrites the plot and the page from the CSVs.
"""

from __future__ import annotations

import csv
import dataclasses
import types
import typing
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bars import Verdict, judge
from benchmarks.harness import Record
from benchmarks.plot import draw_speed, number

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/results/cpu.md")
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
HEADINGS = ("level", "ms, min", "p20", "p50", "p80", "rounds", "GFLOP/s", "% of peak", "extra MiB", "x ours")


def cells(record: Record) -> tuple[str, ...]:
    """Return the table cells of a level."""
    times = (record.min_ms, record.p20_ms, record.p50_ms, record.p80_ms)
    return (
        record.level,
        *map(number, times),
        str(record.rounds),
        number(record.gflops),
        number(record.peak_percent),
        "" if record.extra_mib is None else f"{record.extra_mib:,.1f}",
        number(record.ratio),
    )


def print_case(records: list[Record]) -> None:
    """Print a case's table on the terminal."""
    first = records[0]
    peak = f"FMA peak {number(first.fma_peak_gflops)} GFLOP/s" if first.fma_peak_gflops else "no FMA peak"
    table = Table(title=f"{first.operation}: {first.case} ({first.threads} threads, {peak})", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for record in records:
        table.add_row(*cells(record), style="bold" if record is first else None)
    Console(width=130).print(table)


def write(records: list[Record], folder: Path) -> None:
    """Write one CSV per operation that ran, print the targets, and draw; only the real results go on the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for operation in dict.fromkeys(record.operation for record in records):
        write_csv([record for record in records if record.operation == operation], folder / f"{operation}.csv")
    print_bars(judge(records))
    publish(folder)


def write_csv(records: list[Record], path: Path) -> None:
    """Write records under a header of field names."""
    names = [field.name for field in dataclasses.fields(Record)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_written(getattr(record, name)) for name in names] for record in records)


def _written(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def read(folder: Path) -> list[Record]:
    """Read all CSVs of a folder."""
    return [record for path in sorted(folder.glob("*.csv")) for record in read_csv(path)]


def read_csv(path: Path) -> list[Record]:
    """Read the records of a CSV."""
    hints = typing.get_type_hints(Record)
    with path.open(newline="") as file:
        return [Record(**{k: _parsed(v, hints[k]) for k, v in row.items()}) for row in csv.DictReader(file)]


def _parsed(text: str, kind: object) -> object:
    if isinstance(kind, types.UnionType):
        return float(text) if text else None
    return kind(text)  # type: ignore[operator]


def print_bars(verdicts: Iterable[Verdict]) -> None:
    """Print the targets and what was measured."""
    table = Table(title="targets", title_justify="left")
    for heading in ("job", "target", "measured", "met"):
        table.add_column(heading)
    for verdict in verdicts:
        if verdict.met is not None:
            table.add_row(verdict.name, verdict.bar, verdict.measured, "yes" if verdict.met else "[bold]no[/]")
    if table.rows:
        Console(width=130).print(table)


def publish(folder: Path) -> None:
    """Draw the plot; for the committed results, also write the tables of the page."""
    if not (records := read(folder)):
        return
    draw_speed(records, folder / "speed.png")
    if folder == RESULTS:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{tables(records)}\n{END}{rest.partition(END)[2]}")


def tables(records: list[Record]) -> str:
    """Return the targets and one table per case, in Markdown."""
    lines = ["## Targets", "", "| job | target | measured | met |", "|---|---|---|---|"]
    for verdict in judge(records):
        met = "not measured" if verdict.met is None else "yes" if verdict.met else "**no**"
        lines.append(f"| {verdict.name} | {verdict.bar} | {verdict.measured} | {met} |")
    for operation, case in dict.fromkeys((r.operation, r.case) for r in records):
        rows = [r for r in records if (r.operation, r.case) == (operation, case)]
        first = rows[0]
        lines += [
            "",
            f"## {operation}: {case}",
            "",
            f"{first.device}, {first.cores} cores, {first.threads} threads, {first.instruction_set}, "
            f"torch {first.torch}, {first.date}, commit {first.commit}, "
            f"FMA peak {number(first.fma_peak_gflops)} GFLOP/s",
            "",
            f"| {' | '.join(HEADINGS)} |",
            "|---" + "|---:" * (len(HEADINGS) - 1) + "|",
        ]
        lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    publish(RESULTS)

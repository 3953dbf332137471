"""`unitok decode`: turn semantic IDs back into embeddings, or find the items nearest to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.cli.files import check_free, replacing
from unitok.cli.inputs import check_fits, counted, read_table
from unitok.cli.options import Force, Json, TokenizerFolder
from unitok.cli.terminal import Refusal, console, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from unitok import SemanticIds, Tokenizer

_ROWS_AT_ONCE = 4096
_MOST_TEXTS = 1000  # IDs whose nearest items or numbers are printed


def decode(
    tokenizer: TokenizerFolder,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="IDS...", help="A file from `unitok tokenize`, or IDs as text.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write the embeddings to this .npy file: float32, row i is ID i."
        ),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="A catalogue: print its items with the embeddings nearest to each ID's."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Items per ID, with --items.")] = 5,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Rebuild the embeddings that IDs stand for, and see what an ID means.

    IDs as text are written as in the column semantic_id of `unitok tokenize`; quote them. A suffix is ignored: it only
    tells items of equal ID apart. --json without --items prints the embeddings themselves.

    For example:

        unitok decode runs/first ids.parquet --out embeddings.npy
        unitok decode runs/first '<a_12><b_7><c_3><d_9><e_2>' --items catalogue
        unitok decode runs/first '<a_12><b_7><c_3><d_9><e_2>' --json
    """
    if out is None and items is None and not as_json:
        raise typer.BadParameter("say what to do with the embeddings: --out FILE.npy, --items CATALOGUE or --json.")

    import torch

    from unitok import Tokenizer

    if out is not None:
        if out.suffix != ".npy":
            raise Refusal(f"--out: must be named *.npy, got {out}. Give it that ending.")
        check_free(out, force=force)
    known = Tokenizer.from_pretrained(tokenizer)
    texts, found = _read(ids, known)
    if (items is not None or (as_json and out is None)) and len(texts) > _MOST_TEXTS:
        raise Refusal(f"ids: at most {_MOST_TEXTS} can be printed, got {len(texts)}. Write them with --out instead.")
    starts = range(0, max(len(found), 1), _ROWS_AT_ONCE)
    decoded = torch.cat([known.decode(found[start : start + _ROWS_AT_ONCE]) for start in starts])
    if out is not None:
        _write(decoded, out, force)
    nearest = None if items is None else _nearest(known, decoded, items, top)
    if as_json:
        print_json(_as_json(texts, decoded, nearest, out))
        return
    if nearest is not None:
        _print_nearest(texts, nearest)
    if out is not None:
        line = f"{counted(len(found), 'embedding')} of width {decoded.shape[1]} written to {out}"
        console().print(line, markup=False, soft_wrap=True)


def _write(decoded: Tensor, out: Path, force: bool) -> None:
    import numpy as np

    with replacing(out, force=force) as partial, partial.open("wb") as file:
        np.save(file, decoded.numpy())


def _as_json(
    texts: list[str], decoded: Tensor, nearest: list[list[dict[str, Any]]] | None, out: Path | None
) -> dict[str, Any]:
    result: dict[str, Any] = {"ids": len(decoded), "width": decoded.shape[1]}
    if out is not None:
        result["out"] = str(out)
    if nearest is not None:
        result["nearest"] = [{"semantic_id": text, "items": rows} for text, rows in zip(texts, nearest, strict=True)]
    elif out is None:
        result["embeddings"] = decoded.tolist()
    return result


def _read(ids: list[str], tokenizer: Tokenizer) -> tuple[list[str], SemanticIds]:
    from unitok import SemanticIds

    if all(text.lstrip().startswith("<") for text in ids):
        config = tokenizer.config
        sizes = {"codebook_size": config.codebook_size, "num_experts": tokenizer.model.num_experts}
        # One by one, since some may have a suffix and others not; it is dropped.
        each = [SemanticIds.from_text([text], num_levels=config.num_levels, layout="top1", **sizes) for text in ids]
        return ids, SemanticIds.concatenate([replace(one, suffix=None) for one in each])
    if len(ids) > 1:
        raise Refusal(f"ids: must be one file of IDs, or IDs as text, got {len(ids)} arguments. Give one kind.")
    table = read_table(Path(ids[0]), tokenizer)
    return table.table["semantic_id"].to_pylist(), table.ids


def _nearest(tokenizer: Tokenizer, decoded: Tensor, path: Path, top: int) -> list[list[dict[str, Any]]]:
    """For each decoded embedding, the catalogue's items with the largest cosine, best first."""
    import torch
    from torch.nn import functional as F

    from unitok.data import read_catalogue

    parts = read_catalogue(path)
    check_fits(tokenizer, path, parts)
    names = [(name, int(key)) for name, part in parts.items() for key in part.keys]
    titles = [title for part in parts.values() for title in part.titles or [""] * len(part.keys)]
    x = torch.cat([torch.from_numpy(part.embeddings.astype("float32")) for part in parts.values()])
    similarity = F.normalize(decoded) @ F.normalize(x).T
    values, rows = similarity.topk(min(top, len(x)), dim=1)
    return [
        [
            {"domain": names[row][0], "item_id": names[row][1], "title": titles[row], "cosine": round(value, 4)}
            for value, row in zip(*pair, strict=True)
        ]
        for pair in zip(values.tolist(), rows.tolist(), strict=True)
    ]


def _print_nearest(texts: list[str], nearest: list[list[dict[str, Any]]]) -> None:
    from rich.table import Table
    from rich.text import Text

    for text, rows in zip(texts, nearest, strict=True):
        table = Table("cosine", "domain", "item", "title", title=Text(text), title_justify="left")
        for row in rows:
            table.add_row(f"{row['cosine']:.3f}", Text(row["domain"]), str(row["item_id"]), Text(row["title"]))
        console().print(table)

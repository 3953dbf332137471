"""Embedded rows on disk, each with a digest of its text: what an interrupted run goes on from, and a later one keeps.

Two files: an array in the .npy format, which may still lack its last rows, and beside it, under the ending .digests,
what made the rows, their number and width, and per row a digest of its text and one of text and row together. So a row
is taken only for the text that it was made from, and only as it was written.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unitok.data.files import fault

_SIZE = 16  # bytes of a digest
_HEAD = np.dtype([("made_by", f"S{_SIZE}"), ("total", "<i8"), ("width", "<i8")])
_ENTRY = np.dtype([("text", f"S{_SIZE}"), ("seal", f"S{_SIZE}")])


class Found(NamedTuple):
    """The rows that are there.

    Attributes:
        rows: (N, D), memory-mapped.
        texts: (N,) digests of their texts.
        whole: (N,) bool, whether the row is as it was written.
    """

    rows: NDArray[Any]
    texts: NDArray[np.bytes_]
    whole: NDArray[np.bool_]

    def places_of(self, texts: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Find a whole row for each digest: its number, or -1."""
        known = np.flatnonzero(self.whole)
        known = known[np.argsort(self.texts[known], kind="stable")]
        if not len(known):
            return np.full(len(texts), -1)
        place = known[np.searchsorted(self.texts[known], texts).clip(max=len(known) - 1)]
        return np.where(self.texts[place] == texts, place, -1)


@dataclass(frozen=True)
class EmbeddedRows:
    """The two files of some rows.

    Args:
        file: the .npy file; there may be none yet.
        made_by: what makes the rows out of texts.
        dtype: of the rows.
    """

    file: Path
    made_by: str
    dtype: np.dtype[Any]

    @property
    def digests(self) -> Path:
        """The file of the digests."""
        return self.file.with_suffix(".digests")

    def read(self) -> Found:
        """Read the rows; none where a file is missing or broken, or of something else."""
        try:
            content = self.digests.read_bytes()
            made_by, total, width = np.frombuffer(content, _HEAD, 1)[0].tolist()
            entries = np.frombuffer(content[: len(content) - len(content) % _ENTRY.itemsize], _ENTRY)[1:]
            header = self._header(total, width)
            with self.file.open("rb") as file:
                known = made_by == _made_by(self.made_by) and file.read(len(header)) == header
                size = os.fstat(file.fileno()).st_size - len(header)
            count = min(len(entries), size // (width * self.dtype.itemsize), total) if known else 0
            rows = np.asarray(np.memmap(self.file, self.dtype, "r", len(header), (count, width)))
        except (OSError, ValueError, ZeroDivisionError):
            return Found(np.zeros((0, 0), self.dtype), np.zeros(0, f"S{_SIZE}"), np.zeros(0, bool))
        entries = entries[:count]
        return Found(rows, entries["text"], entries["seal"] == _sealed(entries["text"], rows)["seal"])

    def append(self, texts: NDArray[np.bytes_], block: NDArray[Any], total: int) -> None:
        """Append rows, safely on disk.

        Args:
            texts: (N,) digests of their texts.
            block: (N, D).
            total: how many rows there will be.

        Raises:
            CatalogueError: the rows that are there have another width.
        """
        width = block.shape[1]
        with self.file.open("ab") as rows, self.digests.open("ab") as digests:
            if rows.tell() == 0:
                rows.write(self._header(total, width))
                digests.write(np.array([(_made_by(self.made_by), total, width)], _HEAD).tobytes())
            else:
                check_width(self.file, int(np.fromfile(self.digests, _HEAD, 1)["width"][0]), width)
            rows.write(block.tobytes())
            digests.write(_sealed(texts, block).tobytes())
            for file in (rows, digests):
                file.flush()
                os.fsync(file.fileno())

    def cut(self, count: int) -> None:
        """Cut both files after so many of the rows that are there; with none left they are removed."""
        if count == 0:
            self.remove()
            return
        _, total, width = np.fromfile(self.digests, _HEAD, 1)[0].tolist()
        os.truncate(self.file, len(self._header(total, width)) + count * width * self.dtype.itemsize)
        os.truncate(self.digests, _HEAD.itemsize + count * _ENTRY.itemsize)

    def remove(self) -> None:
        """Remove both files."""
        for file in (self.file, self.digests):
            file.unlink(missing_ok=True)

    def _header(self, total: int, width: int) -> bytes:
        header = io.BytesIO()
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (total, width)}
        np.lib.format.write_array_header_1_0(header, described)
        return header.getvalue()


def digests_of(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Digest N texts, as (N,) bytes."""
    return np.array([_digest(text.encode("utf-8", "surrogatepass")) for text in texts], f"S{_SIZE}")


def check_width(file: Path, wanted: int, got: int) -> None:
    """Refuse rows of another width than those of the same model that are there."""
    if got != wanted:
        rule = f"embeddings must have the width of those made before by a model of this name, {wanted}"
        raise fault(file, rule, got, "Embed all of them anew, or name the model otherwise")


def _sealed(texts: NDArray[np.bytes_], rows: NDArray[Any]) -> NDArray[np.void]:
    """The entries of some rows."""
    entries = np.zeros(len(rows), _ENTRY)
    entries["text"] = texts
    # An item of such an array lacks zeros at its end, which the digest is of, too: hence ljust.
    pairs = zip(texts.tolist(), rows, strict=True)
    entries["seal"] = [_digest(text.ljust(_SIZE, b"\0") + row.tobytes()) for text, row in pairs]
    return entries


def _made_by(name: str) -> bytes:
    return _digest(name.encode("utf-8", "surrogatepass")).rstrip(b"\0")


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_SIZE).digest()

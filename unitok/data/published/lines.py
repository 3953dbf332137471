"""Lines of text files of any size, plain or gzipped; errors name the line's number."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from unitok.data.catalogue import CatalogueError
from unitok.data.files import is_special

_GZIP = b"\x1f\x8b"
_LONGEST = 1 << 23  # bytes per line; its objects take up to 31 for each
_LONGEST_LITERAL = 1 << 20  # characters; real ones have some thousands
_LINES_PER_REPORT = 1024  # of progress
_DECODER = json.JSONDecoder(parse_float=Decimal)  # as they are given: times must not be rounded
# A text without an end matches, too: else one would be looked for from each of its quotes on, in quadratic time.
_WORD = re.compile(r"""[uU]?('[^'\\]*(?:\\.[^'\\]*)*('?)|"[^"\\]*(?:\\.[^"\\]*)*("?))|\b(?:None|True|False)\b""")
_JSON = {"None": "null", "True": "true", "False": "false"}


class Lines:
    """The lines of a UTF-8 text file; iterate once, over those that aren't blank.

    The first bytes of a file tell whether it is gzipped, not its name. Memory doesn't grow with the file.

    Args:
        file: the file.
        what: the kind of file, for messages, such as `a metadata file of amazon-2014`.
        progress: called with the bytes read so far; compressed bytes if the file is gzipped.
    """

    def __init__(self, file: Path, what: str, progress: Callable[[int], object] | None = None) -> None:
        self.file, self.what, self.number = file, what, 0
        self._progress = progress

    def __iter__(self) -> Iterator[str]:
        filled = False
        for line in self._raw_lines():
            if len(line) > _LONGEST:
                raise self.fault(f"must be at most {_LONGEST >> 20} MiB long", "more")
            try:
                text = line.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                got = f"the byte 0x{error.object[error.start]:02x} in column {error.start + 1}"
                raise self.fault("must be UTF-8", got) from error
            if text.strip():
                filled = True
                yield text.rstrip("\r\n")
        if not filled:
            raise CatalogueError(f"{self.file}: must be {self.what}, got an empty file. Download it again.")

    def fault(self, rule: str, got: str, step: str | None = None) -> CatalogueError:
        """Make an error for the latest line."""
        step = step or f"Is it whole, and {self.what}?"
        return CatalogueError(f"{self.file}: line {self.number} {rule}, got {got}. {step}")

    def _raw_lines(self) -> Iterator[bytes]:
        if is_special(self.file):
            got = "a pipe or a device. Write what comes from it to a file first"
            raise CatalogueError(f"{self.file}: must be {self.what}, got {got}.")
        try:
            with self.file.open("rb") as raw:
                packed = raw.peek(len(_GZIP)).startswith(_GZIP)
                # Buffered again, since a reader in C finds line ends much faster than gzip's.
                stream = io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 17) if packed else raw
                for self.number, line in enumerate(iter(partial(stream.readline, _LONGEST + 1), b""), 1):
                    yield line
                    if self._progress is not None and self.number % _LINES_PER_REPORT == 0:
                        self._progress(raw.tell())
                if self._progress is not None:
                    self._progress(raw.tell())
        except (OSError, EOFError, zlib.error) as error:
            raise CatalogueError(f"{self.file}: must be {self.what}, got {self._unreadable(error)}") from error

    def _unreadable(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return "nothing there. Check the path."
        if isinstance(error, IsADirectoryError):
            return "a folder. Name the file itself."
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            return f"a gzip file that is cut off or broken somewhere after line {self.number}. Download it again."
        return f"one that can't be read ({getattr(error, 'strerror', None) or error}). Check the file."


def json_objects(lines: Lines, *, literals: bool = False) -> Iterator[dict[str, Any]]:
    """Read JSON lines; each must be an object.

    Args:
        lines: the file.
        literals: accept Python literals, too, as in the metadata of 2014. They are parsed as data; nothing is
            executed.

    Yields:
        dict: the fields of a line; numbers with a point are Decimals.
    """
    for text in lines:
        try:
            found = _DECODER.decode(text)
        except (ValueError, RecursionError, ArithmeticError) as error:
            found = _literal(lines, text) if literals else None
            if found is None:
                reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise lines.fault("must be a JSON object", f"{excerpt(text)} ({reason})") from error
        if not isinstance(found, dict):
            raise lines.fault("must be a JSON object", excerpt(text))
        yield found


def excerpt(text: str, length: int = 40) -> str:
    """Return the beginning of a line, with control characters escaped."""
    return ascii(text if len(text) <= length else text[:length] + "...")


def _literal(lines: Lines, text: str) -> Any:
    """Read what Python's repr made of dictionaries, lists, texts and numbers; None if it is anything else.

    It is turned into JSON, since ast.literal_eval takes some 500 bytes of memory for each of a line.
    """
    if len(text) > _LONGEST_LITERAL:
        raise lines.fault(f"must be at most {_LONGEST_LITERAL >> 20} MiB long, as it isn't JSON", excerpt(text))
    try:
        return _DECODER.decode(_WORD.sub(_as_json, text))
    except (ValueError, SyntaxError, RecursionError, ArithmeticError):  # nested too deeply, or 1e99999999999999999999
        return None


def _as_json(word: re.Match[str]) -> str:
    quoted: str | None = word[1]
    if quoted is None:
        return _JSON[word[0]]
    if not (word[2] or word[3]):
        raise ValueError("a text without an end")
    return json.dumps(ast.literal_eval(quoted) if "\\" in quoted else quoted[1:-1])

"""The text of semantic IDs: `<a_12><b_7><c_3>`. Needs only numpy, so that serving works without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unitok_kernels.rules import fail


def token_text(tokens: NDArray[np.int64]) -> list[str]:
    """Write each row of a token matrix as one string, with a letter and a number per column: `<a_12><b_7><c_3>`."""
    template = "".join(f"<{letters(column)}_%d>" for column in range(tokens.shape[1]))
    blocks = (tokens[start : start + 2**16].tolist() for start in range(0, len(tokens), 2**16))
    return [template % tuple(row) for block in blocks for row in block]


def read_tokens(what: str, texts: Sequence[str], width: int) -> NDArray[np.int64]:
    """Read what `token_text` wrote, also with spaces around the tokens, as language models decode them.

    Args:
        what: the operation that a message names.
        texts: N strings of as many tokens each.
        width: T, how many.

    Returns:
        ndarray: (N, T).

    Raises:
        ValueError: a text is not written that way (with its row).
    """
    names = [letters(column) for column in range(width)]
    pattern = re.compile("".join(rf"\s*<{name}_(0|[1-9]\d{{0,8}})>" for name in names) + r"\s*", re.A)
    tokens = np.empty((len(texts), width), dtype=np.int64)
    for row, text in enumerate(texts):
        if (match := pattern.fullmatch(text)) is None:
            rule = f"like {''.join(f'<{name}_0>' for name in names)}"
            step = "Name the layout and num_levels that they were written with."
            fail(what, "texts", rule, f"{text!r} in row {row}", step)
        tokens[row] = [int(token) for token in match.groups()]
    return tokens


def letters(column: int) -> str:
    """The name of a column in the text form: a .. z, aa, ab, and so on."""
    tail = chr(ord("a") + column % 26)
    return tail if column < 26 else letters(column // 26 - 1) + tail

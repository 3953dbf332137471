"""The text of semantic IDs: `<a_12><b_7><c_3>`. Needs only numpy, so that serving works without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def token_text(tokens: NDArray[np.int64]) -> list[str]:
    """Write each row of a token matrix as one string, with a letter and a number per column: `<a_12><b_7><c_3>`."""
    template = "".join(f"<{letters(column)}_%d>" for column in range(tokens.shape[1]))
    blocks = (tokens[start : start + 2**16].tolist() for start in range(0, len(tokens), 2**16))
    return [template % tuple(row) for block in blocks for row in block]


def letters(column: int) -> str:
    """The name of a column in the text form: a .. z, aa, ab, and so on."""
    tail = chr(ord("a") + column % 26)
    return tail if column < 26 else letters(column // 26 - 1) + tail

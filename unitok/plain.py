"""What `Tokenizer` and `serving` share, so that their IDs are equal to the bit: numpy alone, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitok_kernels import arrays


def embeddings(what: str, name: str, x: object) -> NDArray[np.float32]:
    """Check item embeddings: (N, D_in), finite in float32.

    Args:
        what: the operation that a message names.
        name: the argument that it names.
        x: (N, D_in) float16, float32 or float64.

    Returns:
        ndarray: (N, D_in) float32; x itself where it is that, in the machine's byte order, contiguous and aligned.

    Raises:
        ValueError: no matrix; NaN or infinity (with the row).
        TypeError: no array of floats.
    """
    given = arrays.floating(what, name, x, "(N, D_in)", (2, 4, 8))
    with np.errstate(over="ignore"):  # what float32 can't hold is infinite, and refused
        rows = given.astype(np.float32, copy=False)
    arrays.finite(what, name, rows, "Remove or repair that row.")
    return rows


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the router's logits into probabilities: p_e = exp(l_e - max l) / sum_e exp(l_e - max l).

    Args:
        logits: (N, E).

    Returns:
        ndarray: (N, E); the sum is taken in the order of the experts, so that no row depends on its batch.
    """
    powers = np.exp(logits - logits.max(1, keepdims=True))
    total: NDArray[Any] = np.zeros(len(logits))
    for column in powers.T:
        total += column
    return powers / total[:, None]


def top_experts(logits: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Name the experts with the largest logits, the largest first; ties take the lowest index; (N, E) -> (N, count)."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :count]


def token_text(tokens: NDArray[np.int64]) -> list[str]:
    """Write each row of a token matrix as one string, a letter and a number a column: `<a_12><b_7><c_3>`."""
    template = "".join(f"<{letters(column)}_%d>" for column in range(tokens.shape[1]))
    blocks = (tokens[start : start + 2**16].tolist() for start in range(0, len(tokens), 2**16))
    return [template % tuple(row) for block in blocks for row in block]


def letters(column: int) -> str:
    """The name of a column in the text form: a .. z, aa, ab, and so on."""
    tail = chr(ord("a") + column % 26)
    return tail if column < 26 else letters(column // 26 - 1) + tail

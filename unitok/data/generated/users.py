"""Histories of generated users, whose tastes change over time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unitok.data.catalogue import Interactions

USERS_PER_ITEM = 1.5
MIN_HISTORY, MEAN_HISTORY, MAX_HISTORY = 5, 9, 50
POPULARITY_EXPONENT = 0.8
TASTE = 9.0  # weight of the cosine with a taste, relative to popularity and chance
DRIFT_NOISE = 0.15

_FIRST_DAY = 1_672_531_200  # 2023-01-01 in UTC
_DAY = 86_400
_START_DAYS, _MEAN_GAP_DAYS = 500, 12
_USERS_AT_ONCE = 1024  # limits the memory of users x items


def zipf_weights(num_choices: int, exponent: float = 1.0) -> NDArray[np.float64]:
    """Return (num_choices,) probabilities proportional to rank^-exponent."""
    weights = np.arange(1, num_choices + 1) ** -exponent
    return weights / weights.sum()


def generate_histories(embeddings: NDArray[np.float32], rng: np.random.Generator) -> Interactions:
    """Generate the histories of users who move from items like a to items like b.

    A user's items are drawn without repetition from softmax(TASTE * max(x.a, x.b) + log popularity), where a and b are
    the embeddings of two popular items. They are in the order of x.b - x.a, with some noise.

    Args:
        embeddings: (N, D) float32 of unit length, N at least 2 * MIN_HISTORY.
        rng: the random generator.

    Returns:
        Interactions of 1.5 N users, 5 to 50 items each, 9 on average; timestamps increase within a history.
    """
    num_items = len(embeddings)
    num_users = int(USERS_PER_ITEM * num_items)
    popularity = rng.permutation(zipf_weights(num_items, POPULARITY_EXPONENT))
    extra = rng.geometric(1 / (MEAN_HISTORY - MIN_HISTORY + 1), num_users) - 1
    lengths = np.minimum(MIN_HISTORY + extra, min(MAX_HISTORY, num_items // 2))
    tastes = rng.choice(num_items, size=(num_users, 2), p=popularity)
    blocks = [slice(start, start + _USERS_AT_ONCE) for start in range(0, num_users, _USERS_AT_ONCE)]
    drawn = [_draw_items(embeddings, popularity, tastes[block], lengths[block], rng) for block in blocks]
    users = np.repeat(np.arange(num_users), lengths)
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    starts = rng.uniform(0, _START_DAYS, num_users)
    days = np.cumsum(rng.exponential(_MEAN_GAP_DAYS, len(users)) + 1 / _DAY)
    since_start = days - np.repeat(days[ends - lengths], lengths)
    seconds = (starts[users] + since_start) * _DAY
    return Interactions(users, np.concatenate(drawn), positions, _FIRST_DAY + seconds.astype(np.int64))


def _draw_items(
    embeddings: NDArray[np.float32],
    popularity: NDArray[np.float64],
    tastes: NDArray[np.int64],
    lengths: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw each user's items and put them in order: (sum of lengths,)."""
    early, late = (embeddings[tastes[:, i]] @ embeddings.T for i in range(2))
    # Gumbel noise and the largest scores: a draw without repetition from the softmax.
    scores = TASTE * np.maximum(early, late) + np.log(popularity) + rng.gumbel(size=early.shape)
    longest = lengths.max()
    drawn = np.argpartition(-scores, longest - 1, axis=1)[:, :longest]
    drawn = np.take_along_axis(drawn, np.argsort(-np.take_along_axis(scores, drawn, 1), axis=1), 1)
    drift = np.take_along_axis(late - early, drawn, 1) + DRIFT_NOISE * rng.standard_normal(drawn.shape)
    kept = np.arange(longest) < lengths[:, None]
    order = np.argsort(np.where(kept, drift, np.inf), axis=1)
    return np.take_along_axis(drawn, order, 1)[kept]

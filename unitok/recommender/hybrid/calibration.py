"""How much what was learnt and the content count beside the memory, chosen on queries that nothing was learnt from.

A model fits the histories that it learns from better than any others, so it trusts itself too much. How much too much,
and what content is worth, hangs on the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

STEP = 2**0.5
_MOST = 8  # steps up or down: factors of 1/16 to 16


def climb(score: Callable[[Sequence[float]], float], count: int) -> list[float]:
    """Find factors by which a score is high: from 1 on, each in turn is changed for as long as that raises the score.

    Args:
        score: gives the score of `count` factors; it is asked once for the same ones.
        count: how many factors.

    Returns:
        The factors, powers of the root of 2.
    """
    known: dict[tuple[int, ...], float] = {}

    def reached(steps: tuple[int, ...]) -> float:
        if steps not in known:
            known[steps] = score([STEP**each for each in steps])
        return known[steps]

    best, before = (0,) * count, None
    while best != before:
        before = best
        for place in range(count):
            for way in (-1, 1):
                further = _moved(best, place, way)
                while abs(further[place]) <= _MOST and reached(further) > reached(best):
                    best, further = further, _moved(further, place, way)
    return [STEP**each for each in best]


def _moved(steps: tuple[int, ...], place: int, way: int) -> tuple[int, ...]:
    return (*steps[:place], steps[place] + way, *steps[place + 1 :])

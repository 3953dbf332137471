"""Damage of a file's bytes as disks, networks and people do it; every case is drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rng = np.random.Generator


def flip(whole: bytearray, rng: Rng) -> None:
    """One bit, which is what rot does; every other time near the end or the beginning, where formats keep sizes."""
    low, high = 0, len(whole)
    if rng.random() < 0.5 and high > 400:
        low, high = (high - 400, high) if rng.random() < 0.5 else (0, 400)
    whole[int(rng.integers(low, high))] ^= 1 << int(rng.integers(8))


def cut(whole: bytearray, rng: Rng) -> None:
    """The end is missing, as after a download that broke off."""
    del whole[int(rng.integers(len(whole))) :]


def zero(whole: bytearray, rng: Rng) -> None:
    """A block of zeros, as after a crash of the machine."""
    start = int(rng.integers(len(whole)))
    size = min(len(whole) - start, int(rng.integers(1, 512)))
    whole[start : start + size] = bytes(size)


def repeat(whole: bytearray, rng: Rng) -> None:
    """A part twice."""
    start = int(rng.integers(len(whole)))
    part = whole[start : start + int(rng.integers(1, 64))]
    whole[start:start] = part


def drop(whole: bytearray, rng: Rng) -> None:
    """A part missing in the middle."""
    start = int(rng.integers(len(whole)))
    del whole[start : start + int(rng.integers(1, 64))]


def noise(whole: bytearray, rng: Rng) -> None:
    """A part of something else."""
    start = int(rng.integers(len(whole)))
    part = rng.integers(0, 256, int(rng.integers(1, 32)), dtype=np.uint8).tobytes()
    whole[start : start + len(part)] = part


def digits(whole: bytearray, rng: Rng) -> None:
    """A number that is far too large, where a digit is."""
    places = [place for place, byte in enumerate(whole) if 0x30 <= byte <= 0x39]
    if places:
        place = places[int(rng.integers(len(places)))]
        whole[place : place + 1] = b"9" * int(rng.choice([2, 10, 19, 40]))


def nest(whole: bytearray, rng: Rng) -> None:
    """Brackets nested as deep as no writer nests them."""
    start = int(rng.integers(len(whole)))
    whole[start:start] = b"[" * 3000


MUTATIONS: tuple[Callable[[bytearray, Rng], None], ...] = (
    flip,
    flip,
    flip,
    flip,
    cut,
    zero,
    repeat,
    drop,
    noise,
    digits,
    nest,
)


def mutated(whole: bytes, seed: int) -> tuple[str, bytes]:
    """Damage a file.

    Args:
        whole: its bytes, at least one.
        seed: of the case.

    Returns:
        The kind of damage, and the damaged bytes.
    """
    rng = np.random.default_rng(seed)
    how = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    found = bytearray(whole)
    how(found, rng)
    return how.__name__, bytes(found)

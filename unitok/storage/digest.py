"""Digests by which what we wrote is known again: of bytes, and of settings in JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "digest"


def digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sealed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add a digest of the settings to them.

    Args:
        settings: plain data for JSON, without the key `digest`.

    Returns:
        dict: the settings, then `digest`, which `check_seal` compares.
    """
    return {**settings, SEAL: _digest_of(settings)}


def check_seal(name: str, settings: Mapping[str, Any], *, needed: bool = True) -> None:
    """Refuse settings that aren't those that were sealed.

    Args:
        name: the file that a message names.
        settings: as they were read.
        needed: whether settings without a digest are refused; older releases wrote none.

    Raises:
        ValueError: a value, a name or the digest was changed.
    """
    rest = {key: value for key, value in settings.items() if key != SEAL}
    if settings.get(SEAL) != _digest_of(rest) and (needed or SEAL in settings):
        raise ValueError(f"{name} isn't as it was written: it was changed by hand or is damaged")


def _digest_of(settings: Mapping[str, Any]) -> str:
    # As it is after a round trip: tuples are lists then, and keys are texts.
    plain = json.loads(json.dumps(settings))
    return digest(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())

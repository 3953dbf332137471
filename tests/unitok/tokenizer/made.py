"""The kinds of tokenizers that the tests go through, and an ID as bytes in every layout that it has."""

from __future__ import annotations

from unitok import SemanticIds
from unitok.config import PRESETS

EVERY = [(preset, top_k, None) for preset in PRESETS for top_k in (1, 2)] + [("normalised", 1, 0)]
WIDTH, LEVELS, SIZE = 32, 3, 16


def bytes_of(ids: SemanticIds) -> dict[str, bytes]:
    layouts = ["top1"]
    layouts += ["top1_shared"] if ids.shared_codes is not None else []
    layouts += ["all_slots"] if ids.slot_codes is not None else []
    return {layout: ids.pack(layout).tobytes() for layout in layouts}

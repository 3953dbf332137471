"""Made IDs in a space so small that many collide."""

from __future__ import annotations

from dataclasses import replace

import torch

from unitok.ids.semantic_ids import SemanticIds

SIZES = {"codebook_size": 4, "num_experts": 3}


def make_ids(rows: int, seed: int, *, levels: int = 2, slots: int = 1, codebook_size: int = 4) -> SemanticIds:
    """IDs with all that any layout or resolver needs."""
    g = torch.Generator().manual_seed(seed)
    slot_codes = torch.randint(codebook_size, (rows, slots, levels), generator=g)
    return SemanticIds(
        codes=slot_codes[:, 0],
        experts=torch.randint(3, (rows, slots), generator=g),
        codebook_size=codebook_size,
        num_experts=3,
        shared_codes=torch.randint(codebook_size, (rows, levels), generator=g),
        slot_codes=slot_codes,
        last_residual=torch.randn(rows, 5, generator=g),
        last_codebooks=torch.randn(3, codebook_size, 5, generator=g),
    )


def by_key(keys: list[int], ids: SemanticIds) -> dict[int, tuple[int, ...]]:
    return {key: tuple(row) for key, row in zip(keys, ids.tokens().tolist(), strict=True)}


def after_a_domain(ids: SemanticIds) -> SemanticIds:
    """The same IDs, as the tokenizer gives them once a domain brought it an expert."""
    return replace(ids, num_experts=4, last_codebooks=torch.cat([ids.last_codebooks, torch.ones(1, 4, 5)]))

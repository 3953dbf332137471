"""Codebooks as searches read them, for callers who search the same ones again and again."""

from unitok_kernels.ops.pack_codebooks.op import PackedCodebooks, check_packed, pack_codebooks, parts

__all__ = ["PackedCodebooks", "check_packed", "pack_codebooks", "parts"]

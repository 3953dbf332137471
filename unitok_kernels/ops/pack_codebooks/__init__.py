"""Codebooks that are packed once for many searches."""

from unitok_kernels.ops.pack_codebooks.op import PackedCodebooks, check_packed, pack_codebooks, parts

__all__ = ["PackedCodebooks", "check_packed", "pack_codebooks", "parts"]

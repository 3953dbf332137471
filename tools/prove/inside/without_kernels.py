"""A package without native modules: the reference stands in. The argument is the folder that it is imported from."""

from __future__ import annotations

import sys
from pathlib import Path

import unitok_kernels as uk


def main(folder: Path) -> None:
    """Encode by the package that was installed, which must know that it has no kernels."""
    if folder not in Path(uk.__file__).resolve().parents:
        raise SystemExit(f"unitok_kernels is not that of {folder}: {uk.__file__}")
    if uk.backends.available()["cpu"]:
        raise SystemExit("the backend cpu is there, though no compiler was")
    import torch

    codes = uk.residual_encode(torch.eye(3), torch.eye(3)[None]).codes.flatten().tolist()
    if codes != [0, 1, 2]:
        raise SystemExit(f"the reference gives the codes {codes}, not [0, 1, 2]")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

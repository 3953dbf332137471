"""What all tests share: the real data, where there are any, a fixed number of threads, and small tokenizers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

# Read when torch is first imported: waiting threads that spin make the tests ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# pytest imports readline, which leaves the size of a terminal, 80 by 24, to all that the process starts: to xdist's
# workers and to the commands that tests run, whose tables would be cut to it. Not in os.environ where readline set it.
for _size in ("COLUMNS", "LINES"):
    os.environ.pop(_size, None)
    os.unsetenv(_size)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def torch_threads() -> None:
    # Two on every machine: no result hangs on its size, and what races with a second thread can show.
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def real_catalogue() -> Path:
    """The folder of real catalogues: UNITOK_DATA, or shared/data beside the repository."""
    named = os.environ.get("UNITOK_DATA")
    path = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data in {path}: set UNITOK_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def refuses() -> Callable[..., AbstractContextManager[Any]]:
    """`refuses(what, argument, error)`: the block raises it, in one line of the form that all errors have."""

    def expect(what: str, argument: str, error: type[Exception] = ValueError) -> AbstractContextManager[Any]:
        form = rf"^{re.escape(what)}: {re.escape(argument)} must \S[^\n]*, got [^\n]+\. [A-Z][^\n]+\.$"
        return pytest.raises(error, match=form)

    return expect


@pytest.fixture(scope="session")
def make_items() -> Callable[..., Any]:
    """`make_items(rows, seed=..., width=...)`: unit rows in clusters, around a centre that the seed has to itself."""
    import torch

    def make(rows: int, *, seed: int, width: int = 32) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(24, width, generator=generator) + 2 * torch.randn(width, generator=generator)
        noise = torch.randn(rows, width, generator=generator)
        items = centres[torch.randint(24, (rows,), generator=generator)] + 0.3 * noise
        return torch.nn.functional.normalize(items, dim=1)

    return make


@pytest.fixture(scope="session")
def small_domains(make_items: Callable[..., Any]) -> dict[str, Any]:
    """Three domains of other sizes; nobody writes to them."""
    return {"books": make_items(400, seed=1), "games": make_items(240, seed=2), "toys": make_items(160, seed=3)}


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Any]:
    """`make_config(**changes)`: a small model's settings, each given here, so that no test hangs on a default."""
    from unitok import LossWeights, UniTokConfig

    def make(**changes: Any) -> UniTokConfig:
        settings: dict[str, Any] = {
            "preset": "normalised",
            "epochs": 4,
            "seed": 0,
            "batch_size": 64,
            "num_levels": 3,
            "codebook_size": 16,
            "codebook_dim": 8,
            "top_k": 1,
            "encoder_widths": (32,),
            "num_experts": None,
            "weights": LossWeights(1.0, 1.0, commitment=0.25, calibration=0.03, beta=1.0),
            "learning_rate": 1e-2,
            "final_learning_rate": 0.5,
            "weight_decay": 1e-4,
            "gradient_clip": 1.0,
            "warmup_epochs": 1,
            "validation_fraction": 0.05,
            "min_domain_rows": 16,
            "bandwidth": "median",
            "normalised_hsic": False,
        }
        return UniTokConfig(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def fitted(small_domains: dict[str, Any], make_config: Callable[..., Any]) -> Callable[..., Any]:
    """`fitted(**changes)`: a tokenizer of the small domains, fitted once a session; copy it before changing it."""
    from unitok import Tokenizer

    kept: dict[str, Tokenizer] = {}

    def fit(**changes: Any) -> Tokenizer:
        config = make_config(**changes)
        if str(config) not in kept:
            kept[str(config)] = Tokenizer.fit(small_domains, config)
        return kept[str(config)]

    return fit

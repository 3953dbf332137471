"""The calls that `tools.aot` compiles: a few of each operation, with their floors and how often loops run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tools.aot.prediction import DEVICES, MATRIX, Trips
from unitok_kernels.ops._triton.launch import Launch

# Share of rows that are searched again on a level: not what a kernel counted, but the integer scores made in torch, for
# normal rows and codewords in tiles of 64; 65,536 rows at D = 32, K = 256, 16,384 at D = 128, K = 1024.
RESCORED = {(32, 256): 0.0087, (128, 1024): 0.0167}
_EPILOGUE_INSTRUCTIONS = 3  # of a score: multiply and add, and two minima


@dataclass(frozen=True)
class Shape:
    """Sizes of a search: rows, width, codewords, levels (0: a single search), chains that each row goes through."""

    N: int
    D: int
    K: int
    L: int = 0
    chains: int = 1


@dataclass(frozen=True)
class Case:
    """One call to compile.

    Attributes:
        operation: folder under `ops/`.
        function: the launcher in its triton.py.
        label: what sets the case apart.
        arguments: makes the launcher's arguments; called where tensors are fake.
        shape: of a search, for its floors.
        itemsize: bytes of a value of rows and codebooks.
    """

    operation: str
    function: str
    label: str
    arguments: Callable[[], tuple[Any, ...]]
    shape: Shape | None = None
    itemsize: int = 4

    @property
    def name(self) -> str:
        """Name it in budgets and tables."""
        return f"{self.function} {self.label}"

    def is_there(self) -> bool:
        """Tell whether the operation has Triton kernels."""
        return importlib.util.find_spec(f"unitok_kernels.ops.{self.operation}.triton") is not None

    def call(self) -> None:
        """Run the launcher."""
        module = importlib.import_module(f"unitok_kernels.ops.{self.operation}.triton")
        getattr(module, self.function)(*self.arguments())

    @property
    def trips(self) -> Callable[[Launch], Trips] | None:
        """How often a launch's loops run; None where nobody has said."""
        return self._trips if self.shape is not None else None

    def _trips(self, launch: Launch) -> Trips:
        assert self.shape is not None
        steps = -(-self.shape.K // launch.constants["BK"])
        again = RESCORED[self.shape.D, self.shape.K] * launch.constants["BN"]
        # A row that is searched again takes a pair of columns, and that one step through the tiles, mostly.
        search: Trips = ({MATRIX: steps, "": again}, {"": 1}, {"": 1})
        levels: Trips = ({"": self.shape.L},) if self.shape.L else ()
        chains: Trips = ({"": self.shape.chains},) if self.shape.chains > 1 else ()
        # AMD's code loops over the base addresses of a load, of which all threads have one.
        return tuple({"readfirstlane": 1, **kinds} for kinds in (*chains, *levels, *search, {}))

    def floors(self, target: str, own: bool = False) -> dict[str, float]:
        """Give the floors on a target in seconds; `own`: of what the kernel really multiplies, three int8 products.

        The epilogue is `_EPILOGUE_INSTRUCTIONS` a score at the rate of float32, an FMA counting as two operations.
        """
        if self.shape is None:
            return {}
        device, (N, D, K) = DEVICES[target], (self.shape.N, self.shape.D, self.shape.K)
        levels = max(self.shape.L, 1) * self.shape.chains
        operations = 2.0 * N * D * K * levels
        out = N * (D * self.itemsize + 8 * levels) if self.shape.L else N * (8 + 4)
        memory = (N * D * self.itemsize + out + levels * K * D * self.itemsize) / device.bandwidth
        if own:
            return {"3 x int8": 3 * operations / device.int8, "memory": memory}
        return {
            "tf32": operations / device.tf32,
            "epilogue": _EPILOGUE_INSTRUCTIONS * N * K * levels / (device.float32 / 2),
            "memory": memory,
        }


def left_out(cases: Sequence[Case]) -> list[str]:
    """List the operations without Triton kernels."""
    return sorted({case.operation for case in cases if not case.is_there()})


def _rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda")


def _codes(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.int64, device="cuda")


def _encode(shape: Shape, dtype: torch.dtype = torch.float32) -> Case:
    kind = str(dtype).removeprefix("torch.")
    return Case(
        "residual_encode", "residual_encode", f"{shape.N}x{shape.D} K={shape.K} L={shape.L} {kind}",
        lambda: (
            _rows(shape.N, shape.D, dtype=dtype), _rows(shape.L, shape.K, shape.D, dtype=dtype), "exact", None, False,
        ),
        shape, dtype.itemsize,
    )  # fmt: skip


MAIN, AUDIO = Shape(1 << 20, 32, 256, 4), Shape(150_000, 128, 1024, 8)
_N, _D, _K, _L, _E, _S = 1 << 16, 32, 256, 4, 11, 1


def _mixture(slots: int = _S, rows: int = _N, width: int = _D) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """Z, codebooks, expert_ids, expert_weights, shared_codebooks, shared_weight."""
    codebooks, shared = _rows(_E, _L, _K, width), _rows(_L, _K, width)
    return _rows(rows, width), codebooks, _codes(rows, slots), _rows(rows, slots), shared, 1.0


def _mixture_backward() -> tuple[Any, ...]:
    gradient, codebooks, ids, weights, shared, weight = _mixture()
    return gradient, codebooks, ids, weights, _codes(_N, _S, _L), shared, weight, _codes(_N, _L), True


def _chain() -> tuple[Tensor, Tensor, Tensor]:
    """Rows, codes, codebooks."""
    return _rows(_N, _D), _codes(_N, _L), _rows(_L, _K, _D)


def _in_bfloat16(case: Case) -> Case:
    """Take a case's call with all that is in float32 in bfloat16."""
    narrow = lambda value: value.bfloat16() if getattr(value, "dtype", None) == torch.float32 else value  # noqa: E731
    arguments = lambda: tuple(narrow(value) for value in case.arguments())  # noqa: E731
    return replace(case, label=f"{case.label} bfloat16", arguments=arguments)


CASES = [
    _encode(MAIN),
    _encode(MAIN, torch.bfloat16),
    _encode(AUDIO),
    Case(
        "nearest_codeword", "nearest_codeword", "1048576x32 K=256 float32",
        lambda: (_rows(1 << 20, _D), _rows(_K, _D), "exact", None, False), Shape(1 << 20, _D, _K),
    ),
    Case("residual_decode", "residual_decode", "64k", lambda: (_codes(_N, _L), _rows(_L, _K, _D), None)),
    Case(
        "residual_decode", "residual_decode_backward", "64k",
        lambda: (_rows(_N, _D), _codes(_N, _L), _K),
    ),
    Case(
        "moe_residual_encode", "moe_residual_encode", "1048576x32 K=256 L=4, top-1 + shared",
        lambda: (*_mixture(rows=1 << 20), "exact", None, False), Shape(1 << 20, _D, _K, _L, chains=2),
    ),
    Case("moe_residual_encode", "moe_residual_encode", "64k S=2", lambda: (*_mixture(2), "exact", None, False)),
    Case(
        "moe_residual_encode", "moe_residual_encode", "64k D=768 S=2",
        lambda: (*_mixture(2, width=768), "exact", None, False),
    ),
    Case("moe_residual_encode", "moe_residual_encode_backward", "64k", _mixture_backward),
    Case("codeword_statistics", "codeword_statistics", "64k", lambda: (_rows(_N, _D), _codes(_N), _K, None)),
    Case("kmeans", "kmeans", "64k", lambda: (_rows(_N, _D), _K, 2, 0, "k-means++", None, False, None)),
    Case("kmeans", "kmeans", "20k balanced", lambda: (_rows(20_000, _D), 64, 1, 0, "", _rows(64, _D), True, None)),
    Case("hsic", "hsic", "8k", lambda: (_rows(8192, 64), _rows(8192, _D), _codes(8192), 3, None, True, True, None)),
    Case("sinkhorn_assign", "sinkhorn_assign", "64k", lambda: (_rows(_N, _D), _rows(_K, _D), 0.05, 5, None)),
    Case(
        "residual_loss", "moe_residual_loss", "64k",
        lambda: (_rows(_N, _D), _codes(_N, _S, _L), _rows(_E, _L, _K, _D), _codes(_N, _S), 1.0, 0.25, None, True),
    ),
    Case("residual_straight_through", "residual_straight_through", "64k", lambda: (*_chain(), "", False, True)),
    Case("residual_straight_through", "residual_straight_through", "64k cosine", lambda: (*_chain(), "", True, True)),
    Case(
        "residual_straight_through", "residual_straight_through_backward", "64k rotation, cosine",
        lambda: (_rows(_N, _D), _rows(_L), *_chain(), "rotation", True, False),
    ),
    Case(
        "residual_straight_through", "residual_straight_through_backward", "64k none",
        lambda: (_rows(_N, _D), _rows(_L), *_chain(), "none", False, True),
    ),
    Case("ordered_linear", "ordered_linear", "64k", lambda: (_rows(_N, 64), _rows(32, 64), _rows(32), True)),
]  # fmt: skip
_SEARCHING = "moe_residual_encode", "kmeans"  # residual_encode stands for their search in bfloat16
CASES += [_in_bfloat16(case) for case in CASES if case.shape is None and case.function not in _SEARCHING]

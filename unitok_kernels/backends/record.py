"""What the library knows of a backend: all that tells one from another stands in its record.

Records are named tuples, since importing `dataclasses` takes as long as everything else in `backends`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class NativeModule(NamedTuple):
    """The native module that a backend's kernels are compiled into.

    Attributes:
        name: its name in `unitok_kernels`.
        unbuilt: says why it can't be loaded and what builds it; None where it is there.
        built_for: says what it is built for.
    """

    name: str
    unbuilt: Callable[[], str | None]
    built_for: Callable[[], str]


class InstructionSets(NamedTuple):
    """Instruction sets of this processor.

    Attributes:
        used: the one that kernels use.
        usable: those that they could use, the plainest first.
    """

    used: str
    usable: list[str]


def _no() -> bool:
    return False


def _no_details(operations: frozenset[str]) -> str:
    return ""


class Backend(NamedTuple):
    """One backend. Its kernels are in `ops/<operation>/<name>.py`.

    Attributes:
        name: what `backend=` and UNITOK_BACKEND call it.
        preference: of the backends that can take a call, the one with the highest preference gets it.
        missing: says why it can't run anything on this machine; None where it can.
        devices: the types of devices whose tensors it takes; None takes tensors of every device.
        takes_float64: whether it takes float64; otherwise such a call goes to a backend that does.
        on_host: tells whether its kernels are interpreted or emulated now: then it takes tensors of every device, but
            only for calls that ask for it.
        joins_graphs: whether its launches can stand in a graph that torch.compile traces.
        reads_packed: whether its searches read what `pack_codebooks` has packed.
        details: says what `explain` adds where the backend is available; it is given the operations that have kernels.
        module: its native module, if it has one.
        variable: an environment variable that demands something of it. A reason of `missing` that starts with its name
            says that the demand can't be met: then calls on its devices raise, instead of going to another backend.
        instructions: gives the instruction sets that it chooses from, if it does.
    """

    name: str
    preference: int
    missing: Callable[[], str | None]
    devices: tuple[str, ...] | None = None
    takes_float64: bool = False
    on_host: Callable[[], bool] = _no
    joins_graphs: bool = False
    reads_packed: bool = False
    details: Callable[[frozenset[str]], str] = _no_details
    module: NativeModule | None = None
    variable: str | None = None
    instructions: Callable[[], InstructionSets] | None = None

    def serves(self, device_type: str) -> bool:
        """Tell whether it is made for tensors of this type of device."""
        return self.devices is None or device_type in self.devices

    def needs_gpu(self) -> bool:
        """Tell whether it can run only on a GPU now."""
        return not self.serves("cpu") and not self.on_host()

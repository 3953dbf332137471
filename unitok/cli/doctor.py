"""`unitok doctor`: what is installed, what would run, and whether the guarantees hold on this machine."""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from unitok import __version__
from unitok.cli.options import Json
from unitok.cli.terminal import console, print_json

if TYPE_CHECKING:
    from rich.console import Console

DISTRIBUTION = "unitok-kernels"
_NEEDED = ("torch", "numpy", "pyarrow", "safetensors", "typer", "rich")
_EXTRA = re.compile(r"([\w.-]+).*\bextra == ['\"]([\w-]+)['\"]")


def doctor(as_json: Json = False) -> None:
    """Show what is installed and built, which backends would run and why, and check the guarantees on this machine.

    If something is missing, the command that installs it is shown. The native modules are built by `pip install .`:
    `_cpu` needs a C++17 compiler, `_cuda` also nvcc, in CUDA_HOME, in PATH or from `pip install
    'cuda-toolkit[nvcc,cccl]'`. UNITOK_CUDA=1 makes the build fail without `_cuda`, UNITOK_CUDA=0 skips it,
    UNITOK_CUDA_ARCHS="80;90" builds only for these architectures.

    The checks: codes equal those of a float64 search, at an offset where the usual float32 form fails; an item's codes
    are the same alone and in a batch; a tokenizer gives the same IDs after it was saved and loaded. If one fails, the
    exit code is 1. The environment variable UNITOK_CPU selects one of the listed instruction sets.

    For example:

        unitok doctor
        unitok doctor --json > doctor.json
    """
    from unitok_kernels import backends, nvcc

    checks: dict[str, Callable[[], bool]] = {
        "codes equal those of a float64 search": _codes_are_exact,
        "an item's codes are the same alone and in a batch": _batch_is_no_matter,
        "IDs are the same after saving and loading": _saving_is_no_matter,
    }
    wrong = backends.misnamed() if _has_torch() else "torch is not installed: `pip install torch` brings it"
    results = {} if wrong else {name: check() for name, check in checks.items()}
    found = {
        "unitok": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _NEEDED},
        "processor": _processor()._asdict(),
        "modules": backends.modules(),
        "nvcc": nvcc.find(),
        "backends": backends.available(),
        "instruction_set": backends.instruction_set(),
        "instruction_sets": backends.instruction_sets(),
        "extras": extras(),
        "checks": results,
        "ok": wrong is None and all(results.values()),
    }
    if as_json:
        print_json(found)
    else:
        _print(console(), found, backends.explain(), wrong)
    if not found["ok"]:
        raise typer.Exit(1)


def extras() -> dict[str, list[str]]:
    """Return, for each extra, the packages that are missing on this machine."""
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a source tree
        return {}
    missing: dict[str, list[str]] = {}
    for requirement in required:
        if (match := _EXTRA.match(requirement)) is not None:
            package, extra = match.groups()
            lacking = missing.setdefault(extra, [])
            if _version(package) is None:
                lacking.append(package)
    return missing


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


class _Processor(NamedTuple):
    cores: int | None
    threads: int | None = None
    instructions: str | None = None
    cuda: str | None = None


def _processor() -> _Processor:
    import os

    if not _has_torch():
        return _Processor(os.cpu_count())
    import torch

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return _Processor(os.cpu_count(), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), cuda)


def _no_device(available: dict[str, bool]) -> str:
    from unitok_kernels import backends

    there_is_one = any(available.get(name) and record.needs_gpu() for name, record in backends.records().items())
    unseen = "torch sees no CUDA device, though there is one: install a build of torch for CUDA"
    return unseen if there_is_one else "no CUDA device"


def _codes_are_exact() -> bool:
    import torch

    import unitok_kernels as uk

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(64, 8, generator=generator) + 1000
    codebooks = torch.randn(3, 32, 8, generator=generator)
    codebooks[0] += 1000
    codes, residual = uk.residual_encode(z, codebooks).codes, z
    for level, codebook in enumerate(codebooks):
        distance = (residual.double()[:, None] - codebook.double()).square().sum(2)
        if not torch.equal(distance.argmin(1), codes[:, level]):
            return False
        residual = residual - codebook[codes[:, level]]
    return True


def _tiny_tokenizer() -> tuple[Any, Any]:
    import torch

    from unitok import Tokenizer, UniTokConfig, UniTokModel
    from unitok.model.saved import DomainInfo

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = UniTokConfig(encoder_widths=(64, 32), codebook_dim=16, codebook_size=32)
        tokenizer = Tokenizer(UniTokModel(48, 3, config), [DomainInfo("made", 300)])
        return tokenizer, torch.randn(300, 48)


def _batch_is_no_matter() -> bool:
    tokenizer, x = _tiny_tokenizer()
    together = tokenizer.tokenize(x)
    return all(tokenizer.tokenize(x[row : row + 1]).equals(together[[row]]) for row in range(0, len(x), 30))


def _saving_is_no_matter() -> bool:
    from tempfile import TemporaryDirectory

    from unitok import Tokenizer

    tokenizer, x = _tiny_tokenizer()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return Tokenizer.from_pretrained(folder).tokenize(x).equals(tokenizer.tokenize(x))


def _print(screen: Console, found: dict[str, Any], explained: str, wrong: str | None) -> None:
    processor = _Processor(**found["processor"])
    lines = [
        f"unitok {found['unitok']}, Python {found['python']}, {found['platform']}",
        "  " + ", ".join(f"{name} {version or 'missing'}" for name, version in found["versions"].items()),
        f"  {processor.cores} cores, {processor.threads} threads, {processor.instructions}; "
        + (processor.cuda or _no_device(found["backends"])),
        "",
        "Native modules",
        *(f"  {name:<6} {state}" for name, state in found["modules"].items()),
        f"  nvcc   {found['nvcc'] or 'not found'}",
        "",
        "Backends",
        *(f"  {line}" for line in explained.splitlines()),
        "",
        "Extras",
    ]
    for extra, missing in found["extras"].items():
        state = f"lacks {', '.join(missing)}: pip install '{DISTRIBUTION}[{extra}]'" if missing else "installed"
        lines.append(f"  {extra:<10} {state}")
    lines += ["", "Checks"]
    lines += [f"  {'ok    ' if fine else 'FAILED'} {name}" for name, fine in found["checks"].items()]
    if wrong:
        lines.append(f"  none was run: {wrong}")
    for line in lines:
        screen.print(line, markup=False, soft_wrap=True)

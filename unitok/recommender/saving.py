"""The folder of a saved recommender: transformers' own files, the items' tokens, and settings that name them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import load
from torch import Tensor

from unitok.recommender.token_table import TokenTable
from unitok.storage.digest import check_seal, digest, sealed
from unitok.storage.saved import (
    CONFIG,
    NOT_WHOLE,
    RECOMMENDER,
    SHARDS,
    WEIGHTS,
    check_holds,
    check_own,
    missing,
    not_whole,
)
from unitok.storage.tensors import contiguous, write_tensors
from unitok.storage.whole import current, link_or_copy, whole_files, whole_read
from unitok_kernels.rules import fail

SETTINGS, ITEMS, HEAD = RECOMMENDER.settings, "items.safetensors", "head.safetensors"
GENERATION = "generation_config.json"
FORMAT = 2  # 1 had settings without a digest
_OF_TABLE = ("vocab_size", "start", "pad")
_TYPES = {"kind": str, "history": int, "beam": int, "about": dict, **dict.fromkeys(_OF_TABLE, int)}

Made = TypeVar("Made")


class Saved(NamedTuple):
    """What a folder holds; each file was read once, and is as it was written.

    Attributes:
        settings: what `write` was given.
        table: the items.
        rows: (M,) int64, the items that are ranked; None where all are.
        tensors: the content of each safetensors file, by its name.
        plain: the content of `config.json` and `generation_config.json`, by name.
    """

    settings: dict[str, Any]
    table: TokenTable
    rows: Tensor | None
    tensors: dict[str, dict[str, Tensor]]
    plain: dict[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that transformers wrote, of one file or of several."""
        parts = (held for name, held in self.tensors.items() if _is_weights(name))
        return {name: value for held in parts for name, value in held.items()}


def as_folder(what: str, directory: object) -> Path:
    """Take a path, or say that it is none."""
    try:
        return Path(directory)  # type: ignore[arg-type]
    except TypeError:
        fail(what, "directory", "a path", type(directory).__name__, "Pass the name of a folder.", TypeError)


def check_plain(what: str, name: str, value: object) -> None:
    """Refuse what JSON can't hold, before anything is written."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        fail(what, name, "plain data for JSON", f"other ({why})", "Keep texts, numbers, lists and dicts.", TypeError)


def check_tokenizer(what: str, folder: Path, tokenizer: Any) -> None:
    """Refuse a folder where a language model's tokenizer would replace files that no save of a recommender wrote.

    Args:
        what: the operation that a message names.
        folder: where a recommender is to be saved with it.
        tokenizer: of transformers.

    Raises:
        ValueError: the folder holds such a file.
    """
    with TemporaryDirectory() as made:
        tokenizer.save_pretrained(made)  # only it knows what it writes
        check_own(what, RECOMMENDER, folder, Path(made), _before(current(folder)))


def write(
    what: str,
    folder: Path,
    model: Any,
    table: TokenTable,
    rows: Tensor | None,
    settings: dict[str, Any],
    tokenizer: Any = None,
) -> None:
    """Write a model as transformers does, its items and settings; a recommender that is there is replaced.

    The settings have a digest of every other file and one of themselves: files of two saves are never taken for one.

    Args:
        what: the operation that a message names.
        folder: created if it is missing.
        model: of transformers, or one that saves itself as those do.
        table: the items.
        rows: (M,) int64, the items that are ranked; None where all are.
        settings: plain data for JSON.
        tokenizer: of transformers, to be saved with the model. None keeps the one that an earlier save left, if the
            tokens of its items are equal.

    Raises:
        OSError: the folder can't be written to; what was there stays.
        ValueError: a file is there that no save wrote and that would be lost.
    """
    base = current(folder)
    before = _before(base)
    with whole_files(folder, drop=before) as staging:
        model.save_pretrained(staging, state_dict=contiguous(model.state_dict()))  # transformers takes no others
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        else:
            for name in _tokenizer_of(base, table):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(base / name, staging / name)
        items = {"tokens": table.tokens, "groups": table.groups, "rows": rows}
        write_tensors(staging / ITEMS, {name: value for name, value in items.items() if value is not None})
        files = {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
        written = {"format": FORMAT, **settings, **{name: getattr(table, name) for name in _OF_TABLE}}
        written["files"] = {name: _digest(path) for name, path in files.items()}
        (staging / SETTINGS).write_text(json.dumps(sealed(written), indent=1) + "\n", encoding="utf-8")
        check_own(what, RECOMMENDER, folder, staging, before)


def read(what: str, directory: str | Path, make: Callable[[Saved], Made]) -> Made:
    """Read what `write` wrote, all of one save, and make something of it.

    Args:
        what: the operation that a message names.
        directory: the folder.
        make: is given what is there; its errors say why that can't be used.

    Returns:
        What `make` made.

    Raises:
        FileNotFoundError: a file is missing.
        TypeError: a directory that is no path.
        ValueError: a file is broken, of another save or of a later release, or something else is there.
    """
    folder = as_folder(what, directory)
    try:
        return whole_read(folder, (SETTINGS,), lambda base: make(_read(what, folder, base)))
    except FileNotFoundError:
        raise
    except (OSError, RecursionError, *NOT_WHOLE) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not transformers' word for broken
            raise
        raise not_whole(what, RECOMMENDER, folder, error) from error


def model_of(auto: Any, saved: Saved) -> tuple[Any, dict[str, Any]]:
    """Make a model of transformers of its configuration and its weights, if they fit each other.

    Args:
        auto: transformers' class for it, such as `AutoModelForCausalLM`.
        saved: what a folder holds.

    Returns:
        The model, and what transformers says of its weights.

    Raises:
        ValueError: a configuration that is none, or of other sizes than the weights.
    """
    from transformers import CONFIG_MAPPING, GenerationConfig

    described, weights = saved.plain.get(CONFIG), saved.weights
    if not isinstance(described, dict) or described.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(f"{CONFIG} describes no model that transformers knows")
    config = CONFIG_MAPPING[described["model_type"]].from_dict(described)
    model, info = _fitting(auto, config, weights).from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True
    )
    if GENERATION in saved.plain and hasattr(model, "generation_config"):
        model.generation_config = GenerationConfig.from_dict(saved.plain[GENERATION])
    return model, info


def _read(what: str, directory: Path, base: Path) -> Saved:
    check_holds(what, RECOMMENDER, directory, base)
    settings = _settings(base / SETTINGS)
    digests = settings.get("files", {})  # older releases wrote none
    names = list(digests) or _always(base)
    for name in names:
        if not (base / name).is_file():
            raise missing(what, RECOMMENDER, name, directory)
    tensors: dict[str, dict[str, Tensor]] = {}
    plain: dict[str, Any] = {}
    for name in names:
        content = (base / name).read_bytes()  # read once: what the digest is of is what is loaded
        if digests and digest(content) != digests[name]:
            raise ValueError(f"{name} isn't the one that {SETTINGS} was written with")
        if name.endswith(".safetensors"):
            tensors[name] = load(content)
        elif name in (CONFIG, GENERATION):
            plain[name] = json.loads(content)
    items = tensors.get(ITEMS, {})
    if "tokens" not in items:
        raise ValueError(f"{ITEMS} holds no tokens")
    numbers = {name: settings[name] for name in _OF_TABLE}
    table = TokenTable(items["tokens"], **numbers, groups=items.get("groups"))
    return Saved(settings, table, items.get("rows"), tensors, plain)


def _settings(file: Path) -> dict[str, Any]:
    """Read settings that are as they were written, each of its type."""
    settings: dict[str, Any] = json.loads(file.read_bytes())
    form = settings["format"]
    if type(form) is not int or form not in range(1, FORMAT + 1):
        raise ValueError(f"format {form!r} of a later release")
    check_seal(SETTINGS, settings, needed=form > 1)
    for name, kind in _TYPES.items():
        if name not in settings:
            raise ValueError(f"{SETTINGS} has no {name}")
        if type(settings[name]) is not kind:
            raise ValueError(f"{SETTINGS} has a {type(settings[name]).__name__} as {name}, not a {kind.__name__}")
    files = settings.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise ValueError(f"{SETTINGS} has no digests as files")
    return settings


def _fitting(auto: Any, config: Any, weights: dict[str, Tensor]) -> Any:
    """The class of a model; a configuration of other sizes than the weights is refused before it takes any memory."""
    import torch

    for name in ("num_hidden_layers", "num_decoder_layers"):  # each layer has weights
        if isinstance(layers := getattr(config, name, 0), int) and layers > len(weights):
            raise ValueError(f"{CONFIG} says {name} = {layers}, but there are {len(weights)} weights in all")
    with torch.device("meta"):
        model = auto.from_config(config)
    if getattr(config, "quantization_config", None) is not None:  # packed weights have sizes of their own
        return type(model)
    for name, value in model.state_dict().items():
        if name in weights and weights[name].shape != value.shape:
            shapes = f"{tuple(value.shape)}, but it is {tuple(weights[name].shape)}"
            raise ValueError(f"{CONFIG} says that {name} is {shapes}")
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > 2 * (there := sum(value.numel() for value in weights.values())):
        raise ValueError(f"{CONFIG} describes {described} numbers, but the weights have {there}")
    return type(model)


def _is_weights(name: str) -> bool:
    return name == WEIGHTS or fnmatch(name, SHARDS)


def _always(base: Path) -> list[str]:
    """The files of a recommender that names none: those that each has, and those of some that are there."""
    parts = sorted(path.name for path in base.glob(SHARDS))
    some = [name for name in (HEAD, GENERATION) if (base / name).is_file()]
    return [CONFIG, ITEMS, *(parts or [WEIGHTS]), *some]


def _before(base: Path) -> set[str]:
    """What an earlier save left, which a model of another kind or size may not write anew."""
    if not (base / SETTINGS).exists():
        return set()  # nothing here was written by a save
    names = {SETTINGS, *RECOMMENDER.files, *(path.name for path in base.glob(SHARDS))}
    with suppress(OSError, ValueError, KeyError, TypeError):  # written by an older release
        files = json.loads((base / SETTINGS).read_text(encoding="utf-8"))["files"]
        # A file of a language model's tokenizer that was changed since is the user's.
        names |= {name for name in files if _is_within(name) and _digest(base / name) == files[name]}
    return names


def _tokenizer_of(base: Path, table: TokenTable) -> list[str]:
    """Name an earlier save's files of a language model's tokenizer, if they are whole and fit these items."""
    with suppress(OSError, *NOT_WHOLE):
        settings = _settings(base / SETTINGS)
        digests = settings.get("files", {})
        names = [name for name in digests if name not in RECOMMENDER.files and not _is_weights(name)]
        whole = all(_is_within(name) and _digest(base / name) == digests[name] for name in (ITEMS, *names))
        if names and whole and all(settings[name] == getattr(table, name) for name in _OF_TABLE):
            return names if torch.equal(load((base / ITEMS).read_bytes())["tokens"], table.tokens.cpu()) else []
    return []


def _is_within(name: str) -> bool:
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            found.update(block)
    return found.hexdigest()

"""UniTokConfig: every setting of the model and of its training, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeGuard


@dataclass(frozen=True)
class Preset:
    """How the chains of the routed experts and of the shared expert are combined.

    With `renormalise` and top_k = 1 the expert's weight is p / p = 1, so no loss reaches the router. Instead, it is a
    nearest-mean classifier of the domains, recomputed after every epoch except the last.

    Attributes:
        shared: "parallel" (the shared expert quantises z), "first" (it quantises z, and the routed experts quantise the
            rest), or "none".
        routed_scale: factor on the router's weights.
        shared_weight: weight of the shared chain.
        renormalise: divide the router's probabilities by their sum over the routed experts.
        dense: mix all experts at every level of one chain, as the paper's public code does.
    """

    shared: str
    routed_scale: float = 1.0
    shared_weight: float = 1.0
    renormalise: bool = False
    dense: bool = False


PRESETS = {
    "paper": Preset("parallel"),
    "normalised": Preset("parallel", routed_scale=0.5, shared_weight=0.5, renormalise=True),
    "shared_first": Preset("first", renormalise=True),
    "public_code": Preset("parallel", routed_scale=0.95, shared_weight=0.05, dense=True),
}
CALIBRATIONS = ("paper", "variation")
_HEAVIEST = 1e6  # of a view beside the latents, which then count for nothing
_NEWER = ("view_weight",)  # settings that older releases don't know


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses: L = reconstruction L_rec + quantisation L_rq + calibration L_mi.

    Each is a finite number, at least 0, without a unit; 0 switches its term off.

    Args:
        reconstruction: weight of L_rec = |x - x_hat|^2. Higher: the decoded embeddings come closer to the items.
        quantisation: weight of L_rq, the distance between latents and codewords. Higher: the codewords come closer to
            the latents.
        commitment: weight, inside L_rq, of the term that pulls latents towards their codewords. Higher: latents stay
            nearer to the codebooks.
        calibration: weight of L_mi = Var_k[I_k] - beta Mean_k[I_k] or of its other form (see
            `UniTokConfig.calibration`); I_k is the HSIC of domain k, how strongly its latents depend on its embeddings.
            Higher: the domains become more equal in it.
        beta: weight of the mean inside L_mi. Higher: more dependence instead of more equal domains. The paper gives no
            value. At 1 the mean's pull is a thousand times the variance's, and the raw form raises the variance that it
            should lower; at 1e-3 both forms lower it (docs/results/calibration.md).

    Raises:
        ValueError: a weight is negative or not a finite number.
    """

    reconstruction: float = 1.0
    quantisation: float = 1.0
    commitment: float = 0.25
    calibration: float = 0.03
    beta: float = 1e-3

    def __post_init__(self) -> None:
        _check_weights("LossWeights", "", vars(self))


@dataclass(frozen=True)
class UniTokConfig:
    """Settings of a tokenizer.

    Args:
        preset: how shared and routed experts are combined: "normalised", "paper", "shared_first" or "public_code"; see
            `PRESETS`.
        epochs: passes over the items, at least 1. More: a better fit, and a longer one.
        seed: of weights, k-means and batches, from 0 to 2^32 - 1. Equal seeds give equal tokenizers on one machine.
        batch_size: items per training step, at least 1; `min_domain_rows` may add some. Larger: fewer steps per epoch,
            and more memory.
        num_levels: L, codes per ID, at least 1. More: fewer collisions and smaller errors, but longer IDs.
        codebook_size: K, codewords per level, at least 1. More: fewer collisions, but each is used by fewer items.
        codebook_dim: D, width of the latents and codewords, at least 1. Wider: more detail, and larger codebooks.
        top_k: S, experts per item, from 1 to the number of experts. More: smaller errors if all their codes are
            used; by default an ID holds only those of the first.
        encoder_widths: widths of the encoder's hidden layers, each at least 1, from the input on; the decoder has them
            in reverse. An empty tuple makes both linear.
        num_experts: experts that the router chooses among. None: one per domain. 0: a single codebook per level without
            router and shared expert (RQ-VAE).
        weights: weights of the losses.
        learning_rate: peak step size of AdamW, above 0; the rate follows a cosine from here down. Higher: faster, but
            the fit may diverge.
        final_learning_rate: the rate at the last step, as a share of the peak, from 0 to 1. Near 0 the codebooks settle
            at the smallest mean error, which takes codewords away from dense regions: more items collide.
        weight_decay: decay of AdamW on the weight matrices of encoder, router and decoder, at least 0. Higher: smaller
            weights.
        gradient_clip: largest norm of the gradient, above 0; a longer gradient is scaled down to it.
        warmup_epochs: epochs in which only encoder and decoder are trained, at least 0; at most epochs - 1 are used.
            Then router and codebooks are initialised from the latents.
        validation_fraction: share of each domain's items kept out of training, at least 0 and below 1; their
            reconstruction error is logged.
        min_domain_rows: fewest rows per domain in a batch, at least 0; missing ones are drawn again from the domain. A
            domain of fewer items is in every batch as a whole. Higher: steadier HSIC estimates, but slower steps.
        bandwidth: sigma of HSIC's kernels, above 0 and in units of the embeddings, or "median": the median distance.
            Smaller: only close pairs of items count.
        normalised_hsic: calibrate on CKA, HSIC scaled to lie between 0 and 1, instead of HSIC itself.
        calibration: form of L_mi. "paper" is Var - beta Mean; at its weight of .03 it is too weak to have an effect.
            "variation" is sqrt(Var) / Mean on the same number of rows per domain. It has no scale: a weight of .01
            lowers Var several times at a small price in L_rec (docs/results/calibration.md).
        view_weight: how much an item's vectors in a view count in its ID, as a share of its latents' variance, above 0
            and at most 1e6. Higher: items of alike behaviour get more alike IDs, which tell less of their embeddings.

    Raises:
        ValueError: a setting is out of its range or unknown.

    Source:
        UniTok, arXiv 2511.12922.
    """

    preset: str = "normalised"
    epochs: int = 20
    seed: int = 0
    batch_size: int = 1024
    num_levels: int = 4
    codebook_size: int = 256
    codebook_dim: int = 32
    top_k: int = 1
    encoder_widths: tuple[int, ...] = (512, 256, 128, 64)
    num_experts: int | None = None
    weights: LossWeights = field(default_factory=LossWeights)
    learning_rate: float = 2e-3
    final_learning_rate: float = 0.5
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    warmup_epochs: int = 1
    validation_fraction: float = 0.02
    min_domain_rows: int = 32
    bandwidth: float | str = "median"
    normalised_hsic: bool = False
    calibration: str = "paper"
    view_weight: float = 1.0

    def __post_init__(self) -> None:
        settings = _typed("UniTokConfig", vars(self))
        for name in ("encoder_widths", "weights"):
            object.__setattr__(self, name, settings[name])
        _check_settings("UniTokConfig", settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON-serialisable dict.

        Returns:
            dict: names and values; `from_dict` reads it. `view_weight` is left out where it is the default, so that
            releases that know no views can read it, too.
        """
        found, default = dataclasses.asdict(self), type(self)()
        return {key: value for key, value in found.items() if key not in _NEWER or value != getattr(default, key)}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> UniTokConfig:
        """Read what `to_dict` returned.

        Args:
            settings: names and values; a list counts as a tuple.

        Returns:
            UniTokConfig: the settings.

        Raises:
            ValueError: a name is unknown or a value out of range.
        """
        what = "UniTokConfig.from_dict"
        _refuse_unknown(what, cls, "settings", settings)
        _check_settings(what, _typed(what, vars(cls()) | settings))
        return cls(**settings)


def _typed(what: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn values as JSON has them into the types of the fields: a list into a tuple, a dict into `LossWeights`."""
    widths, weights = settings["encoder_widths"], settings["weights"]
    if isinstance(weights, dict):
        _refuse_unknown(what, LossWeights, "weights", weights)
        _check_weights(what, "weights.", weights)
        weights = LossWeights(**weights)
    return {**settings, "encoder_widths": tuple(widths) if isinstance(widths, list) else widths, "weights": weights}


def _check_weights(what: str, prefix: str, weights: Mapping[str, Any]) -> None:
    for name, value in weights.items():
        if not (_is_number(value) and 0 <= value < math.inf):
            _fail(what, prefix + name, "a number, at least 0", repr(value))


def _check_settings(what: str, settings: Mapping[str, Any]) -> None:
    """Check the value of every setting; `what` is the operation that a message names."""

    def check(fits: bool, name: str, rule: str) -> None:
        if not fits:
            _fail(what, name, rule, repr(settings[name]))

    def whole(name: str, minimum: int) -> None:
        value = settings[name]
        check(type(value) is int and value >= minimum, name, f"a whole number, at least {minimum}")

    check(settings["preset"] in PRESETS, "preset", f"one of {', '.join(PRESETS)}")
    check(settings["calibration"] in CALIBRATIONS, "calibration", f"one of {', '.join(CALIBRATIONS)}")
    check(isinstance(settings["weights"], LossWeights), "weights", "LossWeights")
    for name in ("epochs", "batch_size", "num_levels", "codebook_size", "codebook_dim", "top_k"):
        whole(name, 1)
    for name in ("warmup_epochs", "min_domain_rows"):
        whole(name, 0)
    seed, widths, bandwidth = settings["seed"], settings["encoder_widths"], settings["bandwidth"]
    check(type(seed) is int and 0 <= seed < 2**32, "seed", "a whole number from 0 to 2^32 - 1")
    for name in ("learning_rate", "gradient_clip"):
        check(_is_number(settings[name]) and settings[name] > 0, name, "positive")
    weight = settings["view_weight"]
    check(_is_number(weight) and 0 < weight <= _HEAVIEST, "view_weight", f"above 0 and at most {_HEAVIEST:g}")
    decay, final, held_out = (settings[n] for n in ("weight_decay", "final_learning_rate", "validation_fraction"))
    check(_is_number(decay) and decay >= 0, "weight_decay", "at least 0")
    fits = isinstance(widths, tuple) and all(type(width) is int and width >= 1 for width in widths)
    check(fits, "encoder_widths", "a tuple of whole numbers, each at least 1")
    check(_is_number(final) and 0 <= final <= 1, "final_learning_rate", "from 0 to 1")
    check(_is_number(held_out) and 0 <= held_out < 1, "validation_fraction", "at least 0 and below 1")
    fits = bandwidth == "median" or (_is_number(bandwidth) and bandwidth > 0)
    check(fits, "bandwidth", "a positive number or 'median'")
    if (num_experts := settings["num_experts"]) is not None:
        whole("num_experts", 0)
        check(settings["top_k"] <= max(num_experts, 1), "top_k", f"at most num_experts = {num_experts}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_unknown(what: str, cls: type, name: str, given: Mapping[str, Any]) -> None:
    known = sorted(field.name for field in dataclasses.fields(cls))
    if unknown := sorted(set(given) - set(known)):
        _fail(what, name, f"among {', '.join(known)}", ", ".join(unknown))


def _fail(what: str, name: str, rule: str, got: object) -> NoReturn:
    raise ValueError(f"{what}: {name} must be {rule}, got {got}. See help({what.split('.')[0]}).")

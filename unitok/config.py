"""UniTokConfig: every setting of the model and of its training, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, TypeGuard


@dataclass(frozen=True)
class Preset:
    """How the chains of the routed experts and of the shared one are put together.

    With `renormalise` and top_k = 1 the expert's weight is p / p = 1, so no loss reaches the router: it is kept a
    nearest-mean classifier of the domains instead, placed anew after every epoch but the last.

    Attributes:
        shared: "parallel" (quantises z), "first" (the routed experts quantise what it leaves), or "none".
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


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses: L = reconstruction L_rec + quantisation L_rq + calibration L_mi.

    Attributes:
        reconstruction: of L_rec = |x - x_hat|^2.
        quantisation: of L_rq.
        commitment: of the commitment term inside L_rq.
        calibration: of L_mi = Var_k[I_k] - beta Mean_k[I_k], I_k the HSIC of domain k, or of its other form.
        beta: weight of the mean inside L_mi. The paper gives none. At 1 the mean's pull is a thousand times the
            variance's, and the raw form raises the variance that it is to lower; at 1e-3 both forms lower it
            (docs/results/calibration.md).

    Raises:
        ValueError: a weight is negative or no finite number.
    """

    reconstruction: float = 1.0
    quantisation: float = 1.0
    commitment: float = 0.25
    calibration: float = 0.03
    beta: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (_is_number(value) and 0 <= value < math.inf):
                _fail(f"weights.{name}", "a number, at least 0", repr(value))


@dataclass(frozen=True)
class UniTokConfig:
    """Settings of a tokenizer.

    Args:
        preset: "normalised" | "paper" | "shared_first" | "public_code"; see `PRESETS`.
        epochs: passes over the items.
        seed: of weights, starts and batches; equal seeds give equal tokenizers on one machine.
        batch_size: items a training step.
        num_levels: L, codes an ID.
        codebook_size: K, codewords a level.
        codebook_dim: D, latent width.
        top_k: S, routed experts an item.
        encoder_widths: hidden widths of the encoder; the decoder mirrors them.
        num_experts: None is one a domain; 0 is the single-codebook RQ-VAE.
        weights: of the losses.
        learning_rate: of AdamW, at its peak.
        final_learning_rate: share of it that a cosine leaves at the end. Annealed to 0, codebooks settle where the mean
            error is least, which takes codewords away from dense regions: more items collide.
        weight_decay: of AdamW, on the matrices of encoder, router and decoder.
        gradient_clip: largest norm of the gradient.
        warmup_epochs: epochs of the plain autoencoder before router and codebooks are started from its latents.
        validation_fraction: share of each domain's items kept out of training.
        min_domain_rows: fewest items of every domain in a batch.
        bandwidth: sigma of HSIC's kernels, or "median".
        normalised_hsic: calibrate on CKA instead of the raw estimate.
        calibration: form of L_mi. "paper" is Var - beta Mean, which at its weight of .03 is too small to move anything.
            "variation" is sqrt(Var) / Mean on equally many rows a domain, which has no scale: at a weight of .01 it
            brings Var down several times at a small price in L_rec (docs/results/calibration.md).

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

    def __post_init__(self) -> None:
        if isinstance(self.encoder_widths, list):
            object.__setattr__(self, "encoder_widths", tuple(self.encoder_widths))
        if isinstance(self.weights, dict):
            _refuse_unknown(LossWeights, "weights", self.weights)
            object.__setattr__(self, "weights", LossWeights(**self.weights))
        if self.preset not in PRESETS:
            _fail("preset", f"one of {', '.join(PRESETS)}", repr(self.preset))
        if self.calibration not in CALIBRATIONS:
            _fail("calibration", f"one of {', '.join(CALIBRATIONS)}", repr(self.calibration))
        if not isinstance(self.weights, LossWeights):
            _fail("weights", "LossWeights", repr(self.weights))
        for name in ("epochs", "batch_size", "num_levels", "codebook_size", "codebook_dim", "top_k"):
            _whole(self, name, 1)
        for name in ("warmup_epochs", "min_domain_rows"):
            _whole(self, name, 0)
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            _fail("seed", "a whole number from 0 to 2^32 - 1", repr(self.seed))
        for name in ("learning_rate", "gradient_clip"):
            if not (_is_number(value := getattr(self, name)) and value > 0):
                _fail(name, "positive", repr(value))
        if not (_is_number(self.weight_decay) and self.weight_decay >= 0):
            _fail("weight_decay", "at least 0", repr(self.weight_decay))
        widths = self.encoder_widths
        if not isinstance(widths, tuple) or any(type(width) is not int or width < 1 for width in widths):
            _fail("encoder_widths", "a tuple of whole numbers, each at least 1", repr(widths))
        if not (_is_number(self.final_learning_rate) and 0 <= self.final_learning_rate <= 1):
            _fail("final_learning_rate", "from 0 to 1", repr(self.final_learning_rate))
        if not (_is_number(self.validation_fraction) and 0 <= self.validation_fraction < 1):
            _fail("validation_fraction", "at least 0 and below 1", repr(self.validation_fraction))
        if self.bandwidth != "median" and not (_is_number(self.bandwidth) and self.bandwidth > 0):
            _fail("bandwidth", "a positive number or 'median'", repr(self.bandwidth))
        if self.num_experts is not None:
            _whole(self, "num_experts", 0)
            if self.top_k > max(self.num_experts, 1):
                _fail("top_k", f"at most num_experts = {self.num_experts}", self.top_k)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain data, for JSON.

        Returns:
            dict: names and values; `from_dict` reads it.
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> UniTokConfig:
        """Read what `to_dict` gave.

        Args:
            settings: names and values; lists stand for tuples.

        Returns:
            UniTokConfig: the settings.

        Raises:
            ValueError: a name is unknown or a value out of range.
        """
        _refuse_unknown(cls, "settings", settings)
        return cls(**settings)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(config: UniTokConfig, name: str, minimum: int) -> None:
    if type(value := getattr(config, name)) is not int or value < minimum:
        _fail(name, f"a whole number, at least {minimum}", repr(value))


def _refuse_unknown(cls: type, name: str, given: dict[str, Any]) -> None:
    known = sorted(field.name for field in dataclasses.fields(cls))
    if unknown := sorted(set(given) - set(known)):
        _fail(name, f"among {', '.join(known)}", ", ".join(unknown))


def _fail(name: str, rule: str, got: object) -> None:
    raise ValueError(f"UniTokConfig: {name} must be {rule}, got {got}. See help(UniTokConfig).")

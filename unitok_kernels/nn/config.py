"""The options of the drop-in layers, with the names and defaults of vector-quantize-pytorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from unitok_kernels import checks
from unitok_kernels.ops.common import PRECISIONS
from unitok_kernels.rules import names_unknown, unknown

# Options of vector-quantize-pytorch that these layers don't have: only the value that turns them off is accepted.
_LAYER_OFF: dict[str, Any] = {
    "affine_param": False,
    "affine_param_batch_decay": 0.99,
    "affine_param_codebook_decay": 0.9,
    "codebook_diversity_loss_weight": 0.0,
    "codebook_diversity_temperature": 100.0,
    "commitment_use_cross_entropy_loss": False,
    "in_place_codebook_optimizer": None,
    "manual_ema_update": False,
    "manual_in_place_optimizer_update": False,
    "straight_through": False,
    "sync_affine_param": False,
    "sync_kmeans": True,
    "sync_update_v": 0.0,
    "vq_bridge": None,
}
_CHAIN_OFF: dict[str, Any] = {
    **_LAYER_OFF,
    "directional_reparam": False,
    "implicit_neural_codebook": False,
    "layernorm_after_project_in": False,
    "mlp_kwargs": {},
    "quant_grad_frac": 0.0,
    "separate_codebook_per_head": False,
}
_TYPES: dict[str, Callable[..., None]] = {"bool": checks.flag, "int": checks.whole, "float": checks.number}
_LEAST = ("dim", "codebook_dim", "codebook_size", "heads", "groups", "kmeans_iters", "quantize_dropout_multiple_of")

_Kind = TypeVar("_Kind")


def _spelled(kind: type[_Kind]) -> type[_Kind]:
    """Let a config name the option that was probably meant by one that it doesn't have."""
    kind.__init__ = names_unknown(kind.__name__)(kind.__init__)  # type: ignore[method-assign]
    return kind


@_spelled
@dataclass(frozen=True, kw_only=True)
class CodebookOptions:
    """Options that all layers share. The last three are UniTok's own.

    Attributes:
        dim: width of the rows.
        codebook_dim: width of a codeword; if it isn't `dim`, learnt projections lead there and back.
        decay: weight that the moving averages give to the past at each step.
        eps: added to the average counts, so that no division by zero moves a codeword.
        freeze_codebook: leave the codebooks as they are in training, too.
        kmeans_init: start the codebooks by k-means on the first batch, over all ranks.
        kmeans_iters: iterations of that k-means.
        use_cosine_sim: compare directions; rows and codewords get the length 1.
        threshold_ema_dead_code: codewords with a smaller average count move to rows of the batch; 0 moves none.
        channel_last: whether the channels are the last dimension of an input, and not the second.
        accept_image_fmap: take images, (B, D, H, W), instead of rows.
        accept_3d_fmap: take videos, (B, D, T, H, W), instead of rows.
        commitment_weight: weight of the squared distance that pulls rows to their codewords.
        orthogonal_reg_weight: weight of the loss that keeps codewords orthogonal.
        orthogonal_reg_active_codes_only: take only the codewords that the batch uses into that loss.
        orthogonal_reg_max_codes: draw at most so many codewords for that loss; None takes all.
        stochastic_sample_codes: sample codes in training, the nearer ones more often.
        sample_codebook_temp: temperature of that sampling; 0 samples nothing.
        rotation_trick: rotate gradients from the codeword to its row; None does so for rows wider than 1.
        directional_reparam_variance: variance of the noise that DiVeQ adds to a step.
        sync_codebook: learn from the rows of all ranks; None does so wherever there are other ranks.
        ema_update: let codebooks follow moving averages; None means on, except with DiVeQ.
        learnable_codebook: train codebooks by gradients; None means off, except with DiVeQ.
        return_zeros_for_masked_padding: give zeros for padding; otherwise its rows come back as they are.
        route_gradients_to_input: let gradients of the output reach the rows.
        precision: "exact" | "fast", how codewords are searched for; see `unitok_kernels.residual_encode`.
        check_finite: raise for NaN and infinity; see `unitok_kernels.residual_encode`.
        backend: name of the backend that all operations run on; see `unitok_kernels.residual_encode`.

    Raises:
        ValueError: an option is out of range, or doesn't fit another one.
        TypeError: an option has the wrong type.
    """

    dim: int
    codebook_dim: int | None = None
    decay: float = 0.8
    eps: float = 1e-5
    freeze_codebook: bool = False
    kmeans_init: bool = False
    kmeans_iters: int = 10
    use_cosine_sim: bool = False
    threshold_ema_dead_code: float = 0
    channel_last: bool = True
    accept_image_fmap: bool = False
    accept_3d_fmap: bool = False
    commitment_weight: float = 1.0
    orthogonal_reg_weight: float = 0.0
    orthogonal_reg_active_codes_only: bool = False
    orthogonal_reg_max_codes: int | None = None
    stochastic_sample_codes: bool = False
    sample_codebook_temp: float = 1.0
    rotation_trick: bool | None = None
    directional_reparam_variance: float = 5e-3
    sync_codebook: bool | None = None
    ema_update: bool | None = None
    learnable_codebook: bool | None = None
    return_zeros_for_masked_padding: bool = True
    route_gradients_to_input: bool = True
    precision: str = "exact"
    check_finite: bool | None = None
    backend: str | None = None

    off: ClassVar[dict[str, Any]] = _LAYER_OFF

    def __post_init__(self) -> None:
        name = self.layer
        for field in fields(self):
            kind, value = str(field.type).removesuffix(" | None"), getattr(self, field.name)
            if kind in _TYPES and value is not None:
                _TYPES[kind](name, **{field.name: value})
            if field.name in _LEAST and isinstance(value, int):
                checks.at_least(name, field.name, value, 1, "Pass a positive number.")
        checks.settings(name, check_finite=self.check_finite, backend=self.backend, precision=self.precision)
        checks.one_of(name, "precision", self.precision, PRECISIONS)
        if self.learns_by_gradient and self.updates_ema:
            step = "Set ema_update=False beside learnable_codebook=True."
            checks.fail(name, "ema_update", "False where the codebook learns by gradients", True, step)
        if self.learns_by_gradient and self.use_cosine_sim:
            step = "Leave learnable_codebook unset to update it by moving averages."
            checks.fail(name, "use_cosine_sim", "False where the codebook learns by gradients", True, step)

    @property
    def layer(self) -> str:
        """Name of the layer that has these options."""
        return type(self).__name__.removesuffix("Config")

    @property
    def is_directional(self) -> bool:
        """Whether a noisy step towards the codeword carries the gradients to the codebook."""
        return False

    @property
    def updates_ema(self) -> bool:
        """Whether codebooks follow the moving averages of their rows."""
        return not self.is_directional if self.ema_update is None else self.ema_update

    @property
    def learns_by_gradient(self) -> bool:
        """Whether codebooks are parameters that an optimizer trains."""
        return self.is_directional if self.learnable_codebook is None else self.learnable_codebook

    @property
    def width(self) -> int:
        """Width of a codeword."""
        return self.dim if self.codebook_dim is None else self.codebook_dim

    @property
    def estimator(self) -> str:
        """How gradients reach the rows; see `residual_straight_through`."""
        if not self.route_gradients_to_input or self.is_directional:
            return "none"
        rotates = self.input_width > 1 if self.rotation_trick is None else self.rotation_trick
        return "rotation" if rotates else "straight"

    @property
    def input_width(self) -> int:
        """Width that decides whether gradients are rotated if `rotation_trick` is None."""
        return self.width


@_spelled
@dataclass(frozen=True, kw_only=True)
class VectorQuantizeConfig(CodebookOptions):
    """Options of `VectorQuantize`; those of all layers are under `CodebookOptions`.

    Attributes:
        codebook_size: how many codewords a codebook has.
        heads: parts that a row is cut into, each with a code of its own.
        separate_codebook_per_head: whether each head has its own codebook; otherwise they share one.
        layernorm_after_project_in: normalise rows after the projection to codewords' width.
        directional_reparam: teach the codebook by DiVeQ, a noisy step towards the codeword.

    Raises:
        ValueError: an option is out of range, or doesn't fit another one.
        TypeError: an option has the wrong type.
    """

    codebook_size: int
    heads: int = 1
    separate_codebook_per_head: bool = False
    layernorm_after_project_in: bool = False
    directional_reparam: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directional_reparam and self.rotation_trick:
            checks.fail(self.layer, "rotation_trick", "left out beside directional_reparam", True, "Use one of them.")

    @property
    def is_directional(self) -> bool:
        """See `CodebookOptions`."""
        return self.directional_reparam

    @property
    def input_width(self) -> int:
        """Width of the layer's rows before projection, as in vector-quantize-pytorch."""
        return self.dim


@_spelled
@dataclass(frozen=True, kw_only=True)
class ResidualVQConfig(CodebookOptions):
    """Options of `ResidualVQ`; those of all layers are under `CodebookOptions`.

    Attributes:
        codebook_size: how many codewords each level has; or a tuple, one number per level.
        num_quantizers: how many levels there are; needed beside one codebook_size.
        shared_codebook: whether all levels share one codebook.
        diveq: teach the codebooks by DiVeQ over the sum of the levels.
        heads: only 1 is taken; `GroupedResidualVQ` has several chains.
        quantize_dropout: drop the last levels in training, how many is drawn at each call.
        quantize_dropout_cutoff_index: the levels up to this one are never dropped.
        quantize_dropout_multiple_of: the number of levels that are kept is a multiple of this.
        beam_size: chains that a beam search keeps; None and 1 search greedily.
        eval_beam_size: the same in evaluation; None takes `beam_size`.
        beam_score_quantizer_weights: weight of each level's error in a beam's score; None weighs all alike.

    Raises:
        ValueError: an option is out of range, or doesn't fit another one.
        TypeError: an option has the wrong type, or `heads` isn't 1.
    """

    codebook_size: int | tuple[int, ...]
    num_quantizers: int | None = None
    shared_codebook: bool = False
    diveq: bool = False
    heads: int = 1
    quantize_dropout: bool = False
    quantize_dropout_cutoff_index: int = 0
    quantize_dropout_multiple_of: int = 1
    beam_size: int | None = None
    eval_beam_size: int | None = None
    beam_score_quantizer_weights: tuple[float, ...] | None = None

    off: ClassVar[dict[str, Any]] = _CHAIN_OFF

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self.layer
        if self.heads != 1:
            checks.fail(name, "heads", "1", self.heads, "Use GroupedResidualVQ for several chains.", TypeError)
        is_one = not isinstance(self.codebook_size, (tuple, list))
        if is_one:
            checks.whole(name, codebook_size=self.codebook_size)
        if self.num_quantizers is None and is_one:
            checks.fail(name, "num_quantizers", "an int beside one codebook_size", None, "Say how many levels.")
        checks.at_least(name, "num_quantizers", len(self.sizes), 1, "Ask for at least one level.")
        if self.num_quantizers not in (None, len(self.sizes)):
            checks.fail(
                name, "codebook_size", f"of {self.num_quantizers} levels", len(self.sizes), "Give one size per level."
            )
        for size in self.sizes:
            checks.whole(name, codebook_size=size)
            checks.at_least(name, "codebook_size", size, 1, "Ask for at least one codeword.")
        if self.shared_codebook and len({*self.sizes}) > 1:
            checks.fail(
                name, "codebook_size", "one where the codebook is shared", self.sizes, "Give all levels the same size."
            )
        cutoff, levels = self.quantize_dropout_cutoff_index, len(self.sizes)
        if cutoff < 0 or (self.drops and cutoff >= levels):
            step = "Levels up to it are never dropped."
            checks.fail(name, "quantize_dropout_cutoff_index", f"between 0 and {levels - 1}", cutoff, step)
        if self.eval_beam_size is not None and self.beam_size is None:
            checks.fail(name, "beam_size", "an int beside eval_beam_size", None, "Set it for training.")
        if len(self.score_weights) != levels:
            rule = f"of {levels} weights"
            checks.fail(
                name, "beam_score_quantizer_weights", rule, len(self.score_weights), "Give one weight per level."
            )

    @property
    def is_directional(self) -> bool:
        """See `CodebookOptions`."""
        return self.diveq

    @property
    def drops(self) -> bool:
        """Whether training drops last levels; a single level is never dropped."""
        return self.quantize_dropout and len(self.sizes) > 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codewords of each level."""
        size = self.codebook_size
        return tuple(size) if isinstance(size, (tuple, list)) else (size,) * (self.num_quantizers or 0)

    @property
    def score_weights(self) -> tuple[float, ...]:
        """Weight of each level in a beam's score."""
        weights = self.beam_score_quantizer_weights
        return (1.0,) * len(self.sizes) if weights is None else tuple(weights)


@_spelled
@dataclass(frozen=True, kw_only=True)
class GroupedResidualVQConfig(ResidualVQConfig):
    """Options of `GroupedResidualVQ`: those of `ResidualVQConfig`, for each group.

    Attributes:
        groups: parts that the features are cut into, each with a chain of its own.

    Raises:
        ValueError: an option is out of range, or doesn't fit another one.
        TypeError: an option has the wrong type, or `heads` isn't 1.
    """

    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.groups:
            checks.fail(self.layer, "dim", f"a multiple of groups = {self.groups}", self.dim, "Change one of them.")


_Config = TypeVar("_Config", bound=CodebookOptions)


def configured(kind: type[_Config], config: object, options: dict[str, Any]) -> _Config:
    """Make a layer's options from a config or from keywords; refuse keywords that it doesn't have."""
    layer = kind.__name__.removesuffix("Config")
    if config is not None:
        if not isinstance(config, kind) or options:
            got = type(config).__name__ + (f" and {', '.join(options)}" if options else "")
            checks.fail(layer, "config", f"a {kind.__name__}, alone", got, "Or pass keywords alone.", TypeError)
        return config
    known, off = {field.name for field in fields(kind)}, kind.off
    given = dict(options)
    for name, value in options.items():
        if name not in known | {*off}:
            unknown(layer, name, value, known | {*off})
        if name in off and value != off[name]:
            checks.fail(layer, name, f"left at {off[name]!r}", repr(value), "It isn't supported.", TypeError)
        if name in off:
            del given[name]
    for field in fields(kind):
        if field.name in ("dim", "codebook_size") and field.name not in given:
            checks.fail(layer, field.name, "given", "nothing", "It has no default.", TypeError)
    return kind(**given)

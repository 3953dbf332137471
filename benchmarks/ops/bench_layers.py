"""The drop-in layers against what they replace: vector-quantize-pytorch's ResidualVQ and EnCodec's quantizer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import inputs, peers
from benchmarks.checks import ChainCheck, WrongResultError
from benchmarks.harness import Level, ours
from unitok_kernels.nn import ResidualVQ, replace_quantizers

LONG, WIDE = (inputs.ROWS["64k"], 32, 256, 4), (inputs.ROWS["16k"], 128, 1024, 8)  # N, D, K, L
EVALUATION = {"64k x 32, K=256, L=4, evaluation": LONG, "16k x 128, K=1024, L=8, evaluation": WIDE}
TRAINING = {"64k x 32, K=256, L=4, forward + backward": LONG, "16k x 128, K=1024, L=8, forward + backward": WIDE}
Shape = tuple[int, int, int, int]


def flops(shape: Shape) -> float:
    """Count the flops of the searches alone."""
    rows, width, size, levels = shape
    return 2.0 * rows * size * width * levels


def layers(shape: Shape) -> tuple[nn.Module, nn.Module | None, Tensor, Tensor]:
    """Return our layer, theirs in the same state if it is installed, rows, and codebooks."""
    rows, width, size, levels = shape
    options = {"dim": width, "num_quantizers": levels, "codebook_size": size}
    codebooks, own = inputs.codebooks(levels, size, width), ResidualVQ(**options)
    for level, codebook in zip(own.layers, codebooks, strict=True):
        level._codebook.embed.copy_(codebook[None])
        level._codebook.embed_avg.copy_(codebook[None])
    theirs = None
    if (package := peers.library("vector_quantize_pytorch")) is not None:
        theirs = package.ResidualVQ(**options)
        theirs.load_state_dict(own.state_dict())
    return own, theirs, inputs.normal(rows, width), codebooks


def evaluating(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make a call that returns the codes of rows; it computes the quantised rows as well."""
    layer = layer.eval()

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        return layer(x[None])[1][0]

    return run


def training(layer: nn.Module, through: Callable[[nn.Module], Any] = nn.Module.train) -> Callable[[Tensor], Tensor]:
    """Make a call that does a training step, forward and backward, and returns the codes of the rows."""
    layer = through(copy.deepcopy(layer).train())

    def run(x: Tensor) -> Tensor:
        rows = x.detach().requires_grad_()
        quantized, codes, losses = layer(rows[None])
        torch.autograd.backward([quantized, losses], [x[None], torch.ones_like(losses)])
        return codes[0]

    return run


def compiling(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make a call that does a training step through torch.compile, without anything cached in memory or on disk."""

    def run(x: Tensor) -> Tensor:
        torch.compiler.reset()
        with torch._inductor.config.patch(force_disable_caches=True):
            return training(layer, torch.compile)(x)

    return run


def graph_breaks(layer: nn.Module, x: Tensor) -> int:
    """Count the graph breaks of a training step."""
    torch.compiler.reset()
    return torch._dynamo.explain(copy.deepcopy(layer).train())(x[None].requires_grad_()).graph_break_count


@pytest.mark.parametrize("case", EVALUATION)
def test_evaluation(race, case: str) -> None:
    own, theirs, x, codebooks = layers(EVALUATION[case])
    levels = ours("residual_encode", evaluating(own), flops=flops(EVALUATION[case]))
    levels.append(Level("ours, through torch.compile", evaluating(peers.compiled(own.eval())), compiled=True))
    if theirs is not None:
        levels.append(Level("vector-quantize-pytorch", evaluating(theirs)))
        levels.append(
            Level("vector-quantize-pytorch, torch.compile", evaluating(torch.compile(theirs.eval())), compiled=True)
        )
    race("layers", case, levels, (x,), small=(x[:200],), check=ChainCheck(x, codebooks))


@pytest.mark.parametrize("case", TRAINING)
def test_training_step(race, case: str) -> None:
    # A step moves the codebooks, so each level has its own copy, and its first step is checked.
    own, theirs, x, codebooks = layers(TRAINING[case])
    sets = ours("residual_encode", training, flops=flops(TRAINING[case]))
    levels = [Level(level.name, training(own), isa=level.isa, backend=level.backend) for level in sets]
    if theirs is not None:
        levels.append(Level("vector-quantize-pytorch", training(theirs)))
    race("layers", case, levels, (x,), check=ChainCheck(x, codebooks))


def test_compiling(race) -> None:
    own, theirs, x, codebooks = layers((4096, 32, 256, 4))
    levels = [Level(f"ours, graph breaks: {graph_breaks(own, x)}", compiling(own))]
    if theirs is not None:
        name = f"vector-quantize-pytorch, graph breaks: {graph_breaks(theirs, x)}"
        levels.append(Level(name, compiling(theirs)))
    race("layers", "4k x 32, K=256, L=4, compiling forward + backward", levels, (x,), check=ChainCheck(x, codebooks))


def test_encodec(race) -> None:
    package = peers.library("transformers")
    if package is None:
        pytest.skip("transformers isn't installed")
    config = package.EncodecConfig(num_filters=4)
    plain = package.EncodecModel(config).eval().quantizer
    codebooks = inputs.codebooks(len(plain.layers), config.codebook_size, config.codebook_dim)
    for layer, codebook in zip(plain.layers, codebooks, strict=True):
        layer.codebook.embed.copy_(codebook)
    embeddings, bandwidth = inputs.normal(32, config.codebook_dim, 150), 6.0  # 8 codebooks at 75 frames per second

    def fused(**settings: Any) -> Callable[[Tensor], Tensor]:
        quantizer = copy.deepcopy(plain)
        replace_quantizers(quantizer, **settings)
        return lambda embeddings: quantizer.encode(embeddings, bandwidth)

    expected = plain.encode(embeddings, bandwidth)
    assert len(expected) == 8

    def check(level: Level, codes: Tensor) -> None:
        # At a near tie the model's own float32 search may take the other codeword, and other codes after it.
        if (codes != expected).any(0).float().mean() > 1e-3:
            raise WrongResultError(f"{level.name}: codes differ from the model's own")

    race(
        "layers",
        "EnCodec's quantizer, 32 x 150 frames, 8 codebooks",
        [
            *ours("residual_encode", fused(), flops=2.0 * 32 * 150 * 8 * codebooks[0].numel()),
            Level("ours, fast", fused(precision="fast")),
            Level("transformers", lambda embeddings: plain.encode(embeddings, bandwidth)),
        ],
        (embeddings,),
        small=(embeddings[:1],),
        check=check,
    )

"""How many codes of EnCodec, Mimi and DAC change if their quantizers are swapped, and who is nearer to float64.

python -m benchmarks.studies.swapped_codecs

The quantizers have the default sizes of transformers, random weights, Gaussian latents, and codewords drawn from what
reaches their level. Each one's latents are searched three times: by the original, by the swapped search, and in
float64. Prints the table of docs/drop-in-layers.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from unitok_kernels.nn import replace_quantizers, restore_quantizers

FRAMES = 2000
SHRUNK = 0.33  # so the residuals of these 128 columns shrink slowly from level to level, as those of trained codecs do
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "EnCodec": (lambda: transformers.EncodecModel(transformers.EncodecConfig()), "encode"),
    "Mimi": (lambda: transformers.MimiModel(transformers.MimiConfig()), "encode"),
    "DAC": (lambda: transformers.DacModel(transformers.DacConfig()), "decode_latents"),
}


def quantizers(model: Any, method: str) -> list[Any]:
    """The modules that search, in order."""
    names = ("EncodecResidualVectorQuantizer", "MimiResidualVectorQuantizer", "DacVectorQuantize")
    return [module for module in model.modules() if type(module).__name__ in names and hasattr(module, method)]


def encode_watched(model: Any, method: str, latents: Tensor, watch: Callable[[Any, Tensor], None]) -> None:
    """Quantise latents, and show each quantizer and what it is given to `watch`, before it searches."""
    for module in quantizers(model, method):

        def watched(x: Tensor, *rest: Any, own: Any = module, **keywords: Any) -> Any:
            watch(own, x)
            return getattr(type(own), method)(own, x, *rest, **keywords)

        setattr(module, method, watched)
    model.quantizer(latents) if method == "decode_latents" else model.quantizer.encode(latents)
    for module in quantizers(model, method):
        delattr(module, method)


def rows_of(module: Any, x: Tensor) -> Tensor:
    """Latents (N, D) from (B, D, T), projected if the quantizer does so."""
    x = x if getattr(module, "input_proj", None) is None else module.input_proj(x)
    return x.transpose(1, 2).reshape(-1, x.shape[1])


def draw_codewords(module: Any, x: Tensor) -> None:
    """Set each level's codewords to noisy residuals that reach it, shrunk towards their mean as centroids are."""

    def drawn(rows: Tensor, count: int) -> Tensor:
        picked = rows[torch.randint(len(rows), (count,))] - rows.mean(0)
        return rows.mean(0) + SHRUNK * (picked + 0.3 * picked.std() * torch.randn_like(picked))

    residual = rows_of(module, x)
    if not hasattr(module, "layers"):
        module.codebook.weight.copy_(drawn(residual, len(module.codebook.weight)))
        return
    for layer in module.layers:
        book = layer.codebook
        table = book.embed_sum if hasattr(book, "embed_sum") else book.embed
        table.copy_(drawn(residual, len(table)))
        forget_embed(module)
        residual = residual - table[book.quantize(residual)]


def forget_embed(module: Any) -> None:
    """Let Mimi compute its codewords again: they were changed, or converted."""
    for layer in getattr(module, "layers", []):
        if hasattr(layer.codebook, "_embed"):
            layer.codebook._embed = None


def codes_of(module: Any, method: str, x: Tensor) -> Tensor:
    """Codes (L, N) of a quantizer."""
    found = getattr(module, method)(x)
    return found[1].reshape(1, -1) if method == "decode_latents" else found.flatten(1)


def float64_codes(module: Any, method: str, x: Tensor) -> Tensor:
    """The same search in float64, from the latents and codewords that the quantizer has."""
    residual, codes = rows_of(module, x).double(), []
    if method == "decode_latents":
        return torch.cdist(F.normalize(residual), F.normalize(module.codebook.weight.double())).argmin(1)[None]
    for layer in module.layers:
        table = layer.codebook.embed.double()
        codes.append((table.square().sum(1) - 2 * residual @ table.t()).argmin(1))
        residual = residual - table[codes[-1]]
    return torch.stack(codes)


def compare(unlike: list[Tensor], method: str, module: Any, x: Tensor) -> None:
    """Append which codes of a quantizer differ: swapped from original, original and swapped from float64."""
    forget_embed(module)
    watching = vars(module).pop(method)
    original, exact = codes_of(module, method, x), float64_codes(module, method, x)
    replace_quantizers(module)
    swapped = codes_of(module, method, x)
    restore_quantizers(module)
    setattr(module, method, watching)
    unlike.append(torch.stack([swapped != original, original != exact, swapped != exact]).flatten(1))


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print("| model | dtype | codes | changed by the swap | original unlike float64 | swapped unlike float64 |")
    print("|---|---|---|---|---|---|")
    for name, (make, method) in MODELS.items():
        torch.manual_seed(0)
        made = make().eval()
        latents = torch.randn(2, 1, made.config.hidden_size, FRAMES)
        encode_watched(made, method, latents[0], draw_codewords)
        for dtype in (torch.float32, torch.bfloat16):
            model, unlike = copy.deepcopy(made).to(dtype), []
            encode_watched(model, method, latents[1].to(dtype), partial(compare, unlike, method))
            found = torch.cat(unlike, 1)
            shares = " | ".join(f"{share:.2%}" for share in found.double().mean(1).tolist())
            print(f"| {name} | {str(dtype).split('.')[1]} | {found.shape[1]} | {shares} |", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# vector-quantize-pytorch 1.32.0: the beam search of `ResidualVQ` (`beam_size`) does not look for the best reconstruction.
# It adds up the squared errors after every stage and keeps the path with the smallest sum, also at the end. One would
# expect the path that is nearest after the last stage. Below, the beam keeps every path that matters, a greedy pass (beam 1)
# gives the input back exactly, and the beam gives 0.9 for it: paths whose first stages are near win over one that ends near.
# What helps: `beam_score_quantizer_weights` with a small weight for all stages but the last (0.001, 0.001, 1). Not with
# zero: then the first stages are all equal, and the beam keeps any of them (here it gives 50).
# Seen on Linux, Python 3.11, torch 2.13.0 (CPU).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check vector-quantize-pytorch==1.32.0 torch==2.13.0 einops==0.8.2 einx==0.4.3 numpy==2.4.6

cat > look.py <<'PYTHON'
from itertools import product

import torch
from vector_quantize_pytorch import ResidualVQ

# Three stages of four codes on a line; 50 and 60 are far from everything and only fill the codebook.
stages = [[1, -1.1, 50, 60], [1, 2, 50, 60], [-2, 1, 50, 60]]
x = torch.zeros(1, 1, 2)


def told(weights: list[float] | None, beam: int) -> str:
    model = ResidualVQ(dim=2, num_quantizers=3, codebook_size=4, beam_size=4, beam_score_quantizer_weights=weights).eval()
    for layer, codes in zip(model.layers, stages):
        layer._codebook.embed.copy_(torch.tensor([[[float(code), 0.0] for code in codes]]))
    with torch.no_grad():
        quantized, indices, _ = model(x, beam_size=beam)
    return f"codes {indices.flatten().tolist()}, reconstruction {quantized[0, 0, 0].item():.2f}"


best = min(product(range(4), repeat=3), key=lambda path: abs(sum(stage[code] for stage, code in zip(stages, path))))
print("input 0, best of all 64 paths:", list(best))
print("beam 1:                       ", told(None, 1))
print("beam 4:                       ", told(None, 4))
print("beam 4, weights .001 .001 1:  ", told([0.001, 0.001, 1.0], 4))
PYTHON
seen=$(env/bin/python look.py)
echo "vector-quantize-pytorch 1.32.0
$seen"
expected="input 0, best of all 64 paths: [0, 0, 0]
beam 1:                        codes [0, 0, 0], reconstruction 0.00
beam 4:                        codes [1, 0, 1], reconstruction 0.90
beam 4, weights .001 .001 1:   codes [0, 0, 0], reconstruction 0.00"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }

#!/usr/bin/env bash
# torchmetrics 1.9.0: RetrievalMAP, RetrievalMRR, RetrievalRecall and RetrievalPrecision take an item whose score is zero or
# below as not found. Log probabilities are all below zero, so each of the four gives 0 for them, and dot products lose
# the part of the list that is below zero. RetrievalHitRate, RetrievalNormalizedDCG and RetrievalRPrecision only look at the
# order, so for the same list the recall is 0 and the hit rate is 1. Nothing is raised or warned; the documents say no more
# than that scores are "estimated probabilities".
# One would expect the order alone to count, as it does when 10 is added to every score. What helps: exp of log
# probabilities, or a number added to all scores.
# Seen on Linux, Python 3.11, torch 2.13.0, numpy 2.4.6. 1.8.2 does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6

cat > look.py <<'PYTHON'
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalMRR, RetrievalNormalizedDCG
from torchmetrics.retrieval import RetrievalPrecision, RetrievalRecall

liked = torch.tensor([1, 0, 1, 0])
query = torch.zeros(4, dtype=torch.long)
chances = torch.tensor([0.4, 0.3, 0.2, 0.1])
for name, scores in (("chances", chances), ("their logs", chances.log()), ("logs + 10", chances.log() + 10)):
    told = []
    for kind in (RetrievalMAP, RetrievalMRR, RetrievalRecall, RetrievalPrecision, RetrievalHitRate, RetrievalNormalizedDCG):
        told.append(f"{kind.__name__[9:]} {kind(top_k=3)(scores, liked, indexes=query).item():.3f}")
    print(f"{name:10}", *told)
PYTHON
seen=$(env/bin/python look.py)
echo "$seen"
expected="chances    MAP 0.833 MRR 1.000 Recall 1.000 Precision 0.667 HitRate 1.000 NormalizedDCG 0.920
their logs MAP 0.000 MRR 0.000 Recall 0.000 Precision 0.000 HitRate 1.000 NormalizedDCG 0.920
logs + 10  MAP 0.833 MRR 1.000 Recall 1.000 Precision 0.667 HitRate 1.000 NormalizedDCG 0.920"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }

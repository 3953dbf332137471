#!/usr/bin/env bash
# ml_dtypes 0.6.0: one NaN in an array of bfloat16 or float8 spoils numpy's sorting of all the other values. `np.sort`
# leaves what is before the NaN and what is behind it apart, so the largest value can stay in front; `np.argsort`,
# `np.unique` and `np.partition` go wrong the same way, for every `kind`. Nothing is raised or warned.
# With float16 and float32 the NaN goes to the end and the rest is sorted. So of scores in bfloat16 with one NaN, another
# item comes out as the best.
# One would expect what numpy says of NaN: sorted to the end. What helps: sort as float32.
# Seen on Linux, Python 3.11, numpy 2.4.6. 0.5.1 does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6

cat > look.py <<'PYTHON'
import ml_dtypes
import numpy as np

for kind in (np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    scores = np.array([0.75, np.nan, 0.125, 0.625, 0.25]).astype(kind)
    print(f"{np.dtype(kind).name:14}", np.sort(scores).astype(float).tolist(), np.argsort(scores, kind="stable").tolist())
PYTHON
seen=$(env/bin/python look.py)
echo "$seen"
expected="float32        [0.125, 0.25, 0.625, 0.75, nan] [2, 4, 3, 0, 1]
float16        [0.125, 0.25, 0.625, 0.75, nan] [2, 4, 3, 0, 1]
bfloat16       [0.75, nan, 0.125, 0.25, 0.625] [0, 1, 2, 4, 3]
float8_e4m3fn  [0.75, nan, 0.125, 0.25, 0.625] [0, 1, 2, 4, 3]"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }

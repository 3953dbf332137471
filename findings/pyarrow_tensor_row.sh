#!/usr/bin/env bash
# pyarrow 26.0.1: one row of a fixed shape tensor column that was made from a transposed array has other values than the
# same row of the whole column. `column.to_numpy_ndarray()[0]` is right; `column[0].to_numpy()` and `column[0].to_tensor()`
# have the right shape, one value is missing and another is in it twice. Nothing is raised or warned.
# Contiguous arrays and square matrices are read right both ways.
# One would expect both ways to give the same row. What helps: take the row from `to_numpy_ndarray()`, or
# numpy.ascontiguousarray before.
# Seen on Linux, Python 3.11, numpy 2.4.6. 25.0.0 and 21.0.0 do the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6

cat > look.py <<'PYTHON'
import numpy as np
import pyarrow as pa

pairs = np.arange(12, dtype=np.float32).reshape(2, 2, 3).transpose(0, 2, 1)
column = pa.FixedShapeTensorArray.from_numpy_ndarray(pairs)
print("put in:          ", pairs[0].tolist())
print("whole column [0]:", column.to_numpy_ndarray()[0].tolist())
print("row [0]:         ", column[0].to_numpy().tolist())
print("row [0], tensor: ", column[0].to_tensor().to_numpy().tolist())
copied = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pairs))
print("row [0], copied: ", copied[0].to_numpy().tolist())
PYTHON
seen=$(env/bin/python look.py)
echo "$seen"
expected="put in:           [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
whole column [0]: [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
row [0]:          [[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]]
row [0], tensor:  [[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]]
row [0], copied:  [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }

#!/usr/bin/env bash
# safetensors 0.8.0, numpy side: `save_file` and `save` take an array that is not C-contiguous and write the bytes as they
# lie in memory, so the file holds other values under the right shape. Nothing is raised or warned. A transposed array
# comes back with its values in the old order; a slice of columns comes back with the neighbouring column in it.
# 0.7.0 copies such arrays and writes the right values. The torch side refuses them with a ValueError in both.
# What helps: numpy.ascontiguousarray before saving.
# Seen on Linux, Python 3.11, numpy 2.4.6.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env

cat > look.py <<'PYTHON'
import numpy as np
from safetensors.numpy import load, load_file, save, save_file

whole = np.arange(6, dtype=np.float32).reshape(2, 3)
right = []
for array in (whole, whole.T, whole[:, :2], np.ascontiguousarray(whole.T)):
    save_file({"x": array}, "x.safetensors")
    right.append(np.array_equal(load_file("x.safetensors")["x"], array) and np.array_equal(load(save({"x": array}))["x"], array))
print(*right)
PYTHON

look() {
  env/bin/pip install -q --disable-pip-version-check "safetensors==$1" numpy==2.4.6
  seen=$(env/bin/python look.py)
  echo "safetensors $1: right values for contiguous, transposed, sliced, transposed and made contiguous: $seen"
  test "$seen" = "$2" || { echo "changed: expected $2"; exit 1; }
}
look 0.7.0 "True True True True"
look 0.8.0 "True False False True"

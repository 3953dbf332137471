#!/usr/bin/env bash
# pyarrow 26.0.1: images that lie channels first in memory and are looked at channels last (`transpose(0, 2, 3, 1)`) do not
# come back from `FixedShapeTensorArray.from_numpy_ndarray(...).to_numpy_ndarray()`. Two 3 x 32 x 32 images return with the
# shape (2, 32, 3, 32) and 634 of their 6144 values, some many times. Where all sides are alike, the shape is right and the
# values are in other places. Nothing is raised or warned.
# Both sides have a part: the values are stored in order with the right shape [3, 32, 32], but the type says permutation
# [2, 0, 1], the inverse of what Arrow's format asks for; and a type made by hand with [1, 2, 0] is read with the right
# shape and wrong values. Where only two axes are swapped, as in the last line, the round trip is right.
# One would expect the array that was put in. What helps: numpy.ascontiguousarray before.
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


def told(name: str, array: np.ndarray, column: pa.FixedShapeTensorArray) -> None:
    back = column.to_numpy_ndarray()
    equal, kept = np.array_equal(back, array), len(np.unique(back))
    print(f"{name}: {array.shape} -> {back.shape}, equal {equal}, {kept} of {array.size} values")


write = pa.FixedShapeTensorArray.from_numpy_ndarray
wide = np.arange(2 * 3 * 32 * 32, dtype=np.float32).reshape(2, 3, 32, 32)
view = wide.transpose(0, 2, 3, 1)
column = write(view)
told("channels last view", view, column)
assert column.type.shape == [3, 32, 32] and np.array_equal(column.storage.values.to_numpy(), wide.ravel())
print("its permutation   :", column.type.permutation)
by_hand = pa.fixed_shape_tensor(pa.float32(), [3, 32, 32], permutation=[1, 2, 0])
told("type made by hand ", view, pa.ExtensionArray.from_storage(by_hand, column.storage))
told("view, copied      ", view, write(np.ascontiguousarray(view)))
cube = np.arange(2 * 4 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 4).transpose(0, 2, 3, 1)
told("all sides alike   ", cube, write(cube))
flat = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5).transpose(0, 2, 1)
told("two axes swapped  ", flat, write(flat))
PYTHON
seen=$(env/bin/python look.py)
echo "$seen"
expected="channels last view: (2, 32, 32, 3) -> (2, 32, 3, 32), equal False, 634 of 6144 values
its permutation   : [2, 0, 1]
type made by hand : (2, 32, 32, 3) -> (2, 32, 32, 3), equal False, 2432 of 6144 values
view, copied      : (2, 32, 32, 3) -> (2, 32, 32, 3), equal True, 6144 of 6144 values
all sides alike   : (2, 4, 4, 4) -> (2, 4, 4, 4), equal False, 128 of 128 values
two axes swapped  : (2, 5, 3) -> (2, 5, 3), equal True, 30 of 30 values"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }

#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: ReduceSum over int64 goes through double. Whole numbers above 2 ** 53 come out rounded, even where
# a single number is summed, or one number and zeros, as when an item's id is picked with a mask. A sum that passes the
# type's end stays at its largest value, for int32 too, where numpy, PyTorch and onnxruntime's own CumSum wrap round.
# ReduceMax, MatMul and CumSum give the right whole numbers. So hashed ids of 64 bits turn into other ids.
# One would expect an exact sum, as 1.22.1 gives. What helps: MatMul with the mask, or ReduceMax where the rest is 0.
# Seen on Linux, Python 3.11, onnx 1.23.2, numpy 2.4.6. 1.27.0 and 1.30.0 do as 1.32.0 does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env

cat > look.py <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import helper


def run(kind: str, *inputs: np.ndarray, **attributes: int) -> list:
    names = [f"in{place}" for place in range(len(inputs))]
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in zip(names, inputs)]
    node = helper.make_node(kind, names, ["out"], **attributes)
    out = helper.make_tensor_value_info("out", helper.np_dtype_to_tensor_dtype(inputs[0].dtype), ())
    graph = helper.make_graph([node], "g", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs)))[0].ravel().tolist()


axis = np.array([0])
for numbers in ([2**53 + 1], [0, 2**60 + 1], [2**60, 1]):
    print(sum(numbers), *run("ReduceSum", np.array(numbers), axis, keepdims=0))
print(*run("ReduceSum", np.full(3, 2**30, np.int32), axis, keepdims=0))
PYTHON

look() {
  env/bin/pip install -q --disable-pip-version-check "onnxruntime==$1" onnx==1.23.2 numpy==2.4.6
  seen=$(env/bin/python look.py)
  echo "onnxruntime $1, right sum and ReduceSum of three int64 arrays, then ReduceSum of three times 2 ** 30 as int32:"
  echo "$seen"
  test "$seen" = "$2" || { echo "changed: expected $2"; exit 1; }
}
look 1.22.1 "9007199254740993 9007199254740993
1152921504606846977 1152921504606846977
1152921504606846977 1152921504606846977
-1073741824"
look 1.32.0 "9007199254740993 9007199254740992
1152921504606846977 1152921504606846976
1152921504606846977 1152921504606846976
2147483647"

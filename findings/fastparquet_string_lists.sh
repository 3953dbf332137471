#!/usr/bin/env bash
# fastparquet 2026.9.0 with pandas 3.1.1: in a column of lists of strings, every list whose page is not dictionary encoded
# is read as None. Nothing is raised or warned. polars and duckdb write such pages for a small column of different strings.
# pyarrow changes over to them within one column once its dictionary is full (1 MiB), so of 200000 rows that it wrote with
# its defaults the first 31264 are right and all after them are None. Lists of numbers and plain strings are read right, and
# so are these files with pandas 2.3.3, which does not turn on fastparquet's newer way of reading strings.
# One would expect the lists, whatever the encoding. What helps: read with pyarrow.
# Seen on Linux, Python 3.11, pyarrow 26.0.1, polars 2.1.0, numpy 2.4.6.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check fastparquet==2026.9.0 pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6

cat > look.py <<'PYTHON'
import fastparquet
import polars
import pyarrow as pa
import pyarrow.parquet as pq

few = [["a", "b"], ["c"], ["d"]]


def lists(name: str) -> list:
    return fastparquet.ParquetFile(name).to_pandas()["x"].tolist()


pq.write_table(pa.table({"x": few}), "dictionary.parquet")
print("pyarrow, dictionary:    ", lists("dictionary.parquet"))
pq.write_table(pa.table({"x": few}), "plain.parquet", use_dictionary=False)
print("pyarrow, no dictionary: ", lists("plain.parquet"))
polars.DataFrame({"x": few}).write_parquet("polars.parquet")
print("polars:                 ", lists("polars.parquet"))

many = [[f"item-{row:08d}", f"item-{row + 200000:08d}"] for row in range(200000)]
pq.write_table(pa.table({"x": many}), "many.parquet")
read = lists("many.parquet")
print("pyarrow, 200000 rows:   ", read.index(None), "right,", read.count(None), "None")
assert read[: read.index(None)] == many[: read.index(None)] and pq.read_table("many.parquet")["x"].to_pylist() == many
PYTHON
seen=$(env/bin/python look.py)
echo "$seen"
expected="pyarrow, dictionary:     [['a', 'b'], ['c'], ['d']]
pyarrow, no dictionary:  [None, None, None]
polars:                  [None, None, None]
pyarrow, 200000 rows:    31264 right, 168736 None"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }

#!/usr/bin/env bash
# implicit 0.7.3: `recommend(..., filter_already_liked_items=True)`, which is the default, returns items that the user
# already liked, where fewer than N others are left to rank. The item-item models (cosine, TF-IDF, BM25) give them the score
# 0 and leave out an item that the user has not seen and that has no score. So user 0 below, who liked 0, 1 and 2, is
# recommended 2 and 1 but not 3. The factor models (ALS, BPR) give the liked items the lowest float32 (-3.4e38) as score.
# One would expect fewer items, or a mark such as -1; the documentation says that liked items are not returned.
# What helps: drop the liked items from the answer yourself. For the factor models, dropping the lowest score does it; for
# the item-item models, dropping scores of 0 does.
# Seen on Linux, Python 3.11, numpy 2.4.6, scipy 1.17.1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check implicit==0.7.3 numpy==2.4.6 scipy==1.17.1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

cat > look.py <<'PYTHON'
import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import CosineRecommender
from scipy.sparse import csr_matrix

likes = csr_matrix(np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [1, 0, 0, 1, 1], [1, 1, 0, 0, 0]], np.float32))
factors = dict(factors=4, random_state=0, num_threads=1)
for model in (CosineRecommender(K=3), AlternatingLeastSquares(**factors), BayesianPersonalizedRanking(**factors)):
    model.fit(likes, show_progress=False)
    ids, scores = model.recommend(0, likes[0], N=3, filter_already_liked_items=True)
    liked = np.isin(ids, likes[0].indices)
    marks = {0.0: "0", float(np.finfo(np.float32).min): "the lowest float32"}
    told = {marks.get(float(score), "another score") for score in scores[liked]}
    print(f"{type(model).__name__}: liked {sorted(ids[liked].tolist())} with {sorted(told)}, others {sorted(ids[~liked].tolist())}")
PYTHON
seen=$(env/bin/python -W ignore look.py)
echo "implicit 0.7.3: user 0 liked 0, 1, 2 of 5 items and is recommended 3:
$seen"
expected="CosineRecommender: liked [1, 2] with ['0'], others [4]
AlternatingLeastSquares: liked [2] with ['the lowest float32'], others [3, 4]
BayesianPersonalizedRanking: liked [2] with ['the lowest float32'], others [3, 4]"
test "$seen" = "$expected" || { echo "changed: expected $expected"; exit 1; }

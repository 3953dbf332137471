"""The command line: what every command does, says and refuses, and that an interrupted fit ends where it would have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from unitok import SemanticIds, Tokenizer, __version__
from unitok.cli import app
from unitok.collisions import RESOLVERS
from unitok.data import EmbeddingInfo, generate_catalogue, read_domain, write_domain
from unitok.tokenizer import ADD_MODES
from unitok.trainer import CHECKPOINT, HISTORY
from unitok_kernels import backends

DOMAINS = ("beauty", "kitchen")
TINY = ("--levels", 3, "--codebook-size", 16, "--codebook-dim", 8, "--batch-size", 32)


def unitok(*args: object, code: int = 0, env: dict[str, str] | None = None) -> Any:
    """Run a command; a traceback fails the test, whatever the exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*args: object) -> str:
    """Run a command that must end with one line of error, and give the line."""
    result = unitok(*args, code=1)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("not among")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert not result.stdout
    return str(lines[0])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def catalogue(home: Path) -> Path:
    generate_catalogue(home / "catalogue", items_per_domain=60, width=32, domains=DOMAINS)
    return home / "catalogue"


@pytest.fixture(scope="module")
def fitted(home: Path, catalogue: Path) -> Path:
    unitok("fit", catalogue, "--out", home / "fitted", "--epochs", 3, *TINY)
    return home / "fitted"


@pytest.fixture(scope="module")
def table(home: Path, catalogue: Path, fitted: Path) -> Path:
    unitok("tokenize", fitted, catalogue, "--out", home / "ids.parquet")
    return home / "ids.parquet"


@pytest.fixture
def domain(tmp_path: Path, catalogue: Path) -> Path:
    """A domain of one's own to spoil."""
    shutil.copytree(catalogue / "beauty", tmp_path / "beauty")
    return tmp_path / "beauty"


def test_help_is_quick_and_teaches() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from unitok.cli import app\n"
        "for args in ([], ['fit'], ['tokenize'], ['decode'], ['add-domain'], ['report'], ['doctor'], ['demo']):\n"
        "    result = CliRunner().invoke(app, [*args, '--help'])\n"
        "    assert result.exit_code == 0 and f'unitok {\" \".join(args)}' in result.stdout, result.output\n"
        "    assert not args or 'For example' in result.stdout\n"
        "loaded = {'torch', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_module_and_version() -> None:
    found = subprocess.run([sys.executable, "-m", "unitok", "--version"], check=True, capture_output=True, text=True)
    assert found.stdout == f"unitok {__version__}\n"


def test_options_name_what_the_library_takes(fitted: Path, catalogue: Path, tmp_path: Path) -> None:
    for command, names in (("tokenize", RESOLVERS), ("add-domain", ADD_MODES)):
        help_text = unitok(command, "--help").stdout
        assert "|".join(names) in help_text
    out = ("--out", tmp_path / "x")
    for args in (
        ("tokenize", fitted, catalogue, *out, "--resolver", "none at all"),
        ("fit", catalogue, *out, "--preset", "best"),
        ("fit", catalogue, *out, "--epochs", 0),
        ("fit", catalogue, *out, "--num-experts", 2, "--top-k", 3),
        ("fit", catalogue, *out, "--embedding-model", "alone"),
        ("fit", catalogue),
        ("decode", fitted, "<a_0><b_0><c_0><d_0>"),
        ("fti",),
    ):
        assert not unitok(*args, code=2).stdout
    assert not (tmp_path / "x").exists()


def test_fit_leaves_a_tokenizer_and_says_where(home: Path, catalogue: Path) -> None:
    out = home / "talkative"
    result = unitok("fit", catalogue, "--out", out, "--epochs", 2, *TINY, "--domains", "kitchen, beauty")
    assert {path.name for path in out.iterdir()} == {"tokenizer.json", "model.safetensors", HISTORY, "report.json"}
    assert "epoch 1/2  loss" in result.stderr
    assert "epoch 2/2  loss" in result.stderr
    assert "collisions" in result.stderr.splitlines()[1]
    for text in ("Tokenizer report", "token entropy", "Fitted 120 items of 2 domains", str(out), "report.json"):
        assert text in result.stdout
    assert len((out / HISTORY).read_text().splitlines()) == 2
    assert list(json.loads((out / "report.json").read_text())["domains"]) == list(DOMAINS)
    assert list(Tokenizer.from_pretrained(out).domains) == list(DOMAINS)
    assert Tokenizer.from_pretrained(out).embedding == read_domain(catalogue / "beauty").embedding


def test_fit_for_machines(tmp_path: Path, catalogue: Path) -> None:
    out = tmp_path / "experts"
    # More experts than the items need: a fit that raises alarms.
    result = unitok("fit", catalogue, "--out", out, "--epochs", 2, *TINY, "--num-experts", 40, "--json")
    found = json.loads(result.stdout)
    assert found["report"]["overall"]["items"] == 120
    assert found["out"] == str(out)
    assert found["alarms"] == json.loads((out / HISTORY).read_text().splitlines()[-1])["alarms"]
    assert found["alarms"]
    assert "  alarm: " in result.stderr
    assert "alarms more, in" in result.stderr


def test_fit_shows_a_bar_on_a_terminal(tmp_path: Path, catalogue: Path) -> None:
    env = {"FORCE_COLOR": "1", "COLUMNS": "120"}
    result = unitok("fit", catalogue, "--out", tmp_path / "seen", "--epochs", 1, *TINY, env=env)
    for text in ("fitting", "steps", "left", "loss"):
        assert text in result.stderr


def test_fit_keeps_the_fingerprint_that_it_is_told(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    write_domain(tmp_path / "bare", generator.standard_normal((60, 8)).astype(np.float32))
    told = ("--embedding-model", "mine", "--text-template", "{title}")
    unitok("fit", tmp_path / "bare", "--out", tmp_path / "fitted", "--epochs", 1, *TINY, *told)
    assert Tokenizer.from_pretrained(tmp_path / "fitted").embedding == EmbeddingInfo("mine", "{title}")
    other = EmbeddingInfo("another", "{title}")
    write_domain(tmp_path / "other", generator.standard_normal((3, 8)).astype(np.float32), embedding=other)
    line = refused("tokenize", tmp_path / "fitted", tmp_path / "other", "--out", tmp_path / "x.parquet")
    assert "got 'another'" in line
    assert "got 'another'" in refused("fit", tmp_path / "other", "--out", tmp_path / "x", *told)


def test_tokenize_writes_a_row_an_item(catalogue: Path, fitted: Path, table: Path) -> None:
    rows = pq.read_table(table)
    assert rows.column_names == ["domain", "item_id", "semantic_id", "c0", "c1", "c2", "expert", "suffix"]
    assert rows["domain"].to_pylist() == [name for name in DOMAINS for _ in range(60)]
    assert rows["item_id"].to_pylist() == [*range(60), *range(60)]
    assert len(set(rows["semantic_id"].to_pylist())) == 120
    ids = Tokenizer.from_pretrained(fitted).tokenize(read_domain(catalogue / "kitchen").embeddings, "kitchen")
    kitchen = rows.slice(60)
    np.testing.assert_array_equal(np.stack([kitchen[f"c{level}"] for level in range(3)], 1), ids.codes.numpy())
    assert kitchen["expert"].to_pylist() == ids.experts[:, 0].tolist()
    first = kitchen.slice(0, 1).to_pylist()[0]
    assert first["semantic_id"] == (
        f"<a_{first['c0']}><b_{first['c1']}><c_{first['c2']}><d_{first['expert']}><e_{first['suffix']}>"
    )


def test_tokenize_one_domain(tmp_path: Path, catalogue: Path, fitted: Path, table: Path) -> None:
    by_name, by_folder, renamed = (tmp_path / f"{name}.parquet" for name in ("name", "folder", "renamed"))
    unitok("tokenize", fitted, catalogue, "--domain", "kitchen", "--out", by_name)
    unitok("tokenize", fitted, catalogue / "kitchen", "--out", by_folder)
    assert pq.read_table(by_name).equals(pq.read_table(by_folder))
    unitok("tokenize", fitted, catalogue / "kitchen", "--domain", "beauty", "--out", renamed)
    assert set(pq.read_table(renamed)["domain"].to_pylist()) == {"beauty"}
    assert "must know it, got 'shoes'" in refused(
        "tokenize", fitted, catalogue / "kitchen", "--domain", "shoes", "--out", tmp_path / "x.parquet"
    )


def test_tokenize_leaves_strangers_to_the_router(tmp_path: Path, domain: Path, fitted: Path) -> None:
    stranger = domain.rename(tmp_path / "perfume")
    result = unitok("tokenize", fitted, stranger, "--out", tmp_path / "ids.parquet", "--json")
    assert result.stderr == "not among the tokenizer's domains, so left to its router: perfume\n"
    found = json.loads(result.stdout)
    assert (found["domains"], found["routed_domains"]) == ({"perfume": 60}, ["perfume"])
    assert found["resolved_collision_rate"] == 0


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_tokenize_appends(resolver: str, tmp_path: Path, catalogue: Path, fitted: Path) -> None:
    x = read_domain(catalogue / "beauty").embeddings
    grown = np.concatenate([x, x[:30], x[:30]])  # each newcomer collides
    write_domain(tmp_path / "old" / "beauty", np.array(x))
    write_domain(tmp_path / "new" / "beauty", grown)
    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    with_resolver = ("--resolver", resolver)
    unitok("tokenize", fitted, tmp_path / "old", "--out", old, *with_resolver)
    result = unitok("tokenize", fitted, tmp_path / "new", "--out", new, "--existing", old, "--json", *with_resolver)
    assert [json.loads(result.stdout)[name] for name in ("kept", "added")] == [60, 60]
    before, after = pq.read_table(old), pq.read_table(new)
    assert before["suffix"].null_count == (60 if resolver == "none" else 0)
    assert after.slice(0, 60).equals(before)
    assert after["item_id"].to_pylist() == list(range(120))
    assert (len(set(after["semantic_id"].to_pylist())) == 120) == (resolver != "none")
    # What is no longer in the catalogue keeps its row, so that nobody else ever gets its ID.
    unitok("tokenize", fitted, tmp_path / "old", "--out", new, "--existing", new, "--force", *with_resolver)
    assert pq.read_table(new).equals(after)
    unitok("decode", fitted, new, "--out", tmp_path / "x.npy")


def test_decode_gives_what_the_tokenizer_gives(tmp_path: Path, fitted: Path, table: Path) -> None:
    out = tmp_path / "embeddings.npy"
    unitok("decode", fitted, table, "--out", out)
    decoded = np.load(out)
    assert (decoded.shape, decoded.dtype) == ((120, 32), np.float32)
    texts = pq.read_table(table)["semantic_id"].to_pylist()[:2]
    short = texts[0].rsplit("<", 1)[0]  # without its suffix
    found = json.loads(unitok("decode", fitted, short, texts[1], "--json").stdout)
    np.testing.assert_allclose(found["embeddings"], decoded[:2], atol=1e-5)
    assert (found["ids"], found["width"]) == (2, 32)


def test_decode_finds_the_items_that_an_id_means(catalogue: Path, fitted: Path, table: Path) -> None:
    text = pq.read_table(table)["semantic_id"][0].as_py()
    result = unitok("decode", fitted, text, "--items", catalogue, "--top", 3)
    assert text in result.stdout
    found = json.loads(unitok("decode", fitted, text, "--items", catalogue, "--json").stdout)["nearest"][0]
    assert found["semantic_id"] == text
    cosines = [item["cosine"] for item in found["items"]]
    assert len(cosines) == 5
    assert cosines == sorted(cosines, reverse=True)
    assert {"domain", "item_id", "title"} <= found["items"][0].keys()


def test_add_domain_changes_no_id(tmp_path: Path, catalogue: Path, domain: Path, fitted: Path, table: Path) -> None:
    extended, frozen = tmp_path / "extended", tmp_path / "frozen"
    added = ("add-domain", fitted, domain, "--name", "garden")
    found = json.loads(unitok(*added, "--out", extended, "--json").stdout)
    assert (found["expert"], found["domains"]) == (2, [*DOMAINS, "garden"])
    unitok("tokenize", extended, catalogue, "--out", tmp_path / "ids.parquet")
    assert pq.read_table(tmp_path / "ids.parquet").equals(pq.read_table(table))
    unitok("tokenize", extended, domain, "--domain", "garden", "--out", tmp_path / "garden.parquet")
    assert set(pq.read_table(tmp_path / "garden.parquet")["expert"].to_pylist()) == {2}
    x = read_domain(catalogue / "kitchen").embeddings
    old, new = (Tokenizer.from_pretrained(folder).tokenize(x) for folder in (fitted, extended))
    assert (old.num_experts, new.num_experts) == (2, 3)
    assert old.equals(new)
    assert SemanticIds.concatenate([old[:9], new[9:]]).equals(new)
    # A table of the smaller tokenizer is good in the larger one, where the new domain is added to it.
    more = ("--domain", "garden", "--existing", table, "--out", tmp_path / "all.parquet")
    unitok("tokenize", extended, domain, *more)
    assert pq.read_table(tmp_path / "all.parquet").slice(0, 120).equals(pq.read_table(table))
    assert "the router's choice" in unitok(*added, "--out", frozen, "--mode", "frozen").stdout
    assert (frozen / "model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()


def test_ids_of_a_tokenizer_that_took_in_another_domain_are_refused(
    tmp_path: Path, catalogue: Path, domain: Path, fitted: Path, table: Path
) -> None:
    for name in ("garden", "perfume"):  # expert 2 of both, with other codebooks
        added = tmp_path / f"{name} domain"
        write_domain(added, read_domain(domain).embeddings[: 20 if name == "garden" else 40] * 1.0)
        unitok("add-domain", fitted, added, "--name", name, "--out", tmp_path / name)
        out = ("--out", tmp_path / f"{name}.parquet")
        unitok("tokenize", tmp_path / name, added, "--domain", name, "--existing", table, *out)
    for theirs, own in (("garden", "perfume"), ("perfume", "garden")):
        file = tmp_path / f"{theirs}.parquet"
        for tokenizer in (tmp_path / own, fitted):
            line = refused("decode", tokenizer, file, "--out", tmp_path / "x.npy")
            assert "Use the tokenizer that made them, or one that domains were added to since" in line
            assert line == refused("tokenize", tokenizer, catalogue, "--existing", file, "--out", tmp_path / "y")
        unitok("decode", tmp_path / own, table, "--out", tmp_path / f"{own}.npy")


def test_add_domain_overwrites_nothing(tmp_path: Path, domain: Path, fitted: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(fitted, old)
    added = ("add-domain", old, domain, "--name", "garden", "--out", old)
    assert "a tokenizer is there already" in refused(*added)
    assert list(Tokenizer.from_pretrained(old).domains) == list(DOMAINS)
    unitok(*added, "--force")
    assert list(Tokenizer.from_pretrained(old).domains) == [*DOMAINS, "garden"]
    assert "name must be a new domain's name, got 'beauty'" in refused(*added[:3], "--out", tmp_path / "x")


def test_report_measures_and_draws(tmp_path: Path, catalogue: Path, fitted: Path) -> None:
    plot = tmp_path / "report.png"
    result = unitok("report", fitted, catalogue, "--plot", plot)
    assert "Tokenizer report" in result.stdout
    assert "variance of HSIC" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "there already" in refused("report", fitted, catalogue, "--plot", plot)
    assert ".svg" in refused("report", fitted, catalogue, "--plot", tmp_path / "report.doc")
    found = json.loads(unitok("report", fitted, catalogue, "--domains", "kitchen", "--json").stdout)
    assert list(found["domains"]) == ["kitchen"]
    narrow = unitok("report", fitted, catalogue, env={"COLUMNS": "80"}).stdout
    assert narrow.count("Tokenizer report") == 2
    assert "…" not in narrow
    assert found == json.loads(unitok("report", fitted, catalogue / "kitchen", "--json").stdout)


def test_report_without_matplotlib(
    tmp_path: Path, catalogue: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refused("report", fitted, catalogue, "--plot", tmp_path / "report.png")
    assert "pip install 'unitok-kernels[report]'" in line


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    result = unitok("doctor")
    for text in (f"unitok {__version__}", f"torch {torch.__version__}", "reference: available", "ok     codes equal"):
        assert text in result.stdout
    found = json.loads(unitok("doctor", "--json").stdout)
    assert found["ok"]
    assert all(found["checks"].values())
    assert found["backends"]["reference"]
    assert found["processor"]["threads"] == torch.get_num_threads()
    assert (found["instruction_set"], found["instruction_sets"]) == (
        backends.instruction_set(),
        backends.instruction_sets(),
    )
    assert all(line in result.stdout for line in backends.explain().splitlines())
    monkeypatch.setattr("unitok.commands.doctor._codes_are_exact", lambda: False)
    assert "FAILED codes equal" in unitok("doctor", code=1).stdout


def test_doctor_says_what_is_wrong_with_a_forced_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "UNITOK_CPU must be one of generic, got 'sse'. Leave it unset to take the best that this processor has"
    why_not = lambda backend: wrong if backend == "cpu" else None  # noqa: E731
    monkeypatch.setattr(backends, "_why_not", why_not)
    told = unitok("doctor", code=1).stdout
    assert f"cpu: not available: {wrong}" in told
    assert f"none was run: {wrong}" in told
    found = json.loads(unitok("doctor", "--json", code=1).stdout)
    assert (found["ok"], found["checks"], found["instruction_set"]) == (False, {}, None)


def test_doctor_names_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=1", 'absent-one>=2; extra == "gpu"', 'numpy; platform_system == "Linux" and extra == "report"']
    monkeypatch.setattr("unitok.commands.doctor.metadata.requires", lambda name: required)
    assert json.loads(unitok("doctor", "--json").stdout)["extras"] == {"gpu": ["absent-one"], "report": []}
    assert "lacks absent-one: pip install 'unitok-kernels[gpu]'" in unitok("doctor").stdout


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # would hold for all tests after it
    out = tmp_path / "demo"
    result = unitok("demo", "--out", out, "--items", 60)
    for text in ("Tokenizer report", "Items and their semantic IDs", "Nearest items by ID prefix", str(out), "of 4"):
        assert text in result.stdout
    assert {path.name for path in out.iterdir()} == {"catalogue", "tokenizer", "ids.parquet"}
    assert "must be empty" in refused("demo", "--out", out)
    found = json.loads(unitok("demo", "--out", out, "--items", 60, "--force", "--json").stdout)
    assert found["report"]["overall"]["items"] == 240
    assert {item["domain"] for item in found["items"]} == {"beauty", "kitchen", "outdoors", "books_and_games"}
    assert len(found["nearest"]) == 4
    for item in found["nearest"]:
        for other in item["nearest"]:
            assert (
                item["semantic_id"].split("><")[: other["shared_codes"]]
                == (other["semantic_id"].split("><")[: other["shared_codes"]])
            )
            assert other["title"] != item["title"]


def test_nothing_is_overwritten_without_force(tmp_path: Path, catalogue: Path, fitted: Path, table: Path) -> None:
    before = {path: path.read_bytes() for path in fitted.iterdir()}
    assert "must hold no tokenizer yet" in refused("fit", catalogue, "--out", fitted, *TINY)
    assert "there already" in refused("tokenize", fitted, catalogue, "--out", table)
    (tmp_path / "kept.npy").write_text("kept")
    assert "there already" in refused("decode", fitted, table, "--out", tmp_path / "kept.npy")
    assert (tmp_path / "kept.npy").read_text() == "kept"
    assert {path: path.read_bytes() for path in fitted.iterdir()} == before
    (tmp_path / HISTORY).write_text("somebody's")
    assert HISTORY in refused("fit", catalogue, "--out", tmp_path, *TINY)


def test_force_deletes_nothing_before_the_settings_are_found_to_fit(
    tmp_path: Path, catalogue: Path, fitted: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(fitted, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    line = refused("fit", catalogue, "--out", out, "--top-k", 99, *TINY, "--force")
    assert "--top-k" in line
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_force_starts_over(tmp_path: Path, catalogue: Path, fitted: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(fitted, out)
    result = unitok("fit", catalogue, "--out", out, "--epochs", 2, *TINY, "--force")
    assert "going on" not in result.stderr
    assert Tokenizer.from_pretrained(out).config.epochs == 2
    assert len((out / HISTORY).read_text().splitlines()) == 2


def _spoil_width(domain: Path) -> None:
    np.save(domain / "embeddings.npy", np.load(domain / "embeddings.npy")[:, :16])


def _spoil_value(domain: Path) -> None:
    x = np.load(domain / "embeddings.npy")
    x[7, 3] = np.nan
    np.save(domain / "embeddings.npy", x)


def _spoil(name: str, content: bytes | None = None) -> Callable[[Path], None]:
    def spoil(domain: Path) -> None:
        whole = (domain / name).read_bytes()
        (domain / name).write_bytes(whole[: len(whole) // 2] if content is None else content)

    return spoil


def _drop_column(domain: Path) -> None:
    pq.write_table(pq.read_table(domain / "items.parquet").drop_columns("item_id"), domain / "items.parquet")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil_width, "have the width of the tokenizer's, 32, got 16"),
        (_spoil_value, "got nan in row 7"),
        (_spoil("embeddings.npy"), "whole .npy file"),
        (_spoil("embeddings.npy", b"no array"), "whole .npy file"),
        (_spoil("items.parquet"), "can't be read"),
        (_drop_column, "Add item_id"),
        (_spoil("embeddings.json", b"[1, 2]"), "JSON object with model and template"),
        (_spoil("embeddings.json", b'{"model": "m", "template": "t"}'), "got 'm' and 't'"),
    ],
)
def test_broken_items(spoil: Callable[[Path], None], said: str, tmp_path: Path, domain: Path, fitted: Path) -> None:
    spoil(domain)
    out = tmp_path / "out"
    assert said in refused("tokenize", fitted, domain, "--out", out)
    assert said in refused("report", fitted, domain)
    assert said in refused("add-domain", fitted, domain, "--out", out, "--name", "new")
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [domain]  # no half-written file either


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"format": 1}'),
        ("tokenizer.json", b"\xff\xfe\x00"),
        ("tokenizer.json", b'{"format": 99}'),
        ("model.safetensors", b"no weights"),
        ("model.safetensors", None),
    ],
)
def test_broken_tokenizers(
    name: str, content: bytes | None, tmp_path: Path, catalogue: Path, fitted: Path, table: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(fitted, broken)
    _spoil(name, content)(broken)
    for args in (("report", broken, catalogue), ("decode", broken, table, "--out", tmp_path / "x.npy")):
        assert "must hold a whole tokenizer" in refused(*args)
    (broken / name).unlink()
    assert f"must hold {name}" in refused("report", broken, catalogue)


def test_broken_id_tables(tmp_path: Path, catalogue: Path, fitted: Path, table: Path) -> None:
    file = tmp_path / "ids.parquet"
    whole = pq.read_table(table)

    def said_of(spoiled: pa.Table) -> str:
        pq.write_table(spoiled, file)
        line = refused("decode", fitted, file, "--out", tmp_path / "x.npy")
        assert str(file) in line
        existing = refused("tokenize", fitted, catalogue, "--existing", file, "--out", tmp_path / "y.parquet")
        assert existing == line
        return line

    def with_column(name: str, values: pa.Array) -> pa.Table:
        return whole.set_column(whole.column_names.index(name), name, values)

    assert "Add c1" in said_of(whole.drop_columns("c1"))
    assert "c0 must be an integer" in said_of(with_column("c0", pa.array(["x"] * 120)))
    assert "got [16, 0, 0] in row 0" in said_of(
        with_column("c0", pa.array([16] * 120))
        .drop_columns(["c1", "c2"])
        .append_column("c1", pa.array([0] * 120))
        .append_column("c2", pa.array([0] * 120))
    )
    assert "expert must be an integer" in said_of(with_column("expert", pa.nulls(120, pa.int32())))
    assert "suffix must be an integer" in said_of(with_column("suffix", pa.array([0.5] * 120)))
    assert "domain must be text" in said_of(with_column("domain", pa.array([1] * 120)))
    assert "must have 3 levels" in said_of(whole.append_column("c3", pa.array([0] * 120)))
    note = json.loads(whole.schema.metadata[b"unitok"])
    for part, value in (("base", "0" * 16), ("experts", ["0" * 16]), ("experts", [*note["tokenizer"]["experts"], "0"])):
        foreign = {**note, "tokenizer": {**note["tokenizer"], part: value}}
        assert "of tokenizer" in said_of(whole.replace_schema_metadata({"unitok": json.dumps(foreign)}))
    for broken in ("7", json.dumps({**note, "tokenizer": "0" * 16})):
        assert "metadata must be whole" in said_of(whole.replace_schema_metadata({"unitok": broken}))
    bare = with_column("suffix", pa.nulls(120, pa.int32())).replace_schema_metadata(None)
    pq.write_table(bare, file)
    unitok("decode", fitted, file, "--out", tmp_path / "bare.npy")
    line = refused("tokenize", fitted, catalogue, "--existing", file, "--out", tmp_path / "y.parquet")
    assert "suffix must be an integer in every row, got 120 nulls" in line
    file.write_bytes(table.read_bytes()[:500])
    assert "can't be read" in refused("decode", fitted, file, "--out", tmp_path / "x.npy")
    line = refused("tokenize", fitted, catalogue, "--existing", table, "--resolver", "none", "--out", tmp_path / "y")
    assert "resolved by none, got suffix" in line
    assert "in row 0" in refused("decode", fitted, "<a_0><b_0>", "--json")
    assert "one parquet file, or IDs as text" in refused("decode", fitted, table, table, "--json")


def test_paths_that_lead_nowhere(tmp_path: Path, catalogue: Path, fitted: Path, table: Path) -> None:
    nowhere, file = tmp_path / "nowhere", tmp_path / "file"
    file.write_text("")
    assert "nothing there" in refused("fit", nowhere, "--out", tmp_path / "x")
    assert "got a file" in refused("fit", file, "--out", tmp_path / "x")
    assert "no domain to read" in refused("fit", tmp_path, "--out", tmp_path / "x")
    assert "got zoo. There: beauty, kitchen" in refused("fit", catalogue, "--domains", "zoo", "--out", nowhere)
    assert "must be a folder, got a file" in refused("fit", catalogue, "--out", file)
    assert "must hold tokenizer.json" in refused("report", nowhere, catalogue)
    assert "nothing there" in refused("decode", fitted, nowhere, "--json")
    assert "must be a file, got a folder" in refused("tokenize", fitted, catalogue, "--out", tmp_path)
    assert str(file) in refused("tokenize", fitted, catalogue, "--out", file / "ids.parquet")


def test_a_folder_that_may_not_be_written_to(
    tmp_path: Path, catalogue: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "locked")

    # Raised where a folder would be, since the user who runs the tests may be allowed everything.
    monkeypatch.setattr(Path, "touch", denied)
    line = refused("tokenize", fitted, catalogue, "--out", tmp_path / "ids.parquet")
    assert line == f"error: {tmp_path / 'ids.parquet'}: Permission denied"
    monkeypatch.setattr(Path, "mkdir", denied)
    assert refused("fit", catalogue, "--out", tmp_path / "x", *TINY) == "error: locked: Permission denied"


def test_a_bug_or_debugging_keeps_the_traceback(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        unitok("report", fitted / "nowhere", fitted, env={"UNITOK_DEBUG": "1"})
    monkeypatch.setattr("unitok.commands.doctor._codes_are_exact", lambda: [][0])
    with pytest.raises(IndexError):
        unitok("doctor")


EPOCHS = 100  # long enough that a signal finds the fit at work
LONG = ("--epochs", str(EPOCHS), *map(str, TINY))


@pytest.fixture(scope="module")
def uninterrupted(home: Path, catalogue: Path) -> bytes:
    unitok("fit", catalogue, "--out", home / "uninterrupted", *LONG)
    return (home / "uninterrupted" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fit_ends_where_it_would_have(
    sent: signal.Signals, tmp_path: Path, catalogue: Path, uninterrupted: bytes
) -> None:
    out = tmp_path / "fitted"
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "unitok", "fit", str(catalogue), "--out", str(out), *LONG, "--threads", threads]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    epochs = 2 if sent == signal.SIGINT else 5
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (out / HISTORY).exists() and len((out / HISTORY).read_text().splitlines()) > epochs:
            break
        time.sleep(0.002)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL), stderr
    assert not stdout
    if sent == signal.SIGINT:
        assert "goes on from there" in stderr.splitlines()[-1]
        assert "Traceback" not in stderr
    assert (out / CHECKPOINT).exists()
    assert not (out / "tokenizer.json").exists()

    assert "same settings" in refused("fit", catalogue, "--out", out, *LONG, "--seed", "1")
    result = unitok("fit", catalogue, "--out", out, *LONG)
    assert "going on from step" in result.stderr.splitlines()[0]
    assert (out / "model.safetensors").read_bytes() == uninterrupted
    assert [json.loads(line)["epoch"] for line in (out / HISTORY).read_text().splitlines()] == list(range(EPOCHS))
    assert not (out / CHECKPOINT).exists()


def test_a_reader_that_goes_away_is_no_error(fitted: Path, catalogue: Path) -> None:
    command = [sys.executable, "-m", "unitok", "report", str(fitted), str(catalogue), "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in process.stderr
    assert "error:" not in process.stderr

"""The command line: what every command does and says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import unitok_kernels
from tests.unitok.cli.runs import DOMAINS, TINY, refused, unitok
from unitok import SemanticIds, Tokenizer, __version__
from unitok.data import EmbeddingInfo, read_domain, write_domain
from unitok.ids.collisions import RESOLVERS
from unitok.training.trainer import HISTORY
from unitok_kernels import backends
from unitok_kernels.backends.records import cuda as cuda_record


def test_help_is_quick_and_teaches() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from unitok.cli.app import app\n"
        "names = 'import embed fit tokenize decode check-domain add-domain report doctor demo recommend'.split()\n"
        "for args in ([], *([name] for name in names)):\n"
        "    result = CliRunner().invoke(app, [*args, '--help'])\n"
        "    assert result.exit_code == 0 and f'unitok {\" \".join(args)}' in result.stdout, result.output\n"
        "    assert not args or 'For example' in result.stdout\n"
        "loaded = {'torch', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_shows_each_example_on_a_line_of_its_own() -> None:
    for name in ("demo", "import", "embed", "fit", "tokenize", "decode", "check-domain", "add-domain", "report"):
        lines = [line.strip() for line in unitok(name, "--help", env={"COLUMNS": "120"}).stdout.splitlines()]
        assert len([line for line in lines if line.startswith(f"unitok {name}")]) >= 2, name


def test_it_runs_as_a_module_and_tells_its_version() -> None:
    found = subprocess.run([sys.executable, "-m", "unitok", "--version"], check=True, capture_output=True, text=True)
    assert found.stdout == f"unitok {__version__}\n"


def test_fit_leaves_a_tokenizer_and_says_where(home: Path, catalogue: Path) -> None:
    out = home / "talkative"
    result = unitok("fit", catalogue, "--out", out, "--epochs", 2, *TINY, "--domains", "kitchen, beauty")
    assert {path.name for path in out.iterdir()} == {"unitok.json", "model.safetensors", HISTORY, "report.json"}
    assert "epoch 1/2  loss" in result.stderr
    assert "epoch 2/2  loss" in result.stderr
    assert "collisions" in result.stderr.splitlines()[1]
    for text in ("Tokenizer report", "token entropy", "Fitted 120 items of 2 domains", str(out), "report.json"):
        assert text in result.stdout
    assert len((out / HISTORY).read_text().splitlines()) == 2
    assert list(json.loads((out / "report.json").read_text())["domains"]) == list(DOMAINS)
    assert list(Tokenizer.from_pretrained(out).domains) == list(DOMAINS)
    assert Tokenizer.from_pretrained(out).embedding == read_domain(catalogue / "beauty").embedding


def test_fit_tells_machines_what_it_made_and_its_alarms(tmp_path: Path, catalogue: Path) -> None:
    out = tmp_path / "experts"
    # More experts than the items need: a fit that raises alarms.
    result = unitok("fit", catalogue, "--out", out, "--epochs", 2, *TINY, "--num-experts", 40, "--json")
    found = json.loads(result.stdout)
    assert found["report"]["overall"]["items"] == 120
    assert found["out"] == str(out)
    assert found["alarms"] == json.loads((out / HISTORY).read_text().splitlines()[-1])["alarms"]
    assert found["alarms"]
    assert "  alarm: " in result.stderr
    assert "more alarms in" in result.stderr


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
    assert rows.column_names == ["domain", "item_id", "semantic_id", "c0", "c1", "c2", "expert", "suffix", "source_id"]
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


def test_tokenize_takes_one_domain_by_name_or_by_folder(
    tmp_path: Path, catalogue: Path, fitted: Path, table: Path
) -> None:
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
def test_tokenize_appends_and_changes_no_id_that_exists(
    resolver: str, tmp_path: Path, catalogue: Path, fitted: Path
) -> None:
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


def test_check_domain_says_go_or_no_go(tmp_path: Path, domain: Path, fitted: Path) -> None:
    said = unitok("check-domain", fitted, domain).stdout
    for text in ("worst training domain", "router confidence", "go: score 1.00, threshold 0.5. Tokenize it as it is."):
        assert text in said
    beauty = np.array(read_domain(domain).embeddings[:])
    noise = np.random.default_rng(0).standard_normal(beauty.shape)
    write_domain(tmp_path / "far", (beauty[:1] + 1e-2 * noise).astype(np.float16))
    assert "no go: score 0." in unitok("check-domain", fitted, tmp_path / "far").stdout
    found = json.loads(unitok("check-domain", fitted, tmp_path / "far", "--json").stdout)
    assert (found["domain"], found["passes"]) == ("far", False)
    assert found["score"] == min(found["parts"].values()) < found["threshold"]
    few = tmp_path / "few"
    write_domain(few, beauty[:20])
    assert "at least 32 distinct items, got 20 rows" in refused("check-domain", fitted, few)


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
            assert line == refused(
                "tokenize", tokenizer, catalogue, "--existing", file, "--out", tmp_path / "y.parquet"
            )
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


def test_report_names_the_extra_that_brings_matplotlib(
    tmp_path: Path, catalogue: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refused("report", fitted, catalogue, "--plot", tmp_path / "report.png")
    assert "pip install 'unitok-kernels[report]'" in line


def test_doctor_tells_what_is_there_and_fails_where_a_check_does(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert found["modules"] == backends.modules()
    assert all(f"{name:<6} {state}" in result.stdout for name, state in found["modules"].items())
    encode = unitok_kernels.residual_encode
    monkeypatch.setattr(unitok_kernels, "residual_encode", lambda z, codebooks: encode(-z, codebooks))
    assert "FAILED codes equal" in unitok("doctor", code=1).stdout


@pytest.mark.skipif(not backends.available()["cpu"], reason="the native module is not built")
def test_doctor_says_what_is_wrong_with_a_forced_instruction_set() -> None:
    def told(*options: str) -> str:  # by a process of its own: the variable is read once
        command = [sys.executable, "-m", "unitok", "doctor", *options]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "UNITOK_CPU": "sse"})
        assert (done.returncode, done.stderr) == (1, "")
        return done.stdout

    wrong = f"UNITOK_CPU must be one of {', '.join(backends.instruction_sets())}, got 'sse'. Leave it unset to take "
    plain = told()
    assert f"cpu: not available: {wrong}" in plain
    assert f"none was run: {wrong}" in plain
    found = json.loads(told("--json"))
    assert (found["ok"], found["checks"], found["instruction_set"]) == (False, {}, None)


def test_doctor_says_what_builds_what_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_record, "MODULE", "unitok_kernels._none")
    monkeypatch.delenv("UNITOK_CUDA_EMULATED", raising=False)
    builds = "with nvcc, `UNITOK_CUDA=1 pip install --force-reinstall --no-deps .` in a checkout builds it"
    for compiler, step in (
        ("/cuda/bin/nvcc", builds),
        (None, f"`pip install 'cuda-toolkit[nvcc,cccl]'` brings nvcc; {builds}"),
    ):
        monkeypatch.setattr("unitok_kernels.nvcc.find", lambda compiler=compiler: compiler)
        told = unitok("doctor").stdout
        assert f"_cuda  the native module unitok_kernels._none is not built ({step})" in told
        assert f"nvcc   {compiler or 'not found'}" in told


def test_doctor_tells_a_torch_without_cuda_from_a_machine_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, said in ((True, "torch sees no CUDA device, though there is one"), (False, "; no CUDA device")):
        monkeypatch.setattr(backends, "available", lambda device=device: {"cuda": device})
        assert said in unitok("doctor").stdout


def test_doctor_without_torch_names_it() -> None:
    script = "import sys; sys.modules['torch'] = None; from unitok.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "doctor"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "none was run: torch is not installed: `pip install torch` brings it" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_names_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=1", 'absent-one>=2; extra == "gpu"', 'numpy; platform_system == "Linux" and extra == "report"']
    monkeypatch.setattr("unitok.cli.doctor.metadata.requires", lambda name: required)
    assert json.loads(unitok("doctor", "--json").stdout)["extras"] == {"gpu": ["absent-one"], "report": []}
    assert "lacks absent-one: pip install 'unitok-kernels[gpu]'" in unitok("doctor").stdout


def test_demo_shows_ids_a_report_and_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_reader_that_goes_away_is_no_error(fitted: Path, catalogue: Path) -> None:
    command = [sys.executable, "-m", "unitok", "report", str(fitted), str(catalogue), "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert not any(word in process.stderr for word in ("Traceback", "error:"))

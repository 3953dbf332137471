"""The page on drop-in layers, and the examples of vector-quantize-pytorch with the import changed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from pathlib import Path

import pytest
import torch

from unitok_kernels.nn import GroupedResidualVQConfig, VectorQuantizeConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "drop-in-layers.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
NEEDS = {
    "import vector_quantize_pytorch": "vector_quantize_pytorch",
    "from transformers": "transformers",
    "to_onnx": "onnx",
}
LAYERS = {"VectorQuantize", "ResidualVQ", "GroupedResidualVQ"}


def blocks(text):
    found = BLOCK.findall(text)
    return {
        f"{number}: {re.sub(r'[^ -~]', '', block.strip().splitlines()[0])[:50]}": block
        for number, block in enumerate(found)
    }


def run(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.compiler.reset()
    exec(compile(source, "example", "exec"), {})


@pytest.mark.parametrize("name", blocks(PAGE))
def test_each_block_of_the_page_runs(name, tmp_path, monkeypatch):
    source = blocks(PAGE)[name]
    for sign, package in NEEDS.items():
        if sign in source:
            pytest.importorskip(package, reason=f"{package} isn't installed")
            if package == "onnx":
                pytest.importorskip("onnxscript", reason="onnxscript isn't installed")
    run(source, tmp_path, monkeypatch)


def examples():
    """Their README's blocks that use these layers alone, as the installed package has it."""
    try:
        readme = importlib.metadata.metadata("vector-quantize-pytorch").get_payload()
    except importlib.metadata.PackageNotFoundError:
        return {}
    pattern = re.compile(r"from vector_quantize_pytorch import (\w+)")
    return {name: source for name, source in blocks(readme).items() if {*pattern.findall(source)} & LAYERS}


@pytest.mark.skipif(not examples(), reason="vector-quantize-pytorch isn't installed")
@pytest.mark.parametrize("name", examples())
def test_their_examples_run_with_the_import_changed(name, tmp_path, monkeypatch):
    source = examples()[name].replace("from vector_quantize_pytorch import", "from unitok_kernels.nn import")
    run(source, tmp_path, monkeypatch)


def test_the_table_lists_every_option():
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*?)\|", PAGE, re.MULTILINE))
    for config in (VectorQuantizeConfig, GroupedResidualVQConfig):
        for field in dataclasses.fields(config):
            if field.name in ("precision", "check_finite", "backend"):
                continue
            has_default = field.default is not dataclasses.MISSING
            assert rows[field.name].strip() == (f"`{field.default!r}`" if has_default else ""), field.name
        for name, off in config.off.items():
            assert rows[name].strip() == f"`{off!r}`", name
            assert "not supported" in PAGE.split(f"| `{name}` |")[1].splitlines()[0] or name == "sync_kmeans"

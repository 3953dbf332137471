"""Importing the packages costs nothing, and their front doors open on what they name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import unitok_kernels as uk


def fresh(code):
    """Run code in a new interpreter and give what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["unitok_kernels", "unitok"])
def test_importing_the_package_imports_nothing_heavy(package):
    heavy = "{'torch', 'numpy', 'triton', 'pyarrow', 'sklearn', 'transformers'}"
    code = f"import sys, {package}; {package}.__version__; dir({package}); print(sorted({heavy} & set(sys.modules)))"
    assert fresh(code) == "[]"


def test_backends_can_be_asked_without_torch():
    use = "uk.backends.available(); uk.backends.explain()"
    without = "sys.modules['triton'] = None"  # where it is installed, torch is asked whether there is a CUDA device
    code = f"import sys, unitok_kernels as uk; {without}; {use}; print('torch' in sys.modules)"
    assert fresh(code) == "False"


def test_the_first_use_may_be_inside_a_compiled_function():
    code = """
import torch, unitok_kernels as uk
function = torch.compile(lambda z, c: uk.residual_encode(z, c).quantized, fullgraph=True, backend="eager")
z, c = torch.randn(5, 3), torch.randn(2, 4, 3)
print(torch.equal(function(z, c), uk.residual_encode(z, c).quantized))
"""
    assert fresh(code) == "True"


def test_a_submodule_is_reached_by_its_name():
    assert fresh("import unitok_kernels as uk; print(uk.nn.MoEResidualVQ.__name__, uk.ops.__name__)") == (
        "MoEResidualVQ unitok_kernels.ops"
    )


@pytest.mark.parametrize(
    "name",
    [
        "unitok",
        "unitok.data",
        "unitok.metrics",
        "unitok.model",
        "unitok.recommender",
        "unitok_kernels",
        "unitok_kernels.backends",
        "unitok_kernels.nn",
        "unitok_kernels.ops",
    ],
)
def test_dir_lists_public_names_alone(name):
    module = importlib.import_module(name)
    assert {*module.__all__} <= {*dir(module)} <= {*module.__all__, "__version__", "nn", "ops"}
    assert all(hasattr(module, public) for public in dir(module))


def test_dir_lists_the_public_names():
    assert {*uk.__all__, "nn", "__version__"} <= set(dir(uk))
    assert sorted(uk.__all__) == sorted(set(uk.__all__))
    with pytest.raises(AttributeError, match="module 'unitok_kernels' has no attribute 'nearest'"):
        _ = uk.nearest


def test_the_public_names_are_the_contract_s():
    assert {
        "backends",
        "codeword_statistics",
        "hsic",
        "kmeans",
        "moe_residual_encode",
        "nearest_codeword",
        "residual_decode",
        "residual_encode",
        "sinkhorn_assign",
    } <= set(uk.__all__)

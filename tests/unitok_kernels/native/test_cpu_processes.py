"""The native module among processes and threads: fork, workers of a DataLoader, the GIL, and the instruction set."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

import unitok_kernels as uk
from tests.unitok_kernels.helpers.oracle import normal
from unitok_kernels import backends

BUILT = importlib.util.find_spec("unitok_kernels._cpu") is not None

pytestmark = pytest.mark.compiled
built = pytest.mark.skipif(not BUILT, reason="the native module is not built")
linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")

# What each script starts with; `right()` runs on several threads.
PREAMBLE = """
import os, sys, threading, warnings
import torch
import unitok_kernels as uk
warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of a fork beside threads: what is tested here
torch.set_num_threads(3)
generator = torch.Generator().manual_seed(0)
z, codebooks = torch.randn(1000, 8, generator=generator), torch.randn(2, 32, 8, generator=generator)
expected = uk.residual_encode(z, codebooks, backend="reference").codes

def right():
    return torch.equal(uk.residual_encode(z, codebooks, backend="cpu").codes, expected)

def threads():
    return len(os.listdir("/proc/self/task"))
"""


def script(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter; one that hangs ends in an error."""
    environ = {name: value for name, value in os.environ.items() if name not in ("UNITOK_CPU", "UNITOK_BACKEND")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**environ, **environment}
    )


def printed(code: str, **environment: str) -> str:
    done = script(PREAMBLE + code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_native_module_is_built_where_there_is_a_compiler():
    """Without this test a build that fails would pass everywhere: the install goes on and the reference stands in."""
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    assert backends.available()["cpu"], backends.explain()


@built
def test_a_forked_child_computes_right_on_threads_of_its_own_and_ends():
    code = """
assert right()
for _ in range(3):
    child = os.fork()
    if child == 0:
        before = threads()
        os._exit(0 if right() and threads() == before + 2 and right() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert right()
print("done")
"""
    assert printed(code) == "done"


@built
def test_a_child_forked_while_another_thread_computes_ends_too():
    # by numpy alone: a lock of torch's that is held at the fork stays held in the child
    code = """
import os, threading
import numpy as np
from unitok_kernels.numpy import encode
z, codebooks = np.random.rand(1000, 8).astype("f"), np.random.rand(2, 32, 8).astype("f")
expected = encode(z, codebooks, threads=1).codes

def right():
    return np.array_equal(encode(z, codebooks, threads=3).codes, expected)

stop = threading.Event()
def work():
    while not stop.is_set():
        assert right()
other = threading.Thread(target=work)
other.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if right() else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
other.join()
print("done")
"""
    done = script(code)
    assert done.stdout.strip() == "done", done.stderr


@built
def test_forked_workers_of_multiprocessing_and_of_a_dataloader_compute_right():
    code = """
import multiprocessing
assert right()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.starmap(right, [()] * 4) == [True] * 4

class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return uk.residual_encode(z[25 * i : 25 * i + 25], codebooks, backend="cpu").codes

loader = torch.utils.data.DataLoader(Items(), batch_size=None, num_workers=2, multiprocessing_context="fork")
assert torch.equal(torch.cat(list(loader)), expected)
assert right()
print("done")
"""
    assert printed(code) == "done"


@built
def test_other_python_threads_go_on_during_a_call(one_and_two_threads):
    z, codebooks = normal(50_000, 64), normal(4, 512, 64, seed=1)
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)  # gives the GIL up, so that the caller isn't kept from returning

    def during_a_call() -> int:
        before = counted[0]
        uk.residual_encode(z, codebooks, backend="cpu")
        return counted[0] - before

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # the caller is never made to give the GIL up
    other = threading.Thread(target=count)
    try:
        other.start()
        progress = one_and_two_threads(during_a_call)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join()
    assert min(progress) > 100  # torch's own functions let it run for a few turns each


@built
def test_two_python_threads_at_once_get_what_each_gets_alone():
    inputs = [(normal(3000, 16, seed=seed), normal(3, 100, 16, seed=seed + 10)) for seed in range(4)]
    expected = [uk.residual_encode(*one, backend="cpu") for one in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(20):
            found = uk.residual_encode(*inputs[index], backend="cpu")
            if not all(torch.equal(one, other) for one, other in zip(found, expected[index], strict=True)):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@built
@linux
def test_threads_are_no_more_than_torch_may_use_and_none_is_started_twice():
    code = """
before, seen = threads(), []
for count in (1, 2, 5, 1, 3, 5):
    torch.set_num_threads(count)
    assert right()
    seen.append(threads() - before)
print(*seen)
"""
    assert printed(code) == "0 1 4 4 4 4"


@pytest.fixture
def denormals_flushed() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush denormals")
    yield
    torch.set_flush_denormal(False)


@built
@pytest.mark.usefixtures("denormals_flushed")
def test_flushing_denormals_works_alike_on_every_thread(one_and_two_threads):
    # The pool's threads may be older than the setting: rows must not differ by who computed them.
    z, codebooks = normal(5000, 8) * 1e-38, normal(3, 16, 8, seed=1) * 1e-39
    one, two = one_and_two_threads(lambda: uk.residual_encode(z, codebooks, backend="cpu"))
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.quantized, two.quantized)


@built
def test_the_environment_forces_each_instruction_set():
    from unitok_kernels import _cpu

    show = "from unitok_kernels import _cpu; print(_cpu.instruction_set())"
    for name in _cpu.instruction_sets():
        assert script(show, UNITOK_CPU=name).stdout.strip() == name
    best = _cpu.instruction_sets()[-1]
    assert script(show).stdout.strip() == script(show, UNITOK_CPU="").stdout.strip() == best


@built
def test_a_wrong_instruction_set_is_refused_with_those_that_there_are():
    from unitok_kernels import _cpu

    names = ", ".join(_cpu.instruction_sets())
    done = script("from unitok_kernels import _cpu; _cpu.instruction_set()", UNITOK_CPU="sse9")
    assert done.stderr.strip().splitlines()[-1] == (
        f"ValueError: UNITOK_CPU must be one of {names}, got 'sse9'. "
        "Leave it unset to take the best that this processor has."
    )
    encoded = script(PREAMBLE + "right()", UNITOK_CPU="sse9")
    assert f"UNITOK_CPU must be one of {names}, got 'sse9'" in encoded.stderr.strip().splitlines()[-1]
    before = _cpu.instruction_set()
    with pytest.raises(ValueError, match=r"the instruction set must be one of .*, got 'AVX2'"):
        _cpu.use_instruction_set("AVX2")
    assert _cpu.instruction_set() == before


@built
def test_the_module_needs_no_torch():
    code = "import sys; from unitok_kernels import _cpu; _cpu.instruction_set(); print('torch' in sys.modules)"
    assert script(code).stdout.strip() == "False"


# Calls that would each run for over 20 seconds, and `ended_after(call)`: how long a call runs on after Ctrl-C.
LONG_CALLS = """
import signal, time
from unitok_kernels.ops.ordered_linear import ordered_linear
torch.set_num_threads(2)

x, wide, books = (torch.randn(*shape, generator=generator) for shape in ((90_000, 32), (9000, 2048), (8, 16384, 128)))
cluster = {"iterations": 10**6, "seed": 0, "backend": "cpu"}
calls = {
    "kmeans": lambda: uk.kmeans(x, 2048, **cluster),
    "balanced": lambda: uk.kmeans(x[:20_000].exp(), 1024, balanced=True, **cluster),
    "sinkhorn_assign": lambda: uk.sinkhorn_assign(x[:9000], x[:512], epsilon=0.05, iterations=10**6, backend="cpu"),
    "hsic": lambda: uk.hsic(x, x, torch.zeros(len(x)).long(), num_segments=1, backend="cpu"),
    "residual_encode": lambda: uk.residual_encode(wide.view(-1, 128), books, backend="cpu"),
    "ordered_linear": lambda: ordered_linear(wide, wide, wide[:, 0], backend="cpu"),
}

def ended_after(call):
    sent = []
    def interrupt():
        time.sleep(0.2)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        call()
    except KeyboardInterrupt:
        return time.perf_counter() - sent[0]
    raise SystemExit("it was not interrupted")

assert right()
"""


@built
def test_long_calls_are_interrupted_the_next_ones_are_right_and_other_threads_go_on():
    code = """
for name, call in calls.items():
    print(name, ended_after(call), right())

rows, found = wide.view(-1, 128)[:3000], []
expected_there = uk.residual_encode(rows, books[:1], backend="cpu").codes
def other_call():
    found.append(torch.equal(uk.residual_encode(rows, books[:1], backend="cpu").codes, expected_there))
other = threading.Thread(target=other_call)
other.start()
ended_after(calls["kmeans"])
other.join()
print(*found, right())
"""
    *lines, others = [line.split() for line in printed(LONG_CALLS + code).splitlines()]
    assert len(lines) == 6
    assert [name for name, seconds, right in lines if float(seconds) > 1 or right != "True"] == []
    assert others == ["True", "True"]


@built
def test_a_sub_interpreter_gets_an_error_and_does_not_hang():
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
inside = '''
import unitok_kernels
from unitok_kernels import backends
print(backends.modules()["_cpu"])
try:
    import unitok_kernels._cpu
except ImportError as error:
    print(error, flush=True)
try:
    import unitok_kernels.numpy
except ImportError as error:
    print(error, flush=True)
'''
interpreters.run_string(interpreters.create(), inside)
import unitok_kernels._cpu
print(unitok_kernels._cpu.instruction_set() in unitok_kernels._cpu.instruction_sets())
"""
    refusal = (
        "unitok_kernels._cpu: the importing interpreter must be the main one of its process, got a sub-interpreter. "
        "Import it in the main one; under mod_wsgi, set WSGIApplicationGroup %{GLOBAL}."
    )
    done = script(code)
    assert done.stdout.splitlines() == [refusal.rstrip("."), refusal, refusal, "True"], done.stderr

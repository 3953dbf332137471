SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench bench-gpu prove sanitize clean

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.unitok
BUILT := .venv/.built
# As pyproject.toml has it: what torch 2.10 brings.
OLDEST_TRITON := 3.6.0
# These targets run on any machine in minutes: say UNITOK_CUDA=1 to build the CUDA module as well.
export UNITOK_CUDA ?= 0

help: ## show this list
	@echo "UniTok. Each target makes its own environment in .venv when that is missing or out of date:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Start with make demo. One test file: $(BIN)/pytest tests/unitok/test_folder.py"
	@echo "Another interpreter: make test PYTHON=python3.12. Real data for the tests: UNITOK_DATA=folder make test"

demo: $(BUILT) ## generate a catalogue, fit a tokenizer, show the IDs; everything lands in runs/demo
	$(BIN)/unitok demo --out runs/demo --force

test: $(BUILT) ## every test that needs no GPU
	$(BIN)/pytest -q -m "not gpu"
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -k triton tests/kernels

lint: $(STAMP) ## ruff, mypy and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.cpp csrc/cpu/*.h csrc/cpu/*.cpp csrc/cuda/* tests/cuda_emulator/*.h tests/cuda_emulator/*.cpp

bench: $(BUILT) ## the benchmarks, beside every peer that installs; BENCH="--quick -k hsic" for a part of them
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/pytest benchmarks --benchmark-only --benchmark-quiet -q $(BENCH)

# faiss-gpu and faiss-cpu are one package to Python. The peers that don't install are named and left out.
bench-gpu: $(BUILT) ## the operations on a GPU, beside what else runs there; needs one. UNITOK_CUDA=1 for our CUDA kernels
	$(BIN)/pip uninstall -q -y faiss-cpu
	$(BIN)/pip install -q -c constraints.txt -e '.[gpu,report]'
	for peer in flash-kmeans rectokens vector-quantize-pytorch; do $(BIN)/pip install -q $$peer || true; done
	$(BIN)/python -m benchmarks.gpu

# The log lists what went into the build's environment; setuptools in it shows that it does.
prove: $(STAMP) ## isolated wheels, with a compiler and without; Triton's kernels; CUDA kernels emulated; each sanitizer
	rm -rf build/lib* build/temp* build/bdist* runs/prove
	mkdir -p runs/prove
	$(PYTHON) -m venv runs/prove/env
	UNITOK_CUDA=$$($(BIN)/python -c "from unitok_kernels import nvcc; print(int(nvcc.find() is not None))") timeout 240 \
		runs/prove/env/bin/pip wheel -v --no-deps --no-cache-dir -w runs/prove . > runs/prove/build.log 2>&1 \
		|| { tail -n 30 runs/prove/build.log; exit 1; }
	grep -qE '[ /]setuptools-[0-9]' runs/prove/build.log
	! grep -E '[ /]torch-[0-9]' runs/prove/build.log
	runs/prove/env/bin/pip install -q --no-deps runs/prove/*.whl
	cd runs/prove && env/bin/python -c "import importlib.resources as r, sys, unitok, unitok_kernels; \
		assert all((r.files(p) / 'py.typed').is_file() for p in (unitok, unitok_kernels)); \
		from unitok_kernels import _cpu; assert 'torch' not in sys.modules; \
		print('wheel: built and imported without torch; kernels for', *_cpu.instruction_sets())"
	$(BIN)/python -c "from unitok_kernels import nvcc; raise SystemExit(nvcc.find() is None)" || exit 0; cd runs/prove \
		&& env/bin/python -c "import os, sys; from glob import glob; from unitok_kernels import _cuda; \
		assert 'torch' not in sys.modules; size = os.path.getsize(*glob('*.whl')); assert size < 20e6, size; \
		print(f'wheel: {size / 1e6:.1f} MB with CUDA kernels for', *_cuda.architectures)"
	rm -rf build/lib* build/temp* build/bdist*
	env -u UNITOK_CUDA PATH=$(CURDIR)/runs/prove/env/bin CC=/bin/false CXX=/bin/false /usr/bin/timeout 60 \
		runs/prove/env/bin/pip wheel -v --no-deps --no-cache-dir -w runs/prove/plain . > runs/prove/plain.log 2>&1
	test $$(grep -c "going on without CUDA kernels" runs/prove/plain.log) = 1
	runs/prove/env/bin/pip install -q --no-deps --target runs/prove/plain/lib runs/prove/plain/*.whl
	site=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && cd runs/prove \
		&& PYTHONPATH=plain/lib:$$site env/bin/python -c "import torch, unitok_kernels as uk; \
		assert 'plain/lib' in uk.__file__ and not uk.backends.available()['cpu'], uk.__file__; \
		assert uk.residual_encode(torch.eye(3), torch.eye(3)[None]).codes.flatten().tolist() == [0, 1, 2]; \
		print('no compiler: installed, and the reference works')"
	$(BIN)/python -m unitok_kernels.aot --target all --check
	$(BIN)/pip install -q --no-deps --target runs/prove/triton triton==$(OLDEST_TRITON)
	@echo "triton $(OLDEST_TRITON): its spills"
	PYTHONPATH=runs/prove/triton $(BIN)/python -m unitok_kernels.aot --backend triton --spills
	$(MAKE) -C tests/native -j$(shell nproc) quick
	$(MAKE) -C tests/cuda_emulator -j$(shell nproc) quick module PYTHON=$(CURDIR)/$(BIN)/python
	UNITOK_CUDA_EMULATED=build/cuda_emulator/module/_cuda.so $(BIN)/pytest -q -n 2 --dist worksteal -k cuda tests/kernels

sanitize: ## csrc under address, undefined-behaviour and thread sanitizers, and beyond 2^33 values: all of it
	$(MAKE) -C tests/native -j$(shell nproc) all
	$(MAKE) -C tests/cuda_emulator -j$(shell nproc) all

clean: ## remove the environment, build products and caches; runs/ stays
	rm -rf .venv build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by itself, so that a build of it found locally is taken before anything else asks for one.
$(STAMP): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,report]'
	touch $@ $(BUILT)

# The native module again, where its sources are newer. Without a compiler this goes on with a warning.
$(BUILT): $(STAMP) $(wildcard csrc/*.cpp csrc/*/*)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

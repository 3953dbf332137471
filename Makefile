SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench bench-gpu prove sanitize clean
.PHONY: prove-wheel prove-no-compiler prove-budgets prove-oldest-triton prove-emulated prove-sanitizers

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.unitok
BUILT := .venv/.built
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
FORMATTED := $(SOURCES) $(wildcard tests/cuda_emulator/*.h tests/cuda_emulator/*.cpp)
# As pyproject.toml has it: what torch 2.10 brings.
OLDEST_TRITON := 3.6.0
# These targets run on any machine in minutes: say UNITOK_CUDA=1 to build the CUDA module as well.
export UNITOK_CUDA ?= 0

help: ## show this list
	@echo "UniTok. Each target makes its own environment in .venv when that is missing or out of date:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Start with make demo. One test file: $(BIN)/pytest tests/unitok/data/test_folder.py"
	@echo "Another interpreter: make test PYTHON=python3.12. Real data for the tests: UNITOK_DATA=folder make test"

demo: $(BUILT) ## generate a catalogue, fit a tokenizer, show the IDs; everything lands in runs/demo
	$(BIN)/unitok demo --out runs/demo --force

test: $(BUILT) ## every test that needs no GPU
	$(BIN)/pytest -q -m "not gpu"
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -k "triton-cpu or _triton_" tests/unitok_kernels

lint: $(STAMP) ## ruff, mypy, clang-format, and the house rules that tools/house.py can see
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.house
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

bench: $(BUILT) ## the benchmarks, beside every peer that installs; BENCH="--quick -k hsic" for a part of them
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/pytest benchmarks --benchmark-only --benchmark-quiet -q $(BENCH)

# faiss-gpu and faiss-cpu are one package to Python. The peers that don't install are named and left out.
bench-gpu: $(BUILT) ## the operations on a GPU, beside what else runs there; needs one. UNITOK_CUDA=1 for our CUDA kernels
	$(BIN)/pip uninstall -q -y faiss-cpu
	$(BIN)/pip install -q -c constraints.txt -e '.[gpu,report]'
	for peer in flash-kmeans rectokens vector-quantize-pytorch; do $(BIN)/pip install -q $$peer || true; done
	$(BIN)/python -m benchmarks.gpu

prove: prove-wheel prove-no-compiler prove-budgets prove-oldest-triton prove-emulated prove-sanitizers ## the six proofs below, one after another

prove-wheel: $(STAMP) ## a wheel out of the source archive, built without torch: its files, and that it works
	$(BIN)/python -m tools.prove.wheel

prove-no-compiler: $(STAMP) ## an install without compilers: one warning, and the reference works
	$(BIN)/python -m tools.prove.no_compiler

prove-budgets: $(STAMP) ## the GPU kernels, compiled for five architectures without a GPU and held to their budgets
	$(BIN)/python -m tools.aot --target all --check

prove-oldest-triton: $(STAMP) ## the Triton kernels by the oldest Triton that is allowed: their spills
	$(BIN)/pip install -q --no-deps --upgrade --target runs/prove/triton triton==$(OLDEST_TRITON)
	PYTHONPATH=runs/prove/triton $(BIN)/python -m tools.aot --backend triton --spills

prove-emulated: $(BUILT) ## the backend cuda on a CPU: its tests, on the emulator
	$(MAKE) -C tests/cuda_emulator -j$(shell nproc) module PYTHON=$(CURDIR)/$(BIN)/python
	UNITOK_CUDA_EMULATED=build/cuda_emulator/module/_cuda.so $(BIN)/pytest -q -n 2 --dist worksteal -k "cuda and not backend_records" tests/unitok_kernels

prove-sanitizers: ## csrc under address, undefined-behaviour and thread sanitizers: the quick part
	$(MAKE) -C tests/native -j$(shell nproc) quick
	$(MAKE) -C tests/cuda_emulator -j$(shell nproc) quick

sanitize: $(BUILT) ## csrc under sanitizers and beyond 2^33 values, 5,000 damaged files, two of every command at once: all of it
	$(MAKE) -C tests/native -j$(shell nproc) all
	$(MAKE) -C tests/cuda_emulator -j$(shell nproc) all
	$(BIN)/python -m tests.mutations
	$(BIN)/python -m tests.races

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
$(BUILT): $(STAMP) $(SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

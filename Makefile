# make demo: set up, then distil a digit model and draw with it.  make test: set up, then run the tests; make test-slow: those marked slow or gpu;
# make faults: kills, damage, full disks and hostile input, an hour or two; writes benchmarks/results/reliability.json.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test test-slow faults lint types docs check clean

demo: .venv/ready
	$(BIN)/fewstep quickstart --out runs/quickstart

test: .venv/ready
	$(PYTEST) -m "not slow and not gpu"

test-slow: .venv/ready
	$(PYTEST) -m "slow or gpu"

faults: .venv/ready
	FEWSTEP_FIGURES=benchmarks/results/reliability.json $(PYTEST) tests/faults

lint: .venv/ready
	$(BIN)/ruff check src tests benchmarks examples docs/generate
	$(BIN)/ruff format --check src tests benchmarks examples docs/generate
	$(BIN)/lint-imports --no-cache

types: .venv/ready
	$(BIN)/pyright

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html"

check: lint types test docs

clean:
	rm -rf .venv runs dist build site .pytest_cache .ruff_cache .hypothesis

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

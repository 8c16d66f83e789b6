# make demo: set up, then distil a digit model and draw with it.  make test: set up, then run the tests; make test-slow: those marked slow or gpu;
# make faults: kills, damage, full disks and hostile input, an hour or two; writes benchmarks/results/reliability.json.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test test-slow faults wheel-test lint types docs check clean

demo: .venv/ready
	$(BIN)/fewstep quickstart --out runs/quickstart

test: .venv/ready
	$(PYTEST) -m "not slow and not gpu"

test-slow: .venv/ready
	$(PYTEST) -m "slow or gpu"

# builds the wheel, installs it in an environment of its own, and draws with it, away from the checkout
wheel-test:
	rm -rf dist .venv-wheel && $(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/fewstep-*.whl
	cd .venv-wheel && bin/fewstep show digits && bin/fewstep distill digits --out run --dry-run > plan.txt && tail -n 3 plan.txt
	cd .venv-wheel && bin/fewstep sample digits-student --steps 4 --class-label 3 --guidance-scale 2 --out pictures && test -s pictures/00000.png

faults: .venv/ready
	FEWSTEP_FUZZ=16 FEWSTEP_FIGURES=benchmarks/results/reliability.json $(PYTEST) tests/faults

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
	rm -rf .venv .venv-wheel runs dist build site .pytest_cache .ruff_cache .hypothesis

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

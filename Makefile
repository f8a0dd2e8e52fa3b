# Everything a person or CI runs. Python 3.11 or later; a fresh machine needs nothing but make and python.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
QUIETLY := 2> $(VENV)/pip.log || { cat $(VENV)/pip.log >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit mutants fuzz faults validate accuracy picture bench audit clean

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@echo "making $(VENV) ..."
	$(PYTHON) -m venv $(VENV)

# locked files first, each checked by its hash; then moesim alone: pip takes no hashes for a folder
$(INSTALLED): $(BIN)/python pyproject.toml requirements/run.txt
	@echo "installing moesim and what it needs (a minute, once) ..."
	$(PIP) --require-hashes -r requirements/run.txt $(QUIETLY)
	$(PIP) --no-deps --no-build-isolation -e . $(QUIETLY)
	touch $@

$(TESTABLE): $(INSTALLED) requirements/test.txt
	@echo "installing what its tests need ..."
	$(PIP) --require-hashes -r requirements/test.txt $(QUIETLY)
	touch $@

demo: $(INSTALLED) ## the main job: DeepSeek-V3 on 2,048 H800 beside its dense twin; figures and a report in out/demo
	$(BIN)/python examples/demo.py --out out/demo

test: lint unit ## everything CI runs

lint: $(TESTABLE) ## ruff, mypy and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(TESTABLE) ## the tiny test first, then all tests on two cores
	$(BIN)/python -m pytest -q tests/test_tiny.py
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

mutants: $(TESTABLE) ## 320 small wrong changes to the physics: which ones no test notices (an hour on two cores)
	$(BIN)/python -m tests.mutants --number 320

faults: $(TESTABLE) ## kills, full disks, lost workers, changed inputs: what must not be lost (ten minutes)
	$(BIN)/python -m tests.faults

audit: ## known vulnerabilities of what is installed, where the network allows
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --require-hashes --disable-pip -r requirements/test.txt

validate: $(INSTALLED) ## predictions against published measurements
	$(BIN)/moesim validate

accuracy: $(INSTALLED) ## write the accuracy table into README.md and docs/accuracy.md
	$(BIN)/python docs/write_accuracy.py

picture: $(INSTALLED) ## draw the picture of the README again
	$(BIN)/python docs/draw_picture.py

bench: $(INSTALLED) ## how long the simulator itself takes
	for each in train network serve plan; do $(BIN)/python benchmarks/$$each.py || exit 1; done

fuzz: $(TESTABLE) ## hostile inputs of every command, and 10,000 random scenarios against the laws (hours)
	$(BIN)/python -m tests.fuzz
	MOESIM_TESTS=fuzz $(BIN)/python -m pytest -q tests/laws/test_random_scenarios.py tests/laws/test_random_deployments.py

clean: ## what was built, but not the environment
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

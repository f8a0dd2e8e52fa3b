# Everything a person or CI runs. Python 3.11 or later; a fresh machine needs nothing but make and python.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
QUIETLY := 2> $(VENV)/pip.log || { cat $(VENV)/pip.log >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit validate accuracy picture bench clean

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@echo "making $(VENV) ..."
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	@echo "installing moesim and what it needs (a minute, once) ..."
	$(PIP) -c constraints.txt -e . $(QUIETLY)
	touch $@

$(TESTABLE): $(INSTALLED)
	@echo "installing what its tests need ..."
	$(PIP) -c constraints.txt -e '.[test]' $(QUIETLY)
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

validate: $(INSTALLED) ## predictions against published measurements
	$(BIN)/moesim validate

accuracy: $(INSTALLED) ## write the accuracy table into README.md and docs/accuracy.md
	$(BIN)/python docs/write_accuracy.py

picture: $(INSTALLED) ## draw the picture of the README again
	$(BIN)/python docs/draw_picture.py

bench: $(INSTALLED) ## how long the simulator itself takes
	for each in train network serve plan; do $(BIN)/python benchmarks/$$each.py || exit 1; done

clean: ## what was built, but not the environment
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

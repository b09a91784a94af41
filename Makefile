# Everything a newcomer types. Each target sets up its own .venv; only python3 >= 3.11 (with venv) and make are needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?=
# Test files at a time, each process with a server of its own: most of their time is spent waiting.
WORKERS ?= 3
CHAOS_ARGS ?=

.PHONY: help demo test unit check bench chaos docs site clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   run plans/quickstart.yaml on a throwaway PostgreSQL with pg_background"
	@echo "make test   run every test (PYTEST_ARGS='-k name' narrows it, WORKERS=0 runs them in one process)"
	@echo "make unit   run the tests that need no server"
	@echo "make check  lint, types, imports between packages, and the words of docs/glossary.md"
	@echo "make docs   write docs/rules.md and docs/plan-reference.md anew, from the rules and the schema"
	@echo "make site   build the documentation as a site in build/site; a broken link fails"
	@echo "make chaos  random plans under faults, judged by what they left behind (CHAOS_ARGS='--runs 50 --seed 3')"
	@echo "make bench  benchmarks: prints a table, stores JSON in benchmarks/results/"

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jobplan needs python3 >= 3.11; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "jobplan needs Python's venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	$(BIN)/python -m compileall -q runner  # as pip does for what is not editable: half of a short command's time
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/jobplan run --embedded plans/quickstart.yaml

test: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

unit: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow" tests/unit $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/check_words.py
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

docs: $(VENV)/.runtime
	$(BIN)/python -m runner.reference docs

$(VENV)/.site: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check "$$($(BIN)/python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["site"][0])')"
	@touch $@

site: $(VENV)/.site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

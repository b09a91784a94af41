# Everything a newcomer types. Each target sets up its own .venv; only python3 >= 3.11 (with venv) and make are needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?=
# Processes of tests, each with a server of its own: much of their time is spent waiting. Unit tests do not wait.
WORKERS ?= 8
BY_FILE  := --dist loadfile --no-loadscope-reorder
PARALLEL := -n $(WORKERS) $(BY_FILE)
CHAOS_ARGS ?=
LOCK_ARGS ?=
AIRFLOW := integrations/airflow
AIRFLOW_ARGS ?=

.PHONY: help demo test unit coverage check bench chaos airflow airflow-lock docs man site lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   run plans/quickstart.yaml on a throwaway PostgreSQL with pg_background"
	@echo "make test   run every test (PYTEST_ARGS='-k name' narrows it, WORKERS=0 runs them in one process)"
	@echo "make unit   run the tests that need no server"
	@echo "make coverage  run every test and measure which lines and branches of runner/ they execute"
	@echo "make check  lint, types, imports between packages, and the words of docs/glossary.md"
	@echo "make docs   write docs/rules.md and docs/plan-reference.md again, from the rules and the schema"
	@echo "make man    write a manual page for each command into build/man"
	@echo "make lock   write requirements-dev.lock again (LOCK_ARGS=--upgrade takes the newest versions)"
	@echo "make site   build the documentation as a site in build/site; a broken link fails"
	@echo "make chaos  random plans under faults, judged by what they left behind (CHAOS_ARGS='--runs 50 --seed 3')"
	@echo "make airflow  install Airflow into integrations/airflow/.venv, and run the provider's tests (AIRFLOW_ARGS='-k name')"
	@echo "make bench  benchmarks: prints a table, stores JSON in benchmarks/results/"

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jobplan needs python3 >= 3.11; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "jobplan needs Python's venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	$(BIN)/python -m compileall -q runner  # as pip does for what is not editable: half of a short command's time
	@touch $@

# The versions of the lock file: what one developer and CI have tested, another one gets too.
$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -m compileall -q runner
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/jobplan run --embedded plans/quickstart.yaml

# In a clean checkout no test is compiled yet: two processes do that once, instead of each of the others.
test: $(VENV)/.dev
	@[ -d tests/__pycache__ ] || { \
	  $(BIN)/pytest --collect-only -qq tests/unit >/dev/null & \
	  $(BIN)/pytest --collect-only -qq --ignore=tests/unit >/dev/null; wait; }
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

unit: $(VENV)/.dev
	$(BIN)/pytest -n auto $(BY_FILE) -m "not slow" tests/unit $(PYTEST_ARGS)

coverage: $(VENV)/.dev
	@mkdir -p build
	COVERAGE_FILE=$(CURDIR)/build/coverage.db $(BIN)/pytest $(PARALLEL) --cov --cov-report=term --cov-report=html:build/coverage $(PYTEST_ARGS)

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

# Airflow has 130 packages of its own, so it gets an environment of its own. constraints.txt has their versions.
$(AIRFLOW)/.venv/.installed: $(AIRFLOW)/constraints.txt $(AIRFLOW)/pyproject.toml pyproject.toml
	$(PYTHON) -m venv $(AIRFLOW)/.venv
	$(AIRFLOW)/.venv/bin/pip install --quiet --disable-pip-version-check --constraint $(AIRFLOW)/constraints.txt -e . -e './$(AIRFLOW)[test]'
	@touch $@

airflow: $(AIRFLOW)/.venv/.installed
	cd $(AIRFLOW) && .venv/bin/pytest $(AIRFLOW_ARGS)

airflow-lock: $(AIRFLOW)/.venv/.installed
	$(AIRFLOW)/.venv/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e . -e './$(AIRFLOW)[test]'
	{ grep '^#' $(AIRFLOW)/constraints.txt; $(AIRFLOW)/.venv/bin/pip freeze --exclude-editable; } > $(AIRFLOW)/constraints.new
	mv $(AIRFLOW)/constraints.new $(AIRFLOW)/constraints.txt

docs: $(VENV)/.runtime
	$(BIN)/python -m runner.reference docs

man: $(VENV)/.dev
	$(BIN)/python .ci/man_pages.py build/man

site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lock: $(VENV)/.dev
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --extra dev --extra site $(LOCK_ARGS) \
		--output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf $(VENV) $(AIRFLOW)/.venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

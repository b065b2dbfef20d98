# Every chore of the project, one word each: `make help`. Needs Python >= 3.11 and make; no root, no Docker, no Node.
.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

help: ## show this list
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## install everything into .venv (uv when present, else pip; wheels only)

$(VENV)/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foldstream needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose one with: make PYTHON=python3.12 ...")'
ifdef UV
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --only-binary :all: --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .
else
	@echo "setup: installing about 70 wheels into $(VENV) (once; a minute with pip, seconds with uv)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
endif
	@touch $@

run: $(VENV)/.ready ## serve everything on http://127.0.0.1:8000 (PORT=8123 make run for another port)
	@$(BIN)/foldstream dev $(ARGS)

test: $(VENV)/.ready ## run the tests on real embedded Postgres and Valkey
	$(BIN)/python -m pytest -m "not browser" $(ARGS)

pure: $(VENV)/.ready ## run only the tests that need no service, with fewer examples: seconds
	$(BIN)/python -m pytest -m pure -q --hypothesis-profile=few $$(grep -rl --include='*.py' 'mark.pure' tests) $(ARGS)

browser: $(VENV)/.browser ## run the tests of the page in Chromium (which must be installed)
	$(BIN)/python -m pytest -m browser $(ARGS)

$(VENV)/.browser: $(VENV)/.ready requirements-browser.lock
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python --only-binary :all: --require-hashes -r requirements-browser.lock
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-browser.lock
endif
	@touch $@

$(VENV)/.bench: $(VENV)/.ready requirements-bench.lock
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python --only-binary :all: --require-hashes -r requirements-bench.lock
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-bench.lock
endif
	@touch $@

acceptance: $(VENV)/.browser ## run everything and print each row of docs/acceptance.md: pass, fail or no test
	$(BIN)/python -m pytest -q --acceptance $(ARGS)

bench: $(VENV)/.bench ## measure everything, beside others where there are others (half an hour; ARGS=--quick: a check)
	$(BIN)/python -m benchmarks all $(ARGS)

bench-append: $(VENV)/.bench ## appends beside pgbench, psycopg one by one, COPY, eventsourcing
	$(BIN)/python -m benchmarks append $(ARGS)

bench-read: $(VENV)/.ready ## replay beside decoding and encoding again
	$(BIN)/python -m benchmarks read $(ARGS)

bench-fold: $(VENV)/.ready ## states and lists of a million (some minutes to fill)
	$(BIN)/python -m benchmarks fold $(ARGS)

bench-grow: $(VENV)/.ready ## a log of ten million events (ten minutes, 5 GB of disk)
	$(BIN)/python -m benchmarks grow $(ARGS)

bench-push: $(VENV)/.ready ## fan-out beside plain sse-starlette and python-socketio
	$(BIN)/python -m benchmarks push $(ARGS)

crash: $(VENV)/.ready ## kill Postgres and the writer, 200 times over, and audit the log (five minutes)
	$(BIN)/python -m benchmarks.crash $(ARGS)

demo: $(VENV)/.ready ## build an app from a prompt and watch it in this terminal
	@$(BIN)/python examples/demo.py $(ARGS)

lint: $(VENV)/.ready ## ruff: style, bugs, security, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready ## mypy --strict
	$(BIN)/mypy

clean: ## remove what was built (not .foldstream: that is your data)
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup run test pure browser acceptance bench bench-append bench-read bench-fold bench-grow bench-push crash demo lint types clean

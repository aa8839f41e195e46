# Needs python3 (3.11 or newer), git and make. uv is fetched when it is missing.

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-busy lint types format bench regression constraints durations reference pictures clean

# The environment comes first: it holds the tools, and uv where that had to be fetched.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The tests start some hundred processes of Python: what one has compiled is there for the next, whatever the machine's
# settings are.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/bytecode

# A file of tests stays in one process, which renders for all of them (but see tests/conftest.py), and long files
# start early: they are collected first.
# There are more processes than cores, because tests often wait.
WORKERS := $(shell python3 -c "import os; print(2 + os.cpu_count())")
PYTEST := pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready ## Generate a service, run it and send it requests (SERVE=1: leave it running)
	@python -m scripts.demo $(if $(SERVE),--serve)

test: lint types ## Everything: linting, types, all tests
	$(PYTEST)

test-fast: .venv/ready ## The tests, without the slow ones
	$(PYTEST) -m "not slow"

test-busy: .venv/ready ## The tests on a machine that is kept busy (N=20 ONLY=tests/core/locks: those, 20 times)
	@python -m scripts.busy --times $(or $(N),1) -- $(PYTEST) $(ONLY)

durations: .venv/ready ## Measure how long the tests take: who is longest begins first
	$(PYTEST) --measure

lint: .venv/ready ## Check style and formatting
	ruff check .
	ruff format --check .

types: .venv/ready ## Check types
	mypy

format: .venv/ready ## Mend style and formatting
	ruff check --fix .
	ruff format .

bench: .venv/ready ## Measure the service beside its peers, and write benchmarks/RESULTS.md (13 minutes)
	@python -m benchmarks

regression: .venv/ready ## CPU of each operation beside an earlier commit: SINCE=v1.2.0
	@python -m benchmarks.regression $(or $(SINCE),$(error SINCE: which commit?))

constraints: .venv/ready ## Move the tested versions to the newest ones
	uv pip compile --quiet --upgrade --universal --python-version 3.11 pyproject.toml --group dev \
	  --custom-compile-command "make constraints" --output-file constraints.txt

reference: .venv/ready ## Write the tables of template/docs/reference from the code
	@python -m scripts.reference

pictures: .venv/ready ## Draw docs/pictures again (needs Graphviz)
	@python -m scripts.pictures

clean: ## Remove the environment, the demo and all caches
	rm -rf .venv .demo .benchmarks .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/ready: pyproject.toml constraints.txt
	@if [ ! -x .venv/bin/python ]; then \
	  if command -v uv >/dev/null; then \
	    uv venv --quiet --python ">=3.11" .venv; \
	  else \
	    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 has to be 3.11 or newer.")' && \
	    python3 -m venv .venv; \
	  fi; \
	fi
	@if ! command -v uv >/dev/null; then \
	  echo "uv is missing: fetching it from the package index into .venv"; \
	  python -m ensurepip >/dev/null && python -m pip install -qqq --retries 1 --timeout 10 uv 2>/dev/null || \
	  { echo "uv cannot be fetched: install it (https://docs.astral.sh/uv/), or name an index in PIP_INDEX_URL" >&2; exit 1; }; \
	fi
	@mkdir -p "$$(uv cache dir)" 2>/dev/null && test -w "$$(uv cache dir)" || \
	  { echo "uv cannot write to $$(uv cache dir): set UV_CACHE_DIR to a folder that you may write to" >&2; exit 1; }
	@echo "Installing the tested versions into .venv"
	@uv pip install --quiet --python .venv/bin/python --editable . --group dev --constraints constraints.txt
	@touch $@

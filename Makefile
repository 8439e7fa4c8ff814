# `make demo` and `make test` need Python 3.10 or newer and nothing else; both set up .venv on their first run.
#
#   PYTHON    the interpreter that .venv is made from
#   PIP_ARGS  more arguments for pip, such as --index-url
#   ARGS      arguments for the example, for pytest or the benchmark, such as ARGS="-n 0 -k plan"

SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SOURCES := $(wildcard lightning_init tests examples)

.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-device bench-loading bench-loggers bench-sharded same lint types format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    run examples/quickstart.py"
	@echo "make test    run the tests and doctests"
	@echo "make bench   time of initialising and measuring a model of 300 million parameters, against other ways"
	@echo "make bench-device   the same for 7 billion weights on a GPU, against torch's own functions there"
	@echo "make bench-loading  time and memory of loading a 1 GiB checkpoint, against the usual ways"
	@echo "make bench-loggers  what the callback and its logging add to a fit, for each logger"
	@echo "make bench-sharded  memory and reading of initialising a 1 GiB model on 4 ranks of FSDP2"
	@echo "make same    the weights of one seed in every way to start a run, as a table of hashes"
	@echo "make lint    ruff, its formatter's check and mypy"
	@echo "make types   mypy alone"
	@echo "make format  let ruff fix and format the sources"
	@echo "make clean   remove .venv and the tools' caches"

demo: $(VENV)/.installed-examples
	$(BIN)/python examples/quickstart.py $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks.initialising $(ARGS)

bench-loading: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks.pretrained $(ARGS)

bench-loggers: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks.loggers $(ARGS)

bench-device: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks.on_device $(ARGS)

bench-sharded: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks.sharded $(ARGS)

same: $(VENV)/.installed-test
	$(BIN)/python -m tests.same_weights

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy $(SOURCES)

types: $(VENV)/.installed-dev
	$(BIN)/python -m mypy $(SOURCES)

format: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf "$(VENV)" .mypy_cache .pytest_cache .ruff_cache

# One stamp per extra: nothing is installed twice, and everything again once the requirements have changed.
$(VENV)/.installed-%: pyproject.toml tests/constraints.txt $(VENV)/.created
	$(PIP) install --quiet -c tests/constraints.txt $(PIP_ARGS) -e ".[$*]"
	@touch "$@"

# An interpreter without ensurepip (Debian's python3 without python3-venv) would leave half an environment behind.
$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: no interpreter '$(PYTHON)'; name one of Python 3.10 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 10))" || { \
	  echo "error: '$(PYTHON)' is older than Python 3.10; name a newer one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv) or name" \
	    "another interpreter: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
	@touch "$@"

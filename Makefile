# `make demo` and `make test` do everything on a machine with Python 3.11 or later and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-slow lint docs images bench lock clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Error: $(PYTHON) has no venv module; on Debian install it with: apt-get install python3-venv"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (some minutes, once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## environment, install, the whole pipeline on bundled real data
	$(BIN)/diffvae run --out demo --overwrite

test: $(READY)  ## environment, install, the whole test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

test-slow: $(READY)  ## tests marked large: a million cells, all thread counts (an hour, 10 GB of disk)
	$(BIN)/python -m pytest -m large tests

lint: $(READY)  ## style, types, and that a room imports only rooms below it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports

docs: $(READY)  ## these pages, tutorials executed, into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "Written to docs/_build/html: open index.html there"

images: demo  ## the README pictures, from the demo
	$(BIN)/python docs/images.py

# names.py needs labelled files, peers.py packages of its own
BENCHMARKS := $(filter-out benchmarks/names.py benchmarks/peers.py,$(wildcard benchmarks/*.py))

bench: $(READY)  ## speed, as ratios in one process
	@for b in $(BENCHMARKS); do echo "== $$b"; $(BIN)/python $$b || exit 1; done

lock: $(READY)  ## write requirements.lock anew from what is installed and tested
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) demo docs/_build docs/api/generated

# Two commands on a fresh machine with Python 3.11+ and make: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= board,cpu,dask,demo,dev,flows,serve
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_VENV ?= .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed

.PHONY: demo install test test-faults lint format bench docs reference clean help

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

demo: $(STAMP)  ## environment, the whole pipeline on the embedded dataset, a page to look at
	$(BIN)/tern demo

install: $(STAMP)  ## the environment alone

test: $(STAMP)  ## environment and tests
	$(BIN)/python -m pytest -n 2

test-faults: $(STAMP)  ## ten runs killed with -9, noticed and taken up; fifty updates and compactions of an index
	TERN_TEST_KILLS=10 TERN_TEST_INDEX_KILLS=50 $(BIN)/python -m pytest tests/flows/test_kills.py \
		tests/index/building/test_update_killed.py::test_kill_9_at_random_moments_of_updates_and_compactions

lint: $(STAMP)  ## ruff: lint and format, nothing is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## ruff: put everything in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## the benchmark tables; what rivals of the index do not install are left out
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m tests.bench

docs: $(DOCS_STAMP)  ## build the documentation site into site/, strictly
	$(DOCS_VENV)/bin/python docs/build_site.py

reference: $(STAMP)  ## write the generated pages of docs/reference/ again
	$(BIN)/python docs/generate.py

clean:  ## remove the environment and the runs
	rm -rf $(VENV) runs

# The stamp is written last: an installation that was cut off is taken up again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

# The site needs the extra `docs` alone: the docstrings are read without importing the packages.
$(DOCS_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(DOCS_VENV)/requirements.txt
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(DOCS_VENV)/requirements.txt
	@touch $@

# Two commands on a fresh machine with Python 3.11+ and make: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= board,cpu,dask,demo,dev,flows,mcp,photos,preview,serve
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_VENV ?= .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed

.PHONY: demo photos install test test-fast test-faults lint format bench docs reference clean clean-runs help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

demo: $(STAMP)  ## create the environment, run the whole pipeline on the demo dataset, write a report
	$(BIN)/tern demo

photos: $(STAMP)  ## create the environment, index a folder of photographs and open the search page: FOLDER=~/Pictures
	@if [ -z "$(FOLDER)" ]; then echo "Pass the folder of your photographs: make photos FOLDER=~/Pictures" >&2; exit 1; fi
	$(BIN)/tern photos "$(FOLDER)" --serve

install: $(STAMP)  ## create the environment only

test: $(STAMP)  ## create the environment, run all tests
	$(BIN)/python -m pytest -n 3

test-fast: $(STAMP)  ## run the tests that need no server, no kills and no long training
	$(BIN)/python -m pytest -n 2 -m "not slow and not server"

test-faults: $(STAMP)  ## repeat each kill and damage at a random moment ten to fifty times
	TERN_TEST_KILLS=10 TERN_TEST_INDEX_KILLS=50 $(BIN)/python -m pytest tests/flows/test_kills.py \
		tests/index/building/test_update_killed.py::test_kill_9_at_random_moments_of_updates_and_compactions \
		tests/index/versions/test_faults.py::test_kills_at_random_moments_lose_nothing \
		tests/data/store/test_store_crashes.py::test_extraction_survives_sigkills \
		tests/data/store/test_store.py::test_damaged_metadata_is_never_opened_by_hdf5 \
		tests/tern/training/test_resume.py::test_training_killed_at_random_moments_ends_with_the_same_files \
		tests/pipeline/cli/test_photos_kills.py \
		tests/pipeline/runs/test_pipeline.py::test_run_killed_at_random_moments_gives_the_same_files

lint: $(STAMP)  ## ruff and mypy: lint, format and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: $(STAMP)  ## ruff: fix lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## print the benchmark tables; libraries that cannot be installed are skipped
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m tests.bench

docs: $(DOCS_STAMP)  ## build the documentation site into site/, strictly
	$(DOCS_VENV)/bin/python docs/build_site.py

reference: $(STAMP)  ## write the generated pages of docs/reference/ again
	$(BIN)/python docs/generate.py

clean:  ## remove the environments and the caches; runs and datasets are kept
	@for folder in "$(VENV)" "$(DOCS_VENV)"; do \
		case "$$folder" in ""|.venv|.venv-docs) continue;; esac; \
		if [ -e "$$folder" ] && { [ ! -e "$$folder/pyvenv.cfg" ] || [ -e "$$folder/Makefile" ]; }; then \
			echo "$$folder is not a folder of a virtual environment alone. Nothing was removed." >&2; exit 1; fi; done
	rm -rf "$(VENV)" "$(DOCS_VENV)" .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . \( -path ./runs -o -path ./datasets -o -path ./.git \) -prune -o -type d \
		\( -name __pycache__ -o -name .pytest_cache -o -name .ruff_cache -o -name .mypy_cache \) -prune -exec rm -rf {} +

clean-runs:  ## list the workspaces in runs/ with their sizes, ask, and remove them; CONFIRM=yes is the answer
	@if [ -L runs ]; then echo "runs is a link. Nothing was removed: remove what it names yourself." >&2; exit 1; fi; \
	if [ ! -d runs ]; then echo "There is no folder runs."; exit 0; fi; \
	echo "This removes for good:"; find runs -mindepth 1 -maxdepth 1 -exec du -sh {} +; \
	answer="$(CONFIRM)"; \
	if [ -z "$$answer" ]; then \
		if [ ! -t 0 ]; then \
			echo "Nothing was removed. Run it in a terminal, or run: make clean-runs CONFIRM=yes" >&2; exit 1; fi; \
		printf "Type yes to remove all of it: "; read -r answer; fi; \
	if [ "$$answer" != yes ]; then echo "Nothing was removed." >&2; exit 1; fi; \
	rm -rf runs

# The stamp is written last, so that an interrupted installation is resumed.
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

# `make ethanol` runs the example, `make check` everything that has to pass, `make quick` what takes a minute of it,
# `make docs` builds the documentation site in `site`.
PYTHON ?= python3
# In the order of the folders, so that the long files of e2e come first and both workers end together.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

BIN := .venv/bin
# Warnings are errors (`strict` in mkdocs.yml); the variable keeps the theme's advertisement of its successor out.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

.DELETE_ON_ERROR:
.PHONY: ethanol lamno3 cazrs3 check quick docs

ethanol: .venv/installed-run
	$(BIN)/python -m bayes_mlff.otf --system ethanol

lamno3 cazrs3: .venv/installed-gpaw
	$(BIN)/python -m bayes_mlff.otf --system $@

check: .venv/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MKDOCS)
	@echo "$(BIN)/pyright and pytest, side by side"
	@$(BIN)/pyright --pythonpath $(BIN)/python >.venv/pyright.txt 2>&1 & pyright=$$!; \
	$(BIN)/python -m pytest $(PYTEST_ARGS); tests=$$?; \
	wait $$pyright; types=$$?; echo "pyright:"; cat .venv/pyright.txt; \
	test $$tests -eq 0 -a $$types -eq 0

quick: .venv/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(PYTEST_ARGS) --quick tests/unit

docs: .venv/installed-docs
	$(MKDOCS)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

# The stamps are older than pyproject.toml only when the dependencies may have changed.
.venv/installed-run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[pyscf]'
	touch $@

# GPAW has no wheel: compiled with g++, licensed under the GPL, run in a process of its own.
.venv/installed-gpaw: .venv/installed-run
	$(BIN)/python -m bayes_mlff.engines.gpaw.install --python $(BIN)/python
	touch $@

.venv/installed-check: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[pyscf,xtb,parity,test,dev,docs]'
	touch $@

.venv/installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[docs]'
	touch $@

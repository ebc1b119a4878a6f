# The commands of this project. Windows: the README gives the same in plain words.
PYTHON ?= python3
# Hundreds of processes are started by the tests; none needs to compile what another has compiled.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Another package index for torch, for example https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help play demo test torture lint install clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

play: $(VENV)/.installed  ## the whole product in a browser, on this machine, without a token
	$(BIN)/framepack-bot play

demo: $(VENV)/.installed  ## the whole product once, on this machine, without token or weights
	$(BIN)/framepack-bot demo

# Three runs: what torch and its tests leave in one is not in the way of the next. The bot's tests
# mostly wait for processes and sockets, so there are more of them at once than cores; of the
# generator's, which compute, each file stays in one process, for it shares what it computed.
test: $(VENV)/.installed-dev  ## the test suite
	$(BIN)/python -m pytest -n 4 --dist worksteal tests/bot tests/storage
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/generator tests/training tests/test_layering.py
	$(BIN)/python -m pytest -n 3 --dist worksteal tests/playground tests/torture

torture: $(VENV)/.installed-dev  ## kill everything at random instants, and count what is lost
	$(BIN)/python benchmarks/torture.py

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed  ## only make .venv and install what the bot and the generator need

clean:  ## remove .venv and what tests and demos left
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache demo_output

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} is too old: 3.11 or newer is needed (make PYTHON=python3.12 …)")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install -q -c constraints.txt -e '.[generator]'
	@$(BIN)/python -m generator probe --words
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e '.[generator,dev]'
	touch $@

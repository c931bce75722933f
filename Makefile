# Everything sets itself up: a virtual environment in .venv with box installed, so that .venv/bin/box is what a user would have.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location
PACKAGES := boxfile builder runtime store boxcli
SCRIPTS := boxcli/scripts/box boxcli/scripts/box-runtime .ci/run .ci/debian-packages $(wildcard examples/*/*.sh bench/*.sh)

.PHONY: demo test soak lint schema bench install clean

demo: $(VENV)/.box
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/hello/demo.sh

# PYTEST="..." replaces what is run: make test PYTEST="tests/store -k pack"
PYTEST ?= -n 2 --dist loadgroup
test: $(VENV)/.tools
	.ci/debian-packages
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(PYTEST)

# The long form of tests/crash: every call killed and refused, power cuts, mutants, and a crowd for SECONDS; prints the figures.
SECONDS_OF_SOAK ?= 90
soak: $(VENV)/.tools
	.ci/debian-packages
	$(BIN)/python -m tests.crash.soak $(SECONDS_OF_SOAK)

# Boots a machine with cgroup v2 alone and runs the tests of control groups in it: about two minutes without KVM.
test-vm: $(VENV)/.tools
	.ci/debian-packages
	$(BIN)/python -m tests.vm

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); else echo "shellcheck: not installed, the shell scripts were not checked"; fi

# Regenerate what is generated and checked in.
schema: $(VENV)/.box
	$(BIN)/python -m boxfile.schema

# BENCH="..." chooses: make bench BENCH="--only run --rounds 51"
BENCH ?=
bench: $(VENV)/.tools
	.ci/debian-packages
	$(BIN)/python -m bench $(BENCH)

install: $(VENV)/.box

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An editable install; the launcher finds the sources through it without `site`.
$(VENV)/.box: pyproject.toml boxcli/scripts/box boxcli/scripts/box-runtime boxcli/scripts/box-python boxcli/scripts/box-places | $(BIN)/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/.tools: pyproject.toml $(VENV)/.box
	$(INSTALL) --editable '.[test]'
	touch $@

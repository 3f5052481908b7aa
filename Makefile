# Everything a developer or a pipeline runs. Nothing here installs system packages:
# what is missing is named, with the command that installs it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

PYTHON ?= python3
VERSION ?=
RUST_LEAST := $(shell sed -n 's/^rust-version *= *"\([0-9.]*\)"/\1/p' \
    native/Cargo.toml native/engine/Cargo.toml 2>/dev/null | head -1)

VENV := .venv
BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/.dependencies
EXTENSION := src/pgbastion/consensus/_engine.abi3.so
NATIVE_SOURCES := $(shell find native -name target -prune -o -type f \
    \( -name '*.rs' -o -name 'Cargo.*' -o -name '*.proto' \) -print 2>/dev/null)

# Where rustup puts cargo, for a shell that has not been opened anew since.
export PATH := $(PATH):$(HOME)/.cargo/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export CARGO_BUILD_JOBS ?= 2

.PHONY: build
build: $(EXTENSION) ## the environment, the locked packages, the extension
	@$(BIN)/python scripts/write_build_info.py "$(VERSION)"

.PHONY: .venv
.venv: $(DEPENDENCIES)

.PHONY: prerequisites
prerequisites:
	@scripts/prerequisites "$(PYTHON)" "$(or $(RUST_LEAST),1.88)"

$(BIN)/python: | prerequisites
	$(PYTHON) -m venv $(VENV)

$(DEPENDENCIES): requirements/dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: \
	    --requirement requirements/dev.txt
	@touch $@

# The locked packages are all there is: pip is asked for nothing more, and gets nothing.
$(EXTENSION): $(NATIVE_SOURCES) pyproject.toml $(DEPENDENCIES) | prerequisites
	env -u CONDA_PREFIX VIRTUAL_ENV="$(CURDIR)/$(VENV)" PIP_NO_INDEX=1 PIP_QUIET=1 \
	    $(BIN)/maturin develop --release --locked --quiet
	@touch $@

.PHONY: quick
quick: build ## under a minute: for work
	$(BIN)/python scripts/run_checks.py quick

.PHONY: test
test: build ## what a pipeline runs
	$(BIN)/python scripts/run_checks.py test

.PHONY: test-full
test-full: build ## the whole matrix of faults, versions and seeds
	$(BIN)/python scripts/run_checks.py full

.PHONY: lint
lint: $(DEPENDENCIES)
	$(BIN)/python scripts/run_checks.py lint

.PHONY: demo
demo: build ## three nodes on loopback; Ctrl-C ends them
	$(BIN)/pgbastion demo

BENCHES := raft failover switchover proxy vip chaos soak restarts outage api soak-api
.PHONY: $(BENCHES:%=bench-%)
$(BENCHES:%=bench-%): bench-%: build
	$(BIN)/python -m pgbastion.bench $*

.PHONY: dist
dist: build ## a wheel, one executable file, a Debian package, in dist/
	$(BIN)/python scripts/make_dist.py

.PHONY: screenshots
screenshots: build ## the README's pictures of the dashboard (needs chromium)
	$(BIN)/python scripts/take_screenshots.py

.PHONY: clean
clean:
	rm -rf $(VENV) .build dist test-results .mypy_cache .ruff_cache .pytest_cache \
	    .hypothesis .import_linter_cache native/target native/*/target \
	    src/pgbastion/_build.py src/pgbastion/consensus/_engine*.so

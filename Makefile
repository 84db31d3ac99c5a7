# make demo   the main job: train GIDD+ on this machine's own text, generate, self-correct, write a report
# make test   the test suite
# All targets make their own environment in .venv; only Python 3.11 or newer, make and a C compiler are needed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
PROJECT := pyproject.toml constraints.txt

.PHONY: demo smoke test test-long lint types docs serve notebooks bench check clean

demo: $(VENV)/.run
	$(BIN)/python recipes/demo.py

smoke: $(VENV)/.run
	$(BIN)/python recipes/demo.py --smoke --out runs/smoke

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long and not docs"

test-long: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m long

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

serve: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

notebooks: $(VENV)/.dev
	$(BIN)/python notebooks/run.py

bench: $(VENV)/.run
	$(BIN)/python benchmarks/core.py; core=$$?; $(BIN)/python benchmarks/sampling.py; sampling=$$?; \
	$(BIN)/python benchmarks/pipeline.py; pipeline=$$?; \
	$(BIN)/python benchmarks/autoregressive.py; autoregressive=$$?; \
	$(BIN)/python benchmarks/in_context.py; in_context=$$?; \
	$(BIN)/python benchmarks/adapting.py; adapting=$$?; \
	$(BIN)/python benchmarks/loading.py; loading=$$?; \
	$(BIN)/python benchmarks/loss.py; loss=$$?; \
	$(BIN)/python benchmarks/data.py; data=$$?; \
	$(BIN)/python benchmarks/training.py && exit $$((core + loss + sampling + pipeline + autoregressive + in_context + adapting + loading + data))

# Everything that must hold before a change is handed in.
check: test test-long lint types docs notebooks smoke

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact version: what follows then finds its requirement met.
$(VENV)/.torch: $(BIN)/python constraints.txt
	@echo "Installing torch and what noiselab needs into $(VENV) (once, a minute or two) ..."
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.run: $(VENV)/.torch $(PROJECT)
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(PROJECT)
	@$(PIP) -e ".[test]"
	@touch $@ $(VENV)/.run

$(VENV)/.dev: $(VENV)/.torch $(PROJECT)
	@$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.test $(VENV)/.run

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache .cache

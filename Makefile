# make run     measure what each pooling does to translation invariance, and draw the report
# make test    run the tests;  make test64  runs in float64 what that could change
# make check   lint, format and types;  make format  repairs what can be repaired
# make reference   run all experiments (three hours), and keep the report and what README shows
# make reference-speed   the same for the times; against PyTorch and Equinox too, if .venv has them
# make reference-speed-gpu   the same on a GPU, with a jax for it in .venv
# make clean   remove what make made (the results of experiments stay)
#
# All that is needed is Python 3.11 or newer; name another one with: make PYTHON=python3.12 test
# Tests take two cores; so many with: make WORKERS=4 test

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
WIDE_TESTS := tests/test_contract.py tests/test_textbook.py

.DELETE_ON_ERROR:
.PHONY: run reference reference-speed reference-speed-gpu test test64 check format clean python

run: $(VENV)/.experiments
	$(BIN)/python -m experiments run consistency --preset quick
	$(BIN)/python -m experiments report

# Three seeds are too few for an interval (see experiments/stats.py), so these studies get more.
reference: $(VENV)/.experiments reference-speed
	$(BIN)/python -m experiments run consistency --preset full
	$(BIN)/python -m experiments run all --preset quick
	$(BIN)/python -m experiments run continuum --preset quick --seeds 10
	$(BIN)/python -m experiments run augmentation --preset quick --seeds 10
	$(BIN)/python -m experiments run stability --preset quick --seeds 10
	$(BIN)/python -m experiments run leakage --preset quick --seeds 10
	$(BIN)/python -m experiments run transfer --preset quick --seeds 10
	$(BIN)/python -m experiments check all
	$(BIN)/python -m experiments report all
	mkdir -p experiments/reference
	cp results/report/report.html results/report/report.md experiments/reference/
	cp results/report/*.csv experiments/reference/
	cp results/report/consistency-pareto.png experiments/reference/pareto.png
	cp results/report/consistency-maps.png experiments/reference/maps.png
	$(BIN)/python -m experiments.readme

# Times of earlier code would be found and kept: the folder is emptied first. Each seed is
# measured in a process of its own.
reference-speed: $(VENV)/.experiments
	rm -rf results/speed/random
	$(BIN)/python -m experiments run speed
	$(BIN)/python -m experiments run speed --seeds 2
	$(BIN)/python -m experiments report speed
	mkdir -p experiments/reference
	cp results/report/speed-bars.png experiments/reference/speed.png
	cp results/report/speed-smooth.png results/report/speed-sweep.png experiments/reference/
	cp results/report/speed.md results/report/speed*.csv experiments/reference/
	$(BIN)/python -m experiments.readme

reference-speed-gpu: $(VENV)/.experiments
	rm -rf results/speed/large
	$(BIN)/python -m experiments run speed --data large
	$(BIN)/python -m experiments report speed --data large
	mkdir -p experiments/reference
	cp results/report/speed.md experiments/reference/speed-gpu.md
	cp results/report/speed.csv experiments/reference/speed-gpu.csv
	cp results/report/speed-bars.png experiments/reference/speed-gpu.png
	$(BIN)/python -m experiments.readme

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test64: $(VENV)/.core
	JAX_ENABLE_X64=1 JAXPOOL_EXAMPLES=3 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "wide and not optimized and not alike" $(WIDE_TESTS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-newer dist build .pytest_cache .ruff_cache .hypothesis

# The files below say what is installed. They are made again when pyproject.toml changes; the tree
# itself is used as it is (an editable install).

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "jaxpool needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1 | tail -n 1). Name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.experiments: pyproject.toml | $(VENV)/.made
	@echo "Installing jaxpool and its experiments into $(VENV); the first time takes some minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[experiments]'
	@touch $@

$(VENV)/.core: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing jaxpool, its experiments and its tests into $(VENV); the first time takes some minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,experiments]'
	@touch $(VENV)/.experiments $@

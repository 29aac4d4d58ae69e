# Everything runs in .venv, made on first use. `make notebooks` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
BENCHMARKS := representations processes training_input inference
NOTEBOOKS := 01_spectrograms 02_backbones 03_wavenet_concat 04_inference
PARAMETERS ?=
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# What TensorFlow says in C++ on every import, whatever its log level; and Jupyter of its loopback.
NOISE := IPKernelApp\] WARNING|absl::Init|cudart_stub|cuda_platform|port\.cc|cpu_feature_guard|^To enable the following|^$$
# Bytecode is compiled on first use (pip --no-compile); if it were not kept, every process would do so anew.
unexport PYTHONDONTWRITEBYTECODE
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PYTHONWARNINGS ?= ignore:IProgress not found

.PHONY: help setup notebooks rehearsal search commit-notebooks kaggle-check test bench lint clean

help:
	@echo "make notebooks         set up, simulate, run the four notebooks, print the results table"
	@echo "make test              set up, run the tests"
	@echo "make rehearsal         the full profile in small, on 2,006 simulated EEGs"
	@echo "make search            run the search for hyper-parameters, notebook 5"
	@echo "make kaggle-check      replay a Kaggle session with the oldest versions, internet off"
	@echo "make bench             measure speed, write benchmarks/RESULTS.md"
	@echo "make lint              check layout and style"
	@echo "make commit-notebooks  run the notebooks in place, for committing their outputs"
	@echo "make clean             remove everything made here, the environment included"

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt pyproject.toml
	@echo "== Setting up $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.txt  # compiled on first use
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

notebooks: setup
	@mkdir -p build
	@for name in $(NOTEBOOKS); do \
	  echo "== notebooks/$$name"; \
	  $(PY) -m papermill notebooks/$$name.ipynb build/$$name.ipynb --cwd notebooks --kernel python3 \
	    --log-output --no-progress-bar --log-level WARNING $(PARAMETERS) \
	    2>&1 | { grep -vE --line-buffered '$(NOISE)' || true; } || exit 1; \
	done
	@$(PY) -m hmsutils results

# The full profile as it is, but for two of its five folds, one epoch, and what makes steps small.
REHEARSAL := {weights: null, folds: [0, 1], epochs: 1, batch_size: 128, \
  inputs: {image: {n_mels: 8, n_frames: 32}}, wavenet: {filters: 8, features: 16}}
rehearsal: setup
	$(PY) -m hmsutils simulate --patients 460 --out data/rehearsal
	HMS_DATA_DIR=$(CURDIR)/data/rehearsal $(MAKE) notebooks NOTEBOOKS="02_backbones 03_wavenet_concat" \
	  PARAMETERS='-p PROFILE full -y "SETTINGS: $(REHEARSAL)"'

search: setup
	$(PY) -m papermill notebooks/05_search.ipynb build/05_search.ipynb --cwd notebooks --kernel python3 \
	  --log-output --no-progress-bar --log-level WARNING $(PARAMETERS)

commit-notebooks: setup
	cd notebooks && ../$(PY) commit.py

kaggle-check: setup
	$(PY) .ci/kaggle_replay.py

test: setup
	$(PY) -m pytest --numprocesses=2 --dist=worksteal

bench: setup
	@mkdir -p build
	@for name in $(BENCHMARKS); do $(PY) benchmarks/$$name.py 2>> build/bench.log || exit 1; done \
	  | tee build/RESULTS.md
	@mv build/RESULTS.md benchmarks/RESULTS.md

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) build data/demo data/rehearsal data/processed models/runs *.egg-info

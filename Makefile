# Needs only GNU make and python >= 3.11, and a C++ compiler for fast kernels; `make` alone lists the
# targets. MNQ_NO_OPS=1 leaves the native library out.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Which onnxruntime .venv holds: cpu or gpu, never both. Default: the one it holds, else cpu.
RUNTIME ?= $(if $(wildcard $(VENV)/.installed-gpu),gpu,cpu)
ifeq ($(filter cpu gpu,$(RUNTIME)),)
$(error RUNTIME is cpu or gpu, found '$(RUNTIME)')
endif
OTHER_RUNTIME := $(if $(filter cpu,$(RUNTIME)),onnxruntime-gpu,onnxruntime)

STAMP    := $(VENV)/.installed-$(RUNTIME)
EXTRAS   := $(RUNTIME),train,bench,dev
PACKAGES := cli models ops runtime toolchain
TYPING   := build/typing/mnq

NATIVE   := build/native
WORKERS  := 2

PIP := $(BIN)/python -m pip --disable-pip-version-check
CMAKE := $(or $(shell command -v cmake),$(BIN)/cmake)

.PHONY: help setup native test lint format demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables: RUNTIME=cpu|gpu  PYTHON=python3  PYTEST_ARGS='-k softmax'  WORKERS=2"

setup: $(STAMP) ## make .venv with mnq, editable, and everything it needs (about 6 GB)

# Configured by the editable install, which knows how; from then on only what changed is compiled.
native: setup ## compile the native library, where its sources changed
ifeq ($(MNQ_NO_OPS),)
	@test -f $(NATIVE)/CMakeCache.txt || $(PIP) install -qq --no-deps --no-build-isolation -e .
	@$(CMAKE) $(NATIVE) >$(NATIVE)/configure.log 2>&1 || { cat $(NATIVE)/configure.log; exit 1; }
	@$(CMAKE) --build $(NATIVE)
	@place=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/mnq/ops; \
	  rm -f $$place/no_library.txt; $(CMAKE) --install $(NATIVE) --prefix $$place >/dev/null; \
	  if [ -f $$place/no_library.txt ]; then rm -f $$place/libmnq_ops.so; \
	  echo "native: NO NATIVE LIBRARY: $$(cat $$place/no_library.txt)" >&2; fi
endif

test: native lint ## setup, compile, lint, then all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(TYPING) && mkdir -p $(TYPING)
	@for p in $(PACKAGES); do ln -s ../../../$$p $(TYPING)/$$p; done
	$(BIN)/mypy $(TYPING)
	MYPYPATH=conformance $(BIN)/mypy conformance/check.py conformance/runtimes

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: native ## the whole way on bundled data
	$(BIN)/mnq-demo

clean: ## remove build products and caches (for a fresh .venv delete that too)
	rm -rf build dist .hypothesis
	find $(PACKAGES) tests -name __pycache__ -prune -exec rm -rf {} +

# The build backend goes in first and pinned, so that the editable build needs no second
# environment of its own. Editable mode is the default redirect: `inplace` cannot find mnq.*.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "setup: expected Python >= 3.11, found no '$(PYTHON)';" \
	  "install it or run: make setup PYTHON=/path/to/python3.11" >&2; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: expected Python >= 3.11," \
	  "found $$($(PYTHON) -V 2>&1); run: make setup PYTHON=/path/to/python3.11" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "setup: expected Python's venv module," \
	  "found none; install it (Debian: apt install python3-venv)" >&2; exit 3; }
	@rm -f $(VENV)/.installed-*
	@$(PIP) --version >/dev/null 2>&1 || { echo "setup: virtual environment $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@if $(PIP) show -q $(OTHER_RUNTIME) 2>/dev/null; then echo "setup: removing $(OTHER_RUNTIME)"; \
	  $(PIP) uninstall -qq -y onnxruntime onnxruntime-gpu; fi
	@echo "setup: build backend"
	@$(PIP) install -qq -c constraints.txt scikit-build-core
	@command -v cmake >/dev/null || $(PIP) install -qq -c constraints.txt cmake
	@command -v ninja >/dev/null || $(PIP) install -qq -c constraints.txt ninja
	@echo "setup: mnq[$(EXTRAS)] and what it needs (downloads about 3 GB the first time)"
	@$(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $@
	@echo "setup: done"

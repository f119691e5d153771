# Two commands on a clean machine: `make demo` and `make test`. Needed beforehand: Python >= 3.11 and make.
# `make campaign` runs the longer tests, a job for each folder of tests/; JOBS="card hostile" chooses two.
# `make soak` runs for HOURS what these try in short: faults of processes and disks, hostile files, orders of a card.
# What both draw comes of one seed, which stands in the commands that they print; SEED=… repeats them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
FOLDERS := processes models pages hostile card
JOBS ?= $(FOLDERS)
HOURS ?= 1
SEED ?= $(shell date +%s)
SEED := $(SEED)

.PHONY: demo test campaign soak lint docs lock audit setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"bandlens needs Python 3.11 or newer, found {v.major}.{v.minor}: make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --editable '.[cpu,openvino,ray,demo,test,gpu-checks,lint]'
	@# Two versions of TensorRT's bindings: an environment has one of them, and the tests read the other here.
	$(BIN)/pip install --quiet --no-compile --no-deps --target $(VENV)/tensorrt-11 tensorrt-cu13-bindings==11.4.0.106
	@# The tests have the oldest DuckDB open what the newest one wrote.
	$(BIN)/pip install --quiet --no-compile --no-deps --target $(VENV)/duckdb-1.5 'duckdb==1.5.*'
	@# pip would compile on one core. Some modules are of another Python.
	@$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
	@# mypy and editors look for a folder of the package's name.
	@mkdir -p $(VENV)/sources && ln -sfn ../.. $(VENV)/sources/bandlens
	@touch $@

demo: setup
	$(BIN)/bandlens demo --out $(DEMO)

# A thread for each process: with more, torch spends most of its time waiting for a core. Files keep their order: else
# those of few and long tests come last, and leave a core idle.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) $(ARGS)

campaign: $(JOBS:%=campaign-%)

campaign-%: setup
	$(PYTEST) tests/$* --hypothesis-seed=$(SEED) $(ARGS)

soak: setup
	$(BIN)/python tests/processes/soak.py --hours $(HOURS) --seed $(SEED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The guides and the reference as a site with search, in build/site; every link has to lead somewhere.
docs: build/mkdocs/bin/mkdocs
	NO_MKDOCS_2_WARNING=1 $< build --quiet --strict

build/mkdocs/bin/mkdocs:
	$(PYTHON) -m venv build/mkdocs
	build/mkdocs/bin/pip install --quiet 'mkdocs-material>=9.7,<10'

# Known faults of what is installed; asks PyPI, and fails where it does not answer.
audit: setup
	$(BIN)/pip install --quiet 'pip-audit>=2.9'
	$(BIN)/pip freeze --exclude-editable | \
	  $(BIN)/pip-audit --strict --no-deps --disable-pip $(ARGS) --requirement /dev/stdin

# The image's pins, for Python 3.12 and CUDA 13; ARGS="--upgrade" takes newer versions.
lock: setup
	$(BIN)/pip install --quiet 'uv>=0.9'
	$(BIN)/uv pip compile --quiet --config-file docker/uv.toml --extra gpu --extra images --extra ray --extra timm $(ARGS) \
	  --no-emit-package tensorrt-cu13 --no-emit-package tensorrt-cu13-libs \
	  --output-file docker/requirements.lock pyproject.toml docker/build.in
	echo tensorrt-cu13 | $(BIN)/uv pip compile --quiet --config-file docker/uv.toml $(ARGS) \
	  --no-emit-package tensorrt-cu13-bindings --output-file docker/tensorrt.lock -

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

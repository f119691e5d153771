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

.PHONY: demo test campaign soak lint docs lowest dist release lock audit setup clean

setup: $(VENV)/.ready

# Of torch's releases, those that have a build for the CPU where pip's settings name a folder of such: on Linux PyPI's
# builds bring 5 GB of CUDA.
export PIP_CONSTRAINT ?= $(CURDIR)/.ci/constraints.txt
# pip would compile on one core. Some modules are of another Python.
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true

# The demo has the beginning of the tests' environment.
$(VENV)/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"bandlens needs Python 3.11 or newer, found {v.major}.{v.minor}: make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --editable '.[cpu,demo]'
	@touch $@

$(VENV)/.ready: $(VENV)/.demo
	$(BIN)/pip install --quiet --no-compile --editable '.[gpu-checks,lint,test]'
	@# Two versions of TensorRT's bindings: an environment has one of them, and the tests read the other here.
	$(BIN)/pip install --quiet --no-compile --no-deps --target $(VENV)/tensorrt-11 tensorrt-cu13-bindings==11.4.0.106
	@# The tests have the oldest DuckDB open what the newest one wrote.
	$(BIN)/pip install --quiet --no-compile --no-deps --target $(VENV)/duckdb-1.5 'duckdb==1.5.*'
	@$(COMPILE)
	@# mypy and editors look for a folder of the package's name.
	@mkdir -p $(VENV)/sources && ln -sfn ../.. $(VENV)/sources/bandlens
	@touch $@

demo: $(VENV)/.demo
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

# The oldest packages that pyproject.toml allows, in an environment of their own, and the tests that need no others.
OLD_TESTS := $(addprefix tests/unit/,analysis/database app/report/test_build.py app/report/test_figures.py app/cli/test_main.py \
  probes/test_noise.py probes/test_spectral.py) \
  $(addprefix tests/models/test_torch_to_onnx.py::test_,normalization_is_in_the_graph only_the_batch_is_open)
lowest: build/lowest/.ready
	OMP_NUM_THREADS=1 build/lowest/bin/pytest -W ignore $(OLD_TESTS) $(ARGS)

build/lowest/.ready: pyproject.toml .ci/lowest.py
	$(PYTHON) -m venv build/lowest
	$(PYTHON) .ci/lowest.py cpu torch > build/lowest/constraints.txt
	build/lowest/bin/pip install --quiet --no-compile --constraint build/lowest/constraints.txt --editable '.[cpu,torch]' \
	  hypothesis pytest pytest-timeout pytest-xdist
	@touch $@

# Source and wheel, checked, and used in environments of PYTHONS that have nothing else but ONNX Runtime.
PYTHONS ?= $(PYTHON)
dist:
	rm -rf dist build/dist build/lib
	$(PYTHON) -m venv build/dist
	build/dist/bin/pip install --quiet build twine
	build/dist/bin/python -m build --outdir dist . >build/dist/log 2>&1 || { cat build/dist/log; exit 1; }
	build/dist/bin/twine check --strict dist/*
	@set -e; for python in $(PYTHONS); do \
	  rm -r build/dist; $$python -m venv build/dist; \
	  build/dist/bin/pip install --quiet --no-compile "$$(ls "$$PWD"/dist/*.whl)[cpu]"; \
	  (cd build/dist && bin/python -P -W ignore ../../.ci/use_wheel.py); \
	done

release:
	@echo 'A release, step by step; nothing is uploaded by make.'
	@echo '1. Set __version__ in core/__init__.py, the version in CITATION.cff and Dockerfile, and the date in CHANGELOG.md.'
	@echo '2. make lint test campaign lowest audit, and make lock for the image.'
	@echo '3. make dist: the files in dist/ are built, checked, installed and used.'
	@echo '4. git tag --sign vVERSION, and push the tag.'
	@echo '5. pipx run twine upload dist/*'

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

# Every target sets up .venv by itself; nothing is needed beforehand but Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(wildcard notebooks/[0-9]_*.ipynb notebooks/[0-9][0-9]_*.ipynb)
# Progress bars would differ between runs.
QUIET := TQDM_DISABLE=1
# Without bytecode each of the tests' hundreds of processes compiles PyTorch anew, which doubles its start.
unexport PYTHONDONTWRITEBYTECODE
# A file per core, one thread each: twice as fast on two cores (tests/conftest.py sets the number).
ABREAST := $(QUIET) OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo imagenet check test js lab gallery api site bench notebooks format pins clean

demo: .venv/.installed  ## run the notebooks into runs/demo and show their numbers
	$(BIN)/nbhelpers demo

imagenet: .venv/.installed  ## the same on the paper's networks, downloaded at first use, and the photographs
	$(BIN)/nbhelpers demo --preset imagenet

test: .venv/.installed .peers/.installed js  ## style, types, unit tests, the notebooks against their saved outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(ABREAST) -m "not download" -rs --nbval --nbval-cell-timeout=600 tests $(NOTEBOOKS)

check: .venv/.installed js  ## between two edits: style, types and quick unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(ABREAST) -p no:nbval --quick -m "not (download or browser or long)" tests

# No lock file, which would contain the registry's address: both packages are pinned and have no dependencies.
js:  ## lint and types of the JavaScript, where npm is installed
	@if command -v npm > /dev/null; then npm install --silent --no-audit --no-fund --no-package-lock && npm test --silent; \
	else echo "no npm: lint and types of the JavaScript are skipped"; fi

lab: .venv/.installed  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks

gallery: .venv/.installed  ## write all demos into one page that needs no kernel and computes by itself
	$(BIN)/nbhelpers gallery

api: .venv/.installed  ## write the API reference into build/api
	$(BIN)/python -m tools api

site: gallery api  ## write README, docs, notebooks, demos and API reference as a web site into build/site
	$(BIN)/python -m tools site

bench: .venv/.installed  ## measure speed against the peer and the floor
	$(BIN)/python -m benchmarks

notebooks: .venv/.installed  ## execute every notebook in place, outputs saved
	$(QUIET) $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.store_widget_state=False $(NOTEBOOKS)

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# `make … PINS=` installs the newest versions that pyproject.toml allows, not the pinned ones.
PINS ?= --constraint constraints.txt

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINS) uv
	$(BIN)/uv pip install --python $(BIN)/python $(PINS) -e '.[dev]'
	touch $@

# One file for all systems and Pythons, with markers, without the index's address or other traces of this machine.
pins:  ## pin the newest versions that pyproject.toml allows, into constraints.txt
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; }
	@echo "# Written by \`make pins\`: what make and the workflows install. \`pip install nbhelpers\` keeps to pyproject.toml." > .pins
	echo uv | $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra dev \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml - >> .pins
	@mv .pins constraints.txt

# The peers' old packages, for comparison in tests; separate from ours.
.peers/.installed: tests/peers/requirements.txt .venv/.installed
	$(BIN)/uv pip install --python $(BIN)/python --target .peers --no-deps --compile-bytecode -r tests/peers/requirements.txt
	touch $@

# For `python -m tools autoattack`, an independent attack; separate, since it needs another robustbench.
.attacks/.installed: .venv/.installed
	$(BIN)/uv pip install --python $(BIN)/python --target .attacks --no-deps torchattacks==3.5.1
	touch $@

clean:
	rm -rf .venv .peers .attacks runs/*

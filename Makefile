# Every target sets up .venv by itself; nothing is needed beforehand but Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lab clean
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs

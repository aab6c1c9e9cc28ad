# Two commands are all a fresh machine needs: `make demo` and `make test`. Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint clean

help:
	@echo "make demo   replay real markets through real servers and a real daemon (ARGS=--keep-running stays up)"
	@echo "make test   lint, types, import floors, all tests (ARGS are pytest's)"
	@echo "make lint   without the tests"
	@echo "make clean  remove .venv and every cache"

demo: $(VENV)/.installed
	$(BIN)/tracker-daemon demo $(ARGS)

test: lint
	$(BIN)/pytest $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# --without-pip: the venv is filled by the pip outside it, so a system Python without ensurepip will do.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tracker-daemon needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[embedded,dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache

# Two commands are all a fresh machine needs: `make demo` and `make test`. Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What `make fuzz` runs, and for how long each.
TARGET ?= decode repeat reply status
SECONDS ?= 60

.PHONY: help demo test lint chaos fuzz bench clean

help:
	@echo "make demo   replay real markets through real servers and a real daemon (ARGS=--keep-running stays up)"
	@echo "make test   lint, types, import floors, all tests (ARGS are pytest's)"
	@echo "make lint   without the tests"
	@echo "make chaos  break servers, connections and daemons, look for losses (ROUNDS=20 SEED=7 ARGS=--help)"
	@echo "make fuzz   look for inputs that break a promise (SECONDS=60 for each TARGET='decode repeat reply status')"
	@echo "make bench  measure against raw COPY and mq-bridge, 20 minutes (ARGS='--only drain --rounds 3', ARGS=--help)"
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

chaos: $(VENV)/.installed
	$(BIN)/python -m tests.chaos $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: $(VENV)/.installed
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[fuzz]'
	@set -e; for target in $(TARGET); do \
		mkdir -p .cache/fuzz/$$target; \
		$(BIN)/python -m tests.fuzz.run $$target -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=700 \
			-dict=tests/fuzz/words.dict -artifact_prefix=.cache/fuzz/$$target- \
			.cache/fuzz/$$target tests/fuzz/corpus/$$target; \
	done

bench: $(VENV)/.installed
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[bench]'
	$(BIN)/python -m tests.bench $(ARGS)

# --without-pip: the venv is filled by the pip outside it, so a system Python without ensurepip will do.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tracker-daemon needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[embedded,dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache

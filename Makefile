# Two commands are all a fresh machine needs: `make demo` and `make test`. Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# All that ships, the same with an extra (`local` embeddings, results of experiments), and all that builds it, by hash.
LOCKS := deploy/requirements.lock deploy/embeddings.lock deploy/learn.lock deploy/build-requirements.lock

# What `make fuzz` runs, and for how long each.
TARGET ?= decode repeat reply status
SECONDS ?= 60

# What is compiled, tests with their assertions above all, is compiled once, and not by each process of each run.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint lock schemas chaos fuzz bench clean

help:
	@echo "make demo   replay real markets through real servers and a real daemon (ARGS=--keep-running stays up)"
	@echo "make test   lint, types, import floors, all tests (ARGS are pytest's)"
	@echo "make lint   without the tests"
	@echo "make lock   write deploy/*.lock anew: what the image is built from (ARGS=--upgrade takes newer versions)"
	@echo "make schemas  write the schemas of questions and answers anew"
	@echo "make chaos  break servers, connections and daemons, look for losses (ROUNDS=20 SEED=7 ARGS=--help)"
	@echo "make fuzz   look for inputs that break a promise (SECONDS=60 for each TARGET='decode repeat reply status')"
	@echo "make bench  measure against raw COPY and mq-bridge, for hours (less: ARGS='--only drain --rounds 3', ARGS=--help)"
	@echo "make clean  remove .venv and every cache"

demo: $(VENV)/.installed
	$(BIN)/tracker-daemon demo $(ARGS)

# More processes than two cores need: tests wait a lot. A process that has no test left takes some of another's.
test: lint
	$(BIN)/pytest --numprocesses=3 --dist=worksteal $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Universal: one file for every Python and machine, with the hashes of all files of each version.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock"

lock: $(VENV)/.installed
	$(COMPILE) $(ARGS) --output-file deploy/requirements.lock pyproject.toml
	$(COMPILE) $(ARGS) --output-file deploy/embeddings.lock --constraint deploy/requirements.lock \
		--extra embeddings pyproject.toml
	$(COMPILE) $(ARGS) --output-file deploy/learn.lock --constraint deploy/embeddings.lock \
		--extra learn pyproject.toml
	$(COMPILE) $(ARGS) --output-file deploy/build-requirements.lock --constraint deploy/requirements.lock \
		deploy/build-requirements.in

schemas: $(VENV)/.installed
	$(BIN)/python -m tests.schemas

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
# The locked versions first: what is tested is what ships.
$(VENV)/.installed: pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tracker-daemon needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --require-hashes $(LOCKS:%=--requirement %)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[embedded,dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache

# Two commands do all: `make demo` shows Headrace at work, `make test` checks it. Both need Python 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check lock clean

demo: $(VENV)/.ready
	$(BIN)/headrace demo $(ARGS)

test: $(VENV)/.ready
	$(BIN)/pytest $(ARGS)

check: $(VENV)/.ready build/types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p headrace

# uv installs the locked, hashed requirements several times faster than pip; pip brings uv.
$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "headrace: making $(VENV) (about 3 GB to download the first time, most of it torch)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "headrace: Python 3.11 or newer is needed; name one with: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --quiet -e .
	touch $@

# The type checker finds the rooms under their import names through these links.
build/types:
	mkdir -p build/types/headrace
	for room in schemas features online_model streams deploy; do ln -sfn ../../../$$room build/types/headrace/$$room; done

lock: $(VENV)/.ready
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --all-extras pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) build .headrace

# `make prove` and `make test` do all set-up themselves; a second run finds it done.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.set-up

.PHONY: prove test xen clean

# One after the other: each keeps all cores busy, and side by side they only get in each other's way.
prove: $(STAMP)
	@mkdir -p build
	@$(BIN)/bulkhead prove --json build/prove.json > build/prove.txt; code=$$?; cat build/prove.txt; \
	$(BIN)/bulkhead refine --json build/refine.json > build/refine.txt || code=$$?; cat build/refine.txt; exit $$code

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy --strict model impl proofs tests/xen
	$(BIN)/python -m pytest

# Real Xen under QEMU: fetches pinned Debian packages the first time. Where it cannot be had, one line says so.
xen: $(STAMP)
	@$(BIN)/python -m tests.xen

clean:
	rm -rf build

# Exact versions stand in requirements.lock. Graphviz's `dot` renders pictures; the proofs do without it.
$(STAMP): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]'
	@command -v dot > /dev/null || { test "$$(id -u)" = 0 && apt-get install -y graphviz > /dev/null 2>&1; } \
		|| { test "$$(id -u)" = 0 && apt-get update > /dev/null 2>&1 && apt-get install -y graphviz > /dev/null 2>&1; } \
		|| echo "Pictures stay .dot files: install Graphviz (apt-get install graphviz) to have them drawn."
	$(BIN)/python -m model.kept  # parser's tables, syntax trees, and then bytecode: starting takes less
	$(BIN)/python -m compileall -q model impl proofs
	@touch $(STAMP)

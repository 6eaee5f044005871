# `make prove` and `make test` do all set-up themselves; a second run finds it done.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.set-up
PACKAGES := -p bulkhead.model -p bulkhead.impl -p bulkhead.proofs
BOTH := monolithic disaggregated

.PHONY: prove test check lint xen pictures tables clean

# One after the other: each uses all cores, so running them in parallel saves no time.
prove: $(STAMP)
	@mkdir -p build
	@$(BIN)/bulkhead prove $(BOTH) --json build/prove.json > build/prove.txt; code=$$?; cat build/prove.txt; \
	$(BIN)/bulkhead refine --json build/refine.json > build/refine.txt || code=$$?; cat build/refine.txt; exit $$code

# All tests, in parallel on all cores.
test: lint
	$(BIN)/python -m pytest -n auto

# For use after every change: under a minute.
check: lint
	$(BIN)/python -m pytest -n auto -m 'not slow and not xen'

lint: $(STAMP)
	$(BIN)/ruff format --check --quiet . || { echo "Not in the project's format: run $(BIN)/ruff format ."; exit 1; }
	$(BIN)/ruff check .
	$(BIN)/mypy --strict $(PACKAGES) -p tests
	$(BIN)/lint-imports

# Real Xen under QEMU: fetches pinned Debian packages the first time. If it is unavailable, one line says so.
xen: $(STAMP)
	@$(BIN)/python -m tests.xen

# Pictures that are committed: of proofs/HOW_IT_WORKS.md, and of the attack in the README.
pictures: $(STAMP)
	@mkdir -p build
	$(BIN)/python -m bulkhead.proofs.report.how_it_works
	$(BIN)/bulkhead attack monolithic only_by_grant --out build/attack > build/attack.txt
	cp build/attack/overview.svg proofs/attack.svg

# Measured tables, which are committed: tests/benchmarks/RESULTS.md and proofs/faults/DETECTION.md. Takes up to an hour, and
# the numbers are only reliable on an idle machine: the header gives its load at the start.
MEASURED = $(shell date -u +%Y-%m-%d), commit $(shell git rev-parse --short HEAD 2> /dev/null), $(shell nproc) cores, load average $(shell cut -d' ' -f1 /proc/loadavg)
tables: MEASURED := $(MEASURED)
tables: $(STAMP)
	@mkdir -p build
	$(BIN)/python -m tests.benchmarks.run --json build/benchmarks.json
	$(BIN)/python -m tests.benchmarks.table build/benchmarks.json --measured '$(MEASURED)' --output tests/benchmarks/RESULTS.md
	$(BIN)/bulkhead faults --seed 1 --json build/faults.json > build/faults.txt; test -s build/faults.json
	$(BIN)/python -m bulkhead.proofs.report.faults_table build/faults.json \
	    --measured '$(MEASURED), seed 1' --output proofs/faults/DETECTION.md

clean:
	rm -rf build

# requirements.lock has the exact versions. Graphviz's `dot` renders pictures; the proofs do not need it.
# The folders of this checkout are linked as the package `bulkhead`, so that editors and type checkers find
# the files; `pip install --editable .` alone works too, by an import hook that only Python understands.
$(STAMP): pyproject.toml requirements.lock
	@test -x $(BIN)/python || echo "Setting up .venv: Python packages are fetched once (about 200 MB, a minute or two)."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]'
	@mkdir -p .venv/checkout/bulkhead
	@for part in spec model impl proofs; do ln -sfn ../../../$$part .venv/checkout/bulkhead/$$part; done
	@$(BIN)/python -c 'import pathlib, sysconfig; \
	    pathlib.Path(sysconfig.get_path("purelib"), "bulkhead-checkout.pth").write_text("$(CURDIR)/.venv/checkout\n")'
	@command -v dot > /dev/null || { test "$$(id -u)" = 0 && apt-get install -y graphviz > /dev/null 2>&1; } \
		|| { test "$$(id -u)" = 0 && apt-get update > /dev/null 2>&1 && apt-get install -y graphviz > /dev/null 2>&1; } \
		|| echo "Pictures stay .dot files: install Graphviz (apt-get install graphviz) to have them drawn."
	$(BIN)/python -m bulkhead.model.set_up  # parser's tables, syntax trees, and then bytecode: starting takes less
	$(BIN)/python -m compileall -q model impl proofs
	@touch $(STAMP)

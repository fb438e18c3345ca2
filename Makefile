# Each verb does its own set-up. CI runs `make test`.
.DEFAULT_GOAL := help
.PHONY: help run cluster test check bench torture clean

PYTHON := .venv/bin/python

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: ## the server on http://127.0.0.1:3000 (set-up included; ARGS="--port 4000" for flags)
	@scripts/setup run
	@exec $(PYTHON) -m duologue serve $(ARGS)

cluster: ## three nodes, PostgreSQL, NATS and nginx on this machine, to play with (ARGS="--fresh --port 4000")
	@scripts/setup cluster
	@exec $(PYTHON) -m cluster $(ARGS)

test: ## everything that CI checks, in a few minutes
	@scripts/setup test
	@$(MAKE) --no-print-directory style
	@echo "two runs side by side, each shown when it has ended"
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-alone test-nodes

# Most tests wait for something most of the time, so two at once take little longer than one. 5: nothing fits ARGS here.
NODES := tests/nodes tests/store
.PHONY: test-alone test-nodes
# Hundreds of servers are started: each would compile all of it again where the environment forbids to keep what's compiled.
test-alone test-nodes: export PYTHONDONTWRITEBYTECODE :=
test-alone:
	$(PYTHON) -m pytest -m "not torture" --ignore=tests/browser $(NODES:%=--ignore=%) $(ARGS) || [ $$? = 5 ]
test-nodes:
	$(PYTHON) -m pytest -m "not torture" $(NODES) $(ARGS) || [ $$? = 5 ]
# In a process of their own: Playwright keeps an event loop running for the rest of it, in which no other test could start one.
	$(PYTHON) -m pytest tests/browser $(ARGS) || [ $$? = 5 ]

check: ## format, lint and types
	@scripts/setup test
	@$(MAKE) --no-print-directory style

.PHONY: style
style:
	$(PYTHON) -m ruff format --check --quiet .
	$(PYTHON) -m ruff check --quiet .
	$(PYTHON) -m mypy
	cd client && PATH="$$(cd .. && $(PYTHON) -c 'import hatch_build; print(hatch_build.find_node()[0].parent)'):$$PATH" node node_modules/vue-tsc/bin/vue-tsc.js --noEmit

bench: ## Duologue beside its peers; writes the figures (alone on the machine, please)
	@scripts/setup bench
	$(PYTHON) -m bench $(ARGS)

torture: ## the faults, for as long as it takes
	@scripts/setup torture
	$(PYTHON) -m pytest -m torture $(ARGS)
	$(PYTHON) -m tests.fuzz.run --seconds 60

clean: ## back to a fresh clone
	rm -rf "$$(readlink -f .cluster/postgres)" .venv .tools .cluster .mypy_cache .ruff_cache .hypothesis dist build client/node_modules tests/interop/js/node_modules bench/peers/node/node_modules
	find src/duologue/web -mindepth 1 ! -name .gitignore -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

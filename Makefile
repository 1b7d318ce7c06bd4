# Two commands do all the set-up: `make demo` and `make test`. They need python3 (3.11 or later), pip and make.
SHELL  := /bin/sh
PY     ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := PYTHONPATH=.bootstrap $(PY) -m uv
DEMO   ?= demo
DAYS   ?= 30
SEED   ?= 42

# Bytecode is kept (imports are 3x slower without it); nothing phones home; plugin discovery off (0.8 s a process).
unexport PYTHONDONTWRITEBYTECODE
export DBT_SEND_ANONYMOUS_USAGE_STATS := false
export DAGSTER_DISABLE_TELEMETRY := yes
export PYDANTIC_DISABLE_PLUGINS := 1
export DO_NOT_TRACK := 1
# Certificates of the machine, as pip uses them: behind a company proxy only those work.
export UV_SYSTEM_CERTS := true

.PHONY: help install install-dev demo test test-slow ui bench lint format lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(VENV)/.runtime ## build .venv with the `sust` command in it

install-dev: $(VENV)/.dev

.bootstrap/.ok:
	$(PY) -c 'import sys; assert sys.version_info >= (3, 11), "sust-AI-naible needs Python 3.11 or later, this is " + sys.version'
	$(PY) -m pip install -q --disable-pip-version-check --root-user-action=ignore --target .bootstrap uv==0.13.8
	touch $@

$(VENV)/.created: .bootstrap/.ok
	$(UV) venv -q --allow-existing --python $(PY) $(VENV)
	touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml $(VENV)/.created
	$(UV) pip install -q --compile-bytecode --require-hashes --python $(BIN)/python -r requirements.lock
	$(UV) pip install -q --no-deps --no-build-isolation --python $(BIN)/python -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(UV) pip install -q --compile-bytecode --require-hashes --python $(BIN)/python -r requirements-dev.lock
	touch $@

demo: install ## simulate a month of cloud, account it hour by hour, write demo/report.html
	$(BIN)/sust demo --days $(DAYS) --seed $(SEED) --out $(DEMO)

test: install-dev ## the whole test suite but the slow marks
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: install-dev ## the long runs: kill -9, volumes, memory
	$(BIN)/python -m pytest -m slow

ui: install ## open the Dagster UI on the demo, on 127.0.0.1
	$(BIN)/sust --project $(DEMO) ui

bench: install-dev ## ratios against a plain read and write, measured in the same run
	$(BIN)/python -m benchmarks

lint: install-dev ## format, lint, types and the rules of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check sust_dagster
	$(BIN)/lint-imports

format: install-dev ## rewrite to the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

COMPILE = $(UV) pip compile -q pyproject.toml --extra build -c constraints.txt --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
lock: .bootstrap/.ok ## renew the hashed locks from pyproject.toml and constraints.txt
	$(COMPILE) -o requirements.lock
	$(COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock

clean: ## remove the environment and the demo
	rm -rf $(VENV) .bootstrap $(DEMO) dbt_project/target dbt_project/logs

# Everything that a developer or an operator types. `make up` needs Python 3.11+ and make, no more.

.PHONY: up compiled test test-compiled test-slow test-trainer lint format types bench faults requirements lock trainer-env clean env
.DEFAULT_GOAL := up

BIN := .venv/bin
# SEED, SIZE and OUT are passed to a claim where given: `make faults SEED=7 SIZE=50`.
CLAIM = $(if $(SEED),--seed $(SEED)) $(if $(SIZE),--size $(SIZE)) $(if $(OUT),--out $(OUT)) $(ARGS)

env:
	@./bootstrap

up: env
	@exec $(BIN)/weir up $(ARGS)

# The modules that every call runs through, as C: calls take less. Needs a C compiler; `up` uses what it finds.
compiled: env
	$(BIN)/python -m infra.compiled

test: env
	$(BIN)/pytest $(ARGS)

# The tests of what is compiled, on its compiled form.
test-compiled: compiled
	WEIR_TEST_COMPILED=1 $(BIN)/pytest tests/gateway tests/gateway_durability tests/schemas $(ARGS)

test-slow: env
	$(BIN)/pytest -m "slow and not gpu" $(ARGS)

# What needs torch, in the trainer's own environment.
test-trainer: trainer-env
	.venv-trainer/bin/python -m pytest -m "not gpu" tests/trainer $(ARGS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: env
	$(BIN)/mypy

# Every figure by one command; raw ledgers in bench/out, verdicts in bench/results.
bench: env
	$(BIN)/python -m bench $(if $(SEED),--seed $(SEED)) $(ARGS)

faults: env
	$(BIN)/python -m bench.faults $(CLAIM)

# Each numbered requirement with the tests that would notice it broken, and those without one.
requirements: env
	$(BIN)/python -m tests.requirements

# The locks hold hashes and no addresses.
COMPILE = $(BIN)/uv pip compile --generate-hashes --no-emit-index-url --universal \
	--python-version 3.11 --custom-compile-command "make lock" --quiet $(UPGRADE)

lock: env
	$(COMPILE) requirements/bootstrap.in -o requirements/bootstrap.lock
	$(COMPILE) pyproject.toml -o requirements/core.lock
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.lock
	$(COMPILE) pyproject.toml --extra trainer --extra dev -o requirements/trainer.lock
	$(BIN)/python -m infra.jars

# Made by `make up` beside the running core; this is for doing it at once.
trainer-env: env
	$(BIN)/python -m infra.trainer_env

clean:
	rm -rf .venv .venv-trainer .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	@echo "kept: the data folder .weir and the downloads in the user's cache"

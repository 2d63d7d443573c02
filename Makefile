# `make quickstart` trains a small ACL-GAN on this machine's CPU, judges it and shows it; `make help` lists the rest.
# Everything runs in .venv, made from requirements/cpu.lock. PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/cpu.lock
INSTALLED := $(VENV)/installed
# Quick answers from TensorFlow on a CPU: no search for a GPU, no start-up messages.
CPU := CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=2
TESTS ?= tests
PYTEST_FLAGS ?=
WORKERS ?= 2
# Tests that share a trained engine stay with one worker.
WORKER_FLAGS := -n $(WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all bench lint lock environment clean

help: ## these lines
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(INSTALLED) ## data, training, evaluation and pictures in one go, on the CPU
	$(CPU) $(BIN)/python -m tfaclgan.quickstart

test: $(INSTALLED) ## the fast tests
	$(CPU) $(BIN)/python -m pytest $(WORKER_FLAGS) $(PYTEST_FLAGS) $(TESTS)

test-all: $(INSTALLED) ## every test, also the slow ones (parity, kills, real training)
	$(CPU) $(BIN)/python -m pytest $(WORKER_FLAGS) -m '' $(PYTEST_FLAGS) $(TESTS)

NO_BENCH = $(addprefix benchmarks/,proof.py proof_report.py timed_runs.py official_code.py train_grid.py)
bench: $(INSTALLED) ## the README's figures, measured on this machine (benchmarks/proof.py, 24 minutes, and train_grid.py are left out)
	set -e; for script in $(filter-out $(NO_BENCH),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script; done

lint: $(INSTALLED) ## style, types on public signatures
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock: ## requirements/*.lock from setup.py (UPGRADE=1: newest versions within the bounds)
	$(PYTHON) requirements/lock.py $(if $(UPGRADE),--upgrade)

environment: $(INSTALLED) ## only .venv

# The stamp holds the lock file it was made from: the environment is made anew when the lock's content changes, not when
# its time does (a fresh clone, a branch switched back and forth).
$(INSTALLED): $(LOCK) setup.py tfaclgan/__init__.py
	@$(PYTHON) requirements/make_environment.py $(VENV) $(LOCK)

clean: ## .venv, caches and build leftovers; runs and data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

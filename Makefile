# make train   set up and run the main job on the embedded default (simulated ECGs)
# make test    set up and run the tests
# make ui      MLflow's pages of all runs on this machine alone: http://127.0.0.1:5000 (RUNS=folder, PORT=number)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup train test check format ui clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt docker/install.sh
	docker/install.sh $(VENV) dev
	@touch $@

# Over 5,000 simulated ECGs fewer epochs do than the preset makes over a thousand real ones.
train: setup
	$(BIN)/python jobs/train.py $(or $(ARGS),--training.epochs 6 --pretraining.epochs 4)

# Tests of Ray mostly wait for processes to start: one process runs them, one after another, beside all others.
test: setup
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Only for this machine: MLflow asks nobody for a password. Several workers would be ended by uvicorn where starting takes them 5 s.
ui: setup
	@runs="$(RUNS)"; runs="$${runs:-$$($(BIN)/python -c 'from ecgmoe.home import home; print(home() / "runs")')}"; \
	test -f "$$runs/mlflow.db" || { echo "error: no run was logged in $$runs yet: call make train, or name another folder (make ui RUNS=...)" >&2; exit 2; }; \
	exec $(BIN)/mlflow server --workers 1 --host 127.0.0.1 --port $(or $(PORT),5000) --backend-store-uri "sqlite:///$$runs/mlflow.db"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Removes what setup and the tools made in this folder; datasets and runs lie elsewhere and are kept.
clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find ecgmoe jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +

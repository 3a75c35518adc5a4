# make demo: install into .venv and run the main job; make test: the whole test suite; make lint: ruff and mypy
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint benchmarks clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/koopman-lora demo --out runs/demo

# one thread a process and two processes: faster than two threads for networks of this size
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# all seven, more than an hour; one of them: .venv/bin/python benchmarks/training.py --quick
benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/training.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scarce.py
	for seed in 0 1 2; do $(BIN)/python benchmarks/dynamics.py $$seed || exit 1; done
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/trust.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/matrix_svd.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/moments.py

clean:
	rm -rf $(VENV) runs

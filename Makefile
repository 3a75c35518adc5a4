# make demo: install into .venv and run the main job; make test: the tests but those that take more than a second or
# so each, make test-slow: these; make lint: ruff and mypy;
# make docs: the site, docs/_build/html/index.html; make bench: this package beside its peers, in environments of their own
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

BENCH := .venv-bench
MLCOLVAR := .venv-mlcolvar

.PHONY: demo test test-slow lint docs bench benchmarks clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/koopman-lora demo --out runs/demo

# one thread a process and two processes: faster than two threads for networks of this size; compiled once, not by each
# of the hundreds of processes that tests start
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n 2 --dist worksteal
test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

# killed fits, several processes, tutorials, hostile and damaged input, coverage of intervals
SLOW ?= slow
test-slow: $(VENV)/.installed
	$(PYTEST) -m "$(SLOW)"

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.docs-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# without network; warnings are errors
docs: $(VENV)/.docs-installed
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

$(BENCH)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

# mlcolvar needs scikit-learn < 1.8, so the one pin of it must not hold here; without it the benchmark leaves it out
$(MLCOLVAR)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(MLCOLVAR)
	grep -v '^scikit-learn==' constraints.txt > $(MLCOLVAR)/constraints.txt
	if $(MLCOLVAR)/bin/pip install --quiet --constraint $(MLCOLVAR)/constraints.txt --editable ".[bench-mlcolvar]"; \
	then touch $@; else rm -rf $(MLCOLVAR); echo "mlcolvar cannot be installed here: make bench leaves out DeepTICA"; fi

# hours; less: make bench ARGUMENTS="--quick", see benchmarks/README.md
bench: $(BENCH)/.installed $(MLCOLVAR)/.installed
	PYTHONPATH=benchmarks $(BENCH)/bin/python -m bench.run $(ARGUMENTS)

# of this package alone, more than an hour; one of them: .venv/bin/python benchmarks/training.py --quick
benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/training.py
	for seed in 0 1 2; do $(BIN)/python benchmarks/dynamics.py $$seed || exit 1; done
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scarce.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/trust.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/verdicts.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/alanine.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/matrix_svd.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/startup.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/survival.py
	$(BIN)/python benchmarks/moments.py
	$(BIN)/python benchmarks/scale.py --quick
	$(BIN)/python benchmarks/processes.py

clean:
	rm -rf $(VENV) $(BENCH) $(MLCOLVAR) runs benchmarks/results docs/_build docs/reference docs/tutorials

# make demo and make test share .venv, which is made on demand and again when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

DEMO := outputs/sweeps/$(shell date -u +%Y-%m-%dT%H-%M-%S)
SWEEP := $(BIN)/python -m gmu_lightning.train -m hydra/launcher=stacked seed=1,2,3

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[offline,dev]'
	@touch $@

demo: $(READY)  ## gates and controls, three seeds, on generated movies whose answer is known: of two modalities, then of three
	$(SWEEP) experiment=quickstart hydra.sweep.dir=$(DEMO)-bimodal \
		fusion=none,mean,concat,self_gate,gmu_original,gmu_softmax modalities=text,image,text+image
	$(SWEEP) experiment=quickstart_trimodal hydra.sweep.dir=$(DEMO)-trimodal \
		fusion=none,mean,concat,self_gate,gmu_original,gmu_hier,gmu_softmax modalities=text,video,audio,text+video,text+video+audio
	$(SWEEP) experiment=quickstart_trimodal hydra.sweep.dir=$(DEMO)-trimodal \
		fusion=concat fusion.head=maxout modalities=text+video+audio
	$(BIN)/python tests/benchmarks/known_answer.py $(DEMO)-bimodal $(DEMO)-trimodal

test: $(READY)  ## the tests, on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not heavy"

test-all: $(READY)  ## the tests that take long: damaged run folders, a spy on the network
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m heavy

lint: $(READY)  ## style, types, and the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## every benchmark, quick ones first, variants by turns: make bench BENCH="fine_tuning --data PATH --rounds 5"
	$(BIN)/python tests/benchmarks/run.py $(BENCH)

clean:  ## caches and builds; .venv and outputs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find conf gmu_lightning tests -name __pycache__ -type d -exec rm -rf {} +

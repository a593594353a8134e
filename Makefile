# The whole recipe: `make stage1 stage2 stage3` from a fresh clone, `make test`, `make help`.
#
# Every result is a file that appears last and whole (a manifest, metrics.json, a stamp), so a
# killed make goes on where it was, and nothing that is done is done again. Targets of make's end at
# a space, so no path of a user's is one: recipes look for themselves what is older than its tables.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

TABLES ?= data/catalogue
RUNS ?= runs
# Whose files the tables are: shopify, woocommerce, google_merchant, clicks ...; empty: our own.
LAYOUT ?=
# Overlays on recipes/base.yaml: a backbone and further sources of data.
BACKBONE ?=
DATA ?=
ARGS ?=
# Options of the service that `make demo` starts, such as --port 8080.
SERVE ?=
# Not empty: stage 3 learns from pairs of products of one design as well, as UniECS always does.
PAIRS ?=

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# Paths as the shell reads them, whatever is in them: a `$` is a `$`.
quote = '$(subst ','\'',$(1))'
python := $(call quote,$(value PYTHON))
tables := $(call quote,$(value TABLES))
runs := $(call quote,$(value RUNS))
shards := $(runs)/shards
kind := $(call quote,$(value LAYOUT))
layout := $(if $(value LAYOUT),--layout $(kind))
# Only feeds, which are a layout of others, end in .txt.
endings := csv tsv parquet jsonl xml $(if $(layout),txt)
# What a result was made of: whose files the tables are, and where they are.
made_of = "$$(printf '%s %s' $(kind) "$$(realpath -m -- $(tables) 2>/dev/null || realpath -- $(tables))")"
# True where a result is not there, was made of other tables, or a table is newer than its file. One
# without a record, which a command made, is taken for one of these tables in our own layout.
stale = [ ! -e $(2) ] || { { [ -e $(runs)/$(1).made ] || [ -n $(kind) ]; } && \
        [ "$$(cat $(runs)/$(1).made 2>/dev/null)" != $(made_of) ]; } || \
        [ -n "$$(find -L $(tables) $(addprefix $(tables)/,qrels clicks) -maxdepth 1 -type f -newer $(2) \
        \( -samefile $(tables) $(foreach e,$(endings),-o -iname '*.$(e)' -o -iname '*.$(e).gz') \) 2>/dev/null)" ]

OVERLAYS := $(addprefix recipes/backbone/,$(addsuffix .yaml,$(BACKBONE))) \
            $(addprefix recipes/data/,$(addsuffix .yaml,$(DATA)))
TRAIN = $(PY) -m beyond_text.train recipes/base.yaml $(OVERLAYS) recipes/$@.yaml run=$(runs)/$@ \
        data.sources.tables.path=$(shards) data.dev=$(shards)
# One query a product: each brings a picture of its own.
WITH_PAIRS = data.sources.pairs.path=$(runs)/pairs data.sources.pairs.weight=0.5 \
             data.sources.pairs.queries_per_product=1 data.sources.pairs.namespace=tables

# As many tests at a time as there are cores.
TOGETHER := -n auto --dist worksteal

.PHONY: help install data shards pairs stage1 stage2 stage3 uniecs untouched demo results test quick \
        lint tensorboard clean

help: ## show this
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo
	@echo 'TABLES=folder  LAYOUT=name  RUNS=folder  BACKBONE=name  DATA=name  PAIRS=1  SERVE="--port 8080"  ARGS="key=value ..."'

# Any Python can run these; where one fails, its last line says why. Of pip its version comes last.
IS_NEW := import sys; sys.version_info >= (3, 11) or sys.exit("Python %d.%d" % sys.version_info[:2])
HAS_PIP := import importlib.metadata, sys; importlib.metadata.version("pip") or sys.exit("no pip")

# A finished environment that only lacks pip, as uv makes them, gets pip. Another unfit one is
# removed, but not before PYTHON is known to make a new one; of a link only the link goes.
install: ## make .venv with everything in it
	@found=$$({ $(PY) -c '$(IS_NEW); $(HAS_PIP)' || { \
	    $(PY) -c '$(IS_NEW)' && test -e $(VENV)/bin/activate && \
	    $(PY) -m ensurepip && rm -f $(VENV)/installed; }; } 2>&1) && exit; \
	given=$$($(python) -c '$(IS_NEW); import ensurepip, venv' 2>&1) || { \
	    printf '%s cannot make %s: expected %s, got "%s"; try %s\n' $(python) $(VENV) \
	    'Python 3.11 or newer with venv and ensurepip' "$${given##*$$'\n'}" \
	    '`make PYTHON=python3.11 ...`, or on Debian `apt install python3-venv`' >&2; exit 1; }; \
	if [ -e $(VENV) -o -L $(VENV) ]; then \
	    printf '%s is made again: expected Python 3.11 or newer with pip, got "%s"\n' \
	    $(VENV) "$${found##*$$'\n'}" >&2; fi; \
	set -x; rm -rf $(VENV); $(python) -m venv $(VENV)
	@if [ pyproject.toml -nt $(VENV)/installed ]; then set -ex; \
	    $(PY) -m pip install --quiet --upgrade pip; \
	    $(PY) -m pip install --quiet -e '.[encoders,test]'; \
	    touch $(VENV)/installed; fi

data: data/encoders/ready shards ## prepare the default encoders, and shards of TABLES

data/encoders/ready: data_prep/encoders.py | install
	$(PY) -m data_prep.encoders data/encoders
	touch $@

data/catalogue/qrels.csv: | install
	$(PY) -m data_prep.catalogue data/catalogue

ifeq ($(value TABLES),data/catalogue)
shards pairs: data/catalogue/qrels.csv
endif

# Tables that change are packed again; a run begun with other shards then says so.
shards: install
	@if $(call stale,shards,$(shards)/manifest.json); then set -ex; \
	    $(PY) -m data_prep.shards $(tables) $(shards) $(layout); \
	    echo $(made_of) >$(runs)/shards.made; fi

pairs: install
	@if $(call stale,pairs,$(runs)/pairs.jsonl); then set -ex; \
	    $(PY) -m data_prep.mbeer $(tables) $(runs)/pairs.jsonl $(layout); \
	    echo $(made_of) >$(runs)/pairs.made; fi
	@if [ $(runs)/pairs.jsonl -nt $(runs)/pairs/manifest.json ]; then set -x; \
	    $(PY) -m data_prep.shards $(runs)/pairs.jsonl $(runs)/pairs --pictures $(tables); fi

stage1: data ## domain-adaptive pretraining: text to picture
	$(TRAIN) $(value ARGS)

stage2: stage1 ## query-to-text alignment
	$(TRAIN) start=$(runs)/stage1 $(value ARGS)

stage3: stage2 $(if $(PAIRS),pairs) ## query-to-image alignment and fusion
	$(TRAIN) start=$(runs)/stage2 $(if $(PAIRS),$(WITH_PAIRS)) $(value ARGS)

uniecs: data pairs ## the second system, on queries and pairs of one design
	$(TRAIN) $(WITH_PAIRS) $(value ARGS)

untouched: data ## the encoders as they come, to compare with
	$(TRAIN) $(value ARGS)

# An export that is newer than its model is not made again, and of an index only what has changed.
demo: stage3 untouched ## a page to search by: untouched encoders beside trained ones
	@set -e; for run in untouched stage3; do out=$(runs)/exports/$$run; \
	    if [ ! "$$out"/README.md -nt $(runs)/$$run/model/model.safetensors ]; then \
	        (set -x; $(PY) -m beyond_text.export $(runs)/$$run "$$out"); fi; \
	    (set -x; $(PY) -m beyond_text.index $(shards) $(runs)/indexes/$$run --model "$$out"); done
	$(PY) -m beyond_text.serve trained=$(runs)/indexes/stage3 untouched=$(runs)/indexes/untouched \
	    $(value SERVE)

# ARGS are options of tests.benchmarks.results, such as --minutes 60.
results: data/encoders/ready ## the tables of the results, from one commit; TABLES is a folder of shops
	$(PY) -m tests.benchmarks.results --tables $(tables) --out $(runs)/results $(value ARGS)

test: install ## run all tests
	$(PY) -m pytest tests $(TOGETHER)

quick: install ## run the unit tests
	$(PY) -m pytest tests -m "not slow" $(TOGETHER)

lint: install ## ruff, mypy and import-linter
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy beyond_text data_prep
	$(VENV)/bin/lint-imports

tensorboard: install ## curves and pictures of all runs
	$(VENV)/bin/tensorboard --logdir $(runs)

clean: ## remove the folders runs and data
	rm -rf runs data

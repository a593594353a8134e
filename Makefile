# The whole recipe: `make stage1 stage2 stage3` from a fresh clone, `make test`, `make help`.
#
# Every result is a file that appears last and whole (a manifest, metrics.json, a stamp), so a
# killed make goes on where it was, and nothing that is done is done again.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

TABLES ?= data/catalogue
RUNS ?= runs
# Overlays on recipes/base.yaml: a backbone and further sources of data.
BACKBONE ?=
DATA ?=
ARGS ?=
# Not empty: stage 3 learns from pairs of products of one design as well, as UniECS always does.
PAIRS ?=

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SHARDS := $(RUNS)/shards
# Tables that change are packed again; a run begun with other shards then says so.
ROWS := $(wildcard $(TABLES)/*.csv $(TABLES)/*.parquet $(TABLES)/*.jsonl)
OVERLAYS := $(addprefix recipes/backbone/,$(addsuffix .yaml,$(BACKBONE))) \
            $(addprefix recipes/data/,$(addsuffix .yaml,$(DATA)))
TRAIN = $(PY) -m beyond_text.train recipes/base.yaml $(OVERLAYS) recipes/$@.yaml run=$(RUNS)/$@ \
        data.sources.tables.path=$(SHARDS) data.dev=$(SHARDS)
# One query a product: each brings a picture of its own.
WITH_PAIRS = data.sources.pairs.path=$(RUNS)/pairs data.sources.pairs.weight=0.5 \
             data.sources.pairs.queries_per_product=1

# A tokenizer of each loader process has no use for threads of its own.
export TOKENIZERS_PARALLELISM := false

.PHONY: help install data stage1 stage2 stage3 uniecs test lint tensorboard clean

help: ## show this
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo
	@echo 'TABLES=folder  RUNS=folder  BACKBONE=name  DATA=name  PAIRS=1  ARGS="key=value ..."'

install: $(VENV)/installed ## make .venv with everything in it

$(VENV)/installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e '.[encoders,test]'
	touch $@

data: $(SHARDS)/manifest.json data/encoders/ready ## prepare the default encoders, and shards of TABLES

data/encoders/ready: data_prep/encoders.py | $(VENV)/installed
	$(PY) -m data_prep.encoders data/encoders
	touch $@

data/catalogue/qrels.csv: | $(VENV)/installed
	$(PY) -m data_prep.catalogue data/catalogue

ifeq ($(TABLES),data/catalogue)
$(SHARDS)/manifest.json $(RUNS)/pairs.jsonl: data/catalogue/qrels.csv
endif
$(SHARDS)/manifest.json: $(ROWS) | $(VENV)/installed
	mkdir -p $(RUNS)
	$(PY) -m data_prep.shards '$(TABLES)' $(SHARDS)

$(RUNS)/pairs.jsonl: $(ROWS) | $(VENV)/installed
	mkdir -p $(RUNS)
	$(PY) -m data_prep.mbeer '$(TABLES)' $@

$(RUNS)/pairs/manifest.json: $(RUNS)/pairs.jsonl | $(VENV)/installed
	$(PY) -m data_prep.shards $< $(RUNS)/pairs --pictures '$(TABLES)'

stage1: data ## domain-adaptive pretraining: text to picture
	$(TRAIN) $(ARGS)

stage2: stage1 ## query-to-text alignment
	$(TRAIN) start=$(RUNS)/stage1 $(ARGS)

stage3: stage2 $(if $(PAIRS),$(RUNS)/pairs/manifest.json) ## query-to-image alignment and fusion
	$(TRAIN) start=$(RUNS)/stage2 $(if $(PAIRS),$(WITH_PAIRS)) $(ARGS)

uniecs: data $(RUNS)/pairs/manifest.json ## the second system, on queries and pairs of one design
	$(TRAIN) $(WITH_PAIRS) $(ARGS)

test: install ## run all tests
	$(PY) -m pytest tests

lint: install ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy beyond_text data_prep

tensorboard: install ## curves and pictures of all runs
	$(VENV)/bin/tensorboard --logdir $(RUNS)

clean: ## remove runs and prepared data
	rm -rf runs data

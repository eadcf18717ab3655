# sweep.mk: several runs on the same shards, a table of what they came to, and their losses in one plot.
#   make -f pipelines/sweep.mk OPTION=--lr VALUES='3e-4 1e-3 3e-3'
#   make -f pipelines/sweep.mk OPTION=--pattern VALUES='mmmm mmtm tttt' FROM=demo TRAIN='--max-steps=500'
# FROM is a folder that train.mk has filled: its tokenizer and shards are used. The runs lie in OUT, a
# folder each. They take all cores, so one after the other is as fast; a run that was stopped goes on.
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all
.NOTPARALLEL:
MAKEFLAGS     += --no-builtin-rules

FROM   ?= demo
OPTION ?= --lr
VALUES ?= 3e-4 1e-3 3e-3
PRESET ?= tiny
TRAIN  ?= --max-steps=300
OUT    ?= sweep$(OPTION)

here := $(dir $(realpath $(lastword $(MAKEFILE_LIST))))
bin := $(dir $(firstword $(wildcard $(here)../bin/hm-train $(here)../../../bin/hm-train)))
ifneq ($(bin),)
export PATH := $(realpath $(bin)):$(PATH)
endif

runs   := $(VALUES:%=$(OUT)/%)
models := $(runs:%=%/model.safetensors)

.PHONY: all
all: $(OUT)/table.csv $(OUT)/loss.png
	@column -s, -t $(OUT)/table.csv 2>/dev/null || cat $(OUT)/table.csv

$(models): $(OUT)/%/model.safetensors: $(FROM)/tok.model $(FROM)/train-00000.tok.zst $(FROM)/valid-00000.tok.zst
	@mkdir -p $(@D)
	valid=($(FROM)/valid-*.tok.zst); hm-train --preset=$(PRESET) --tokenizer=$(FROM)/tok.model --resume -o $(@D) \
	    $(TRAIN) $(OPTION)=$* "$${valid[@]/#/--valid=}" $(FROM)/train-*.tok.zst

# The last validation of each run, and the rate and time of its last row.
$(OUT)/table.csv: $(models)
	@echo 'value,steps,tokens,valid_loss_nats,valid_bits_per_byte,elapsed_s' > $@.new
	@for value in $(VALUES); do \
	    awk -F, -v value="$$value" '$$1 == "valid" { step = $$2; tokens = $$3; loss = $$4; bits = $$5 } \
	        $$10 != "" { time = $$10 } \
	        END { printf "%s,%s,%s,%s,%s,%.0f\n", value, step, tokens, loss, bits, time }' $(OUT)/$$value/train.csv; \
	done >> $@.new
	@mv $@.new $@

$(OUT)/loss.png: $(models) $(here)loss.gp
	@gnuplot -e "runs='$(runs)'; out='$(OUT)/new.png'" $(here)loss.gp && mv $(OUT)/new.png $@

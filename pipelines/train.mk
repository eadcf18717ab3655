# train.mk: text in; a trained model, its figures, its loss plot and its words out. `make demo` calls
# it, and it is the pattern to copy for an experiment of your own.
#   make -f pipelines/train.mk                          WordNet's glosses, 5 minutes of training
#   make -f pipelines/train.mk CORPUS='a.txt b.txt' RUN=mine PRESET=base VOCAB=32000 TRAIN='--epochs=3'
#
# Every file is a target: what is there and newer than its sources is not made again, -n shows the
# plan, -j works. A training run that was stopped goes on from its last checkpoint.
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all
MAKEFLAGS     += --no-builtin-rules

RUN     ?= demo
PRESET  ?= tiny
VOCAB   ?= 4096
TRAIN   ?= --max-time=5m --save-time=30s --valid-every=100 $(RECIPE_$(PRESET))
# What serves a preset best beyond hm-train's defaults; measured for tiny at the demo's length.
RECIPE_tiny := --lr=6e-3 --beta2=0.99 --decay=0.4
# How the text is cut into documents, as tok-encode(1) has it; whole books: --split='sep:\n\n\n'.
CUT     ?= --split=line
SHARE   ?= 2%
PROMPTS ?=
WORDNET ?= /usr/share/wordnet

here := $(dir $(realpath $(lastword $(MAKEFILE_LIST))))
# The tools beside this file: in the source tree, or where it is installed.
bin := $(dir $(firstword $(wildcard $(here)../bin/hm-train $(here)../../../bin/hm-train)))
ifneq ($(bin),)
export PATH := $(realpath $(bin)):$(PATH)
endif

tok    := $(RUN)/tok.model
model  := $(RUN)/model.safetensors
shards := $(RUN)/train-00000.tok.zst
valid  := $(RUN)/valid-00000.tok.zst

# A run folder is of one text and one kind of model. Times alone would let another text that is older
# than the run pass for its own.
made_from := $(strip $(abspath $(CORPUS)) $(CUT) $(VOCAB) $(PRESET))
ifneq ($(and $(wildcard $(tok)),$(wildcard $(RUN)/made-from)),)
ifneq ($(file <$(RUN)/made-from),$(made_from))
$(error $(RUN): holds a run made from '$(file <$(RUN)/made-from)', not '$(made_from)': give RUN=another, or remove the folder)
endif
endif
$(foreach f,$(CORPUS),$(if $(wildcard $f),,$(error $f: CORPUS: there is no such file: check the name)))

.PHONY: all
all: $(RUN)/report.txt $(RUN)/loss.png
	@cat $(RUN)/report.txt

$(RUN):
	@mkdir -p $@

ifeq ($(CORPUS),)
# --- the demo's text: WordNet's glosses, a line each: `word: definition; "example"` ---
# 2000 of them are held out, drawn by a shuffle that is the same everywhere.
text    := $(RUN)/corpus.txt
prompts := $(or $(PROMPTS),$(here)prompts.txt)
others  := PPMd order 8,1.71

$(RUN)/corpus.txt $(RUN)/heldout.txt &: | $(RUN)
	@[ -r $(WORDNET)/data.noun ] || \
	    { echo '$(WORDNET): holds no WordNet: install the package wordnet-base, or give CORPUS=file' >&2; exit 1; }
	@LC_ALL=C awk '!/^  /{ w = $$5; gsub(/_/, " ", w); sub(/\((a|p|ip)\)$$/, "", w); \
	    sub(/^[^|]*\| */, ""); sub(/ *$$/, ""); print w ": " $$0 }' \
	    $(WORDNET)/data.{noun,verb,adj,adv} > $(RUN)/all.new
	@LC_ALL=C shuf --random-source=$(RUN)/all.new -o $(RUN)/shuffled.new $(RUN)/all.new
	@head -n 2000 $(RUN)/shuffled.new > $(RUN)/heldout.new && tail -n +2001 $(RUN)/shuffled.new > $(RUN)/corpus.new
	@rm $(RUN)/all.new $(RUN)/shuffled.new
	@mv $(RUN)/heldout.new $(RUN)/heldout.txt && mv $(RUN)/corpus.new $(RUN)/corpus.txt
	@echo "corpus: $$(wc -l < $(RUN)/corpus.txt) glosses of WordNet, and 2000 held out"

# The text goes straight into shards. A set of shards appears whole, and its first file stands for it.
$(shards): $(text) $(tok)
	tok-encode -m $(tok) $(CUT) $(text) | shard -o $(RUN) --name=train
$(valid): $(RUN)/heldout.txt $(tok)
	tok-encode -m $(tok) $(CUT) $< | shard -o $(RUN) --name=valid
else
# --- your own text: SHARE of its documents is held out ---
text    := $(CORPUS)
prompts := $(or $(PROMPTS),$(RUN)/prompts.txt)
others  :=

$(shards) $(valid) &: $(text) $(tok)
	tok-encode -m $(tok) $(CUT) $(text) | shard -o $(RUN) --split=valid=$(SHARE)
	@for f in $(shards) $(valid); do [ -e $$f ] || { \
	    echo "$$f: no document fell to it: cut the text into more documents with CUT, or give another SHARE" >&2; exit 1; }; done
# The first words of five held-out documents.
$(RUN)/prompts.txt: $(valid) $(tok)
	@shard --cat $(valid) | tok-encode -m $(tok) --decode --split=line | awk 'NF > 3 && n++ < 5 { print $$1, $$2, $$3 }' > $@.new
	@mv $@.new $@
endif

$(tok): $(text) | $(RUN)
	@printf '%s\n' '$(subst ','\'',$(made_from))' > $(RUN)/made-from
	tok-train $(CUT) --vocab=$(VOCAB) -o $@ $(text)

# The model appears when the run is complete; until then --resume finds its checkpoints.
$(model): $(shards) $(valid) $(tok)
	valid=($(RUN)/valid-*.tok.zst); hm-train --preset=$(PRESET) --tokenizer=$(tok) --resume -o $(RUN) $(TRAIN) \
	    "$${valid[@]/#/--valid=}" $(RUN)/train-*.tok.zst

# --- what came of it ---
$(RUN)/eval.csv: $(model) $(valid)
	hm-eval -m $(model) -o $@ $(RUN)/valid-*.tok.zst
$(RUN)/samples.txt: $(model) $(prompts)
	hm-gen -m $(model) --echo --max-tokens=60 -o $@ $(prompts)
$(RUN)/loss.png: $(model) $(here)loss.gp
	@gnuplot -e "runs='$(RUN)'; out='$(RUN)/new.png'" $(here)loss.gp && mv $(RUN)/new.png $@

# Bits per byte of xz -9e on the held-out text, given the training text (the last 64 MiB, its window):
# what the second adds to the first. After the training, which would be slower beside it.
$(RUN)/xz.txt: $(shards) $(valid) | $(model)
	@trap 'rm -f $@.train $@.valid' EXIT; \
	text() { shard --cat $(RUN)/$$1-*.tok.zst | tok-encode -m $(tok) --decode; }; \
	text train | tail -c 64M > $@.train; text valid > $@.valid; \
	first=$$(xz -9e -c $@.train | wc -c); both=$$(cat $@.train $@.valid | xz -9e -c | wc -c); \
	awk -v f=$$first -v b=$$both -v n=$$(wc -c < $@.valid) 'BEGIN { printf "%.3f\n", (b - f) * 8 / n }' > $@.new
	@mv $@.new $@

$(RUN)/report.txt: $(RUN)/eval.csv $(RUN)/xz.txt $(RUN)/samples.txt $(RUN)/loss.png
	@awk -F, -v xz=$$(cat $(RUN)/xz.txt) -v others='$(others)' ' \
	    function row(name, bits) { printf "  %-16s %6.3f\n", name, bits } \
	    $$4 == "bits_per_byte" { bits += $$5 * $$7; bytes += $$7 } \
	    $$4 == "documents" { documents += $$5 } \
	    END { printf "\nBits per byte of the held-out text (%d documents, %d bytes, all of them counted):\n", documents, bytes; \
	          row("this model", bits / bytes); row("xz -9e", xz); \
	          if (split(others, o, ",") == 2) row(o[1], o[2]); \
	          print "The compressors were given the training text first." }' $(RUN)/eval.csv > $@.new
	@{ printf '\nWhat it writes, after the prompts of %s:\n' '$(notdir $(prompts))'; sed 's/^/  /' $(RUN)/samples.txt; \
	   printf '\nThe model is %s, its loss curve %s.\n' '$(model)' '$(RUN)/loss.png'; } >> $@.new
	@mv $@.new $@

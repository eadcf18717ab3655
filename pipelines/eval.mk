# eval.mk: figures of models on held-out text and on tasks, as one table.
#   make -f pipelines/eval.mk MODELS='demo other' DATA='demo/valid-00000.tok.zst blimp.csv'
#   make -f pipelines/eval.mk MODELS=demo DATA=book.txt EVAL='--text --split=whole'
# A model is a run folder or a checkpoint. Each pair of model and data has its own file in OUT, so that
# only what is new or changed is computed; OUT/table.csv joins them: model, then hm-eval(1)'s columns.
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all
MAKEFLAGS     += --no-builtin-rules

MODELS ?= demo
DATA   ?= $(wildcard $(addsuffix /valid-*.tok.zst,$(firstword $(MODELS))))
OUT    ?= eval
EVAL   ?=

here := $(dir $(realpath $(lastword $(MAKEFILE_LIST))))
bin := $(dir $(firstword $(wildcard $(here)../bin/hm-eval $(here)../../../bin/hm-eval)))
ifneq ($(bin),)
export PATH := $(realpath $(bin)):$(PATH)
endif

ifeq ($(DATA),)
$(error DATA names no file: give shards, token streams, text with EVAL=--text, or task tables)
endif

# A path as the name of a file.
flat = $(subst /,_,$(patsubst %/,%,$(1)))
file_of = $(OUT)/$(call flat,$(1))@$(call flat,$(2)).csv

.PHONY: all
all: $(OUT)/table.csv
	@awk -F, 'NR > 1 && ($$5 ~ /^(bits_per_byte|perplexity_per_word|accuracy)/) { \
	    if (!n++) printf "%-24s %-28s %-22s %s\n", "model", "data", "figure", "value"; \
	    printf "%-24s %-28s %-22s %.4f\n", $$1, ($$3 == "" ? $$2 : $$3), $$5, $$6 }' $<

$(OUT):
	@mkdir -p $@

define pair
tables += $(call file_of,$(1),$(2))
$(call file_of,$(1),$(2)): $(if $(wildcard $(1)/.),$(1)/model.safetensors,$(1)) $(2) | $(OUT)
	hm-eval -m $(1) $(EVAL) -o $$@ $(2)
endef
$(foreach m,$(MODELS),$(foreach d,$(DATA),$(eval $(call pair,$(m),$(d)))))

$(OUT)/table.csv: $(tables)
	@awk 'FNR == 1 && NR == 1 { print "model," $$0 } \
	    FNR > 1 { n = split(FILENAME, part, "/"); sub(/@.*/, "", part[n]); print part[n] "," $$0 }' $^ > $@.new
	@mv $@.new $@

# plot.mk: draws the loss of runs from their train.csv.
#   make -f pipelines/plot.mk                     run/loss.png and run/loss.svg
#   make -f pipelines/plot.mk RUNS='a b' OUT=both both.png and both.svg: several runs in one picture
# BY is what the loss is drawn over: tokens, seconds, or both, a panel each.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-builtin-rules

RUNS ?= run
BY   ?= tokens
OUT  ?= $(firstword $(RUNS))/loss
here := $(dir $(realpath $(lastword $(MAKEFILE_LIST))))

.PHONY: all
all: $(OUT).png $(OUT).svg

# gnuplot names the file by its ending, so the ending stays last.
$(OUT).png $(OUT).svg: $(OUT).%: $(RUNS:%=%/train.csv) $(here)loss.gp
	@gnuplot -e "runs='$(RUNS)'; by='$(BY)'; out='$(OUT).new.$*'" $(here)loss.gp || { rm -f $(OUT).new.$*; exit 1; }
	@mv $(OUT).new.$* $@
	@echo "drew $@"

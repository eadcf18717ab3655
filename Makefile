# hm: everything is made from here. `make demo` and `make test` are the two commands of README.md.
#
#   make                build the tools into bin/
#   make demo           install what is missing, build, train the tiny model on real text, show the result
#   make test           install what is missing, build, run every test      [DATA=DIR: also over the corpora there]
#   make check          the tests again under AddressSanitizer and UBSan
#   make lint           clang-format, clang-tidy, cppcheck
#   make fuzz           the fuzz targets, FUZZ_SECONDS each
#   make golden GOLDEN=FILE   another golden file of tests/golden's form
#   make bench          time the tools on this machine
#   make install        PREFIX (/usr/local), DESTDIR
#
# config.mk, not committed, may set any variable below.
.DEFAULT_GOAL := all
-include config.mk

CC       ?= gcc
CXX      ?= g++
PREFIX   ?= /usr/local
OPT      ?= -O2 -g
DATA     ?=
FUZZ_SECONDS ?= 60
VERSION  := 0.1.0

WARN := -Wall -Wextra -Werror -Wshadow -Wvla -Wno-unused-parameter
CWARN := $(WARN) -Wmissing-prototypes -Wstrict-prototypes -Wold-style-definition
comma := ,
SAN  := $(if $(ASAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
TSANF := $(if $(TSAN),-fsanitize=thread)
CPPFLAGS += -D_GNU_SOURCE -Ilib -Ilib/cpu -Ibin
COMMIT := $(or $(shell git describe --always --dirty --abbrev=10 --exclude='*' 2>/dev/null),unknown)
CFLAGS   := -std=gnu11 $(OPT) $(CWARN) -fvisibility=hidden -fopenmp-simd -ffp-contract=off $(SAN) $(TSANF) $(EXTRA_CFLAGS)
CXXFLAGS := -std=gnu++17 $(OPT) $(WARN) -fvisibility=hidden $(SAN) $(TSANF) $(EXTRA_CFLAGS)
LIBS := -lsentencepiece_train -lsentencepiece -ldnnl -lgomp -lzstd -lxxhash -ljansson -lcsv -ledit -lm -lpthread

# Objects live in a folder named after the flags, so that a change of flags rebuilds and never mixes.
HASH := $(shell printf '%s' '$(CC) $(CXX) $(CPPFLAGS) $(CFLAGS) $(CXXFLAGS)' | cksum | cut -d' ' -f1)
B    := build/$(HASH)

TOOLS    := tok-train tok-encode shard hm-train hm-eval hm-gen hm-bench
TOOL_SRC := $(wildcard $(TOOLS:%=bin/%.c))
TOOL_BIN := $(TOOL_SRC:bin/%.c=$(B)/bin/%)
BIN_OBJ  := $(patsubst %.c,$(B)/%.o,$(filter-out $(TOOL_SRC),$(wildcard bin/*.c)))
LIB_OBJ  := $(patsubst %.c,$(B)/%.o,$(wildcard lib/*.c)) $(patsubst %.cpp,$(B)/%.o,$(wildcard lib/*.cpp)) $(B)/lib/cpu/cpu.o

# The generated header is touched only when version or commit changed.
$(B)/bin/help.o: CPPFLAGS += -I$(B)/gen
$(B)/bin/help.o: $(B)/gen/version.h
$(B)/gen/version.h: FORCE
	@mkdir -p $(@D) && printf '#define HM_VERSION "%s"\n#define HM_COMMIT "%s"\n' '$(VERSION)' '$(COMMIT)' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
FORCE:

# lib/cpu is compiled once an instruction set; each set becomes one object that shows only its table of ops.
ifeq ($(shell uname -m),x86_64)
ISAS := base avx2 avx512
endif
ISAS ?= base
ISA_base   := $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v2)
ISA_avx2   := -march=x86-64-v3
ISA_avx512 := -march=x86-64-v4
CPU_SRC := $(filter-out lib/cpu/cpu.c,$(wildcard lib/cpu/*.c))
CPU_OBJ := $(ISAS:%=$(B)/cpu-%.o)
CPU_OPT := -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast

REF_OBJ  := $(patsubst %.c,$(B)/%.o,$(wildcard tests/ref/*.c))
TEST_SRC := $(wildcard tests/unit/test_*.c tests/ops/test_*.c tests/model/test_*.c)
TEST_BIN := $(TEST_SRC:%.c=$(B)/%)
TEST_SH  := $(wildcard tests/cli/*.bats tests/check/*.sh)

.PHONY: all deps demo test check lint fuzz golden bench install clean tools tests
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules

all: tools
tools: $(TOOL_BIN)
	@mkdir -p bin && for t in $(notdir $(TOOL_BIN)); do ln -sfn ../$(B)/bin/$$t bin/$$t; done
	@ln -sfn $(HASH) build/last

$(B)/libhm.a: $(LIB_OBJ) $(CPU_OBJ)
	rm -f $@ && $(AR) rcs $@ $^

$(B)/bin/%: $(B)/bin/%.o $(BIN_OBJ) $(B)/libhm.a
	$(CXX) $(SAN) $(TSANF) -o $@ $(filter %.o,$^) $(B)/libhm.a -Wl,--as-needed $(LIBS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/%.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<

$(B)/lib/cpu/cpu.o: CPPFLAGS += $(ISAS:%=-DHAS_%)

define isa_rules
$$(B)/cpu-$(1)/%.o: lib/cpu/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) -DCPU_OPS=hm_cpu_ops_$(1) $$(CFLAGS) $$(CPU_OPT) $$(ISA_$(1)) -MMD -MP -c -o $$@ $$<
$$(B)/cpu-$(1).o: $$(CPU_SRC:lib/cpu/%.c=$$(B)/cpu-$(1)/%.o)
	$$(LD) -r -o $$@.all $$^ && $$(OBJCOPY) --keep-global-symbol=hm_cpu_ops_$(1) $$@.all $$@ && rm $$@.all
endef
OBJCOPY ?= objcopy
$(foreach i,$(ISAS),$(eval $(call isa_rules,$(i))))

# --- tests: C programs that print TAP, bats files, shell checks; all run by prove ---
tests: tools $(TEST_BIN)

$(B)/tests/%: $(B)/tests/%.o $(REF_OBJ) $(BIN_OBJ) $(B)/libhm.a
	$(CXX) $(SAN) $(TSANF) -o $@ $(filter %.o,$^) $(B)/libhm.a -Wl,--as-needed $(LIBS)
$(B)/tests/%.o: CPPFLAGS += -Itests

test: deps
	@$(MAKE) --no-print-directory -j2 tests
	PATH="$(CURDIR)/$(B)/bin:$$PATH" HM_BUILD=$(B) DATA=$(DATA) prove -j2 --timer -e '' $(TEST_BIN) $(TEST_SH)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

clean:
	rm -rf build $(TOOLS:%=bin/%)

# hm: everything is made from here. `make demo` and `make test` are the two commands of README.md.
#
#   make                build the tools into bin/, and libhm-cuda.so where nvcc is
#   make tools          the tools alone
#   make demo           install what is missing, build, train the tiny model on real text, show the result
#                       [CORPUS=file...: on your own text]
#   make test           install what is missing, build, run every test   [DATA=DIR: also over the corpora there]
#   make check          the tests again under AddressSanitizer and UBSan, the kernels also under the race
#                       detector and with faults planted
#   make lint           clang-format, clang-tidy, cppcheck
#   make fuzz           the fuzz targets, FUZZ_SECONDS each
#   make golden GOLDEN=FILE   another golden file of tests/golden's form
#   make bench          time the tools on this machine   [BENCH='--preset=base --what=decode']
#   make cuda           build libhm-cuda.so alone
#   make install        PREFIX (/usr/local), DESTDIR
#   make format clean
#
# Variables that may be set on the command line or in config.mk, which is not committed:
.DEFAULT_GOAL := all
-include config.mk
CC       ?= gcc
CXX      ?= g++
PREFIX   ?= /usr/local
OPT      ?= -O2 -g
DATA     ?=
FUZZ_SECONDS ?= 60
JOBS     ?= $(shell nproc)
# CUDA=0: without CUDA. CUDA_ARCH=89: machine code for that GPU alone, or for several; all: for all.
# CPPFLAGS CFLAGS CXXFLAGS LDFLAGS are added to ours. ASAN=1 or TSAN=1: with that sanitizer. V=1: say more.

VERSION := 0.1.0
COMMIT  := $(or $(shell git describe --always --dirty --abbrev=10 --exclude='*' 2>/dev/null),unknown)

# --- flags ---
Q := $(if $(V),,@)
comma := ,
WARN  := -Wall -Wextra -Werror -Wshadow -Wvla -Wno-unused-parameter
CWARN := $(WARN) -Wmissing-prototypes -Wstrict-prototypes -Wold-style-definition
SAN   := $(if $(ASAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer) \
         $(if $(TSAN),-fsanitize=thread)
PP       := -D_GNU_SOURCE -Ilib -Ilib/cpu -Ibin $(CPPFLAGS)
C_ALL    := -std=gnu11 $(OPT) $(CWARN) -fvisibility=hidden -fopenmp-simd -ffp-contract=off $(SAN) $(CFLAGS)
CXX_ALL  := -std=gnu++17 $(OPT) $(WARN) -fvisibility=hidden $(SAN) $(CXXFLAGS)
LIBS := -lsentencepiece_train -lsentencepiece -ldnnl -lgomp -lzstd -lxxhash -ljansson -lcsv -ledit -lm -lpthread
LINK = $(CXX) $(SAN) $(LDFLAGS) -o $@ $(filter %.o,$^) $(B)/libhm.a -Wl,--as-needed $(LIBS)

# Debian packages, for deps.sh: a|b is content with either.
BUILD_DEPS := gcc g++ libsentencepiece-dev libdnnl-dev libzstd-dev libxxhash-dev libjansson-dev libcsv-dev libedit-dev
DEMO_DEPS  := wordnet-base gnuplot-nox|gnuplot-qt|gnuplot-x11 xz-utils
TEST_DEPS  := bats mandoc perl zstd clang clang-format clang-tidy cppcheck libclang-rt-dev|libclang-rt-14-dev $(DEMO_DEPS)

# Objects live in a folder named after the flags, so that a change of flags rebuilds and never mixes.
HASH := $(shell printf '%s' '$(CC) $(CXX) $(PP) $(C_ALL) $(CXX_ALL) $(LDFLAGS)' | cksum | cut -d' ' -f1)
B    := build/$(HASH)

# --- what is built ---
TOOLS    := tok-train tok-encode shard hm-train hm-eval hm-gen hm-bench
TOOL_SRC := $(wildcard $(TOOLS:%=bin/%.c))
TOOL_BIN := $(TOOL_SRC:bin/%.c=$(B)/bin/%)
BIN_OBJ  := $(patsubst %.c,$(B)/%.o,$(filter-out $(TOOL_SRC),$(wildcard bin/*.c)))
LIB_OBJ  := $(patsubst %.c,$(B)/%.o,$(wildcard lib/*.c)) $(patsubst %.cpp,$(B)/%.o,$(wildcard lib/*.cpp)) $(B)/lib/cpu/cpu.o

# lib/cpu is compiled once an instruction set that the compiler knows; each set becomes one object
# that shows only its table of ops.
has_flag = $(shell $(CC) $(1) -E -x c /dev/null >/dev/null 2>&1 && echo yes)
ISA_base   := $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v2)
ISA_avx2   := -march=x86-64-v3
ISA_avx512 := -march=x86-64-v4
ISAS := base $(foreach i,avx2 avx512,$(if $(call has_flag,$(ISA_$(i))),$(i)))
CPU_SRC := $(filter-out lib/cpu/cpu.c,$(wildcard lib/cpu/*.c))
CPU_OBJ := $(ISAS:%=$(B)/cpu-%.o)
CPU_OPT := -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast
OBJCOPY ?= objcopy

REF_OBJ  := $(patsubst %.c,$(B)/%.o,$(wildcard tests/ref/*.c)) $(patsubst %.cpp,$(B)/%.o,$(wildcard tests/ref/*.cpp))
TEST_SRC := $(wildcard tests/unit/test_*.c tests/ops/test_*.c tests/model/test_*.c)
TEST_BIN := $(TEST_SRC:%.c=$(B)/%) $(B)/tests/emu/test_emu
TEST_SH  := $(wildcard tests/cli/*.bats tests/check/*.sh)
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

# --- CUDA: where nvcc is, kernels/ becomes libhm-cuda.so, which the tools open at run time. Its
# folder is named after its own flags: a change of the others does not build it again. Beside each
# object lies what ptxas said (tests/check/ptxas.sh) ---
CUDA ?= 1
NVCC ?= $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc))
ifneq ($(and $(filter-out 0,$(CUDA)),$(NVCC)),)
CUDA_KNOWN := $(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch))
CUDA_ARCHS := $(or $(filter-out all,$(CUDA_ARCH)),$(filter $(CUDA_KNOWN),75 80 86 89 90 100 120))
# nvcc's front end runs once a virtual architecture, of which there are three: every kernel's source
# asks only for 8.0 and 9.0.
virtual     = $(if $(filter 7%,$(1)),$(1),$(if $(filter 8%,$(1)),80,90))
CUDA_CODE  := $(foreach a,$(CUDA_ARCHS),-gencode=arch=compute_$(call virtual,$(a))$(comma)code=sm_$(a)) \
              $(foreach a,$(call virtual,$(lastword $(CUDA_ARCHS))),-gencode=arch=compute_$(a)$(comma)code=compute_$(a))
CUDA_LIB   := $(abspath $(firstword $(wildcard $(addprefix $(dir $(NVCC))../,lib64 lib))))
CUDA_ALL   := -std=c++17 -O3 -lineinfo -Ilib -Ikernels -DHM_CUDA_LIB='"$(CUDA_LIB)"' -Werror all-warnings -Xptxas -v \
              -Xcompiler -fPIC,-fvisibility=hidden,-Wall
CUDA_SAYS  := nvcc $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'), $(CUDA_ARCHS:%=sm_%)
CB         := build/cuda-$(shell printf '%s' '$(NVCC) $(CUDA_SAYS) $(CUDA_ALL)' | cksum | cut -d' ' -f1)
CUDA_SO    := $(B)/libhm-cuda.so
else
CUDA_SAYS  := $(if $(NVCC),switched off,no nvcc)
endif

.PHONY: all tools tests run-tests test check races mutants lint fuzz fuzzers fuzz-bin golden bench demo deps test-deps \
        cuda install format clean FORCE
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(JOBS)
endif

all: tools cuda
tools: $(TOOL_BIN)
	@mkdir -p bin && for t in $(notdir $(TOOL_BIN)); do ln -sfn ../$(B)/bin/$$t bin/$$t; done
	@ln -sfn $(HASH) build/last
	@echo "built bin/: $(notdir $(TOOL_BIN)) ($$($(CC) --version | head -n 1); cpu: $(ISAS))"

$(B)/libhm.a: $(LIB_OBJ) $(CPU_OBJ)
	@rm -f $@ && $(AR) rcs $@ $^

$(B)/bin/%: $(B)/bin/%.o $(BIN_OBJ) $(B)/libhm.a
	@echo '  link $@'
	$(Q)$(LINK)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo '  cc   $<'
	$(Q)$(CC) $(PP) $(C_ALL) -MMD -MP -c -o $@ $<

$(B)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo '  c++  $<'
	$(Q)$(CXX) $(PP) $(CXX_ALL) -MMD -MP -c -o $@ $<

# The generated header is touched only when version or commit changed.
$(B)/bin/help.o: PP += -I$(B)/gen
$(B)/bin/help.o: $(B)/gen/version.h
$(B)/gen/version.h: FORCE
	@mkdir -p $(@D)
	@printf '#define HM_VERSION "%s"\n#define HM_COMMIT "%s"\n' '$(VERSION)' '$(COMMIT)' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
FORCE:

$(B)/lib/cpu/cpu.o: PP += $(ISAS:%=-DHAS_%)

define isa_rules
$$(B)/cpu-$(1)/%.o: lib/cpu/%.c
	@mkdir -p $$(@D)
	@echo '  cc   $$< for $(1)'
	$$(Q)$$(CC) $$(PP) -DCPU_OPS=hm_cpu_ops_$(1) $$(C_ALL) $$(CPU_OPT) $$(ISA_$(1)) -MMD -MP -c -o $$@ $$<
$$(B)/cpu-$(1).o: $$(CPU_SRC:lib/cpu/%.c=$$(B)/cpu-$(1)/%.o)
	@$$(LD) -r -o $$@.all $$^ && $$(OBJCOPY) --keep-global-symbol=hm_cpu_ops_$(1) $$@.all $$@ && rm $$@.all
endef
$(foreach i,$(ISAS),$(eval $(call isa_rules,$(i))))

# What the kernels need of lib is compiled once more, for a shared library. The slowest kernels first,
# or the last of them would be compiled alone.
CUDA_SLOW := $(patsubst %,kernels/%.cu,linear_step ssd_states ssd_bwd mamba_step mamba_flow attn attn_bwd)
CUDA_OBJ  := $(patsubst %,$(CB)/%.o,$(CUDA_SLOW) $(filter-out $(CUDA_SLOW),$(wildcard kernels/*.cu)) lib/err.c lib/dtype.c)
# Always made: what is missing of the folder would not count against an older link (.SECONDARY).
$(B)/libhm-cuda.so: $(CB)/libhm-cuda.so FORCE
	@mkdir -p $(@D) && ln -sfn ../$(<:build/%=%) $@
$(CB)/libhm-cuda.so: $(CUDA_OBJ)
	@echo '  link $@'
	$(Q)$(NVCC) -shared -cudart static -Xlinker --exclude-libs=ALL,-z,defs -o $@ $^ -ldl
# Instructions of Hopper alone: files of this name are for no other GPU.
$(CB)/%_sm90.cu.o: CUDA_CODE := -gencode=arch=compute_90a$(comma)code=sm_90a
$(CB)/%.cu.o: %.cu
	@mkdir -p $(@D)
	@echo '  nvcc $<'
	$(Q)$(NVCC) $(CUDA_ALL) $(CUDA_CODE) -MMD -MP -MF $(@:.o=.d) -c -o $@ $< 2>$(@:.o=.log) || \
	    { grep -vE '^ptxas info|bytes stack frame' $(@:.o=.log) >&2; exit 1; }
$(CB)/%.c.o: %.c
	@mkdir -p $(@D)
	@echo '  cc   $< for cuda'
	$(Q)$(CC) -D_GNU_SOURCE -Ilib -std=gnu11 -O2 -g -fPIC -fvisibility=hidden -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
cuda: $(CUDA_SO)
	@echo 'cuda: $(CUDA_SAYS)'

# --- the kernels on the CPU: tests/emu stands in for CUDA. Its own files, emu_*.cpp, are not
# sanitized: they switch stacks, and tell the sanitizers so ---
EMU_CU  := $(filter-out kernels/gemm.cu,$(wildcard kernels/*.cu))
EMU_OBJ := $(patsubst %,$(B)/emu/%.o,$(EMU_CU) $(wildcard tests/emu/*.cpp tests/emu/self/*.c*) lib/err.c lib/dtype.c)
EMU_PP  := -D_GNU_SOURCE -Ilib -Ikernels -Itests/emu -Itests/emu/include $(CPPFLAGS)
EMU_ALL := -fPIC -fvisibility=hidden -fno-strict-aliasing -ffp-contract=off -Wall -Werror -Wno-unknown-pragmas
EMU_SAN := $(if $(ASAN),-DEMU_ASAN) $(if $(TSAN),-DEMU_TSAN)
EMU_SO  := $(B)/libhm-emu.so
$(EMU_SO): $(EMU_OBJ)
	@echo '  link $@'
	$(Q)$(CXX) -shared $(SAN) $(LDFLAGS) -o $@ $^ $(if $(SAN),,-Wl$(comma)-z$(comma)defs) -lm -ldl
$(B)/emu/%.cu.o: %.cu
	@mkdir -p $(@D)
	@echo '  c++  $< for the CPU'
	$(Q)$(CXX) $(EMU_PP) -std=gnu++17 $(OPT) $(EMU_ALL) $(SAN) $(CXXFLAGS) -MMD -MP -MF $(@:.o=.d) -x c++ -c -o $@ $<
$(B)/emu/tests/emu/emu_%.cpp.o: tests/emu/emu_%.cpp
	@mkdir -p $(@D)
	@echo '  c++  $<'
	$(Q)$(CXX) $(EMU_PP) $(EMU_SAN) -std=gnu++17 -O2 -g $(EMU_ALL) -Wextra -Wno-unused-parameter -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(B)/emu/%.cpp.o: %.cpp
	@mkdir -p $(@D)
	@echo '  c++  $< for the CPU'
	$(Q)$(CXX) $(EMU_PP) -std=gnu++17 $(OPT) $(EMU_ALL) $(SAN) $(CXXFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
# The emulator's own test, with the emulator in it.
$(B)/tests/emu/test_emu: $(patsubst %,$(B)/emu/%.o,$(wildcard tests/emu/emu_*.cpp tests/emu/self/*.cpp tests/emu/self/*.cu))
	@mkdir -p $(@D)
	@echo '  link $@'
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -o $@ $^
$(B)/emu/tests/emu/self/%: EMU_PP += -Itests
$(B)/emu/%.c.o: %.c
	@mkdir -p $(@D)
	@echo '  cc   $< for the emulation'
	$(Q)$(CC) $(PP) $(C_ALL) -fPIC -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

# --- tests: C programs that print TAP, bats files, shell checks; all run by prove ---
deps:
	@pipelines/deps.sh $(patsubst %,'%',$(BUILD_DEPS))
test-deps:
	@pipelines/deps.sh $(patsubst %,'%',$(BUILD_DEPS) $(TEST_DEPS))

tests: tools $(TEST_BIN) $(EMU_SO)
$(B)/tests/%: $(B)/tests/%.o $(REF_OBJ) $(BIN_OBJ) $(B)/libhm.a
	@echo '  link $@'
	$(Q)$(LINK)
$(B)/tests/%.o: PP += -Itests

# The flags are known only once the compiler is there: hence the second make.
test: test-deps
	@$(MAKE) --no-print-directory fuzzers
	@$(MAKE) --no-print-directory cuda CUDA_ARCH=$(or $(CUDA_ARCH),90)
	@$(MAKE) --no-print-directory run-tests
check: test-deps
	@$(MAKE) --no-print-directory ASAN=1 OPT='-O1 -g' run-tests
	@$(MAKE) --no-print-directory TSAN=1 OPT='-O1 -g' races
	@$(MAKE) --no-print-directory mutants

# The kernels under the race detector, and with faults planted: tests/emu.
RACE_BIN := $(B)/tests/emu/test_emu $(patsubst tests/ops/%.c,$(B)/tests/ops/%,$(filter-out %gemm.c %vmath.c,$(wildcard tests/ops/test_*.c)))
races: $(RACE_BIN) $(EMU_SO)
	@$(PROVE) $(RACE_BIN) :: --device=emu
mutants: tests
	@HM_EMU_CXX='$(CXX) $(EMU_PP) -std=gnu++17 -O1 $(EMU_ALL)' JOBS=$(JOBS) $(PROVE) tests/emu/mutate.sh

PROVE = PATH="$(CURDIR)/$(B)/bin:$$PATH" HM_BUILD="$(CURDIR)/$(B)" DATA="$(abspath $(DATA))" prove -j$(JOBS) --timer --failures --comments -e ''
run-tests: tests
	@$(PROVE) $(TEST_SH) $(TEST_BIN)

golden: tests
	@GOLDEN="$(abspath $(GOLDEN))" $(PROVE) -v $(B)/tests/model/test_golden

# --- fuzzing: the library once more, by clang; tests/check/fuzz.sh runs what lies in build/fuzz ---
fuzzers:
	@$(MAKE) --no-print-directory CC=clang CXX=clang++ ASAN=1 OPT='-O1 -g' WARN=-w ISAS=base CFLAGS=-fsanitize=fuzzer-no-link CXXFLAGS=-fsanitize=fuzzer-no-link fuzz-bin
fuzz-bin: $(FUZZ_BIN)
	@mkdir -p build && ln -sfn $(HASH)/fuzz build/fuzz
$(B)/fuzz/%: $(B)/tests/fuzz/%.o $(B)/libhm.a
	@mkdir -p $(@D)
	@echo '  link $@'
	$(Q)$(LINK) -fsanitize=fuzzer
fuzz: test-deps
	@$(MAKE) --no-print-directory fuzzers
	@$(MAKE) --no-print-directory tools
	HM_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PROVE) -v tests/check/fuzz.sh

# --- taste ---
C_FILES := $(wildcard bin/*.[ch] lib/*.[ch] lib/*.cpp lib/cpu/*.[ch] tests/*.h tests/*/*.[ch] kernels/*.cu kernels/*.cuh tests/emu/*.cpp tests/emu/self/*)
TIDY    := $(filter-out %.h,$(filter bin/% lib/%,$(C_FILES)))
lint: test-deps $(B)/gen/version.h
	@clang-format --dry-run -Werror $(C_FILES)
	@printf '%s\n' $(filter-out lib/err.c,$(filter %.c,$(TIDY))) | xargs -P $(JOBS) -n 4 sh -c 'clang-tidy --quiet "$$@" -- \
	    -include tests/check/analyzer.h $(PP) -I$(B)/gen -DCPU_OPS=hm_cpu_ops_base -std=gnu11 -march=x86-64-v3 2>&1' tidy
	@clang-tidy --quiet lib/err.c -- $(PP)
	@clang-tidy --quiet $(filter %.cpp,$(TIDY)) -- $(PP) -std=gnu++17
	@cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	    --suppressions-list=tests/check/cppcheck.txt -j $(JOBS) $(PP) -DCPU_OPS=hm_cpu_ops_base bin lib
format:
	clang-format -i $(C_FILES)

# --- the demo, the clock, the system ---
demo: deps
	@pipelines/deps.sh $(patsubst %,'%',$(DEMO_DEPS))
	@$(MAKE) --no-print-directory tools
	@$(MAKE) --no-print-directory -f pipelines/train.mk RUN=demo $(if $(CORPUS),CORPUS='$(CORPUS)')

bench: tools
	bin/hm-bench $(BENCH)

install: all
	@install -d $(foreach d,bin share/man/man1 share/man/man5 share/man/man7 share/hm/pipelines,$(DESTDIR)$(PREFIX)/$(d))
	@install $(TOOL_BIN) $(DESTDIR)$(PREFIX)/bin
	$(if $(CUDA_SO),@install -D -m 644 $(CUDA_SO) $(DESTDIR)$(PREFIX)/lib/hm/libhm-cuda.so)
	@for s in 1 5 7; do install -m 644 man/*.$$s $(DESTDIR)$(PREFIX)/share/man/man$$s; done
	@install $(wildcard pipelines/*.sh) $(DESTDIR)$(PREFIX)/share/hm/pipelines
	@install -m 644 $(wildcard pipelines/*.mk pipelines/*.gp pipelines/*.txt) $(DESTDIR)$(PREFIX)/share/hm/pipelines

clean:
	rm -rf build $(TOOLS:%=bin/%)

-include $(shell find $(B) $(CB) -name '*.d' 2>/dev/null)

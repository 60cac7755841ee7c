# Does each part of the recipe make tokens easier to predict? The mini ablations, from audio to the table (docs/lm.md):
#
#   make -f benchmarks/ablations.mk -j2 AUDIO=../shared/audio OUT=runs/ablations
#
# Resumable: every step goes on where it was stopped. One shared stage 1, named by start_from; stages 2 and 3 as
# the README of its recipes (src/duotok/recipes/ablations) says; all with the same steps, data and seeds. `-n` shows the commands. Needs `make dev`.
AUDIO   ?= ../shared/audio
OUT     ?= runs/ablations
BIN     ?= .venv/bin
SONGS   ?= 201
STAGE1  ?= 400
STAGE2  ?= 1000
STAGE3  ?= 900
REFIT   ?= 721
DAC     ?= 600
SET     ?=

DUOTOK  := $(BIN)/duotok
WORK    := $(OUT)/work
TOKENS  := $(OUT)/tokens
OWN2    := full without-noise without-mss
ON_FULL := without-freezing shared-codebook plain-vq
ALL     := $(OWN2) $(ON_FULL)
# Potassium, the one real song with true stems that nothing was ever trained on, is for the test here.
HELD    := $(shell grep -v '^\#' src/duotok/recipes/mini/held_out.txt | grep -vx Potassium | paste -sd,)

config = $(if $(wildcard src/duotok/recipes/ablations/$(1)/$(2).yaml),ablations/$(1)/$(2),mini/$(2))
train = $(DUOTOK) train $(1) -c $(2) --data $(WORK) --runs $(OUT)/$(3)
FROM1 := --set start_from=../base/stage1 --set teacher=mini
STEPS3 := --set steps=$(STAGE3) --set 'refit_steps=[$(REFIT)]'

.PHONY: all tokens
.SECONDARY:
all: tokens
	$(DUOTOK) eval lm comparisons/ablations -o $(OUT)/results --workers 2 --set tokens=$(abspath $(TOKENS)) $(SET)
	$(DUOTOK) eval lm comparisons/conditional -o $(OUT)/conditional --workers 2 --set tokens=$(abspath $(TOKENS)) $(SET)

tokens: $(ALL:%=$(TOKENS)/%.parquet) $(TOKENS)/duotok-mini.parquet $(TOKENS)/dac.parquet

$(OUT)/.songs:
	$(DUOTOK) songs -n $(SONGS) -o $(OUT)/songs --workers 2 --format opus
	touch $@

$(OUT)/.data: $(OUT)/.songs
	$(DUOTOK) data prepare --work $(WORK) --corpus index=$(AUDIO) --corpus songs=$(OUT)/songs --segment whole_seconds=1 \
	  --set 'index.held_out=$(HELD)' --set index.held_out_test=Potassium --set index.validation=0 \
	  --set songs.validation=0.06 --set songs.test=0.17
	touch $@

$(OUT)/.stage1: $(OUT)/.data
	$(call train,stage1,mini/stage1,base) --workers 2 --set steps=$(STAGE1)
	touch $@

# The first step of stage 2 derives the teacher's masks for all: the mini bundle's separator is the teacher.
$(OUT)/.masks: $(OUT)/.stage1
	$(call train,stage2,mini/stage2,full) $(FROM1) --set steps=$(STAGE2) --stop-after 1
	touch $@

$(OWN2:%=$(OUT)/%/.stage2): $(OUT)/%/.stage2: $(OUT)/.masks
	$(call train,stage2,$(call config,$*,stage2),$*) $(FROM1) --set steps=$(STAGE2)
	touch $@

$(OWN2:%=$(OUT)/%/.stage3): $(OUT)/%/.stage3: $(OUT)/%/.stage2
	$(call train,stage3,$(call config,$*,stage3),$*) $(STEPS3)
	touch $@

$(ON_FULL:%=$(OUT)/%/.stage3): $(OUT)/%/.stage3: $(OUT)/full/.stage2
	$(call train,stage3,$(call config,$*,stage3),$*) --set start_from=../full/stage2 $(STEPS3)
	touch $@

$(ALL:%=$(TOKENS)/%.parquet): $(TOKENS)/%.parquet: $(OUT)/%/.stage3
	$(DUOTOK) bundle --runs $(OUT)/$* --data $(WORK) -o $(OUT)/$*/bundle --name $* --tokens-only
	$(DUOTOK) pack $(WORK) -o $@ --model $(OUT)/$*/bundle --solo train --solo validation

$(TOKENS)/duotok-mini.parquet: $(OUT)/.data
	$(DUOTOK) pack $(WORK) -o $@ --model mini --solo train --solo validation

$(OUT)/.dac: $(OUT)/.data
	$(BIN)/python -m benchmarks.dac --data $(WORK) --runs $(OUT)/base -o $(OUT)/dac --set steps=$(DAC)
	touch $@

$(TOKENS)/dac.parquet: $(OUT)/.dac
	$(DUOTOK) pack $(WORK) -o $@ --model transformers:$(OUT)/dac --solo train --solo validation

# Can the paper's effects be seen in small? The ladder of tokenizers of docs/effects.md, from songs to tables:
#
#   make -f benchmarks/effects.mk -j2 OUT=runs/effects                       # everything; resumable
#   make -f benchmarks/effects.mk -j2 OUT=runs/effects SONGS=360 ARMS='full without-noise'     # a part of it
#
# Each arm differs from `full` in one setting and is trained with three seeds (stages 1 to 3 each); arms of one seed share its
# stage 1, those that change stage 3 alone share full's stage 2. `-n` shows the commands. Needs `make dev`. Give -j the cores that
# are free: every process takes one. START=BUNDLE begins with the stage 2 of a bundle (mini) and has no stage 1; a bundle has no mask
# head, so there are masks (and an arm without) only with MASKS=3600, the seconds of mixes that the teacher separates. PACK is the data
# whose songs become tokens, where those to train on (WORK) are others. PRECISION=bf16 takes half the time on CPUs that compute it.
#
# More arms, for ARMS: `masked` and `masked-without-mss` draw only mixes with masks (where they are few, full hardly differs from
# without-mss); `anew` and `anew-without-noise` begin the bottleneck anew, which noise has shaped in a bundle, and take ANEW steps;
# `stopped-N`, for any N, is full stopped after N steps of stage 3, to compare an arm with at equal mel error; `light` and `light-ARM` have
# a tenth of the quantizer's loss in stage 3 (equation 5's first weight).
OUT     ?= runs/effects
BIN     ?= .venv/bin
SONGS   ?= 1800
FIRST   ?= 500000
DOUBLED ?= 0.4
STAGE1  ?= 600
STAGE2  ?= 600
STAGE3  ?= 500
ANEW    ?= 500
SEEDS   ?= 0 1 2
ARMS    ?= full without-noise full-covariance without-mss without-freezing shared-codebook
SET     ?=
PRECISION ?= fp32
export OMP_NUM_THREADS := 1

comma   := ,
space   := $(subst ,, )
DUOTOK  := $(BIN)/duotok
WORK    ?= $(OUT)/work
PACK    ?= $(WORK)
START   ?=
TOKENS  := $(OUT)/tokens
MASKS   ?= $(if $(START),0,900)
ifeq ($(MASKS),0)
override ARMS := $(filter-out without-mss,$(ARMS))
endif
OWN2    := $(filter full without-noise full-covariance without-mss masked masked-without-mss anew anew-without-noise light-anew light-anew-without-noise,$(ARMS))
ON_FULL := $(filter without-freezing shared-codebook stopped-% light light-without-freezing light-shared-codebook,$(ARMS))

# As YAML: full: [full-0.parquet,...], and the control.
listed  = $(subst $(space),$(comma),$(strip $(SEEDS:%=$(1)-%.parquet)))
named   = $(foreach arm,$(ARMS),$(arm): [$(call listed,$(arm))]$(comma)) jittered: jittered-0.parquet

# What an arm changes, in stage 2 and in stage 3.
stage2.without-noise     := --set model.noise=none
stage3.without-noise     := --set model.noise=none
stage2.full-covariance   := --set model.noise_covariance=full
stage3.full-covariance   := --set model.noise_covariance=full
stage3.anew-without-noise := --set model.noise=none
stage2.without-mss       := --set model.mask_head=false
stage2.masked            := --set mixture.mix.masks=true
stage2.masked-without-mss := --set mixture.mix.masks=true --set weights.masks=0
stage2.anew              := --set new_bottleneck=true --set lr=1e-3 --set steps=$(ANEW)
stage2.anew-without-noise := $(stage2.anew) --set model.noise=none
stage3.without-mss       := --set model.mask_head=false
stage3.without-freezing  := --set freeze=false
stage3.shared-codebook   := --set model.shared_codebook=true
LIGHT                    := --set weights.vq=0.1
stage2.light-anew        := $(stage2.anew)
stage2.light-anew-without-noise := $(stage2.anew-without-noise)
stage3.light             := $(LIGHT)
stage3.light-without-freezing := $(LIGHT) $(stage3.without-freezing)
stage3.light-shared-codebook := $(LIGHT) $(stage3.shared-codebook)
stage3.light-anew        := $(LIGHT)
stage3.light-anew-without-noise := $(LIGHT) $(stage3.anew-without-noise)

# The config of stages 2 and 3, what stage 2 of a seed needs, and where it starts.
ifeq ($(START),)
RECIPE  := effects
FIRST2   = $(OUT)/base-$(1)/.stage1 $(OUT)/.masks
FROM2    = ../base-$(1)/stage1 --set mask_seconds=$(MASKS)
else
RECIPE  := effects-released
FIRST2   = $(OUT)/.features
FROM2    = ../released/stage2$(if $(filter-out 0,$(MASKS)), --set model.mask_head=true --set weights.masks=0.5 --set mask_seconds=$(MASKS))
endif

.PHONY: all data tokenizers tokens
.SECONDARY:
.DELETE_ON_ERROR:
all: tokens
	$(DUOTOK) eval lm comparisons/effects -o $(OUT)/results --workers 2 --set tokens=$(abspath $(TOKENS)) --set lm.precision=$(PRECISION) --set 'tokenizers={$(named)}' \
	  --set 'seeds=[$(subst $(space),$(comma),$(strip $(SEEDS)))]' $(SET)
	$(BIN)/python -m benchmarks.effects table $(OUT)/results $(TOKENS) | tee $(OUT)/table.md
	$(BIN)/python -m benchmarks.effects curves $(OUT)/results -o $(OUT)/curves.png

tokens: $(foreach arm,$(ARMS),$(SEEDS:%=$(TOKENS)/$(arm)-%.parquet)) $(TOKENS)/jittered-0.parquet
data: $(OUT)/.data
tokenizers: $(foreach arm,$(ARMS),$(SEEDS:%=$(OUT)/$(arm)-%/.stage3))

$(OUT)/.songs:
	mkdir -p $(OUT)
	$(DUOTOK) songs -n $(SONGS) --seed $(FIRST) --seconds 60 --rate 24000 --format flac16 --mono --tracks vocals,accompaniment \
	  --doubled $(DOUBLED) -o $(OUT)/songs --workers 2
	$(BIN)/python -m benchmarks.tie $(OUT)/songs > $(OUT)/tie.txt
	touch $@

$(OUT)/.data: $(OUT)/.songs
	$(DUOTOK) data prepare --work $(WORK) --corpus songs=$(OUT)/songs --set songs.validation=0.06 --set songs.test=0.12 \
	  --segment whole_seconds=1
	touch $@

# Seed 0 first: it derives the features for all.
$(OUT)/base-0/.stage1: $(OUT)/.data
	$(DUOTOK) train stage1 -c effects/stage1 --data $(WORK) --runs $(OUT)/base-0 --set steps=$(STAGE1) --set seed=0 --set precision=$(PRECISION) --workers 2
	touch $@

$(OUT)/base-%/.stage1: $(OUT)/base-0/.stage1
	$(DUOTOK) train stage1 -c effects/stage1 --data $(WORK) --runs $(OUT)/base-$* --set steps=$(STAGE1) --set seed=$* --set precision=$(PRECISION)
	touch $@

# One step first: it derives the teacher's masks for all.
$(OUT)/.masks: $(OUT)/base-0/.stage1
	$(DUOTOK) train stage2 -c effects/stage2 --data $(WORK) --runs $(OUT)/base-0 --set start_from=stage1 \
	  --set steps=$(STAGE2) --set mask_seconds=$(MASKS) --set precision=$(PRECISION) --workers 2 --stop-after 1
	touch $@

$(OUT)/.released:
	$(DUOTOK) bundle --unpack $(START) --runs $(OUT)/released
	touch $@

# One step first: it derives the features for all, which two trainings at once may not.
$(OUT)/.features: $(OUT)/.released
	$(DUOTOK) train stage2 -c $(RECIPE)/stage2 --data $(WORK) --runs $(OUT)/full-0 --set start_from=$(FROM2) \
	  --set steps=$(STAGE2) --set seed=0 --set precision=$(PRECISION) --workers 2 --stop-after 1
	touch $@

define own2
$(OUT)/$(1)-$(2)/.stage2: $(call FIRST2,$(2))
	$(DUOTOK) train stage2 -c $(RECIPE)/stage2 --data $(WORK) --runs $(OUT)/$(1)-$(2) --set start_from=$(call FROM2,$(2)) \
	  --set steps=$(STAGE2) --set seed=$(2) --set precision=$(PRECISION) $(stage2.$(1))
	touch $$@

$(OUT)/$(1)-$(2)/.stage3: $(OUT)/$(1)-$(2)/.stage2
	$(DUOTOK) train stage3 -c $(RECIPE)/stage3 --data $(WORK) --runs $(OUT)/$(1)-$(2) --set steps=$(STAGE3) --set seed=$(2) --set precision=$(PRECISION) $(stage3.$(1))
	touch $$@
endef
define on_full
$(OUT)/$(1)-$(2)/.stage3: $(OUT)/full-$(2)/.stage2
	$(DUOTOK) train stage3 -c $(RECIPE)/stage3 --data $(WORK) --runs $(OUT)/$(1)-$(2) --set start_from=../full-$(2)/stage2 \
	  --set steps=$(STAGE3) --set seed=$(2) --set precision=$(PRECISION) $(stage3.$(1)) $(if $(filter stopped-%,$(1)),--stop-after $(1:stopped-%=%))
	touch $$@
endef
define packed
$(TOKENS)/$(1)-$(2).parquet: $(OUT)/$(1)-$(2)/.stage3
	mkdir -p $(TOKENS)
	$(BIN)/python -m benchmarks.effects tokens $(OUT)/$(1)-$(2) --data $(PACK) --precision $(PRECISION) -o $$@
endef
# The first one derives the features of these songs for all.
$(filter-out $(TOKENS)/full-$(firstword $(SEEDS)).parquet,$(foreach arm,$(ARMS),$(SEEDS:%=$(TOKENS)/$(arm)-%.parquet))): | $(TOKENS)/full-$(firstword $(SEEDS)).parquet
$(foreach arm,$(OWN2),$(foreach seed,$(SEEDS),$(eval $(call own2,$(arm),$(seed)))))
$(foreach arm,$(ON_FULL),$(foreach seed,$(SEEDS),$(eval $(call on_full,$(arm),$(seed)))))
$(foreach arm,$(ARMS),$(foreach seed,$(SEEDS),$(eval $(call packed,$(arm),$(seed)))))

$(TOKENS)/jittered-0.parquet: $(TOKENS)/full-$(firstword $(SEEDS)).parquet
	$(BIN)/python -m benchmarks.controls jitter $< -o $@

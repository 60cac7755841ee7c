#!/bin/bash
# Train on from a bundle for so many seconds on one GPU: separator, decoder, tokenizer and both renderers, then bundle them.
#
#   bash examples/train_on.sh SECONDS WORK RUNS BUNDLE OUT
#   bash examples/train_on.sh 580 work runs/night mini my-bundle
#
# WORK: shards of `duotok data prepare` (--format opus makes them small enough for a narrow way). Everything is over, and OUT there,
# SECONDS from now, unless the start of a run or one look at held-out songs takes longer than its share (on two busy cores they
# do). Decoder and separator learn beside the rest; latents are derived beside stages 2 and 3. The bundle of 2026-11-27 was made
# so, on an H100 (docs/experiments/borrowed-gpu.md). Sizes are those of BUNDLE, rates and batches those of a set of recipes.
# What the rest needs and fails ends all of it with exit code 1. Environment: PYTHON (python3), CONFIGS (gpu), the set of
# recipes or a folder of such, WORKERS (14) processes that derive arrays, RESERVE (35) seconds for the bundle, and overrides
# of each run: ADVERSARIAL, SEPARATOR, STAGE2, STAGE3, STAGE4. With AUTOENCODER the encoder of the latents learns on first, beside stage 2,
# and its decoder and the renderers learn from it. Latents for basses (docs/experiments/basses-in-sound.md), less phases that nothing needs:
#   AUTOENCODER='--set only_basses=true --set model.latent_dim=72 --set model.bass_latents=8 --set model.output=magnitude --set lr=2e-3'
#   ADVERSARIAL='--set model.griffin_lim=8 --set model.output=magnitude --set batch_size=32 --set lr=3e-4 --set adversary.warmup=300'
#   STAGE4='--set dit.latent_dim=72 --set dit.bass_latents=8 --set lr=6e-4 --set warmup=100'
set -u
[ $# -eq 5 ] || { grep '^#   bash' "$0" | cut -c5-; exit 2; }
SECONDS_LEFT=$1 WORK=$(realpath "$2") BUNDLE=$4 OUT=$(realpath -m "$5")
mkdir -p "$3/logs" && RUNS=$(realpath "$3") || exit 1
PYTHON=${PYTHON:-python3} CONFIGS=${CONFIGS:-gpu} WORKERS=${WORKERS:-14} RESERVE=${RESERVE:-35}
ADVERSARIAL=${ADVERSARIAL:---set model.griffin_lim=8 --set batch_size=32 --set lr=3e-4 --set adversary.warmup=300}
SEPARATOR=${SEPARATOR:---set lr=5e-4}
AUTOENCODER=${AUTOENCODER:-}
STAGE2=${STAGE2:---set model.mask_head=false --set lr=4e-4 --set warmup=100 --set best=mel}
STAGE3=${STAGE3:---set model.mask_head=false}
STAGE4=${STAGE4:---set lr=6e-4 --set warmup=100}

START=$(date +%s)
left() { echo $((START + SECONDS_LEFT - RESERVE - $(date +%s))); }   # until the trainings must have ended
minutes() { "$PYTHON" -c "print(round(max(0.01, $1 / 60), 3))"; }
say() { echo "$(($(date +%s) - START)) s: $*"; }
run() {  # NAME STAGE CONFIG OPTIONS...: a training or its preparation, its words in RUNS/logs
  local name=$1 stage=$2 config=$3; shift 3
  "$PYTHON" -m duotok train "$stage" -c "$RUNS/configs/$config.yaml" --data "$WORK" --runs "$RUNS" "$@" > "$RUNS/logs/$name.log" 2>&1
  local code=$?
  say "$name: $(tail -n 1 "$RUNS/logs/$name.log")"
  return $code
}
set -m  # each background run is a process group, which ends as a whole
give_up() {  # CODE: nothing goes on in the background
  trap - INT TERM
  for job in $(jobs -p); do kill -TERM -- "-$job"; done 2> /dev/null
  wait 2> /dev/null
  exit "$1"
}
trap 'give_up 130' INT
trap 'give_up 143' TERM
needed() { run "$@" & wait $! || give_up 1; }  # what the rest needs; only a background run can be interrupted

made() {  # NAME OPTIONS...: what is there before anything trains
  "$PYTHON" -m "${@:2}" > "$RUNS/logs/$1.log" 2>&1 || { tail -n 1 "$RUNS/logs/$1.log"; exit 1; }
}
[ -d "$RUNS/released" ] || made unpack duotok bundle --unpack "$BUNDLE" --runs "$RUNS/released"
made configs duotok.recipes.sized "$BUNDLE" --configs "$CONFIGS" -o "$RUNS/configs"
OLD=$RUNS/released
needed features stage2 stage2 --prepare --workers "$WORKERS" --set start_from="$OLD/stage2" $STAGE2
needed samples separator separator --prepare --workers "$WORKERS" --set start_from="$OLD/separator" $SEPARATOR

# What waits for nothing.
run separator separator separator --minutes "$(minutes "$(left)")" --set start_from="$OLD/separator" $SEPARATOR &
sound() {  # decoder and latents of the encoder in SOUND
  run adversarial adversarial adversarial --minutes "$(minutes "$(left)")" --set start_from="$SOUND" $ADVERSARIAL &
  run latents stage4 stage4.vocals --prepare --workers 4 --set autoencoder_from="$SOUND" $STAGE4 &
  LATENTS=$!
}
SHARED=$(($(left) - 50))  # of the tokenizer: what is left, less the start of six processes
SOUND=$OLD/autoencoder
if [ -n "$AUTOENCODER" ]; then
  run autoencoder autoencoder autoencoder --minutes "$(minutes $((SHARED * 15 / 100)))" --set start_from="$SOUND" $AUTOENCODER &
  ENCODER=$!
else
  sound
fi

needed stage2 stage2 stage2 --minutes "$(minutes $((SHARED * 15 / 100)))" --set start_from="$OLD/stage2" $STAGE2
if [ -n "$AUTOENCODER" ]; then
  wait $ENCODER || give_up 1
  SOUND=$RUNS/autoencoder
  sound
fi
needed stage3 stage3 stage3 --minutes "$(minutes $((SHARED * 30 / 100)))" $STAGE3
wait $LATENTS || give_up 1
needed codes stage4 stage4.vocals --prepare --workers 8 --set autoencoder_from="$SOUND" $STAGE4
for track in vocals accompaniment; do
  run stage4.$track stage4 stage4.$track --minutes "$(minutes "$(left)")" --set autoencoder_from="$SOUND" \
    --set start_from="$OLD/stage4.$track" $STAGE4 &
done
wait
"$PYTHON" -m duotok bundle --runs "$RUNS" --data "$WORK" -o "$OUT" --name "$(basename "$OUT")" --force --set autoencoder_from=adversarial

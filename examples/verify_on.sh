#!/bin/bash
# What a GPU is to show, one check after the other, within so many seconds; training apart (train_on.sh).
#
#   bash examples/verify_on.sh SECONDS OUT [DEVICE]
#   bash examples/verify_on.sh 500 verified
#   bash examples/verify_on.sh 3600 verified cpu        # the same path without a GPU, as far as there is one
#
# OUT gets the words of each check, what it measured as JSON, and summary.tsv: check, exit code, seconds. The exit code is 1 when
# one failed or there was no time for it. What each is held to, its own --help says. Environment: PYTHON (python3), and CHECKS, the names
# of those to be made (default: all, the most needed first).
set -u
case $# in 2 | 3) ;; *) grep '^#   bash' "$0" | cut -c5-; exit 2 ;; esac
SECONDS_LEFT=$1 OUT=$2 DEVICE=${3:-cuda} PYTHON=${PYTHON:-python3}
CHECKS=${CHECKS:-bulk codecs steps language generation sound}
case $SECONDS_LEFT in '' | *[!0-9]*) echo "error: SECONDS = $SECONDS_LEFT: give a whole number"; exit 2 ;; esac
mkdir -p "$OUT" || exit 1
START=$(date +%s) FAILED=0
: > "$OUT/summary.tsv"

check() {  # NAME COMMAND...
  local name=$1 began left code; shift
  [[ " $CHECKS " == *" $name "* ]] || return 0
  began=$(date +%s) left=$((START + SECONDS_LEFT - began))
  if [ "$left" -lt 5 ]; then
    echo "$name: no time left" | tee "$OUT/$name.log"; code=124
  else
    timeout -k 5 "$left" "$PYTHON" -m "$@" > "$OUT/$name.log" 2>&1; code=$?
    echo "$name: exit code $code after $(($(date +%s) - began)) s; $(grep -v '^$' "$OUT/$name.log" | tail -n 1 | cut -c1-200)"
  fi
  printf '%s\t%s\t%s\n' "$name" "$code" "$(($(date +%s) - began))" >> "$OUT/summary.tsv"
  [ "$code" -eq 0 ] || FAILED=1
}

check bulk benchmarks.bulk_devices --device "$DEVICE" -o "$OUT/bulk.json"
check codecs benchmarks.gpu --device "$DEVICE" --number 6 --seconds 8 -o "$OUT/codecs.json"
check steps benchmarks.training --device "$DEVICE" --only paper --stages stage1 stage2 stage3 stage4 --repeat 2
check language benchmarks.lm_training --device "$DEVICE" --presets mini 100m --items 4 --repeat 2
check generation benchmarks.generation --device "$DEVICE" --presets mini --seconds 10
check sound duotok demo -o "$OUT/demo" --device "$DEVICE"
exit $FAILED

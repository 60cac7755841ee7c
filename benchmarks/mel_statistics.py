"""Mean and standard deviation of ln(mel power) over prepared shards: what `audio/features.py` has as MEL_MEAN and MEL_STD.

    python -m benchmarks.mel_statistics --data runs/mini/data

Of the training segments' derived mels (`duotok train` or `duotok data` derives them), with the gain that brings each recording to
-18 LUFS; of every track that a segment has, each frame counting alike. The two numbers that are built in are rounded, and
need not be those of your corpus: they only bring mels near to zero mean and unit variance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.calling import mistakes_in_one_line
from benchmarks.output import table
from duotok.audio.features import MEL_MEAN, MEL_STD
from duotok.errors import ConfigError
from duotok.shards.store import ShardStore


def statistics(store: ShardStore) -> dict[str, dict[str, float]]:
    """Track -> frames, mean and standard deviation of ln(mel power); `all` for all of them together."""
    sums: dict[str, np.ndarray] = {}
    for index in store.select("train"):
        for track in store.tracks(index):
            if not store.has(index, track, "mel"):
                continue
            mel = np.asarray(store.rows(index, track, "mel"), dtype=np.float64) * MEL_STD + MEL_MEAN
            found = np.array([mel.size, mel.sum(), np.square(mel).sum(), len(mel)])
            for name in (track, "all"):
                sums[name] = sums.get(name, np.zeros(4)) + found
    if not sums:
        raise ConfigError(f"{store.ranges.url}: no derived mels; train stage 1 there, or derive them, first")
    return {
        name: {"hours": rows / 360_000, "mean": total / n, "deviation": float(np.sqrt(squares / n - (total / n) ** 2))}
        for name, (n, total, squares, rows) in sorted(sums.items())
    }


@mistakes_in_one_line
def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="WORK of `duotok data prepare`")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    found = statistics(ShardStore(options.data / "shards", options.data / "derived"))
    if options.json:
        print(json.dumps({"built in": {"mean": MEL_MEAN, "deviation": MEL_STD}, **found}, indent=1))
        return
    rows = [[name, f["hours"], f["mean"], f["deviation"]] for name, f in found.items()]
    print(table(["track", "hours", "mean", "deviation"], [*rows, ["built in", None, MEL_MEAN, MEL_STD]]))


if __name__ == "__main__":
    main()

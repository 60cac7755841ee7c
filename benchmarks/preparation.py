"""Speed of the data path's steps on real recordings, and what becomes of damaged ones.

    python -m benchmarks.preparation --audio ../shared/audio --work FOLDER
    python -m benchmarks.preparation --audio ../shared/audio --work FOLDER --limit 60 --damage 0 --json

FOLDER/tree gets links to the recordings that INDEX.tsv lists; in it, a share of them (2 %) is damaged on purpose: cut in
half, emptied, overwritten with random bytes, replaced by a picture, removed. Then `duotok data catalog`, transcribe (only
the lyrics that are there), scan, segment and shard run as a user runs them; there is no separation. Speed is seconds of
the recordings that arrived for each second of a step, the start of the command included; on a machine that does other
things at the same time look at the CPU seconds. Scan and shard get --workers; the others are short and run alone. It
fails when a damaged recording is not named in the ledger of the scan, or an undamaged one is.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duotok
from benchmarks.calling import mistakes_in_one_line, positive_int, share_of_1
from benchmarks.output import show, table
from duotok.corpora.base import get
from duotok.data.jobs import read_ledger
from duotok.records import Recording

MARK = ".duotok-preparation"
"""In the scratch folder: what lies there is of this benchmark."""
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000049454e44ae426082")


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def random_bytes(path: Path) -> None:
    path.write_bytes(random.Random(path.name).randbytes(path.stat().st_size))


def picture(path: Path) -> None:
    path.write_bytes(PNG)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut in half": cut_in_half, "empty": empty, "random bytes": random_bytes, "a picture": picture, "removed": Path.unlink,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One command: seconds on the clock, and of CPU, all its workers together."""

    name: str
    seconds: float
    cpu_seconds: float


def spread(recordings: Sequence[Recording], limit: int | None) -> list[Recording]:
    """`limit` recordings, evenly from all folders."""
    if limit is None or limit >= len(recordings):
        return list(recordings)
    return [recordings[n * len(recordings) // limit] for n in range(limit)]


def anew(scratch: Path, *folders: Path) -> None:
    """Delete what an earlier run left. Exits when it was not this benchmark that made `folders`."""
    if not (scratch / MARK).is_file():
        there = next((folder for folder in folders if os.path.lexists(folder)), None)
        if there is not None:
            sys.exit(f"error: {there}: is there, and not of this benchmark; name another folder with --work")
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / MARK).touch()


def plant(audio: Path, tree: Path, chosen: Sequence[Recording]) -> None:
    """Links to the files of the recordings, with the rows of INDEX.tsv and the lyrics that belong to them."""
    files = {Path(path).relative_to(audio).as_posix() for item in chosen for path in item.audio.values()}
    tree.mkdir(parents=True)
    with (audio / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        rows = [row for row in reader if row["path"] in files]
    with (tree / "INDEX.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames or (), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    words = {path.relative_to(audio).as_posix() for path in audio.glob("*/words.json")}
    for name in sorted(files | words):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(audio / name)
    if (audio / "metadata").is_dir():
        (tree / "metadata").symlink_to(audio / "metadata")


def damage(tree: Path, audio: Path, chosen: Sequence[Recording], share: float) -> dict[str, str]:
    """Damage one file of `share` of the recordings; recording id -> what was done to it."""
    count = math.ceil(share * len(chosen))
    order = sorted(chosen, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    done = {}
    for number, item in enumerate(order[:count]):
        name = list(DAMAGES)[number % len(DAMAGES)]
        path = tree / Path(item.audio[sorted(item.audio)[0]]).relative_to(audio)
        path.unlink()
        shutil.copyfile(audio / path.relative_to(tree), path)
        DAMAGES[name](path)
        done[item.id] = name
    return done


def run(step: str, *arguments: str) -> Step:
    """`duotok data STEP ...` with the clock. Exits when the command fails."""
    command = [sys.executable, "-m", "duotok.cli.main", "data", step, *arguments]
    print(f"duotok data {step} ...", file=sys.stderr)
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode:
        sys.exit(f"duotok data {step} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Step(step, seconds, cpu)


def arrived(work: Path) -> set[str]:
    """Recordings that are in the shards."""
    import pyarrow.parquet as pq

    column = pq.read_table(work / "shards" / "manifest.parquet", columns=["recording"]).column("recording")
    return set(column.to_pylist())


def failures(work: Path, step: str) -> dict[str, str]:
    """Recording id -> why the step left it out, from the ledger."""
    ledger = read_ledger(work / "ledger" / f"{step}.jsonl")
    return {name: entry.error for name, entry in ledger.items() if entry.result is None}


def scanned_seconds(work: Path, recordings: set[str]) -> float:
    scans = (work / "scan" / f"{name}.json" for name in recordings)
    return sum(float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) for path in scans)


@mistakes_in_one_line
def main() -> None:
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--audio", type=Path, default=Path("../shared/audio"), help="folder with INDEX.tsv")
    about.add_argument(
        "--work", type=Path, required=True, help="scratch folder; FOLDER/work and FOLDER/tree are made anew"
    )
    about.add_argument("--limit", type=positive_int, metavar="N", help="only N recordings, evenly from all folders")
    about.add_argument("--damage", type=share_of_1, default=0.02, help="share of the recordings that is damaged")
    about.add_argument("--workers", type=positive_int, default=2)
    about.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = about.parse_args()

    audio, tree, work = options.audio.resolve(), options.work.resolve() / "tree", options.work.resolve() / "work"
    anew(options.work, tree, work)
    chosen = spread(sorted(get("index")(audio).recordings(), key=lambda item: item.id), options.limit)
    plant(audio, tree, chosen)
    damaged = damage(tree, audio, chosen, options.damage)

    here, workers = ("--work", str(work)), ("--workers", str(options.workers))
    steps = [
        run("catalog", "--corpus", f"index={tree}", *here),
        run("transcribe", "--transcriber", "none", *here),
        run("scan", *here, *workers),
        run("segment", *here),
        run("shard", *here, *workers),
    ]
    inside = arrived(work)
    scanned = failures(work, "scan")
    left_out = {**failures(work, "segment"), **scanned}
    unnamed = sorted(damaged.keys() - scanned.keys())
    wronged = sorted(scanned.keys() - damaged.keys())
    without = sorted({item.id for item in chosen} - inside - damaged.keys())
    seconds = scanned_seconds(work, inside)
    total = Step("all steps", sum(step.seconds for step in steps), sum(step.cpu_seconds for step in steps))
    rows = [
        {
            "step": step.name,
            "seconds": step.seconds,
            "times_real_time": seconds / step.seconds,
            "cpu_seconds": step.cpu_seconds,
            "times_real_time_per_core": seconds / step.cpu_seconds,
        }
        for step in (*steps, total)
    ]
    result = {
        "conditions": conditions(options.workers),
        "recordings": len(chosen),
        "arrived": len(inside),
        "hours": seconds / 3600,
        "steps": rows,
        "damaged": {name: {"damage": how, "ledger": left_out.get(name, "")} for name, how in damaged.items()},
        "not_arrived": {name: left_out.get(name, "") for name in without},
    }
    head = [f"{seconds / 3600:.2f} hours, {len(inside)} of {len(chosen)} recordings", "seconds", "times real time"]
    head += ["CPU seconds", "times real time of a core"]
    tables = [table(head, [list(row.values()) for row in rows])]
    if damaged:
        told = [[name, how, left_out.get(name, "NOT NAMED").replace(f"{tree}/", "")] for name, how in damaged.items()]
        tables.append(table(["damaged on purpose", "how", "the ledger says"], told))
    if without:
        tables.append(table(["undamaged, in no shard", "the ledger says"], [[n, left_out.get(n, "")] for n in without]))
    show(result, tables, options.json)
    if unnamed or wronged:
        sys.exit(f"damaged and not named: {unnamed}; not damaged, but failed: {wronged}")


def conditions(workers: int) -> dict[str, Any]:
    """What somebody needs to know to measure the same."""
    return {
        "date": date.today().isoformat(),
        "duotok": duotok.__version__,
        "workers": workers,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    main()

"""`duotok tokenize`, killed with -9 at random moments, driver and workers alike, and run again until it is done: is the store the same?

    python -m benchmarks.kills music/ --kills 100
    python -m benchmarks.kills music/ --kills 5 --engine ray
    python -m benchmarks.kills music/ --kills 5 --engine ray --only _Computer      Ray's actors that encode, and nothing else

A store is made without kills first; then another one with them. Every file of both is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_int, positive_number


def titled(pid: int, text: str) -> bool:
    """Whether a process's command line, which Ray sets to the actor's name and method, holds this text."""
    try:
        return text in Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return False


def members(session: int) -> list[int]:
    """All processes of a session but its first. Workers stay in it also when the process that they were forked from is killed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z" and int(path.parent.name) != session:
            found.append(int(path.parent.name))
    return found


def command(sources: list[str], store: Path, options: argparse.Namespace) -> list[str]:
    more = ["--engine", options.engine, "--workers", str(options.workers), "--model", options.model]
    return [sys.executable, "-m", "duotok", "tokenize", *sources, "-o", str(store), "--shard-songs", "4", *more]


def contents(store: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file() and p.name != "lock"
    }


def rows(store: Path) -> int:
    """Lines of the ledgers: how far a run has come."""
    return sum(path.read_bytes().count(b"\n") for path in store.glob("ledger/*.jsonl"))


class Used:
    """CPU seconds of all processes of a session, so far: a clock that other work on the machine does not move."""

    def __init__(self, pid: int) -> None:
        self.pid, self.seconds = pid, 0.0
        self._last: dict[int, float] = {}

    def read(self) -> float:
        for pid in (self.pid, *members(self.pid)):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            self.seconds += max(0.0, now - self._last.get(pid, 0.0))
            self._last[pid] = now
        return self.seconds


def killed(
    run: list[str], store: Path, kills: int, seconds: float, draw: random.Random, only: str = ""
) -> dict[str, int]:
    """Run a command until it ends by itself; kill it or one of its processes so many times meanwhile, at most so many CPU
    seconds apart. only: nothing but processes that have this in their command line."""
    counts = {"driver": 0, "worker": 0, "runs": 0}
    while True:
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        counts["runs"] += 1
        used = Used(process.pid)
        while process.poll() is None:
            if not kills:
                process.wait()
                break
            until = used.read() + draw.uniform(0, seconds)
            while process.poll() is None and used.read() < until:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            below = members(process.pid)
            if process.poll() is not None:
                break
            if only:
                below = [pid for pid in below if titled(pid, only)]
                if not below:
                    continue
            worker = bool(below) and (bool(only) or draw.random() < 0.5)
            try:
                os.kill(draw.choice(below) if worker else process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills -= 1
            counts["worker" if worker else "driver"] += 1
            print(json.dumps({"left": kills, **counts, "rows": rows(store)}), file=sys.stderr, flush=True)
            if not worker:
                process.wait()
                time.sleep(1.0)  # its workers leave
        if not kills and process.returncode in (0, 1):
            return counts


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--kills", type=int_from_0, default=100)
    parser.add_argument("--workers", type=positive_int, default=2)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--model", default="mini")
    parser.add_argument(
        "--within",
        type=positive_number,
        help="CPU seconds from one kill to the next at most; default: those of a whole run",
    )
    parser.add_argument(
        "--whole", type=Path, help="a store of the same songs and model made without kills, instead of a new one"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="kill only processes with this in their command line"
    )
    parser.add_argument("--seed", type=int_from_0, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="duotok-kills-") as place:
        whole, other = options.whole or Path(place) / "whole", Path(place) / "killed"
        began = time.monotonic()
        done = subprocess.run(command(options.sources, whole, options), stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1):
            sys.exit("the run without kills failed")
        if not (whole / "manifest.json").is_file():
            sys.exit(f"error: {' '.join(options.sources)}: the run without kills made no store, and says above why")
        seconds = time.monotonic() - began
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        counts = killed(
            command(options.sources, other, options),
            other,
            options.kills,
            options.within or spent.ru_utime + spent.ru_stime,
            random.Random(options.seed),
            options.only,
        )
        one, two = contents(whole), contents(other)
        differing = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
        facts = json.loads(one["manifest.json"])["totals"]
        print(
            json.dumps(
                {
                    "seconds": round(seconds, 1),
                    "store": facts,
                    "kills": counts,
                    "files": len(one),
                    "differing": differing,
                }
            )
        )
        sys.exit(bool(differing))


if __name__ == "__main__":
    main()

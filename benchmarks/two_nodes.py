"""Training on two nodes, tried on one machine: two torchrun agents meet on loopback, one node is killed with -9 and started again.

    python -m benchmarks.two_nodes --run runs/lm/lm -- train lm -c lm.yaml --runs runs/lm
    python -m benchmarks.two_nodes --run runs/lm/lm -- train lm -c lm.yaml --runs runs/lm --set sharding=fsdp

What follows `--` are words of `duotok`; its config must save checkpoints. After the first one the second node is killed, with its
worker, and comes back; both go on from the checkpoint. Each agent runs in a loop that starts it again when it fails, as it must on any
cluster: for 15 s torch counts a dead node among those that have come, and the agent that meets it gives up. Prints the steps of the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number


def children(pid: int) -> list[int]:
    """All processes that descend from one."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                below = [int(child) for child in path.read_text().split()]
            except OSError:
                continue
            found += below
            waiting += below
    return found


def node(words: list[str], port: int, log: Path) -> subprocess.Popen[bytes]:
    """A loop around an agent with one worker."""
    launcher = [
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
    ]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *launcher,
        "--rdzv-id",
        "two",
        "--max-restarts",
        "5",
        "-m",
        "duotok",
        *words,
    ]
    loop = f"until {shlex.join(command)}; do sleep 5; done"
    with log.open("ab") as file:
        return subprocess.Popen(["bash", "-c", loop], stdout=file, stderr=file, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    for pid in [process.pid, *children(process.pid)]:  # the loop first
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def lines(run: Path, kind: str) -> list[int]:
    """The steps of the log's lines of a kind, in order."""
    try:
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    except OSError:
        return []
    return [row["step"] for row in rows if row.get("kind") == kind]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.parent.name for path in run.glob("**/state.json"))


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.two_nodes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--port", type=positive_int, default=29511)
    parser.add_argument("--timeout", type=positive_number, default=1800)
    parser.add_argument("words", nargs="+")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    logs = [options.run / f"node-{number}.txt" for number in range(2)]
    one, two = (node(options.words, options.port, log) for log in logs)
    until = time.monotonic() + options.timeout
    try:
        while not checkpoints(options.run) and time.monotonic() < until and one.poll() is None:
            time.sleep(0.2)
        kill(two)
        before = lines(options.run, "train")
        two = node(options.words, options.port, logs[1])
        codes = [process.wait(max(1.0, until - time.monotonic())) for process in (one, two)]
    finally:
        for process in (one, two):
            if process.poll() is None:
                kill(process)
    print(
        json.dumps(
            {
                "codes": codes,
                "steps before the kill": before,
                "steps": lines(options.run, "train"),
                "checkpoints": checkpoints(options.run),
            }
        )
    )
    sys.exit(any(codes))


if __name__ == "__main__":
    main()

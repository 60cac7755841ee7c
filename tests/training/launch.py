"""Start the same script in several gloo processes, as torchrun would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def start(script: Path, *arguments: str, processes: int = 2) -> list[subprocess.Popen[str]]:
    """Processes of one group on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(processes)
    ]  # fmt: skip


def finish(running: list[subprocess.Popen[str]], seconds: float = 300) -> None:
    """Wait for all; fail with their output when one failed."""
    outputs = [process.communicate(timeout=seconds)[0] for process in running]
    codes = [process.returncode for process in running]
    assert codes == [0] * len(codes), "\n".join(outputs)

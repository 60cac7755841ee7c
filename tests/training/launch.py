"""Run the same script in several gloo processes, as torchrun would, but forked from a server that has torch already."""

from __future__ import annotations

import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from duotok.pool import begin_worker, context

IMPORTS = ("torch", "torch.distributed.fsdp")


class Running:
    """One process of a group."""

    def __init__(self, script: Path, arguments: tuple[str, ...], changes: Mapping[str, str]) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as log:
            self._log = Path(log.name)
        settings = (str(script), arguments, {**os.environ, **changes}, str(self._log))
        self._process = context(IMPORTS).Process(target=_run, args=settings)  # type: ignore[attr-defined]
        self._process.start()

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        """What it said, once it has ended."""
        self._process.join(timeout)
        said = self._log.read_text()
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(said)
        self._log.unlink()
        return said, None

    @property
    def returncode(self) -> int | None:
        code: int | None = self._process.exitcode
        return code


def _run(script: str, arguments: tuple[str, ...], environment: dict[str, str], log: str) -> None:
    begin_worker(environment)
    said = os.open(log, os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def start(script: Path, *arguments: str, processes: int = 2) -> list[Running]:
    """Processes of one group on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    return [
        Running(script, arguments, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)
    ]


def finish(running: list[Running], seconds: float = 300) -> None:
    """Wait for all; fail with their output when one failed."""
    outputs = [process.communicate(timeout=seconds)[0] for process in running]
    codes = [process.returncode for process in running]
    assert codes == [0] * len(codes), "\n".join(outputs)

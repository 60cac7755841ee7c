"""`python -c CODE` in a process forked from a server that has torch already, with true streams: a new Python imports for two seconds."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from duotok.pool import begin_worker, context

DUOTOK = "from duotok.cli.main import main\nmain()"
"""The code of the command `duotok`."""
PATIENCE = 300.0
"""Seconds for the process; a busy machine takes a few."""


@dataclass(frozen=True)
class Done:
    """What a process wrote, and how it ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


def python(code: str, *arguments: object, stdin: bytes = b"") -> Done:
    """Run `code` as `python -c` does, with `arguments` in sys.argv; its standard streams are pipes."""
    server = context()
    given, give = server.Pipe(duplex=False)
    pipes = [server.Pipe(duplex=False) for _ in ("stdout", "stderr")]
    ends = (given, *(writer for _, writer in pipes))
    process = server.Process(target=_run, args=(code, [str(word) for word in arguments], dict(os.environ), ends))  # type: ignore[attr-defined]
    process.start()
    for end in ends:
        end.close()
    written: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=_feed, args=(give, stdin)),
        *(threading.Thread(target=_read, args=(reader, n, written)) for n, (reader, _) in enumerate(pipes)),
    ]
    for thread in threads:
        thread.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
    for thread in threads:
        thread.join()
    if process.exitcode is None:
        raise TimeoutError(written[1].decode())
    return Done(process.exitcode, written[0], written[1])


def _feed(pipe: Connection, data: bytes) -> None:
    try:
        with io.FileIO(os.dup(pipe.fileno()), "w") as file, io.BufferedWriter(file) as buffered:
            pipe.close()
            buffered.write(data)
    except BrokenPipeError:  # it does not read to the end
        pass


def _read(pipe: Connection, number: int, into: dict[int, bytes]) -> None:
    with open(os.dup(pipe.fileno()), "rb") as file:
        pipe.close()
        into[number] = file.read()


def _run(code: str, arguments: list[str], environment: Mapping[str, str], ends: tuple[Connection, ...]) -> None:
    begin_worker(environment)
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    # Those of before know whether their files could seek, and multiprocessing has closed stdin.
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})

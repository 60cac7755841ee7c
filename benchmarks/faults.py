"""Mutation testing of the method: each named fault is put into a copy of the checkout, and the tests must fail.

    python -m benchmarks.faults                     all of them (about an hour on one core), and the survivors at the end
    python -m benchmarks.faults stage3 noise        only faults whose name or file holds one of these words
    python -m benchmarks.faults --list              what there is
    python -m benchmarks.faults --json              the result for programs

A fault is one replacement of text, named after what it does to the method. It is killed when a test fails, or when the code
does not even run. A fault whose text is not found exactly once is an error: the code has moved on, and so must the fault.
The tests of the fault's own part run first, then the rest of its list; no test runs after the first failure.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line
from benchmarks.fault_list import FAULTS, Fault
from duotok.errors import DuoTokError

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("src", "tests", "benchmarks", "pyproject.toml", "docs", "README.md", "Makefile")
PATIENCE = 900  # seconds that the tests of one fault may take; a test that hangs has noticed something


@dataclass(frozen=True)
class Result:
    """killed: whether a test noticed; by: which one; took: seconds."""

    fault: Fault
    killed: bool
    by: str
    took: float


def broken(text: str, fault: Fault) -> str:
    """The text with the fault in it. Raises ValueError when it is not there exactly once."""
    found = text.count(fault.old)
    if found != 1:
        raise ValueError(f"fault '{fault.name}': its text is {found} times in {fault.file}, not once")
    if fault.old == fault.new:
        raise ValueError(f"fault '{fault.name}' changes nothing")
    return text.replace(fault.old, fault.new)


def copied(folder: Path) -> Path:
    """What the tests need of the checkout, copied into a folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.is_file():
            shutil.copy2(source, folder / name)
    return folder


def try_fault(fault: Fault, copy: Path) -> Result:
    """Put the fault into the copy, run its tests, take it out again."""
    path = copy / fault.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(broken(whole, fault), encoding="utf-8")
    began = time.monotonic()
    try:
        by = run_tests(copy, fault.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    return Result(fault, bool(by), by, time.monotonic() - began)


def run_tests(copy: Path, tests: tuple[str, ...]) -> str:
    """The first test that fails; empty when none does.

    In a fork of this process, which has loaded the large libraries and forgets what it has of duotok: that saves most of the time.
    """
    report = copy / "report.txt"
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            _test(copy, tests, report)
        finally:
            os._exit(99)
    end = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "the tests did not end"
        time.sleep(0.05)
    if os.waitstatus_to_exitcode(status) == 0:
        return ""
    lines = report.read_text(encoding="utf-8", errors="replace").splitlines()
    named = [line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return named[0].split(" - ")[0] if named else "the tests could not be collected"


def _test(copy: Path, tests: tuple[str, ...], report: Path) -> None:
    import pytest

    os.chdir(copy)
    with report.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in [name for name in sys.modules if name.split(".")[0] in ("duotok", "benchmarks", "tests")]:
        del sys.modules[name]
    sys.path[:] = [
        str(copy),
        str(copy / "src"),
        *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "src")),
    ]
    os.environ["PYTHONPATH"] = f"{copy / 'src'}{os.pathsep}{copy}"
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = True
    code = pytest.main(["-x", "-q", "--durations=0", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def load_libraries() -> None:
    """What the tests import besides duotok; none of it may start a thread."""
    for name in ("torch", "numpy", "scipy.signal", "soundfile", "safetensors.torch", "pydantic", "pytest", "hypothesis",
                 "pyarrow.parquet", "accelerate", "matplotlib", "yaml", "typer.testing", "rich.progress", "soxr"):  # fmt: skip
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


@mistakes_in_one_line
def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("words", nargs="*", help="only faults whose name or file holds one of these")
    arguments.add_argument("--list", action="store_true", help="print the faults and stop")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    chosen = [f for f in FAULTS if not options.words or any(w in f.name or w in f.file for w in options.words)]
    if not chosen:
        raise DuoTokError(f"{' '.join(options.words)}: no fault has this in its name or file; --list prints them all")
    for fault in chosen:
        broken((ROOT / fault.file).read_text(encoding="utf-8"), fault)
    if options.list:
        print("\n".join(f"{fault.file}: {fault.name}" for fault in chosen))
        return 0
    results = []
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="duotok-faults-") as folder:
        copy = copied(Path(folder))
        for number, fault in enumerate(chosen, 1):
            result = try_fault(fault, copy)
            results.append(result)
            told = f"killed by {result.by}" if result.killed else "SURVIVED"
            print(f"{number}/{len(chosen)} {fault.name}: {told} ({result.took:.0f} s)", file=sys.stderr, flush=True)
    survivors = [result.fault for result in results if not result.killed]
    if options.json:
        facts = [{"name": r.fault.name, "file": r.fault.file, "killed": r.killed, "by": r.by} for r in results]
        print(json.dumps(facts, indent=1))
    else:
        print(f"{len(results)} faults, {len(survivors)} survived")
        if survivors:
            print("\n".join(f"{fault.file}: {fault.name}" for fault in survivors))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

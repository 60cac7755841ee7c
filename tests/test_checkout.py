"""The suite runs the checkout that it lies in: itself, its subprocesses, and those that launch several processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

from tests.training.launch import start

import duotok

SOURCE = Path(__file__).resolve().parents[1] / "src" / "duotok" / "__init__.py"
CODE = "import duotok; print(duotok.__file__)"


def imported(_: int = 0) -> str:
    return duotok.__file__


def test_this_process_runs_the_checkout() -> None:
    assert Path(duotok.__file__).resolve() == SOURCE


def test_subprocesses_run_the_checkout(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert Path(done.stdout.strip()).resolve() == SOURCE


def test_launched_processes_run_the_checkout(tmp_path: Path) -> None:
    script = tmp_path / "where.py"
    script.write_text(CODE)
    for process in start(script):
        output, _ = process.communicate(timeout=120)
        assert Path(output.strip()).resolve() == SOURCE


def test_spawned_workers_run_the_checkout() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert Path(pool.map(imported, [0])[0]).resolve() == SOURCE

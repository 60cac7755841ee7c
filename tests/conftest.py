"""What all tests share: one thread (small operations stall on a busy machine otherwise), and seeded randomness."""

# ruff: noqa: E402
from __future__ import annotations

import os
import random
import sys
from pathlib import Path

# The suite tests this checkout, whatever is installed: here, and in every process that a test starts.
ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "src"):
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])

# Before anything draws: no display is needed, and none is asked for.
os.environ.setdefault("MPLBACKEND", "Agg")

# One thread here, in each worker of xdist and in every process that a test starts: more of them only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import functools
import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import typer.testing
from tests.demo.browser import Browser, browser
from tests.skips import pytest_terminal_summary  # noqa: F401 (pytest finds it by its name)

torch.set_num_threads(1)

# CliRunner builds all commands anew for each call, which takes longer than most of them: once will do, they keep nothing.
typer.testing._get_command = functools.cache(typer.testing._get_command)

# What lies on a disk after a power cut is tested where fsync is called; everywhere else it only makes tests wait.
os.fsync = lambda descriptor: None

# In a run of the whole suite many tests start workers: what most of them import is imported once. One file does not need it.
if "PYTEST_XDIST_WORKER" in os.environ:
    from duotok.pool import context

    context(("torch.distributed.fsdp", "accelerate", "pyarrow.parquet", "duotok.training.stages.registry"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, alone or in company."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries still draw from it)
    # torch.manual_seed does both; where there is no GPU it writes down, for a later one, which calls led to it: slow.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
    if torch.get_num_threads() != 1:  # as a command of an earlier test chose
        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What has been imported by now stays: there is no garbage in it to look for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 100)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        if found is None:
            pytest.skip("no Chromium that starts")
        yield found

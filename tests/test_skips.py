"""The summary of a run tells how many tests were skipped for which reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
@pytest.mark.skipif(True, reason="no ../shared/audio beside the project")
@pytest.mark.parametrize("n", range(3))
def test_a(n): ...
def test_b(): pytest.skip("another")
def test_c(): ...
"""


def test_reasons_are_told_by_number(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.skips", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("skipped, ")] == [
        "skipped, 1: another", "skipped, 3: no ../shared/audio beside the project",
    ]  # fmt: skip

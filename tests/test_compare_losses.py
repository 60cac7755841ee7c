"""`scripts/compare_losses` sees what two commits do differently: a small repository with golden values of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_losses"
GOLDEN = "from duotok import LOSSES\nfrom pathlib import Path\nPath('tests/training/golden.json').write_text(LOSSES)\n"
TOKENS = (
    "from duotok import TOKENS\nfrom pathlib import Path\nPath('tests/codec/golden_tokens.json').write_text(TOKENS)\n"
)

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(repository: Path, losses: str, tokens: str) -> str:
    (repository / "src" / "duotok.py").write_text(f"LOSSES = '{losses}'\nTOKENS = '{tokens}'\n")
    git(repository, "add", "-A")
    git(repository, "commit", "--allow-empty", "-qm", "change")
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What the script needs of a checkout, in a repository of its own."""
    root = tmp_path / "repository"
    for name, text in (
        ("tests/training/golden.py", GOLDEN), ("tests/codec/test_golden_tokens.py", TOKENS),
        ("tests/training/golden.json", "{}"), ("tests/codec/golden_tokens.json", "{}"), ("src/duotok.py", ""),
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "scripts").mkdir()
    shutil.copy(SCRIPT, root / "scripts")
    git(tmp_path, "init", "-q", str(root))
    return root


def compare(repository: Path, *commits: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(repository / "scripts" / "compare_losses"), *commits]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert git(repository, "worktree", "list").count("\n") == 0, "a worktree is left"
    return done


SAME = '{"stage1": [1.0, 2.0], "stage2": [3.0]}'
CODES = '{"tokens": {"vocals": [' + ", ".join(["5"] * 2000) + "]}}"


def test_equal_commits_are_equal(repository: Path) -> None:
    before = commit(repository, SAME, CODES)
    commit(repository, SAME.replace("2.0", "2.00001"), CODES.replace("5]", "6]"))  # 5e-6, and one token of two thousand
    done = compare(repository, before)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["stage", "largest", "difference"], ["stage1", "5.00e-06"], ["stage2", "0.00e+00"],
        ["track", "equal", "tokens"], ["vocals", "99.95%"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "tokens", "line"),
    [
        (SAME.replace("3.0", "3.00004"), CODES, "stage2 1.33e-05 differs"),
        ('{"stage1": [1.0, 2.0]}', CODES, "stage2 inf differs"),
        (SAME.replace("[3.0]", "[3.0, 3.0]"), CODES, "stage2 inf differs"),
        (SAME.replace("3.0", "NaN"), CODES, "stage2 inf differs"),
        (SAME, CODES.replace("[5, 5, 5, 5", "[5, 6, 6, 6"), "vocals 99.85% differs"),
        (SAME, CODES.replace("vocals", "accompaniment"), "vocals 0.00% differs"),
    ],
)
def test_a_difference_is_told(repository: Path, losses: str, tokens: str, line: str) -> None:
    before = commit(repository, SAME, CODES)
    done = compare(repository, before, commit(repository, losses, tokens))
    assert done.returncode == 1, done.stderr
    assert line in [" ".join(row.split()) for row in done.stdout.splitlines()]


def test_a_commit_that_cannot_be_measured_is_one_line(repository: Path) -> None:
    before = commit(repository, SAME, CODES)
    unknown = compare(repository, before, "nowhere")
    assert unknown.returncode == 2 and unknown.stderr.splitlines()[-1].startswith("error: git worktree: ")
    (repository / "tests" / "training" / "golden.py").write_text("raise SystemExit('broken here')\n")
    broken = compare(repository, before, commit(repository, SAME, CODES))
    assert broken.returncode == 2
    assert broken.stderr.splitlines()[-1].endswith("python -m tests.training.golden --write failed (broken here)")
    (repository / "tests" / "training" / "golden.json").unlink()
    lost = compare(repository, before, commit(repository, SAME, CODES))
    assert lost.returncode == 2 and "it has no tests/training/golden.json" in lost.stderr

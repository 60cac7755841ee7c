"""`benchmarks.preparation`: only what it made itself is made anew."""

from pathlib import Path

import pytest
from benchmarks.preparation import anew


def test_folders_of_the_user_stay(tmp_path: Path) -> None:
    mine = tmp_path / "scratch" / "work"
    mine.mkdir(parents=True)
    with pytest.raises(SystemExit, match="work: is there, and not of this benchmark"):
        anew(tmp_path / "scratch", tmp_path / "scratch" / "tree", mine)
    assert mine.is_dir()
    mine.rmdir()
    anew(tmp_path / "scratch", mine)
    (mine / "below").mkdir(parents=True)
    anew(tmp_path / "scratch", mine)
    assert not mine.exists()

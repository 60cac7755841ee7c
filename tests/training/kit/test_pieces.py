"""A tar in pieces: it comes back as it was, and what is missing or damaged is named."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from duotok.training.kit import start
from duotok.training.kit.pieces import cut, entries
from duotok.training.kit.start import damage, unpack

SIZES = {"a/one": 0, "a/two": 1, "three": 10_240, "b/c/four": 70_001}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(size))
    return tmp_path / "tree"


def pieces_of(tree: Path, folder: Path, size: int) -> list[dict[str, object]]:
    folder.mkdir()
    return cut(((name, tree / name) for name in SIZES), folder, "p-", size)


@pytest.mark.parametrize("size", [1_000, 10_240, 99_999, 10_000_000])
def test_pieces_are_below_the_size_and_come_back_the_same(tree: Path, tmp_path: Path, size: int) -> None:
    made = pieces_of(tree, tmp_path / "cut", size)
    files = sorted((tmp_path / "cut").iterdir())
    assert [piece["name"] for piece in made] == [path.name for path in files]
    assert all(path.stat().st_size <= size for path in files)
    assert damage(tmp_path / "cut", made) == ""
    unpack(files, tmp_path / "again")
    assert damage(tmp_path / "again", entries(tree, SIZES)) == ""
    assert {p.relative_to(tmp_path / "again").as_posix() for p in (tmp_path / "again").rglob("*") if p.is_file()} == {
        *SIZES
    }


def test_the_same_files_give_the_same_pieces(tree: Path, tmp_path: Path) -> None:
    first = pieces_of(tree, tmp_path / "first", 9_000)
    for name in SIZES:
        (tree / name).touch()
    assert pieces_of(tree, tmp_path / "second", 9_000) == first


def test_what_is_missing_and_what_is_damaged_is_named(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    made = pieces_of(tree, folder, 20_000)
    (folder / "p-002").unlink()
    data = bytearray((folder / "p-003").read_bytes())
    data[77] ^= 1
    (folder / "p-003").write_bytes(data)
    assert damage(folder, made) == f"{folder}: p-002 is missing and p-003 is damaged (of {len(made)})"


def test_a_tar_that_would_leave_its_folder_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad", "w") as tar:
        member = tarfile.TarInfo("../outside")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(tarfile.FilterError):
        unpack([tmp_path / "bad"], tmp_path / "inside")
    assert not (tmp_path / "outside").exists()


def test_what_runs_before_the_packages_needs_no_packages() -> None:
    """The script and what it imports live on the standard library: -S leaves the installed packages out."""
    source = Path(start.__file__).parents[3]
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r}); import duotok.training.kit.script; "
        "print(*(m for m in ('typer', 'torch', 'numpy', 'yaml', 'packaging') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""

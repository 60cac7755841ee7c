"""`make demo SONG=...` hands every name on as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize(
    "name",
    ["plain.mp3", "my song.mp3", 'it\'s "mine".mp3', "a$HOME.mp3", "$(shell touch x).mp3", "-x.mp3", "a;b&c#d.mp3", ""],
)
def test_any_name_of_a_song(name: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "duotok"
    command.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    command.chmod(0o755)
    (tmp_path / "bin" / ".core").touch()
    given = [f"SONG={name}"] if how == "argument" else []
    environment = {**os.environ, "SONG": name} if how == "environment" else dict(os.environ)
    done = subprocess.run(
        ["make", "-s", "-f", str(ROOT / "Makefile"), "-C", str(ROOT), "demo", f"VENV={tmp_path}", "OUT=my demo", *given],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heard = done.stdout.splitlines()
    found = [line for line in heard if "directory" not in line]
    assert found == ["demo", "-o", "my demo", *(["--", name] if name else [])]

"""docs/tutorial.md as a newcomer follows it: every line of it is run, in order, on a folder of made songs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.bundle import is_bundle

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
RATE = 24_000
SECONDS = 11
SONGS = 5


def make_songs(folder: Path) -> None:
    """Songs as the page asks for: two stems each, a gliding voice over chords, no two alike."""
    folder.mkdir()
    t = np.arange(RATE * SECONDS) / RATE
    for n in range(1, SONGS + 1):
        rng = np.random.default_rng(n)
        pitch = 220 * 2 ** (np.round(4 * np.sin(2 * np.pi * t * rng.uniform(0.1, 0.4))) / 6)
        voice = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * (np.sin(2 * np.pi * t / 4) > -0.7)
        chord = sum(np.sin(2 * np.pi * f * rng.uniform(0.9, 1.1) * t) for f in (110, 165, 220)) * 0.06
        beat = 0.05 * rng.standard_normal(len(t)) * np.exp(-8 * (t % 0.5))
        soundfile.write(folder / f"song-{n}.vocals.flac", voice, RATE)
        soundfile.write(folder / f"song-{n}.accompaniment.flac", chord + beat, RATE)


def steps() -> list[tuple[str, str]]:
    """Language and text of every block of the page, in order; continued lines joined."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)
    return [(language, re.sub(r"\\\n\s*", "", text)) for language, text in blocks]


def run_shell(text: str, variables: dict[str, str]) -> None:
    """Assignments and commands of duotok, as a shell would do them."""
    for line in text.splitlines():
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        if assigned := re.fullmatch(r'([A-Z]+)="(.*)"', line):
            variables[assigned[1]] = assigned[2]
            continue
        assert "$" not in line, f"{line}: a variable that was not set"
        command, *words = shlex.split(line)
        assert command == "duotok", f"{line}: this test runs duotok only"
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_tutorial_leads_to_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_songs(Path("songs"))
    variables: dict[str, str] = {}
    for language, text in steps():
        if language == "python":
            exec(compile(text, "tutorial.md", "exec"), {})
        else:
            run_shell(text, variables)
    assert is_bundle(Path("mine"))
    assert soundfile.info("again.wav").frames == SECONDS * 48_000
    assert Path("report/index.html").is_file() and Path("work/report/index.html").is_file()
    assert all(f"`{name}" not in PAGE or Path(name).exists() for name in ("work/shards", "report/index.html"))


def test_the_page_has_every_step() -> None:
    text = "\n".join(block for _, block in steps())
    for command in ("data prepare", "train stage1", "train stage4", "bundle", "encode", "decode", "demo"):
        assert f"duotok {command}" in text
    assert any(language == "python" for language, _ in steps())

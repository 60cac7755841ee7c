"""The players and the mixer of the report page, run for real where there is a JavaScript engine."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from duotok.demo.page import TEMPLATE
from duotok.pages.rendering import SHARED

STYLES = (SHARED / "page.css", TEMPLATE.with_name("demo.css"))


def run(harness: str, script: Path) -> dict[str, object]:
    """What a harness of this folder found out about a script of the page. Skips without node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    command = [node, str(Path(__file__).with_name(harness)), str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return run("page_harness.js", TEMPLATE.with_name("demo.js"))


def test_players_share_a_position_until_one_is_moved_by_hand(found: dict[str, object]) -> None:
    assert found["goesOn"] == 4 and found["paused"], "another player goes on where the last one was"
    assert found["dragged"] == 2, "a player that was dragged plays from there"
    assert found["after"] == 2


def test_pictures_work_by_key_and_by_mouse(found: dict[str, object]) -> None:
    assert (found["key"], found["home"], found["click"]) == (3, 0, 5)
    assert found["end"] == 10, "the script takes the length of the song from the page"


def test_the_mixer_mutes_solos_and_matches_loudness(found: dict[str, object]) -> None:
    """Gains of vocals before and after, accompaniment before and after; what came out is 6 dB softer."""
    assert found["a"] == [1, 0, 1, 0] and found["b"] == [0, 1, 0, 1]
    assert found["equal"] == pytest.approx([10 ** (-6 / 20), 0, 10 ** (-6 / 20), 0], abs=1e-3)
    assert found["muted"] == pytest.approx([0, 0, 10 ** (-6 / 20), 0], abs=1e-3)
    assert found["solo"] == pytest.approx([10 ** (-6 / 20), 0, 0, 0], abs=1e-3)
    assert found["pressed"] == ["false", "true", "false", "false"]


def test_a_phone_is_told_of_what_it_cuts() -> None:
    """Tables of 500 and of 300 points in frames of 300; then the frames get 600."""
    assert run("tables_harness.js", SHARED / "tables.js") == {"narrow": [True, False], "wide": [False, False]}
    style = "".join(path.read_text(encoding="utf-8") for path in STYLES)
    assert ".wide.more::after" in style and "scroll sideways" in style and "white-space:normal" in style

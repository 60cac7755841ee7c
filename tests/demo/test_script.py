"""The players and the mixer of the report page, run for real where there is a JavaScript engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from string import Template

import pytest

from duotok.demo.script import SCRIPT
from duotok.demo.template import STYLE


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    script = tmp_path_factory.mktemp("page") / "script.js"
    script.write_text(Template(SCRIPT).substitute(seconds="10.0"))
    done = subprocess.run(
        [node, str(Path(__file__).with_name("page_harness.js")), str(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_players_share_a_position_until_one_is_moved_by_hand(found: dict[str, object]) -> None:
    assert found["goesOn"] == 4 and found["paused"], "another player goes on where the last one was"
    assert found["dragged"] == 2, "a player that was dragged plays from there"
    assert found["after"] == 2


def test_pictures_work_by_key_and_by_mouse(found: dict[str, object]) -> None:
    assert (found["key"], found["home"], found["click"]) == (3, 0, 5)


def test_the_mixer_mutes_solos_and_matches_loudness(found: dict[str, object]) -> None:
    """Gains of vocals before and after, accompaniment before and after; what came out is 6 dB softer."""
    assert found["a"] == [1, 0, 1, 0] and found["b"] == [0, 1, 0, 1]
    assert found["equal"] == pytest.approx([10 ** (-6 / 20), 0, 10 ** (-6 / 20), 0], abs=1e-3)
    assert found["muted"] == pytest.approx([0, 0, 10 ** (-6 / 20), 0], abs=1e-3)
    assert found["solo"] == pytest.approx([10 ** (-6 / 20), 0, 0, 0], abs=1e-3)
    assert found["pressed"] == ["false", "true", "false", "false"]


def test_a_phone_is_told_of_what_it_cuts() -> None:
    assert "scroll sideways" in STYLE and "white-space:normal" in STYLE
    assert re.search(r'toggle\("more", \w+\.scrollWidth > \w+\.clientWidth', SCRIPT)

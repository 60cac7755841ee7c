"""The benchmarks that kill: they kill what they say, as often as they say, and compare every file of what is left."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from benchmarks import kills, two_nodes
from duotok.cli.main import app

SLEEPS = "sleep 300 & sleep 300 & wait"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(over: Callable[[], bool]) -> None:
    """A signal takes a moment."""
    until = time.monotonic() + 60
    while not over():
        assert time.monotonic() < until, "they live on"
        time.sleep(0.01)


@pytest.fixture
def work(tmp_path: Path) -> list[str]:
    """A command that notes each run and, in the first three, works until it is killed."""
    path = tmp_path / "work.sh"
    path.write_text(
        f"mkdir -p {tmp_path}/store/ledger; echo run >> {tmp_path}/store/ledger/train.jsonl\n"
        f'[ "$(wc -l < {tmp_path}/store/ledger/train.jsonl)" -gt 3 ] && exit 0\n'
        "while :; do :; done\n"
    )
    return ["bash", str(path)]


def test_a_command_is_killed_so_often_and_then_ends_by_itself(
    work: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = kills.killed(work, tmp_path / "store", 3, 0.02, random.Random(0))
    assert counts == {"driver": 3, "worker": 0, "runs": 4} and kills.rows(tmp_path / "store") == 4
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [row["left"] for row in said] == [2, 1, 0] and [row["rows"] for row in said] == [1, 2, 3]


def test_members_of_a_session_are_its_other_processes() -> None:
    process = subprocess.Popen(["bash", "-c", SLEEPS], start_new_session=True)
    try:
        while len(kills.members(process.pid)) < 2:
            assert process.poll() is None
        found = kills.members(process.pid)
        assert len(found) == 2 and process.pid not in found and os.getpid() not in found
        while not all(kills.titled(pid, "sleep") for pid in found):
            assert process.poll() is None
        assert not any(kills.titled(pid, "_Computer") for pid in found)
    finally:
        two_nodes.kill(process)
    ended(lambda: not kills.members(process.pid))


def test_a_node_is_killed_with_all_that_it_started() -> None:
    process = subprocess.Popen(["bash", "-c", f"bash -c '{SLEEPS}; true' & {SLEEPS}"])
    while len(two_nodes.children(process.pid)) < 5:
        assert process.poll() is None
    below = two_nodes.children(process.pid)
    two_nodes.kill(process)
    assert process.returncode == -9
    ended(lambda: not any(map(alive, below)))


def test_steps_and_checkpoints_of_a_run_are_read_from_its_folder(tmp_path: Path) -> None:
    assert two_nodes.lines(tmp_path, "train") == [] and two_nodes.checkpoints(tmp_path) == []
    rows = [{"kind": "train", "step": 1}, {"kind": "held_out", "step": 2}, {"kind": "train", "step": 2}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (4, 2):
        (tmp_path / f"checkpoint-{step:08d}").mkdir()
        (tmp_path / f"checkpoint-{step:08d}/state.json").write_text("{}")
    (tmp_path / "checkpoint-00000006").mkdir()  # not whole
    assert two_nodes.lines(tmp_path, "train") == [1, 2]
    assert two_nodes.checkpoints(tmp_path) == ["checkpoint-00000002", "checkpoint-00000004"]


def test_the_command_that_is_killed_has_options_that_exist(tmp_path: Path) -> None:
    options = Namespace(engine="ray", workers=3, model="other")
    _, _, module, name, *words = kills.command(["music"], tmp_path, options)
    assert (module, name) == ("duotok", "tokenize")
    command = get_command(app).commands["tokenize"]  # type: ignore[attr-defined]
    with command.make_context("tokenize", words) as context:
        given = context.params
    assert (given["sources"], given["out"], given["shard_songs"]) == (["music"], tmp_path, 4)
    assert (given["engine"], given["workers"], given["model"]) == ("ray", 3, "other")


@pytest.mark.parametrize("differing", [[], ["manifest.json"]])
def test_every_file_of_both_stores_is_compared(
    differing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With stores that a script makes; in the second case it makes another one where it is run a second time."""
    script = (
        "import json, pathlib, sys; store = pathlib.Path(sys.argv[1]); again = store.exists() or 'killed' in store.name; "
        "store.mkdir(exist_ok=True); "
        f"facts = {{'totals': {{'songs': 1}}}} | ({{'more': 1}} if again and {bool(differing)} else {{}}); "
        "(store / 'manifest.json').write_text(json.dumps(facts)); (store / 'lock').write_text(str(again))"
    )
    monkeypatch.setattr(kills, "command", lambda sources, store, options: [sys.executable, "-c", script, str(store)])
    monkeypatch.setattr("sys.argv", ["kills", "music", "--kills", "0"])
    with pytest.raises(SystemExit) as left:
        kills.main()
    found = json.loads(capsys.readouterr().out)
    assert found["differing"] == differing and left.value.code == bool(differing)
    assert found["files"] == 1 and found["kills"] == {"driver": 0, "worker": 0, "runs": 1}

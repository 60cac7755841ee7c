"""The check of a device for songs by the thousand, tried on a CPU: it passes where tokens agree and fails where they do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.bulk_devices import Ran, Tokenizer, failing, shares
from tests.tiny import tiny_bundle
from typer.testing import CliRunner

from benchmarks import bulk_devices
from duotok.cli.main import app


def run_here(self: Tokenizer, store: str, device: str, *more: str) -> Ran:
    """The same command without the seconds of a new Python."""
    done = CliRunner().invoke(app, self.command(store, device, *more)[3:])
    return Ran(done.exit_code, json.loads(done.stdout), done.stderr, 1.0)


def test_all_of_it_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bulk.json"
    words = ["bulk_devices", "--device", "cpu", "--model", str(tiny_bundle(tmp_path)), "--songs", "4", "-o", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(bulk_devices.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(Tokenizer, "run", run_here)
    monkeypatch.setattr(bulk_devices, "BATCH", 2)
    monkeypatch.setattr(bulk_devices, "SHORTEST", 0.4)
    monkeypatch.setattr(bulk_devices, "LONGEST", 2.0)
    monkeypatch.setattr(
        Tokenizer, "killed", lambda self, store, device, songs, *more: bool(self.run(store, device, *more))
    )
    bulk_devices.main()
    found = json.loads(out.read_text())
    rows = {row["what"]: row for row in found["rows"]}
    for what in ("cpu, one at once", "cpu, batches of 2", "cpu, two processes", "cpu, killed and gone on"):
        assert rows[what]["values"] == {"vocals": 1.0, "accompaniment": 1.0} and rows[what]["needed"] == 1.0
    assert rows["cpu, --verify 3"]["values"] == {"tokens": 1.0, "songs": 3.0}
    assert rows["the same command once more"]["values"] == {"encoded": 0.0}
    assert all(row["passes"] for row in found["rows"]) and min(found["times_real_time"].values()) > 0


def test_a_song_that_is_not_there_or_has_another_length_is_unequal() -> None:
    def tokens(*codes: int) -> dict[str, np.ndarray]:
        return {"vocals": np.array([codes]), "accompaniment": np.zeros((1, len(codes)), int)}

    true = {"a": tokens(1, 2), "b": tokens(3, 4)}
    assert shares(true, {"a": tokens(1, 9), "b": tokens(3, 4)}) == {"vocals": 0.75, "accompaniment": 1.0}
    assert shares(true, {"a": tokens(1, 2)}) == {"vocals": 0.5, "accompaniment": 0.5}
    assert shares({"a": tokens(1, 2)}, true) == {"vocals": 0.5, "accompaniment": 0.5}
    assert shares(true, {"a": tokens(1, 2), "b": tokens(3, 4, 5)}) == {"vocals": 0.4, "accompaniment": 0.4}
    assert shares({}, {}) == {"vocals": 0.0, "accompaniment": 0.0}


@pytest.mark.parametrize(
    ("code", "said", "good"),
    [
        (1, "error: cuda:99 is not there\n", True),
        (0, "error: cuda:99 is not there\n", False),
        (1, "error: no such thing\n", False),
        (1, "Traceback (most recent call last):\n cuda:99\n", False),
    ],
)
def test_a_failure_is_one_line_with_its_reason(code: int, said: str, good: bool) -> None:
    row = failing("a device", Ran(code, {}, said, 1.0), ":99")
    assert row.passes is good


def test_a_run_that_failed_is_an_error_of_its_row(tmp_path: Path) -> None:
    tokenizer = Tokenizer(tmp_path, tmp_path, "mini")
    row = tokenizer.compared("a", "b", {}, "store", Ran(1, {}, "error: 3 failed\n", 1.0), None)
    assert not row.passes and "exit code 1: error: 3 failed" in row.error


def test_it_kills_a_run_once_so_many_songs_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = tmp_path / "store/ledger/train-000000.jsonl"
    ledger.parent.mkdir(parents=True)
    rows = f"for k in 1 2 3; do echo {{}} >> {ledger}; sleep 0.1; done"
    tokenizer = Tokenizer(tmp_path, tmp_path, "mini")
    monkeypatch.setattr(tokenizer, "command", lambda *given: ["sh", "-c", f"{rows}; sleep 300; echo {{}} >> {ledger}"])
    assert tokenizer.killed("store", "cpu", 3)
    assert len(ledger.read_text().splitlines()) == 3
    monkeypatch.setattr(tokenizer, "command", lambda *given: ["sh", "-c", rows])
    assert not tokenizer.killed("store", "cpu", 99), "it ends before so many"

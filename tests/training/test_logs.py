"""The log of a run after a kill or a full disk: nothing that was written is spoilt, and the run goes on."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
from tests.training.test_engine import Toy, config

from duotok.training.checkpoint import check_run
from duotok.training.engine import train
from duotok.training.logs import Log
from duotok.training.plot import read_history


def steps(path: Path) -> list[int]:
    """The steps of the lines that can be read."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line)["step"])
        except ValueError:
            found.append(-1)
    return found


@pytest.mark.parametrize("left", [0, 1, 10, 40])
def test_a_run_that_was_stopped_in_its_first_line_goes_on(left: int, tmp_path: Path) -> None:
    settings = config(steps=2, log_every=1, held_out_every=2)
    train(Toy(settings), tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    whole = log.read_bytes()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    checkpoint.rename(tmp_path / "elsewhere")
    log.write_bytes(whole[:left])
    check_run(tmp_path / "run")
    train(Toy(settings), tmp_path / "run")
    assert steps(log) == [-1] * (left > 0) + steps_of(whole)


def steps_of(data: bytes) -> list[int]:
    return [json.loads(line)["step"] for line in data.splitlines()]


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    """Else the note of a start is lost, and the curve goes back and forth."""
    settings = config(steps=8, log_every=1, save_every=4, held_out_every=4)
    train(Toy(settings), tmp_path / "run", stop_after=4)
    log = tmp_path / "run" / "log.jsonl"
    with log.open("a") as file:
        file.write(json.dumps({"step": 5, "kind": "train", "loss": 1.0}) + '\n{"step": 6, "kind": "tr')
    train(Toy(settings), tmp_path / "run")
    found, _ = read_history(tmp_path / "run").train["loss"]
    assert found.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_full_disk_names_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path, "toy", 0, 2)
    log.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        log.write(1, "train", loss=1.0)
    log.close()
    assert caught.value.filename == str(log.path)


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_tensorboard_on_a_full_disk_ends_no_run(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    hook, full = threading.excepthook, when == "from the start"
    written = []

    def write(self: object, data: bytes) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(data)

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", write)
    log = Log(tmp_path, "toy", 0, 100)
    full = True
    for step in range(1, 40):
        log.write(step, "train", loss=1.0)
    log.close()
    said = " ".join(capfd.readouterr().err.split())  # lines are as wide as a terminal
    assert len(steps(log.path)) == 39 and (when == "later") == bool(written)
    assert said.count("log.jsonl has the figures") == 1 and "Traceback" not in said
    assert threading.excepthook is hook

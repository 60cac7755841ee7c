"""A damaged checkpoint is told in one line and passed over; nothing that was changed on the disk is trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.test_engine import Toy, config

from duotok.errors import DuoTokError
from duotok.seals import seal
from duotok.training.checkpoint import WeightsOnly, best, best_so_far, checkpoints, latest, load_module, read_state
from duotok.training.engine import train
from duotok.training.kit.collect import pack
from duotok.training.kit.join import join_results


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped after 30 steps with two checkpoints, and the whole run beside it."""
    root = tmp_path_factory.mktemp("damage")
    settings = config(held_out_every=10, best="mse")
    train(Toy(settings), root / "run", stop_after=30)
    train(Toy(settings), root / "whole")
    return root


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(len(data) - 1, int(share * len(data)))] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "first byte": lambda path: flip(path, 0),
    "middle": lambda path: flip(path, 0.5),
    "last byte": lambda path: flip(path, 1),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),  # type: ignore[dict-item]
    "empty": lambda path: path.write_bytes(b""),  # type: ignore[dict-item]
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["net.safetensors", "optimizer.safetensors", "random.0000.safetensors", "state.json"])
def test_a_run_goes_on_from_the_newest_whole_checkpoint(
    name: str, damage: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    newest = latest(tmp_path / "run")
    assert newest.name == "checkpoint-00000030"
    DAMAGES[damage](newest / name)
    train(Toy(config(held_out_every=10, best="mse")), tmp_path / "run")
    assert "goes on from step 20" in capsys.readouterr().err
    made, whole = (load_file(latest(run) / "net.safetensors") for run in (tmp_path / "run", trained / "whole"))
    assert latest(tmp_path / "run").name == "checkpoint-00000060"
    assert all(torch.equal(made[key], whole[key]) for key in whole)


def test_where_nothing_is_whole_it_is_told_in_one_line(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    for path in checkpoints(tmp_path / "run"):
        flip(path / "optimizer.safetensors", 0.7)
    with pytest.raises(DuoTokError, match=r"none of \d checkpoints is whole .*another --runs") as caught:
        train(Toy(config()), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_run_with_weights_only_says_why_it_cannot_go_on(trained: Path, tmp_path: Path) -> None:
    pack(trained, ["run"], tmp_path / "results", 1 << 20, weights_only=True)
    join_results(tmp_path / "results", tmp_path / "runs")
    with pytest.raises(
        WeightsOnly, match=r"run: its checkpoints have weights only \(collected with --weights-only\)"
    ) as caught:
        train(Toy(config()), tmp_path / "runs" / "run")
    assert "\n" not in str(caught.value) and "none of" not in str(caught.value)
    load_module(latest(tmp_path / "runs" / "run") / "net.safetensors", Toy(config()).net)  # as later stages do
    shutil.copytree(trained / "run", tmp_path / "lost")
    for path in checkpoints(tmp_path / "lost"):
        (path / "optimizer.safetensors").unlink()  # but the generators are there: it was lost, and nobody left it out
    with pytest.raises(DuoTokError, match=r"none of \d checkpoints is whole .*optimizer.safetensors: missing"):
        train(Toy(config()), tmp_path / "lost")


def test_later_stages_take_no_changed_weights(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    path = latest(tmp_path / "run") / "net.safetensors"
    flip(path, 0.9)
    with pytest.raises(DuoTokError, match=r"net.safetensors: damaged .* delete that checkpoint"):
        load_module(path, Toy(config()).net)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"step": "x"}', '{"step": 20, "figure": "mse", "value": []}'])
def test_a_damaged_best_is_no_best(text: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    assert best_so_far(tmp_path / "run")
    (tmp_path / "run" / "best.json").write_text(text)
    assert best_so_far(tmp_path / "run") == {}
    assert best(tmp_path / "run") == latest(tmp_path / "run")
    train(Toy(config(held_out_every=10, best="mse")), tmp_path / "run")
    assert best_so_far(tmp_path / "run")["figure"] == "mse"


def test_a_changed_number_breaks_the_seals(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    for path, name in ((tmp_path / "run" / "best.json", "value"), (latest(tmp_path / "run") / "state.json", "step")):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, name: values[name] + 1}))
    assert best_so_far(tmp_path / "run") == {}
    assert latest(tmp_path / "run").name == "checkpoint-00000020"


def test_checkpoints_from_before_the_seals_are_read(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    state = latest(tmp_path / "run") / "state.json"
    values = json.loads(state.read_text())
    newer = ("seal", "sha256", "seconds", "reserve", "share", "parents")
    old = {name: value for name, value in values.items() if name not in newer} | {"format": 2}
    state.write_text(json.dumps(old))
    assert read_state(state.parent)["step"] == 30
    (state.parent / "optimizer.safetensors").write_bytes(b"cut")
    train(Toy(config()), tmp_path / "run", stop_after=40)
    assert (tmp_path / "run" / "damaged-checkpoint-00000030").is_dir()
    state.parent.mkdir(exist_ok=True)
    state.write_text(json.dumps(seal({**old, "format": 99, "sha256": {}})))
    with pytest.raises(DuoTokError, match="format 99"):
        read_state(state.parent)

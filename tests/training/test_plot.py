"""Learning curves: what is read from a log, what is drawn."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from duotok.errors import ConfigError
from duotok.training.plot import plot, read_history, smooth


def write_log(run: Path, lines: list[dict[str, object]], tail: str = "") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return run


def train_lines(first: int, last: int, **more: float) -> list[dict[str, object]]:
    return [
        {"step": step, "kind": "train", "loss": 5.0 / step, "mel": 1.0 / step, "lr": 1e-3, "rate": 2.0,
         "seconds": 0.5 * (step - first + 1), "waiting": 0.1, "gradient": 1.0, "gradient.net.up": 0.7, **more}
        for step in range(first, last + 1)
    ]  # fmt: skip


START = {"step": 0, "kind": "start", "processes": 1, "device": "cpu"}


def test_curves_and_speed(tmp_path: Path) -> None:
    run = write_log(tmp_path / "run", [START, *train_lines(1, 40), {"step": 20, "kind": "held_out", "loss": 0.3}])
    history = read_history(run)
    steps, values = history.train["loss"]
    assert steps.tolist() == list(range(1, 41)) and values[0] == 5.0
    assert history.held_out["loss"][1].tolist() == [0.3]
    assert history.speed[1] == pytest.approx(np.full(40, 2.0))
    assert history.last == 40


def test_what_was_done_again_counts_once(tmp_path: Path) -> None:
    resumed = {"step": 10, "kind": "start", "processes": 1, "device": "cpu"}
    lines = [START, *train_lines(1, 17), resumed, *train_lines(11, 20)]
    history = read_history(write_log(tmp_path / "run", lines))
    assert history.train["loss"][0].tolist() == list(range(1, 21))
    assert history.speed[1] == pytest.approx(np.full(20, 2.0))


def test_a_line_cut_off_by_a_kill_and_losses_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    lines = [START, *train_lines(1, 3), {"step": 4, "kind": "train", "loss": float("nan")}]
    history = read_history(write_log(tmp_path / "run", lines, '{"step": 5, "kind": "tra'))
    assert history.train["loss"][0].tolist() == [1, 2, 3]


def test_smoothing_keeps_lines_and_means() -> None:
    line = np.linspace(0, 1, 50)
    assert smooth(line, 9)[10:-10] == pytest.approx(line[10:-10])
    assert smooth(np.ones(7), 5) == pytest.approx(np.ones(7))
    assert smooth(np.array([3.0]), 5).tolist() == [3.0]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_picture_of_runs(tmp_path: Path, count: int) -> None:
    runs = []
    for i in range(count):
        held_out = {"step": 20, "kind": "held_out", "loss": 0.3, "distinct_vocals": 0.9}
        lines = [START, *train_lines(1, 40, distinct_vocals=0.5, use_vocals=0.1), held_out]
        runs.append(write_log(tmp_path / str(i) / "stage3", lines))
    plot(runs, tmp_path / "new" / "curves.png")
    picture = imread(tmp_path / "new" / "curves.png")
    assert picture.shape[0] > 300 and picture.shape[1] > 500
    assert picture[..., :3].std() > 0.02


def test_one_held_out_figure_is_enough(tmp_path: Path) -> None:
    plot([write_log(tmp_path / "run", [{"step": 5, "kind": "held_out", "loss": 1.0}])], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_folders_without_a_log_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing_here/log.jsonl: no log"):
        plot([tmp_path / "nothing_here"], tmp_path / "a.png")
    with pytest.raises(ConfigError, match="no losses in it yet"):
        plot([write_log(tmp_path / "run", [START])], tmp_path / "a.png")
    run = write_log(tmp_path / "run", [START, *train_lines(1, 3)])
    with pytest.raises(ConfigError, match=r"a.mp3.*name a .png"):
        plot([run], tmp_path / "a.mp3")
    assert not (tmp_path / "a.mp3").exists()


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_only_curves_are_replaced(ending: str, tmp_path: Path) -> None:
    run, picture = write_log(tmp_path / "run", [START, *train_lines(1, 3)]), tmp_path / f"a.{ending}"
    picture.write_bytes(b"my photograph")
    with pytest.raises(ConfigError, match="no learning curves; name another, or --force"):
        plot([run], picture)
    assert picture.read_bytes() == b"my photograph"
    plot([run], picture, force=True)
    plot([run], picture)  # its own
    assert picture.stat().st_size > 1000


def test_a_picture_without_an_ending_takes_no_other_file(tmp_path: Path) -> None:
    run, other = write_log(tmp_path / "run", [START, *train_lines(1, 3)]), tmp_path / "curves.png"
    other.write_bytes(b"my photograph")
    with pytest.raises(ConfigError, match=r"curves: a picture of no kind; name it curves\.png"):
        plot([run], tmp_path / "curves")
    assert other.read_bytes() == b"my photograph"


def test_names_of_runs_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [write_log(tmp_path / name, [START, *train_lines(1, 3)]) for name in ("_old", r"$\bad$")]
    shown = list[str]()
    monkeypatch.setattr(Axes, "legend", lambda axis, **_: shown.extend(axis.get_legend_handles_labels()[1]))
    plot(runs, tmp_path / "a.png")
    assert {" _old train", r"\$\bad\$ train"} <= {*shown}


def test_the_old_picture_stays_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    run, picture = write_log(tmp_path / "run", [START, *train_lines(1, 3)]), tmp_path / "a.png"
    plot([run], picture)
    before = picture.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # as a disk that is full after so many bytes
    try:
        with pytest.raises(ConfigError, match=r"a\.png: cannot be written \(File too large\); name another place"):
            plot([run], picture)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert picture.read_bytes() == before

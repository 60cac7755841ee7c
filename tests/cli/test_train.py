"""`duotok train` and `duotok plot` as a user types them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from tests.shards.shard_maker import make_shards, small_songs
from tests.training.small import stage1_config, stage2_config
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.shards.index import SegmentIndex
from duotok.training.checkpoint import read_state

DRY = ("--dry-run", "--measure", "0.1")
EVERYTHING = {"all": {"weight": 1}}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    make_shards(work / "shards", small_songs(8))
    return work


@pytest.fixture
def stage1(tmp_path: Path) -> Path:
    path = tmp_path / "stage1.yaml"
    values = stage1_config(steps=4, crops={"frames": 20}, mixture=EVERYTHING).model_dump(mode="json")
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_dry_run_needs_no_data_and_leaves_nothing(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    done = run("train", "stage1", "-c", stage1, *DRY)
    assert done.exit_code == 0, done.output
    for text in (
        "tokenizer.lower_blocks",
        "AdamW moments",
        "FLOPs backward",
        "days for all steps",
        "noise of full length",
    ):
        assert text in done.stdout
    assert files(tmp_path) == before


def test_a_dry_run_in_json_takes_overrides(stage1: Path) -> None:
    done = run("train", "stage1", "-c", stage1, *DRY, "--json", "--set", "steps=1000", "--set", "model.width=64")
    cost = json.loads(done.stdout)
    assert cost["steps"] == 1000 and cost["stage"] == "stage1"
    assert cost["parameters"]["bestrq.head"]["trained"] == 64 * 64 + 64
    assert cost["days"] == pytest.approx(1000 / cost["steps_per_second"] / 86_400)


def test_train_and_go_on_and_plot(stage1: Path, prepared: Path, tmp_path: Path) -> None:
    runs, before = tmp_path / "runs", files(prepared)
    dry = run("train", "stage1", "-c", stage1, "--data", prepared, "--runs", runs, *DRY)
    assert "will be derived first" in dry.stdout and "mel, chroma, levels" in dry.stdout
    assert files(prepared) == before and not runs.exists()
    first = run("train", "stage1", "-c", stage1, "--data", prepared, "--runs", runs, "--stop-after", 2)
    assert first.exit_code == 0, first.output
    checkpoint = runs / "stage1" / "checkpoint-00000002"
    assert read_state(checkpoint)["songs"] == SegmentIndex(prepared / "shards").split_hashes()
    again = run("train", "stage1", "-c", stage1, "--data", prepared, "--runs", runs, "--json")
    assert json.loads(again.stdout).keys() >= {"loss", "accuracy"}
    assert (runs / "stage1" / "checkpoint-00000004").is_dir()
    now = files(tmp_path) | files(prepared)
    dry = run("train", "stage1", "-c", stage1, "--data", prepared, "--runs", runs, *DRY, "--json")
    assert json.loads(dry.stdout)["notes"] == []  # measured on the true data
    assert files(tmp_path) | files(prepared) == now
    drawn = run("plot", runs / "stage1", "-o", tmp_path / "curves.png")
    assert drawn.exit_code == 0 and (tmp_path / "curves.png").stat().st_size > 10_000


def test_ctrl_c_saves_and_says_how_to_go_on(
    stage1: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seed: int, step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("duotok.training.engine.seed_step", interrupted)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a suite in the background hands down that it is ignored
    try:
        done = run("train", "stage1", "-c", stage1, "--data", prepared, "--runs", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    told = f"{tmp_path / 'stage1'}: interrupted, saved at step 2; the same command goes on from there"
    assert done.exit_code == 130 and done.stderr.splitlines()[-1] == told
    assert (tmp_path / "stage1" / "checkpoint-00000002").is_dir()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_cpu_may_derive_for_a_gpu_whatever_its_precision(
    precision: str, stage1: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duotok.training.processes.fast_half", lambda: False)
    words = [
        "train",
        "stage1",
        "-c",
        stage1,
        "--data",
        prepared,
        "--runs",
        tmp_path / "runs",
        "--set",
        f"precision={precision}",
    ]
    assert "all that it needs is in" in run(*words, "--prepare").stdout
    refused = run(*words)
    assert refused.exit_code == 1 and refused.stderr.rstrip().endswith("use precision: fp32")


def test_shards_may_lie_elsewhere_and_minutes_reach_the_run(stage1: Path, prepared: Path, tmp_path: Path) -> None:
    done = run(
        "train", "stage1", "-c", stage1, "--data", tmp_path / "new", "--shards", prepared / "shards",
        "--runs", tmp_path / "runs", "--stop-after", 1, "--minutes", 7.5,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "runs" / "stage1" / "config.json").read_text())["minutes"] == 7.5
    assert list((tmp_path / "new" / "derived").rglob("*.mel.npy"))


def test_a_dry_run_of_a_later_stage_says_what_is_missing(prepared: Path, tmp_path: Path) -> None:
    path = tmp_path / "stage2.yaml"
    path.write_text(yaml.safe_dump(stage2_config(mask_seconds=0, mixture=EVERYTHING).model_dump(mode="json")))
    copy = tmp_path / "work"
    make_shards(copy / "shards", small_songs(3))
    first = run("train", "stage2", "-c", path, "--data", copy, "--runs", tmp_path / "runs", *DRY)
    assert first.exit_code == 0 and "will be derived first" in first.stdout
    refused = run("train", "stage2", "-c", path, "--data", prepared, "--runs", tmp_path / "runs")
    assert refused.exit_code == 1 and "train that stage first" in refused.output
    dry = run("train", "stage2", "-c", path, "--data", prepared, "--runs", tmp_path / "runs", *DRY)
    assert dry.exit_code == 0 and "cannot start yet" in dry.stdout and "train that stage first" in dry.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "stage1"), "--data is missing"),
        (("train", "stage9"), "stage 'stage9' is unknown"),
        (("train", "stage1", "--set", "batchsize=3"), "did you mean 'batch_size'"),
        (("train", "stage1", *DRY, "--set", "accumulate=3"), "multiple of 3"),
        (("train", "stage1", *DRY, "--processes", "3"), "multiple of 3"),
        (("train", "stage1", "--data", "nowhere"), "nowhere/shards: no shards there"),
        (("train", "adapt", *DRY, "--set", "model={}"), "unknown key"),
    ],
)
def test_mistakes_are_told_in_one_line(stage1: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments[:2], "-c", stage1, *arguments[2:])
    assert done.exit_code == 1
    assert message in done.output
    assert len(done.stderr.splitlines()) <= 2


def test_plot_names_a_folder_without_a_log(tmp_path: Path) -> None:
    done = run("plot", tmp_path, "-o", tmp_path / "a.png")
    assert done.exit_code == 1 and "no log of a run there" in done.output

"""`duotok tokenize`, then `duotok train lm` on its store: costs, the same weights from other processes, and after a stop."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file
from tests.tiny import song
from typer.testing import CliRunner, Result

from duotok.cli.main import app
from duotok.lm.config import LMConfig
from duotok.training.checkpoint import latest

STEPS = 3


def call(*words: object) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def store(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    for number in range(6):
        path = folder / "music" / ("validation" if number == 5 else "train") / f"s{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, song(1.5 + 0.1 * number, seed=number).numpy().T, 48_000)
    call("tokenize", folder / "music", "-o", folder / "tokens", "--model", bundle, "--shard-songs", 2)
    return folder / "tokens"


@pytest.fixture
def config(tmp_path: Path, store: Path) -> Path:
    path = tmp_path / "lm.yaml"
    model = LMConfig(hidden=16, layers=1, heads=2, kv_heads=1, ffn=32).model_dump(mode="json")
    values = {
        "steps": STEPS, "batch_size": 4, "lr": 1e-2, "warmup": 1, "model": model, "data": str(store), "device": "cpu", "seconds": 1.0,
        "shortest": 0.4, "prefix_seconds": 0.2, "save_every": 1, "held_out_every": STEPS, "log_every": 1, "tables": "codec",
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = latest(run)
    assert newest.name == f"checkpoint-{STEPS:08d}"
    return load_file(newest / "lm.safetensors")


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_on_a_store_tells_the_cost_and_writes_nothing(
    config: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path), contents(store.parent)
    dry = ("train", "lm", "-c", config, "--runs", tmp_path / "runs", "--dry-run", "--measure", 0)
    cost = json.loads(call(*dry, "--json").stdout)
    assert cost["steps"] == STEPS and cost["days"] == pytest.approx(STEPS / cost["steps_per_second"] / 86_400)
    assert any(note.startswith("5 songs of") for note in cost["notes"])
    text = call(*dry, "--set", "steps=70").stdout
    assert "one step of 70" in text and "FLOPs backward" in text and "5 songs of" in text
    assert (contents(tmp_path), contents(store.parent)) == before


def test_what_is_about_shards_trains_on_nothing_else_in_silence(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--data other.parquet` trained on the tokens of the config, and so did `--prepare`."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "lm", "-c", str(config), "--runs", "runs"]
    for option in ("--data", "--shards"):
        done = CliRunner().invoke(app, [*words, option, "other.parquet"])
        assert done.exit_code == 1 and "--set data=FILE" in done.output
    assert "derives nothing" in call(*words, "--prepare").stdout
    assert not (tmp_path / "runs").exists()


def test_a_loader_of_its_own_and_a_stop_in_the_middle_change_no_weight(config: Path, tmp_path: Path) -> None:
    def train(name: str, *more: object) -> Path:
        call("train", "lm", "-c", config, "--runs", tmp_path / name, *more)
        return tmp_path / name / "lm"

    def of_children() -> int:
        """Pages that processes of this one have used, those that have ended."""
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt

    whole = train("whole")
    before = of_children()
    apart = train("apart", "--set", "loader_workers=1")
    assert of_children() > before, "batches come from another process"
    stopped = train("stopped", "--stop-after", 1)
    assert latest(stopped).name == "checkpoint-00000001"
    train("stopped")
    assert len(losses(whole)) == STEPS and losses(whole)[0] != losses(whole)[-1]
    expected = weights(whole)
    for run in (apart, stopped):
        found = weights(run)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
        assert losses(run) == losses(whole)

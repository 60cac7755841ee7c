"""Every stage in two gloo processes: the losses of each step, and the weights, are those of one process."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.launch import finish, start
from tests.training.small import make
from tests.training.stages.test_stage4 import config, fill
from tests.training.stages.test_stage4 import make as make_stage4

from duotok.errors import ConfigError
from duotok.shards.store import ShardStore
from duotok.training.checkpoint import latest
from duotok.training.engine import train
from duotok.training.processes import leave
from duotok.training.stage import Stage

HERE = Path(__file__)
STAGES = ("stage1", "stage2", "stage3", "stage4", "autoencoder", "separator")
STEPS = 2
FIRST = ("stage1", "stage2")  # what the others start from


def build(name: str, store: ShardStore, runs: Path, sharding: str = "none") -> Stage:
    changes: dict[str, object] = {"steps": STEPS, "batch_size": 4, "sharding": sharding}
    if name == "stage4":
        return make_stage4(store, **{**config().model_dump(), "silence": 0.5, **changes})
    if name == "stage3" and sharding == "fsdp":
        changes |= {"fit_batches": 0, "refit_at": ()}
    return make(name, store, runs, **changes)


def run_all(store: ShardStore, runs: Path, out: Path, sharding: str = "none") -> None:
    for name in STAGES:
        train(build(name, store, runs, sharding), out / name)


def test_same_losses_and_weights(data: Path, tmp_path: Path) -> None:
    """One test for all stages: their two processes are started once."""
    store = ShardStore(data / "shards", data / "derived")
    fill(store)
    for name in FIRST:
        train(build(name, store, tmp_path / "before"), tmp_path / "before" / name)
    run_all(store, tmp_path / "before", tmp_path / "one")
    train(build("stage3", store, tmp_path / "before", "fsdp"), tmp_path / "one" / "stage3 without fits")
    finish(start(HERE, str(data), str(tmp_path / "before"), str(tmp_path / "two")))
    for name in STAGES:
        compared = _compare(name, tmp_path / "one" / name, tmp_path / "two" / name)
        assert compared > 0, f"{name}: no weights to compare"
        alone = tmp_path / "one" / ("stage3 without fits" if name == "stage3" else name)
        assert _compare(f"{name}, sharded", alone, tmp_path / "two/sharded" / name) == compared


def _compare(name: str, alone: Path, together: Path) -> int:
    """How many tensors of two runs were compared, after their losses."""
    compared = 0
    one, two = _figures(alone), _figures(together)
    assert len(one) == len(two) == STEPS, name
    for a, b in zip(one, two, strict=True):
        figures = {k for k in a if not k.startswith("gradient.")} - {
            "rate",
            "seconds",
            "waiting",
            "items_per_second",
            "kind",
        }
        assert {k: b[k] for k in figures} == pytest.approx({k: a[k] for k in figures}, rel=2e-3, abs=2e-4)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    for path in latest(alone).glob("*.safetensors"):
        if path.stem == "optimizer" or path.stem.startswith("random"):
            continue
        a, b = load_file(path), load_file(latest(together) / path.name)
        for key in a:
            # Adam's first steps divide by the size of a gradient: what is near zero may turn round
            torch.testing.assert_close(
                a[key].float(), b[key].float(), rtol=5e-2, atol=2e-3, msg=f"{name} {path.stem} {key}"
            )
            compared += 1
    return compared


def _figures(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    work, before, out = map(Path, sys.argv[1:])
    store = ShardStore(work / "shards", work / "derived")
    run_all(store, before, out)
    run_all(store, before, out / "sharded", "fsdp")
    try:
        train(make("stage3", store, before, steps=2, batch_size=4, sharding="fsdp"), out / "fitted")
    except ConfigError as error:
        assert "set sharding=none" in str(error)
    else:
        raise AssertionError("codebooks were fitted to parts of weights")
    leave()

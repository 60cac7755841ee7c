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

from duotok.shards.store import ShardStore
from duotok.training.checkpoint import latest
from duotok.training.engine import train
from duotok.training.stage import Stage

HERE = Path(__file__)
STAGES = ("stage1", "stage2", "stage3", "stage4", "autoencoder", "separator")
STEPS = 2
FIRST = ("stage1", "stage2")  # what the others start from


def build(name: str, store: ShardStore, runs: Path) -> Stage:
    if name == "stage4":
        return make_stage4(store, **{**config().model_dump(), "batch_size": 4, "steps": STEPS, "silence": 0.5})
    changes: dict[str, object] = {"steps": STEPS, "batch_size": 4}
    return make(name, store, runs, **changes)


def run_all(store: ShardStore, runs: Path, out: Path) -> None:
    for name in STAGES:
        train(build(name, store, runs), out / name)


@pytest.fixture(scope="module")
def both(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of runs by one process and by two."""
    store, root = ShardStore(data / "shards", data / "derived"), tmp_path_factory.mktemp("both")
    fill(store)
    for name in FIRST:
        train(build(name, store, root / "before"), root / "before" / name)
    run_all(store, root / "before", root / "one")
    finish(start(HERE, str(data), str(root / "before"), str(root / "two")))
    return root / "one", root / "two"


@pytest.mark.parametrize("name", STAGES)
def test_same_losses_and_weights(name: str, both: tuple[Path, Path]) -> None:
    one, two = (_figures(run / name) for run in both)
    assert len(one) == len(two) == STEPS
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
    for path in latest(both[0] / name).glob("*.safetensors"):
        if path.stem == "optimizer" or path.stem.startswith("random"):
            continue
        a, b = load_file(path), load_file(latest(both[1] / name) / path.name)
        for key in a:
            # Adam's first steps divide by the size of a gradient: what is near zero may turn round
            torch.testing.assert_close(a[key].float(), b[key].float(), rtol=5e-2, atol=2e-3, msg=f"{path.stem} {key}")


def _figures(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    work, before, out = map(Path, sys.argv[1:])
    run_all(ShardStore(work / "shards", work / "derived"), before, out)

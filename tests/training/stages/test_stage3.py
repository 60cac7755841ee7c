"""Stage 3's own figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.training.small import stage3_config

from duotok.distributed import world
from duotok.errors import ConfigError
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.stage import evaluate
from duotok.training.stages.stage3 import HELD_OUT_BATCHES, Stage3


def test_held_out_figures_do_not_depend_on_how_many_processes_look(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks at whole batches: `distinct_TRACK` was half as large with two of them, which count the same."""
    stage = Stage3(stage3_config(), store, None)
    one = evaluate(stage)
    assert one["distinct_vocals"] > 0 < one["distinct_accompaniment"]
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cpu:gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.mul_(2))  # the other has the same numbers
    assert world() == 2
    assert evaluate(stage) == pytest.approx(one)


def test_the_held_out_mel_of_each_track_is_that_of_its_crops(store: ShardStore) -> None:
    """Table 9 has a mean and a deviation for each track; `mel` alone mixed them."""
    stage = Stage3(stage3_config(batch_size=4), store, None)
    for _ in range(2):  # what an earlier look has seen does not count
        figures = evaluate(stage)
    errors: dict[str, list[float]] = {name: [] for name in TRACKS}
    frames, summed = 0, 0.0
    for index in range(HELD_OUT_BATCHES):
        batch = stage.held_out_crops.batch(index, range(4))
        with torch.no_grad():
            heads = stage.tokenizer.stage3(
                stage.tokenizer.lower(batch["mel"], batch["lengths"]), batch["track"], batch["lengths"]
            )[0]
        for item in range(4):
            length = 4 * int(batch["lengths"][item])
            gap = np.abs(heads["mel"][item].numpy() - batch["mel"][item].numpy())[:length]
            errors[TRACKS[int(batch["track"][item])]].append(gap.mean())
            frames, summed = frames + length, summed + length * gap.mean()
    for name in TRACKS:
        assert figures[f"mel_{name}"] == pytest.approx(np.mean(errors[name]), abs=2e-5)
        assert figures[f"mel_{name}_deviation"] == pytest.approx(np.std(errors[name]), abs=2e-5) and np.std(
            errors[name]
        )
    assert figures["mel"] == pytest.approx(summed / frames, abs=2e-5)


@pytest.mark.parametrize(
    "changes", [{"fit_batches": 1}, {"fit_batches": 0, "refit_at": (0.5,)}, {"fit_batches": 0, "refit_steps": (3,)}]
)
def test_fits_to_parts_of_weights_are_refused_before_weights_are_shared(
    store: ShardStore, changes: dict[str, object]
) -> None:
    stage = Stage3(stage3_config(sharding="fsdp", **changes), store, None)
    stage.check(1)
    with pytest.raises(ConfigError, match="set sharding=none"):
        stage.check(2)
    Stage3(stage3_config(sharding="none", **changes), store, None).check(2)
    Stage3(stage3_config(sharding="fsdp", fit_batches=0), store, None).check(2)

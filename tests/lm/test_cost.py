"""What training costs: counting without data equals counting with them, and a dry run says all of it and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.lm.small import CODEC, TINY, corpus, songs
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.lm.stage import LMStage, LMStageConfig
from duotok.lm.token_store import open_tokens
from duotok.training.cost.counting import Counted, count


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LMStageConfig:
    data = corpus(tmp_path_factory.mktemp("tokens"), CODEC, songs(CODEC, 6, 75))
    values = {"steps": 50, "batch_size": 4, "model": TINY.model_dump(), "data": data, "device": "cpu", "seconds": 4.0}
    return LMStageConfig.model_validate({**values, "shortest": 2.0, "prefix_seconds": 0.2})


@pytest.mark.parametrize("protocol", ["parallel", "track_to_track"])
def test_counting_without_data_equals_counting_with_them(config: LMStageConfig, protocol: str) -> None:
    chosen = config.model_copy(update={"protocol": protocol})

    def counted(large: int) -> Counted:
        return count(lambda: LMStage(chosen, open_tokens(config.data)), config.batch_size, large=large)[0]

    true = counted(1 << 60)  # nothing is that large: all data are real
    assert true.forward > 0 and true.backward > 0 and true.activations > 0
    assert counted(64) == true


@pytest.mark.parametrize(("protocol", "steps"), [("parallel", 1), ("track_to_track", 2), ("aligned", 1)])
def test_padding_and_a_source_are_not_counted_as_music(config: LMStageConfig, protocol: str, steps: int) -> None:
    """With a source in front, twice the sound was counted, and half of what scoring takes."""
    stage = LMStage(config.model_copy(update={"protocol": protocol}))
    picked = stage.pick(0, range(4))
    frames, padding = stage.lengths_of(stage.batch(0, range(4)))
    lengths = [piece.stop - piece.start for piece in picked]
    assert frames == sum(lengths) and len({*lengths}) > 1
    assert padding == pytest.approx(1 - (steps * sum(lengths) + 4) / (4 * (steps * max(lengths) + 1)))


def test_a_dry_run_tells_the_cost_and_writes_nothing(config: LMStageConfig, tmp_path: Path) -> None:
    path = tmp_path / "lm.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    words = ["train", "lm", "-c", str(path), "--runs", str(tmp_path / "runs"), "--dry-run", "--measure", "0", "--json"]
    done = CliRunner().invoke(app, [*words, "--set", "accumulate=2", "--processes", "2"], catch_exceptions=False)
    cost = json.loads(done.stdout)
    assert cost["steps"] == 50 and cost["processes"] == 2 and cost["flops"] > 0 and cost["memory_in_all"] > 0
    assert cost["days"] == pytest.approx(50 / cost["steps_per_second"] / 86_400)
    assert "4 songs of" in cost["notes"][0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lm.yaml"]

"""Training on the engine: items by their place, exact resume, the reported figures, two processes, the trained model."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.lm.small import CODEC, MIXED, TINY, corpus, song
from tests.training.launch import finish, start
from torch.distributed.tensor import DTensor

from duotok.errors import ConfigError, TokenFileError
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.evaluate import score_songs
from duotok.lm.song import TokenizedSong
from duotok.lm.stage import LMStage, LMStageConfig, load_lm
from duotok.training.checkpoint import latest
from duotok.training.engine import train
from duotok.training.processes import leave
from duotok.training.stage import evaluate


def config(data: Path, **changes: object) -> LMStageConfig:
    values: dict[str, object] = {
        "steps": 12, "batch_size": 4, "lr": 1e-2, "warmup": 2, "model": TINY.model_dump(), "data": data, "device": "cpu",
        "seconds": 1.0, "shortest": 0.4, "prefix_seconds": 0.2, "save_every": 4, "held_out_every": 6, "log_every": 1,
    }  # fmt: skip
    return LMStageConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("tokens"))


def lines(run: Path, kind: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(latest(run) / "lm.safetensors")


def test_the_published_settings_are_the_defaults() -> None:
    c = LMStageConfig(steps=1, data=Path("x"))
    assert (c.lr, c.betas, c.eps, c.weight_decay, c.warmup, c.floor, c.batch_size) == (
        1e-4, (0.8, 0.99), 1e-5, 0.01, 50, 0.99, 10,
    )  # fmt: skip
    assert (c.seconds, c.protocol, c.prefix_seconds, c.model.preset) == (30.0, "parallel", 2.0, "mini")


@pytest.mark.parametrize("protocol", ["parallel", "track_to_track", "aligned"])
def test_an_item_is_a_function_of_its_place(protocol: str, data: Path) -> None:
    one, two = (LMStage(config(data, protocol=protocol)) for _ in range(2))
    two.batch(3, range(4))
    whole, part = one.batch(7, range(4)), two.batch(7, [2])
    assert whole["ids"][2] == part["ids"][0]
    for name in ("inputs", "targets", "mask"):
        n = part[name].shape[1]
        assert torch.equal(whole[name][2, :n], part[name][0])
    assert not torch.equal(whole["inputs"], one.batch(8, range(4))["inputs"])


def test_a_song_is_as_likely_as_it_is_long(tmp_path: Path) -> None:
    songs = [song("long", 300), song("short", 30), song("tiny", 9), song("held", 60, split="validation")]
    stage = LMStage(config(corpus(tmp_path, CODEC, songs)))
    assert [s.id for s in stage.songs] == ["long", "short"]  # shorter than `shortest` are left out
    picked = [piece for step in range(100) for piece in stage.pick(step, range(4))]
    assert np.mean([piece.song == 1 for piece in picked]) == pytest.approx(1 / 11, abs=0.04)
    assert all(piece.stop - piece.start == 25 for piece in picked)
    starts = [piece.start for piece in picked if piece.song == 0]
    assert min(starts) < 20 and max(starts) > 255 and max(starts) <= 275


@pytest.mark.parametrize("protocol", ["parallel", "track_to_track", "aligned"])
def test_losses_are_means_over_targets(protocol: str, data: Path) -> None:
    stage = LMStage(config(data, protocol=protocol))
    batch = stage.batch(0, range(4))
    found = stage.losses(batch, 0)
    logits, nats, codes = stage.lm(batch["inputs"]), [], {}
    for k, column in enumerate(CODEC.columns):
        rows = batch["mask"][..., k]
        own = torch.nn.functional.cross_entropy(logits[k][rows], batch["targets"][rows][:, k], reduction="none")
        nats.append(own)
        codes[column.stream] = own[batch["targets"][rows][:, k] < 20]
    torch.testing.assert_close(found["loss"], torch.cat(nats).mean())
    for name, value in found.items():
        if name != "loss":
            torch.testing.assert_close(value, codes[name.removeprefix("bits.")].mean() / math.log(2))
    assert set(found) == {"loss", "bits.accompaniment"} | ({"bits.vocals"} if protocol == "parallel" else set())


def test_a_share_of_the_targets_is_asked_for(data: Path) -> None:
    whole, some = LMStage(config(data)), LMStage(config(data, loss_share=0.25))
    masks = [some.batch(step, range(4))["mask"] for step in range(40)]
    assert float(torch.cat(masks).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert all(torch.equal(mask[..., 0], mask[..., 1]) for mask in masks)
    assert torch.equal(whole.batch(0, range(4))["inputs"], some.batch(0, range(4))["inputs"])
    assert torch.equal(some.batch(5, [3])["mask"][0], some.batch(5, range(4))["mask"][3])
    assert some.losses(some.batch(0, range(4)), 0)["loss"].isfinite()


def test_accumulated_parts_with_unequal_targets_are_the_whole_batch(data: Path, tmp_path: Path) -> None:
    """Each part divided by its own targets, so that a step depended on `accumulate`."""
    for parts in (1, 4):
        train(LMStage(config(data, steps=2, accumulate=parts, loss_share=0.2)), tmp_path / f"{parts}")
    whole, cut = (lines(tmp_path / f"{parts}", "train") for parts in (1, 4))
    for name in ("loss", "bits.vocals", "bits.accompaniment", "gradient"):
        assert [line[name] for line in cut] == pytest.approx([line[name] for line in whole], rel=1e-4)


@pytest.mark.parametrize("protocol", ["parallel", "track_to_track", "aligned"])
def test_resume_is_exact(protocol: str, data: Path, tmp_path: Path) -> None:
    whole = train(LMStage(config(data, protocol=protocol)), tmp_path / "whole")
    train(LMStage(config(data, protocol=protocol)), tmp_path / "parts", stop_after=5)
    parts = train(LMStage(config(data, protocol=protocol)), tmp_path / "parts")
    assert parts == whole
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_and_the_model_comes_back(data: Path, tmp_path: Path) -> None:
    stage = LMStage(config(data, steps=80, held_out_every=40, save_every=40))
    before = evaluate(stage)
    after = train(stage, tmp_path)
    assert set(after) == {"loss", "cnbpt", "bits.vocals", "bits.accompaniment"}
    assert before["cnbpt"] > 0.9 and after["cnbpt"] < 0.5 * before["cnbpt"]
    assert after["cnbpt"] == pytest.approx(
        (after["bits.vocals"] + after["bits.accompaniment"]) / 2 / math.log2(20), abs=1e-4
    )
    assert lines(tmp_path, "train")[-1]["lr"] == pytest.approx(0.99e-2, rel=1e-3)
    found = load_lm(tmp_path)
    assert found.model.codec == CODEC and found.config.codec == CODEC and found.protocol.name == "parallel"
    songs = TokenCorpus(data).songs("validation")
    scores = score_songs(found.model, songs, found.protocol, seconds=1.0, shortest=0.4)
    mean = {s.stream: np.mean(np.concatenate([x.bits for x in scores if x.stream == s.stream])) for s in scores}
    assert mean["vocals"] == pytest.approx(after["bits.vocals"], abs=1e-3)
    with pytest.raises(ConfigError, match="no checkpoint there"):
        load_lm(tmp_path / "nowhere")


def test_adamw_has_its_epsilon(data: Path) -> None:
    assert [group["eps"] for group in LMStage(config(data)).parameter_groups()] == [1e-5]


def test_heads_that_are_never_asked_are_not_trained(data: Path) -> None:
    stage = LMStage(config(data, protocol="track_to_track", source="accompaniment", target="vocals"))
    assert stage.name == "lm.accompaniment-to-vocals"
    assert [head.weight.requires_grad for head in stage.lm.outputs.heads] == [True, False]
    stage.losses(stage.batch(0, range(4)), 0)["loss"].backward()
    assert all(p.grad is not None for p in stage.lm.parameters() if p.requires_grad)


def test_codebooks_of_other_sizes_train_as_well(tmp_path: Path) -> None:
    stage = LMStage(config(corpus(tmp_path, MIXED, [song("a", 40, MIXED), song("b", 40, MIXED, "validation")])))
    assert set(train(stage, tmp_path / "run")) == {"loss", "cnbpt", "bits.vocals", "bits.accompaniment"}


def test_a_run_does_not_go_on_with_tokens_of_another_codec(data: Path, tmp_path: Path) -> None:
    train(LMStage(config(data, steps=2)), tmp_path / "run", stop_after=1)
    twin = replace(CODEC, hash="ff" * 32)
    songs = [song("a", 40, twin), song("b", 40, twin, "validation")]
    other = corpus(tmp_path, twin, songs)
    with pytest.raises(ConfigError, match="trained on tokens of another codec"):
        train(LMStage(config(other, steps=2)), tmp_path / "run")
    with pytest.raises(TokenFileError, match="tokens of tiny ffffffffffff, expected those of tiny abababababab"):
        LMStage(config(other, codec=CODEC))


def test_mistakes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a prefix of 2 s leaves nothing of the shortest piece"):
        LMStage(config(data, protocol="track_to_track", prefix_seconds=2.0))
    with pytest.raises(ConfigError, match="has the streams vocals, accompaniment"):
        LMStage(config(data, protocol="track_to_track", source="drums"))
    with pytest.raises(ConfigError, match="no train song of 30 s"):
        LMStage(config(data, seconds=40.0, shortest=30.0))
    write_tokens(tmp_path / "train.parquet", CODEC, [song("a", 60), song("b", 60)])
    with pytest.raises(ConfigError, match=r"no songs of split 'validation' .it has 2 train.; pack more songs, or put"):
        LMStage(config(tmp_path / "train.parquet"))
    for wrong in ({"seed": 2**70}, {"betas": [0.9, 1.0]}):  # they were tracebacks of torch
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config(data, **wrong)


def test_an_aligned_model_hears_the_frame_beside(tmp_path: Path) -> None:
    """A band that follows the voice in the same frame: the model learns the rule, and another voice costs it all."""
    random = np.random.default_rng(0)

    def following(name: str, split: str = "train") -> TokenizedSong:
        voice = random.integers(0, 20, (1, 150)).astype(np.int32)
        return replace(song(name, 150, split=split), tokens={"vocals": voice, "accompaniment": (7 * voice + 3) % 20})

    data = corpus(tmp_path, CODEC, [*(following(f"t{n}") for n in range(20)), following("held", "validation")])
    changes = {"protocol": "aligned", "prefix_seconds": 0.0, "steps": 150, "lr": 1e-2, "held_out_every": 150}
    train(LMStage(config(data, **changes)), tmp_path / "run")
    assert lines(tmp_path / "run", "held_out")[-1]["cnbpt"] < 0.2


def test_two_processes_learn_what_one_learns_sharded_too(data: Path, tmp_path: Path) -> None:
    train(LMStage(config(data, protocol="track_to_track", steps=5)), tmp_path / "one")
    finish(start(Path(__file__), str(data), str(tmp_path)))
    wanted = [line["loss"] for line in lines(tmp_path / "one", "train")]
    for name in ("none", "fsdp"):
        run = tmp_path / name
        assert [line["loss"] for line in lines(run, "train")] == pytest.approx(wanted, rel=1e-3)
        assert lines(run, "held_out")[-1]["cnbpt"] == pytest.approx(
            lines(tmp_path / "one", "held_out")[-1]["cnbpt"], rel=1e-3
        )
        a, b = weights(tmp_path / "one"), weights(run)
        assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-3) for key in a)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for sharding in ("none", "fsdp"):
        stage = LMStage(config(Path(sys.argv[1]), protocol="track_to_track", sharding=sharding, steps=5))
        train(stage, Path(sys.argv[2]) / sharding)
        assert all(isinstance(p, DTensor) == (sharding == "fsdp") for p in stage.lm.parameters())
    leave()

"""What stage 4 hears: neighbours joined into stretches, the four sample types only, codes and latents that know no joints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.shards import shard_maker
from tests.shards.shard_maker import make_shards, segment
from tests.training.small import AUTOENCODER, DIT, TOKENIZER
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.autoencoder import Autoencoder
from duotok.shards.features import derive_features, derive_samples
from duotok.shards.neighbours import joined
from duotok.shards.store import ShardStore
from duotok.training.batches.derive import Codes, Latents, compute_codes, compute_latents
from duotok.training.batches.latent_data import crop, latent_segments, latent_stretches, padding
from duotok.training.stages.stage4 import Stage4, Stage4Config

WINDOW = 60
TOKENS, SOUND = Tokenizer(TOKENIZER).eval(), Autoencoder(AUTOENCODER.model).eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    """A song in three neighbouring segments, a gap, and a fourth; speech; a held-out song."""
    work = tmp_path_factory.mktemp("stretches")
    song = [segment("index/song", start, frames) for start, frames in ((0, 40), (40, 50), (90, 30), (130, 40))]
    speech = segment("index/speech", frames=50, kind="speech", stems=("vocals",), types=("other",))
    held = segment("index/held", frames=60, split="validation")
    make_shards(work / "shards", [*song, speech, held], per_shard=2)  # neighbours lie in different shards
    store = ShardStore(work / "shards", work / "derived")
    derive_samples(store)
    derive_features(store)
    compute_latents(store, SOUND, "test")
    compute_codes(store, TOKENS, WINDOW, "test")
    return store


def test_neighbours_are_joined_and_gaps_are_not(store: ShardStore) -> None:
    pieces = [[store.segments[i].segment.start_frame for i in piece] for piece in joined(store, store.select("train"))]
    assert pieces == [[0, 40, 90], [130], [0]]
    assert joined(store, []) == []


def test_speech_trains_no_renderer(store: ShardStore) -> None:
    speech = next(i for i in range(len(store)) if store.segments[i].segment.kind == "speech")
    assert not store.has(speech, "vocals", "latents") and not store.has(speech, "vocals", "codes")
    assert {s.recording for s in latent_stretches(store, "train", "vocals")} == {"index/song"}
    assert {s.sound.segment.recording for s in latent_segments(store, "train", "vocals")} == {"index/song"}


def test_processes_derive_what_one_derives(store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def latents_and_codes(found: ShardStore) -> list[np.ndarray]:
        stretch = latent_stretches(found, "train", "vocals")[0]
        return [stretch.latents(), stretch.codes()]

    again = ShardStore(store.ranges.url, tmp_path)
    derive_features(again)
    monkeypatch.setattr("duotok.training.batches.derive.TRACKS", ("vocals",))  # one will do: processes are dear
    compute_latents(again, SOUND, "test", torch.device("cpu"), workers=2)
    compute_codes(again, TOKENS, WINDOW, "test", torch.device("cpu"), workers=2)
    for one, other in zip(latents_and_codes(store), latents_and_codes(again), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)  # one thread each: another order of sums


def test_new_sound_in_a_neighbours_shard_changes_what_heard_it_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = [segment("index/song", start, frames) for start, frames in ((0, 40), (40, 50), (130, 40))]

    def derived(shards: Path, folder: Path) -> tuple[ShardStore, dict[tuple[int, str], np.ndarray]]:
        found = ShardStore(shards, folder)
        derive_features(found)
        compute_latents(found, SOUND, "test")
        compute_codes(found, TOKENS, WINDOW, "test")
        rows = {(i, name): found.rows(i, "vocals", name).copy() for i in range(3) for name in ("latents", "codes")}
        return found, rows

    _, before = derived(make_shards(tmp_path / "before", song, per_shard=1), tmp_path / "derived")
    real = shard_maker.sound
    monkeypatch.setattr(shard_maker, "sound", lambda key, *rest: real(key + "new" * (key == song[1].key), *rest))
    shards = make_shards(tmp_path / "after", song, per_shard=1)
    made: list[tuple[int, str]] = []
    for kind in (Latents, Codes):

        def counted(self: Latents | Codes, i: int, track: str, make: Any = kind.__call__) -> Any:
            made.append((i, track))
            return make(self, i, track)

        monkeypatch.setattr(kind, "__call__", counted)
    store, after = derived(shards, tmp_path / "derived")
    keys = [store.segments[i].segment.key for i in range(3)]
    assert keys == [part.key for part in song] and {i for i, _ in made} == {0, 1}
    _, fresh = derived(shards, tmp_path / "fresh")
    assert all(np.array_equal(after[place], fresh[place]) for place in fresh)
    assert not np.array_equal(before[0, "latents"], after[0, "latents"])
    assert np.array_equal(before[2, "latents"], after[2, "latents"])
    made.clear()
    derived(shards, tmp_path / "derived")
    assert not made


@torch.no_grad()
def test_a_stretch_is_read_as_if_it_had_never_been_cut(store: ShardStore) -> None:
    stretch = latent_stretches(store, "train", "accompaniment")[0]
    assert stretch.frames == 120
    audio = stretch.mono(0, 120)
    assert audio.shape == (120 * 1920,)
    latents = SOUND.encode(audio[None, None])[0]
    torch.testing.assert_close(torch.from_numpy(stretch.latents()).float(), latents, atol=5e-3, rtol=5e-3)
    mel = torch.from_numpy(stretch.rows("mel")).float()
    codes = torch.cat([TOKENS.encode(part[None], "accompaniment")[0] for part in mel.split(4 * WINDOW)])
    assert torch.equal(torch.from_numpy(stretch.codes()), codes.int())
    assert np.array_equal(stretch.codes(35, 60), stretch.codes()[35:95])
    assert np.array_equal(stretch.latents(35, 60), stretch.latents()[70:190])
    assert torch.equal(stretch.mono(35, 60), audio[35 * 1920 : 95 * 1920])


class PerToken(torch.nn.Module):
    """A double of an autoencoder with one latent for each token frame, which hears its neighbours."""

    channels, latents_per_frame = 1, 1

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        levels = audio.reshape(1, -1, 1920).abs().mean(2)
        around = torch.nn.functional.avg_pool1d(levels[:, None], 3, 1, 1)[:, 0]
        return torch.stack([levels, around], dim=2)


def test_one_latent_a_frame_is_read_as_if_it_had_never_been_cut(store: ShardStore, tmp_path: Path) -> None:
    again = ShardStore(store.ranges.url, tmp_path)
    derive_features(again)
    compute_latents(again, PerToken(), "test")  # type: ignore[arg-type]
    compute_codes(again, TOKENS, WINDOW, "test")
    stretch = latent_stretches(again, "train", "accompaniment")[0]
    whole = PerToken().encode(stretch.mono(0, 120)[None, None])[0].numpy()
    assert stretch.latents_per_frame == 1 and stretch.latents().shape == (120, 2)
    np.testing.assert_allclose(stretch.latents(), whole, atol=1e-3)
    assert np.array_equal(stretch.latents(35, 60), stretch.latents()[35:95])
    latents, codes, real = crop(stretch, 100, 40)
    assert (len(latents), len(codes), real) == (40, 40, 20) and not latents[20:].any()
    alone = latent_segments(again, "train", "accompaniment")[0]
    assert np.array_equal(alone.latents(3, 5), alone.latents()[3:8])


def test_crops_cross_joints_so_that_little_is_padding(store: ShardStore) -> None:
    """Cut one by one, no segment of the song could fill a crop of 100 frames."""
    config = Stage4Config(steps=1, batch_size=8, lr=1e-3, crop_frames=100, silence=1.0, dit=DIT, device="cpu")
    stage = Stage4(config, store, torch.randn(256, 16))
    assert stage.padding == pytest.approx((40 / 160) * (60 / 100))  # the one behind the gap, as often as it has frames
    assert padding(latent_stretches(store, "train", "vocals"), 20) == 0
    batches = [stage.batch(step, range(8)) for step in range(40)]
    lengths = torch.cat([batch["lengths"] for batch in batches])
    assert set(lengths.tolist()) == {200, 80}
    assert 1 - float(lengths.float().mean()) / 200 == pytest.approx(stage.padding, abs=0.06)
    long = latent_stretches(store, "train", "vocals")[0]
    for row, name in enumerate(batches[0]["ids"]):
        key, start = name.split(" from frame ")
        if key == long.key:
            assert torch.equal(batches[0]["codes"][row], torch.from_numpy(long.codes(int(start), 100)).long())


def test_the_held_out_mel_is_of_each_track_with_its_deviation(store: ShardStore) -> None:
    """Rendered sound against the recording of that very track and place; a better decoder is told to be better."""
    for track in ("vocals", "accompaniment"):
        config = Stage4Config(
            steps=1, batch_size=2, lr=1e-3, crop_frames=20, sample_steps=1, track=track, dit=DIT, device="cpu"
        )
        stage = Stage4(config, store, torch.randn(256, 16), SOUND)
        found = stage.held_out()
        assert found["mel"] > 0.1 and found["mel_deviation"] > 0
        true = [stretch.mono(start, 20) for stretch, start in stage.excerpts]
        calls = iter(true)

        class Perfect:
            receptive_field, hop, latents_per_frame = 0, 960, 2

            def decode(self, latents: torch.Tensor) -> torch.Tensor:
                return next(calls)[None, None]  # noqa: B023

        stage.autoencoder = Perfect()
        assert stage.held_out()["mel"] == pytest.approx(0, abs=1e-5)


def test_a_dry_run_tells_the_padding(tmp_path: Path) -> None:
    import json

    import yaml

    values = {
        "steps": 2, "batch_size": 2, "lr": 1e-3, "crop_frames": 16, "device": "cpu", "dit": DIT.model_dump(mode="json")
    }  # fmt: skip
    (tmp_path / "stage4.yaml").write_text(yaml.safe_dump(values))
    arguments = ["train", "stage4", "-c", str(tmp_path / "stage4.yaml"), "--dry-run", "--measure", "0"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(done.stdout)["padding"] == 0.0
    assert "padding, share of a batch" in CliRunner().invoke(app, arguments).stdout

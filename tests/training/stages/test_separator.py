"""The separator's stage: a remix is a function of (seed, step, item), sums are exact, a batch can be learnt by heart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.shards.shard_maker import make_shards, segment
from tests.training.small import SEPARATOR

from duotok.clock import SAMPLE_RATE
from duotok.shards.store import ShardStore
from duotok.tracks import STEMS
from duotok.training.assemble import data_section
from duotok.training.batches.remix import Remixer, room, shape_spectrum
from duotok.training.batches.sounds import SegmentSound
from duotok.training.stages.separator import SeparatorStage, SpectralError


@pytest.fixture
def stage(store: ShardStore) -> SeparatorStage:
    return SeparatorStage(SEPARATOR, store)


def test_generated_songs_are_told_by_who_made_them_not_by_the_name_of_their_corpus(tmp_path: Path) -> None:
    songs = [
        segment("songs4/song-1", frames=60, attribution="duotok songs", licence="CC0-1.0"),
        segment("songs/Lithium", frames=60, attribution="a band", licence="CC0-1.0"),
    ]
    store = ShardStore(make_shards(tmp_path / "shards", songs), tmp_path / "derived")
    pools = Remixer(store, "train", 4800).pools
    assert [s.segment.recording for s in pools["generated"]] == ["songs4/song-1"]
    assert [s.segment.recording for s in pools["song"]] == ["songs/Lithium"]
    card = data_section(store)
    assert "- song (generated): duotok songs" in card and "- song: a band" in card


def test_an_item_is_a_function_of_seed_step_and_place(stage: SeparatorStage, store: ShardStore) -> None:
    again = SeparatorStage(stage.config, store)
    again.batch(0, range(4))
    assert torch.equal(stage.batch(7, range(4))["mix"][2], again.batch(7, [2])["mix"][0])
    assert not torch.equal(stage.batch(7, range(4))["mix"], stage.batch(8, range(4))["mix"])


def test_remixes_add_up_and_know_what_they_know(store: ShardStore) -> None:
    remixer = Remixer(store, "train", 4800)
    seen = torch.zeros(len(STEMS), 2, dtype=torch.bool)
    for item in range(40):
        remix = remixer.draw(np.random.default_rng(item))
        assert remix.mix.shape == (2, 4800) and remix.stems.shape == (4, 2, 4800)
        assert torch.isfinite(remix.mix).all()
        assert bool(remix.known[0])
        if bool(remix.known.all()):
            torch.testing.assert_close(remix.stems.sum(0), remix.mix, atol=2e-5, rtol=0)
        assert remix.stems[~remix.known].abs().sum() == 0
        for stem in range(len(STEMS)):
            seen[stem, int(remix.known[stem])] = True
    assert seen[:, 1].all() and seen[1:, 0].all()


def test_levels_stay_sane(store: ShardStore) -> None:
    remixer = Remixer(store, "train", 4800)
    levels = [float(remixer.draw(np.random.default_rng(item)).mix.square().mean().sqrt()) for item in range(30)]
    assert min(levels) > 0.02 and max(levels) < 0.4


def test_speed_and_room_keep_the_level() -> None:
    time = torch.arange(9600) / SAMPLE_RATE
    tone = torch.sin(2 * torch.pi * 500 * time).expand(2, -1)
    slower = shape_spectrum(tone, 12_000)
    assert slower.shape == (2, 12_000)
    assert float(slower.square().mean()) == pytest.approx(0.5, rel=0.02)
    assert int(torch.fft.rfft(slower[0]).abs().argmax()) == 100  # the same 100 periods, now 400 Hz
    wet = shape_spectrum(tone, 9600, response=room(np.random.default_rng(0), 9600))
    assert 0.1 < float(wet.square().mean()) < 1.5


def test_one_batch_is_learnt_by_heart(stage: SeparatorStage) -> None:
    batch = stage.batch(1, range(4))
    optimizer = torch.optim.AdamW(stage.separator.parameters(), lr=5e-3)
    history = []
    for _ in range(30):
        loss = stage.losses(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.7 * history[0]


def test_unknown_stems_do_not_pull(stage: SeparatorStage) -> None:
    """What the targets of an unknown stem hold changes nothing."""
    batch = stage.batch(2, range(4))
    batch["known"][:, 1:] = torch.tensor([True, False, False])
    changed = batch | {"stems": batch["stems"].clone()}
    changed["stems"][:, 2:] = torch.randn_like(changed["stems"][:, 2:])
    assert torch.equal(stage.losses(batch, 0)["loss"], stage.losses(changed, 0)["loss"])


def test_errors_weigh_by_their_frequency() -> None:
    """A tone of 8 kHz counts (8 kHz / 1 kHz) ** tilt times as much as one of 1 kHz as loud; above 12 kHz it rises no more."""
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tones = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (1000.0, 8000.0, 15_000.0)])[:, None]
    for scale in range(3):
        even, tilted = SpectralError(0.0)(tones, scale), SpectralError(0.5)(tones, scale)
        torch.testing.assert_close(tilted / even, torch.tensor([1.0, 8.0**0.5, 12.0**0.5]), rtol=0.03, atol=0)


def test_the_gain_is_that_of_chunks_with_both_tracks(stage: SeparatorStage) -> None:
    """Where there are no vocals, or nothing else, nothing can be gained; drums may be silent."""
    batch = stage.batch(2, range(3))
    sound = torch.randn_like(batch["stems"][:1, 0]) / 9
    stems = torch.zeros_like(batch["stems"])
    stems[0, 0], stems[0, 3] = sound[0], sound[0].flip(-1)  # both tracks, no drums
    stems[1, 1:], stems[2, 0] = sound[0], sound[0]  # a band alone, with drums; a voice alone
    batch |= {"stems": stems, "mix": stems.sum(1)}
    alone = {name: value[:1] for name, value in batch.items()}
    both, one = (float(stage.losses(part, 0)["vocals_gain_db"]) for part in (batch, alone))
    assert one != 0 and both == pytest.approx(one, abs=1e-3)


def test_held_out_is_fixed_and_samples_are_written(stage: SeparatorStage, tmp_path: Path) -> None:
    first, second = stage.held_out(), stage.held_out()
    assert first == second
    assert set(first) == {"si_sdr_vocals", "gain_vocals", "si_sdr_accompaniment", "gain_accompaniment", "loss"}
    with torch.no_grad():
        stage.sample(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"mix.flac", "vocals.flac", "accompaniment.flac", "drums.flac", "vocals.true.flac", "stems.png"} <= names


def test_a_corpus_of_vocals_alone_still_trains(store: ShardStore) -> None:
    remixer = Remixer(store, "train", 4800)
    remixer.pools = {kind: [] for kind in remixer.pools}
    remixer.sung = {kind: pool if kind == "voice" else [] for kind, pool in remixer.sung.items()}
    mixture = remixer.draw(np.random.default_rng(0))
    torch.testing.assert_close(mixture.mix, mixture.stems[0])


def test_excerpts_of_odd_lengths_lie_inside_their_songs(store: ShardStore) -> None:
    """In whole token frames, as they are chosen: 1.01 s were read beyond the end of a song of 4 s, which ended in a traceback."""
    changed = SEPARATOR.model_copy(update={"held_out_seconds": 1.01, "held_out_clips": 20})
    assert {mix.shape[1] for mix, _ in SeparatorStage(changed, store).clips} == {48_000}


def test_real_songs_are_held_out_first_however_many_are_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were looked for among the first ten for each excerpt: a library of generated songs had none of them."""
    songs = [segment(f"a/{n:02d}", frames=30, split="validation", attribution="duotok songs") for n in range(11)]
    songs += [segment("b/Lithium", frames=30, split="validation"), segment("c/train", frames=30)]
    store = ShardStore(make_shards(tmp_path / "shards", songs), tmp_path / "derived")
    heard, stereo = [], SegmentSound.stereo

    def listening(sound: SegmentSound, track: str, start: int, size: int) -> torch.Tensor:
        if size == 23_040:
            heard.append(sound.segment.recording)
        return stereo(sound, track, start, size)

    monkeypatch.setattr(SegmentSound, "loudness", lambda *_: 1.0)
    monkeypatch.setattr(SegmentSound, "stereo", listening)
    SeparatorStage(SEPARATOR.model_copy(update={"held_out_clips": 1}), store)
    assert set(heard) == {"b/Lithium"}

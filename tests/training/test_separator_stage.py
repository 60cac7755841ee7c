"""The separator's stage: batches are a function of (seed, step), sums are exact, a batch can be learnt by heart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from duotok.separation.bs_roformer import BSRoFormerConfig
from duotok.training.corpus import RATE, Corpus
from duotok.training.remix import STEMS, Remixer, room, shape_spectrum
from duotok.training.separator import SeparatorStage, SeparatorStageConfig

SAMPLES = 2 * RATE
TINY = BSRoFormerConfig(
    n_fft=960,
    hop=320,
    bands=(8, 8, 16, 64, 385),
    groups=(1, 1, 2, 8, 64),
    dim=16,
    depth=1,
    heads=2,
    head_dim=8,
    feedforward=32,
    mask_hidden=8,
)


def sound(kind: str, rng: np.random.Generator) -> np.ndarray:
    """int16 `[samples, 2]`: tones for vocals, noise for the rest, so that they can be told apart."""
    time = np.arange(SAMPLES)[:, None] / RATE
    if kind == "vocals":
        wave = np.sin(2 * np.pi * rng.uniform(300, 600) * time) * np.array([[0.3, 0.25]])
    else:
        wave = 0.05 * rng.standard_normal((SAMPLES, 2))
    return (wave * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    cache = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    lines = []
    songs = {
        "dual-full": ("dual", "train", ("vocals", "drums", "bass", "rest")),
        "dual-drums": ("dual", "train", ("vocals", "drums", "rest")),
        "generated-1": ("generated", "train", ("vocals", "drums", "bass", "rest")),
        "chant-1": ("chant", "train", ("vocals",)),
        "instrumental-1": ("instrumental", "train", ("rest",)),
        "dual-held": ("dual", "held_out", ("vocals", "rest")),
    }
    for name, (kind, split, parts) in songs.items():
        made = {part: sound(part, rng) for part in parts}
        tracks = {part: made[part] for part in parts if part != "rest"}
        if "rest" in parts:
            tracks["accompaniment"] = sum(made[part] for part in parts if part != "vocals")
        paths = {track: str(cache / f"{name}.{track}.npy") for track in tracks}
        for track, audio in tracks.items():
            np.save(paths[track], audio, allow_pickle=False)
        about = {"licence": "CC0", "attribution": "test", "source": "test"}
        values = {"id": name, "kind": kind, "split": split, "tracks": paths, "samples": SAMPLES, "gain_db": -3.0}
        lines.append(json.dumps(values | about))
    (cache / "recordings.jsonl").write_text("\n".join(lines) + "\n")
    return Corpus(cache)


@pytest.fixture
def stage(corpus: Corpus) -> SeparatorStage:
    config = SeparatorStageConfig(
        steps=10, batch_size=3, lr=3e-3, crop_seconds=0.2, model=TINY, held_out_seconds=0.5, held_out_clips=2
    )
    return SeparatorStage(config, corpus)


def test_a_batch_is_a_function_of_seed_and_step(stage: SeparatorStage, corpus: Corpus) -> None:
    again = SeparatorStage(stage.config, corpus)
    again.batch(0)
    for name, value in stage.batch(7).items():
        assert torch.equal(value, again.batch(7)[name])
    assert not torch.equal(stage.batch(7)["mix"], stage.batch(8)["mix"])


def test_mixtures_add_up_and_know_what_they_know(corpus: Corpus) -> None:
    remixer = Remixer(corpus, "train", 4800)
    seen = torch.zeros(len(STEMS), 2, dtype=torch.bool)
    for item in range(40):
        mixture = remixer.draw(np.random.default_rng(item))
        assert mixture.mix.shape == (2, 4800) and mixture.stems.shape == (4, 2, 4800)
        assert torch.isfinite(mixture.mix).all()
        assert bool(mixture.known[0])
        if bool(mixture.known.all()):
            torch.testing.assert_close(mixture.stems.sum(0), mixture.mix, atol=2e-5, rtol=0)
        assert mixture.stems[~mixture.known].abs().sum() == 0
        for stem in range(len(STEMS)):
            seen[stem, int(mixture.known[stem])] = True
    assert seen[:, 1].all() and seen[1:, 0].all()


def test_levels_stay_sane(corpus: Corpus) -> None:
    remixer = Remixer(corpus, "train", 4800)
    levels = [float(remixer.draw(np.random.default_rng(item)).mix.square().mean().sqrt()) for item in range(30)]
    assert min(levels) > 0.02 and max(levels) < 0.4


def test_speed_and_room_keep_the_level() -> None:
    time = torch.arange(9600) / RATE
    tone = torch.sin(2 * torch.pi * 500 * time).expand(2, -1)
    slower = shape_spectrum(tone, 12_000)
    assert slower.shape == (2, 12_000)
    assert float(slower.square().mean()) == pytest.approx(0.5, rel=0.02)
    assert int(torch.fft.rfft(slower[0]).abs().argmax()) == 100  # the same 100 periods, now 400 Hz
    wet = shape_spectrum(tone, 9600, response=room(np.random.default_rng(0), 9600))
    assert 0.1 < float(wet.square().mean()) < 1.5


def test_one_batch_is_learnt_by_heart(stage: SeparatorStage) -> None:
    batch = stage.batch(1)
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
    batch = stage.batch(2)
    batch["known"][:, 1:] = torch.tensor([True, False, False])
    changed = batch | {"stems": batch["stems"].clone()}
    changed["stems"][:, 2:] = torch.randn_like(changed["stems"][:, 2:])
    assert torch.equal(stage.losses(batch, 0)["loss"], stage.losses(changed, 0)["loss"])


def test_held_out_is_fixed_and_samples_are_written(stage: SeparatorStage, tmp_path: Path) -> None:
    first, second = stage.held_out(), stage.held_out()
    assert first == second
    assert set(first) == {"si_sdr_vocals", "gain_vocals", "si_sdr_accompaniment", "gain_accompaniment"}
    with torch.no_grad():
        stage.sample(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"mix.flac", "vocals.flac", "accompaniment.flac", "drums.flac", "vocals.true.flac", "stems.png"} <= names


def test_a_corpus_of_vocals_alone_still_trains(corpus: Corpus) -> None:
    remixer = Remixer(corpus, "train", 4800)
    remixer.pools = {kind: pool if kind == "chant" else [] for kind, pool in remixer.pools.items()}
    mixture = remixer.draw(np.random.default_rng(0))
    torch.testing.assert_close(mixture.mix, mixture.stems[0])

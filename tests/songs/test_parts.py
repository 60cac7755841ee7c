"""The pieces: tuning of instruments, melodies in range and scale, effects that keep their promises, lyrics."""

from __future__ import annotations

import numpy as np
import pytest

from duotok.songs import effects, lyric, parts
from duotok.songs.drumming import PATTERNS, play
from duotok.songs.drums import KITS, PIECES, Kit
from duotok.songs.instruments import random_sound
from duotok.songs.mastering import balance, loudness
from duotok.songs.score import plan
from duotok.songs.styles import STYLES
from duotok.songs.theory import MODES, chord_on
from duotok.tracks import STEMS

RATE = 24000
SOUNDS = sorted({s for style in STYLES for s in (*style.sounds, *style.leads, *style.bass_sounds)})


@pytest.mark.parametrize("name", SOUNDS)
def test_instruments_are_in_tune(name: str) -> None:
    for seed, pitch in ((0, 45), (1, 64)):
        x = random_sound(np.random.default_rng(seed), name)(pitch, 0.8, RATE)
        assert x.dtype == np.float32 and np.isfinite(x).all() and 0.1 < np.abs(x).max() < 2
        assert abs(x[-1]) < 0.02
        spectrum = np.abs(np.fft.rfft(x[1200:13200] * np.hanning(12000), 1 << 17))
        f0 = 440 * 2 ** ((pitch - 69) / 12)
        hz = np.arange(len(spectrum)) * RATE / (1 << 17)
        near = (hz > 0.94 * f0) & (hz < 1.06 * f0)
        found = hz[np.argmax(spectrum * near)]
        assert abs(1200 * np.log2(found / f0)) < 40


@pytest.mark.parametrize("kit", sorted(KITS))
def test_drums(kit: str) -> None:
    drums = Kit(np.random.default_rng(1), kit, RATE)
    for piece in PIECES:
        hit = drums.hit(piece, 0)
        assert np.isfinite(hit).all() and np.abs(hit).max() == pytest.approx(1, abs=1e-5)
    assert all(piece in PIECES for pattern in PATTERNS.values() for piece in pattern)


def test_plans_fill_the_time() -> None:
    for seed in range(60):
        score = plan(np.random.default_rng(seed), 20.0)
        assert 0 < score.ending <= 20.0
        assert score.ending + score.bar_seconds > 18.0 - 0.5
        assert all(bar.chords and 0 < bar.energy <= 1 for bar in score.bars)
        assert any(bar.vocals for bar in score.bars)
        for notes in (parts.bass(np.random.default_rng(seed), score), parts.lead(np.random.default_rng(seed), score)):
            assert all(0 <= n.start < n.end <= 21 and 20 <= n.pitch <= 100 for n in notes)
        assert all(0 <= time <= 20 and level > 0 for time, _, level, _ in play(np.random.default_rng(seed), score))


def test_chords() -> None:
    assert chord_on(0, "major", 0).name == "C"
    assert chord_on(0, "major", 4, seventh=True).name == "G7"
    assert chord_on(9, "minor", 0).name == "Am"
    assert chord_on(0, "major", 6).name == "Bdim"
    for mode in MODES:
        for degree in range(7):
            assert len(chord_on(2, mode, degree).voicing(60)) == 4


@pytest.mark.parametrize("language", lyric.LANGUAGES)
def test_lyrics(language: str) -> None:
    rng = np.random.default_rng(0)
    lines = {" ".join(lyric.line(rng, language, 4, 9, kind)) for kind in ("line", "hook") for _ in range(20)}
    assert len(lines) > 15
    assert not any("{" in line for line in lines)
    assert len(lyric.vocalise(rng, language, 5)) == 5


def test_effects_keep_shape_and_level() -> None:
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal((2, RATE))).astype(np.float32)
    room = effects.impulse(rng, 0.5, RATE, bright=0.5, early=0.2, predelay=0.01)
    results = {
        "equaliser": effects.equalise(x, effects.random_tone(rng), RATE),
        "compressor": effects.compress(x, -10.0, 4.0, 0.005, 0.1, RATE),
        "saturation": effects.saturate(x, 1.5, 0.1),
        "reverb": effects.reverb(x, room, 0.3),
        "delay": effects.delay(x, 0.2, 0.4, 0.3, RATE, pingpong=True),
        "chorus": effects.chorus(x, 0.003, 0.7, 0.5, RATE),
        "width": effects.widen(x, 0.5),
    }
    for name, y in results.items():
        assert y.shape == x.shape and y.dtype == np.float32 and np.isfinite(y).all(), name
        assert 0.2 < np.std(y) / np.std(x) < 3, name
        assert y is not x
    np.testing.assert_allclose(effects.widen(x, 1.0), x, atol=1e-6)
    left, right = effects.pan(x[0], -1.0)
    assert np.abs(right).max() < 1e-6 < np.abs(left).max()


def test_loudness_agrees_with_the_reference() -> None:
    meter = pytest.importorskip("pyloudnorm").Meter(RATE)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 6 * RATE)) * np.repeat([0.01, 0.2, 0.05], 2 * RATE)).astype(np.float32)
    assert loudness(x, RATE) == pytest.approx(meter.integrated_loudness(x.T), abs=0.1)
    assert loudness(np.zeros((2, RATE), np.float32), RATE) == float("-inf")


def test_mastering_moves_all_stems_by_one_curve() -> None:
    rng = np.random.default_rng(0)
    stems = {name: (0.05 * rng.standard_normal((2, 4 * RATE))).astype(np.float32) for name in STEMS}
    stems["drums"][:, RATE] = 3.0
    out = balance(np.random.default_rng(1), stems, RATE, {})
    mix = out["vocals"] + (out["drums"] + out["bass"] + out["other"])
    assert np.abs(mix).max() <= 0.95
    curves = {name: out[name][0] / stems[name][0] for name in STEMS}
    for name in STEMS[1:]:
        shape = curves[name] / curves["vocals"]
        assert np.nanstd(shape[: 3 * RATE]) < 1e-3 * np.nanmean(shape[: 3 * RATE])

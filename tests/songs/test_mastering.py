"""The limiter: nothing that is written may clip, also where tracks cancel in the mix."""

import numpy as np

from duotok.songs.mastering import CEILING, _limit


def test_what_cancels_in_the_mix_is_limited_on_its_own() -> None:
    t = np.arange(48_000) / 48_000
    wave = np.stack([np.sin(2 * np.pi * 110 * t)] * 2).astype(np.float32)
    stems = {"vocals": -0.9 * wave, "drums": 0.6 * wave, "bass": 0.5 * wave, "other": 0.3 * wave}
    curve = _limit(stems, 1.0, 48_000)
    accompaniment = stems["drums"] + stems["bass"] + stems["other"]
    assert np.abs(accompaniment).max() > 1 > np.abs(stems["vocals"] + accompaniment).max()
    assert all(np.abs(x * curve).max() <= CEILING + 1e-6 for x in (accompaniment, *stems.values()))

"""Equal tokens are counted at equal moments, and the controls are what they must be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.suite.fakes import HOP, RATE, Steps, steps_sound
from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.errors import ConfigError, DuoTokError
from duotok.evaluation.instrument import Observation, Song
from duotok.evaluation.mp3 import mp3
from duotok.evaluation.stability import CASES, Stability
from duotok.evaluation.systems import CodecSystem
from duotok.evaluation.usage import Usage

SECONDS = 1.5


def song(seed: int = 0, name: str = "song", scale: float = 0.8) -> Song:
    sounds = {"vocals": scale * steps_sound(SECONDS, seed), "accompaniment": scale * steps_sound(SECONDS, seed + 50)}
    return Song(name, {**sounds, "mix": sounds["vocals"] + sounds["accompaniment"]})


def shares(fault: str = "", cases: tuple[str, ...] = tuple(CASES)) -> dict[str, Any]:
    found: dict[str, Any] = Stability(cases).observe(CodecSystem(Steps(fault)), song())["shares"]
    return found


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return shares()


def vocals(found: dict[str, Any], case: str) -> float:
    return float(found[case]["vocals"][0])


def test_what_must_stay_stays(known: dict[str, Any]) -> None:
    """Codes are samples in the middle of steps of 10 ms, a frame: a shift by a whole frame is the same code a frame later."""
    for case in ("again", "decoded", "shift_10ms", "shift_20ms", "shift_frame", "batch", "threads"):
        assert vocals(known, case) == 1.0, case
    assert vocals(known, "rounded") > 0.9
    assert vocals(known, "resampled") > 0.5
    # Half of a frame later another step has begun in some frames, but 1 ms later in few.
    assert vocals(known, "shift_half_frame") <= vocals(known, "shift_1ms")


def test_what_must_change_changes(known: dict[str, Any]) -> None:
    assert vocals(known, "quieter") < 0.1 and vocals(known, "louder") < 0.1
    drawing = shares("draws", ("again", "shift_frame"))
    assert vocals(drawing, "again") == vocals(drawing, "shift_frame") == 0.0
    assert vocals(known, "mp3") < 0.9


def test_a_frame_is_compared_with_the_frame_that_it_became() -> None:
    """Without the shift of the comparison, the share would be that of neighbouring codes: next to nothing."""

    class Later(Steps):
        def encode(self, *args: Any, **given: Any) -> Any:
            tokens = super().encode(*args, **given)
            if self.encoded > 1:  # the shifted song, encoded as if it had not been shifted
                for stream in tokens.codes:
                    tokens.codes[stream] = torch.roll(tokens.codes[stream], -1, 1)
            return tokens

    found = Stability(("shift_frame",)).observe(CodecSystem(Later()), song())["shares"]
    assert vocals(found, "shift_frame") < 0.1


def test_a_case_that_breaks_is_a_gap_of_that_case() -> None:
    found = shares("mute", ("again", "decoded"))
    assert found["decoded"] == "steps: encodes only" and vocals(found, "again") == 1.0
    codes = {"vocals": [[1]], "accompaniment": [[1]]}
    seen = Observation("a", "", ("vocals", "mix"), {"shares": found, "codes": codes, "silent": {}})
    rows = Stability(("again", "decoded")).rows([seen])
    assert {(r.measure, r.track, r.value, r.reason) for r in rows} == {
        ("again", "vocals", 1.0, ""), ("again", "accompaniment", 1.0, ""),
        ("decoded", "vocals", None, "steps: encodes only"), ("decoded", "accompaniment", None, "steps: encodes only"),
    }  # fmt: skip


def test_silence_is_stable_and_says_nothing() -> None:
    half = song()
    quiet = Song("a", {**half.sounds, "vocals": 0 * half.sounds["vocals"]})
    stability = Stability(("again", "other_song"))
    seen = [Observation(name, "", ("vocals",), stability.observe(CodecSystem(Steps()), quiet)) for name in "ab"]
    rows = stability.rows(seen)
    assert {r.reason for r in rows if r.track == "vocals"} == {
        "silent but for 0.0 s of 1.5 s; a track is judged from 0.2 s on"
    }
    assert all(r.value is not None for r in rows if r.track == "accompaniment")


def seen(name: str, codes: dict[str, list[list[int]]]) -> Observation:
    return Observation(name, "", ("vocals",), {"shares": {}, "codes": codes, "silent": {}})


def test_another_song_gives_chance() -> None:
    draw = torch.Generator().manual_seed(0)

    def drawn(size: int) -> list[list[int]]:
        return torch.randint(size, (2, 4000), generator=draw).tolist()

    rows = Stability(("other_song",)).rows([seen("a", {"vocals": drawn(8)}), seen("b", {"vocals": drawn(8)})])
    found = {(r.measure, r.track, r.item): r.value for r in rows}
    assert set(found) == {
        (m, t, i) for m in ("other_song", "chance") for t in ("vocals", "vocals.0", "vocals.1") for i in "ab"
    }
    for track in ("vocals", "vocals.0", "vocals.1"):
        assert found["chance", track, "a"] == pytest.approx(1 / 8, abs=0.002)
        assert found["other_song", track, "a"] == pytest.approx(found["chance", track, "a"], abs=0.03)
    # One and the same code all the time: as stable as can be, and so is chance.
    rows = Stability(("other_song",)).rows([seen("a", {"vocals": [[3, 3, 3]]}), seen("b", {"vocals": [[3, 3]]})])
    assert {r.value for r in rows} == {1.0}
    (alone, _) = Stability(("other_song",)).rows([seen("a", {"vocals": [[3]]})])
    assert alone.value is None and alone.reason == "no other song to compare with"


def test_settings_that_are_none() -> None:
    with pytest.raises(ConfigError, match="case 'mp4' does not exist"):
        Stability(("mp4",))
    short = {track: sound[:, : SAMPLE_RATE // 4] for track, sound in song().sounds.items()}
    with pytest.raises(DuoTokError, match="at least a second"):
        Stability().observe(CodecSystem(Steps()), Song("a", short))


def test_mp3_comes_back_in_time() -> None:
    t = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    sound: Tensor = torch.stack([0.3 * torch.sin(2 * torch.pi * 330 * t**2), 0.2 * torch.sin(2 * torch.pi * 500 * t)])
    decoded = mp3(sound)
    assert decoded.shape == sound.shape and not torch.equal(decoded, sound)
    inner = slice(2000, -2000)
    error = (decoded - sound)[:, inner].square().mean() / sound[:, inner].square().mean()
    assert float(error) < 0.01
    assert mp3(sound[:1]).shape == (1, SAMPLE_RATE)


def test_usage_counts_all_songs_together() -> None:
    system = CodecSystem(Steps())
    observations = [
        Observation(name, "", ("vocals",), Usage().observe(system, song(seed, name)))
        for name, seed in (("a", 0), ("b", 1))
    ]
    rows = {(r.measure, r.track): r.value for r in Usage().rows(observations)}
    codec = Steps()
    codes = [
        codec.encode(rate=SAMPLE_RATE, **{t: song(s).sounds[t] for t in ("vocals", "accompaniment")})["vocals"]
        for s in (0, 1)
    ]
    together = torch.cat(codes, 1).flatten()
    assert rows["tokens", "vocals"] == len(together) == 2 * SECONDS * RATE / HOP
    assert rows["utilization", "vocals"] == pytest.approx(len(together.unique()) / 256)
    shares_ = together.bincount().double() / len(together)
    entropy = -(shares_[shares_ > 0] * shares_[shares_ > 0].log2()).sum()
    assert (
        rows["entropy", "vocals"]
        == pytest.approx(float(entropy))
        == pytest.approx(8 * rows["normalized_entropy", "vocals"])
    )
    gap = Observation("c", "", ("vocals", "mix"), {}, "broken")
    assert [r.reason for r in Usage().rows([gap]) if r.track == "mix"] == ["broken"] * 7


def test_nothing_is_batched_in_one_window() -> None:
    """A song of one window is computed in the same way with any batch size: equal tokens say nothing there."""
    steps = Steps()
    for windows, share in ((1, None), (2, 1.0)):
        steps.n_windows = lambda frames, windows=windows: windows if frames > 100 else 0  # type: ignore[attr-defined]
        found = Stability(("batch",)).observe(CodecSystem(steps), song())["shares"]["batch"]
        if share is None:
            assert "all of it is one window of this tokenizer, so nothing is batched" in found
        else:
            assert {value for shares in found.values() for value in shares} == {share}

"""Sound in memory as people hold it: any of the usual forms is the same song, anything else an error of one line."""

from __future__ import annotations

import array
import io as streams
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny import song

from duotok.audio.arrays import sound_of
from duotok.codec.duotok import DuoTok
from duotok.errors import AudioError, ConfigError, DuoTokError
from duotok.tokens import DualTokens

SOUND = song(1.0)


class AudioSegment:
    """As pydub has it."""

    frame_rate, sample_width, channels = 48_000, 2, 2

    def get_array_of_samples(self) -> array.array[int]:
        return array.array("h", (SOUND.numpy().T * 32768).round().astype(np.int16).reshape(-1).tolist())


def test_the_usual_forms_are_the_same_song(model: DuoTok) -> None:
    whole = model.encode(SOUND)
    numbers = SOUND.numpy()
    exact = (SOUND.T, numbers, numbers.T, numbers[:, ::-1][:, ::-1], numbers.astype(">f4"), (numbers, 48_000),
             numbers.astype(np.float64), numbers.tolist(), SOUND.clone().requires_grad_())  # fmt: skip
    for form in exact:
        assert model.encode(form) == whole, type(form)
    int16 = (numbers * 32768).round().astype(np.int16)
    for rounded in (int16, torch.from_numpy(int16), (int16.astype(np.int32) << 16), AudioSegment()):
        found, rate = sound_of(rounded, 48_000, "x")
        assert rate == 48_000 and (found - SOUND).abs().max() < 2e-5
    assert torch.equal(sound_of(SOUND[0].numpy(), 48_000, "x")[0], SOUND[:1])
    halves = np.full((2, 100), 128, np.uint8)
    assert not sound_of(halves, 8000, "x")[0].any()
    assert model.encode((SOUND[:, ::2].numpy(), 24_000)).n_samples == 48_000  # a pair brings its rate


@pytest.mark.parametrize(
    "bad",
    [None, b"RIFF", 3, "", {}, object(), len, [], [[1.0], [1.0, 2.0]], streams.BytesIO(b"x"), torch.zeros(3, 4, 5), torch.zeros(0),
     np.zeros((40, 50)), np.array(["a"]), np.zeros(10, complex), torch.zeros(10, dtype=torch.bool), np.zeros(10, np.int64),
     np.array([1.0, np.nan]), np.array([1e30, 0.0]), (1, 2, 3)],
    ids=lambda value: type(value).__name__,  # alike in every process
)  # fmt: skip
def test_anything_else_is_an_error_of_one_line(model: DuoTok, bad: object) -> None:
    with pytest.raises(AudioError) as told:
        model.encode(bad) if bad is not None else model.encode()
    assert "\n" not in str(told.value) and str(told.value)


@pytest.mark.parametrize("rate", [0, -1, None, "48000", 44_100.5, True, float("nan")])
def test_a_rate_is_a_number_of_samples(model: DuoTok, rate: object) -> None:
    with pytest.raises(AudioError, match="samples per second"):
        model.encode(SOUND, rate)  # type: ignore[arg-type]


def test_wrong_kinds_of_everything_else(model: DuoTok, tmp_path: Path) -> None:
    tokens = model.encode(SOUND)
    calls = [
        lambda: model.encode(SOUND, plan=50),  # type: ignore[arg-type]
        lambda: model.encode(SOUND, batch_size="4"),  # type: ignore[arg-type]
        lambda: model.decode(str(tmp_path / "song.duotok")),  # type: ignore[arg-type]
        lambda: model.decode(tokens.stack()),  # type: ignore[arg-type]
        lambda: model.decode(tokens, steps="8"),  # type: ignore[arg-type]
        lambda: model.decode(tokens, seed=1.5),  # type: ignore[arg-type]
        lambda: model.decode(tokens, temperature="warm"),  # type: ignore[arg-type]
        lambda: model.decode(tokens, "drums"),
    ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()
    assert issubclass(ConfigError, DuoTokError)


@pytest.mark.parametrize("bad", [[1.9], [1.0], ["1"], [[1, 2]], [True], None, 5, torch.tensor([0.5]), [1, None]])
def test_tokens_are_whole_numbers(bad: object) -> None:
    with pytest.raises(ValueError, match="vocals"):
        DualTokens.from_codes(bad, [1])  # type: ignore[arg-type]


def test_tokens_from_any_row_of_whole_numbers() -> None:
    for row in (
        [3, 4],
        (3, 4),
        range(3, 5),
        np.array([3, 4], np.uint16),
        torch.tensor([3, 4], dtype=torch.int32),
        iter([3, 4]),
    ):
        assert DualTokens.from_codes(row, [1, 2]).vocals.tolist() == [3, 4]  # type: ignore[arg-type]


def test_what_they_are_can_be_read(model: DuoTok) -> None:
    assert (
        repr(model) == "DuoTok('tiny': vocals and accompaniment, 25 tokens a second of 64, encodes and decodes, on cpu)"
    )
    tokens = model.encode(SOUND)
    first = ", ".join(map(str, tokens.vocals[:4].tolist()))
    assert repr(tokens).startswith(f"DualTokens(1.00 s, 2 x 25 frames: vocals [{first}, ...], accompaniment [")
    assert f"by tiny {model.model_hash[:8]})" in repr(tokens) and len(repr(tokens)) < 200

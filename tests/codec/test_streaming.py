"""A stream gives what the whole gives: the same codes while sound arrives, the same sound while codes arrive, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.tiny import song
from torch import Tensor

from duotok.audio.arrays import sound_of
from duotok.codec.duotok import DuoTok
from duotok.codec.spool import AudioSource
from duotok.codec.streaming import _Arriving
from duotok.errors import AudioError, BundleError, ConfigError
from duotok.renderer import arriving
from duotok.renderer.arriving import ArrivingVectors
from duotok.renderer.render import RenderPlan, RenderSettings, RenderWindow, windows
from duotok.tokens import WindowPlan
from duotok.tracks import TRACKS


def pieces(sound: Tensor, sizes: tuple[int, ...]) -> Iterator[Tensor]:
    start, turn = 0, 0
    while start < sound.shape[1]:
        yield sound[:, start : start + sizes[turn % len(sizes)]]
        start, turn = start + sizes[turn % len(sizes)], turn + 1


def filtered(sound: Tensor, model: DuoTok) -> Tensor:
    return torch.cat(list(AudioSource(sound, highpass_hz=model.config.codec.highpass_hz).blocks()), dim=1)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {track: torch.cat([part[track] for part in parts], dim=1) for track in TRACKS}


@pytest.mark.parametrize("frames", [1, 39, 40, 41, 64, 65, 88, 89, 150])
def test_tracks_that_arrive_give_the_codes_of_the_whole(model: DuoTok, frames: int) -> None:
    voice, band = song(frames / 25 - 0.01, seed=1), song(frames / 25 - 0.01, seed=2)
    whole = model.encode(vocals=voice, accompaniment=band, gain_db=-3.0)
    encoder, parts = model.stream().encoder(gain_db=-3.0), []
    voice, band = (filtered(sound, model) for sound in (voice, band))
    for a, b in zip(pieces(voice, (7001, 31, 48_000)), pieces(band, (7001, 31, 48_000)), strict=True):
        parts += list(encoder.push(a, b))
        assert len(encoder._sound[0]) < 24_000 * (2 * 40 + 50 + 8) / 25  # windows and a block, however long the song
    early = sum(part["vocals"].shape[1] for part in parts)
    parts += list(encoder.finish())
    found = joined(parts)
    assert all(torch.equal(found[track], whole[track]) for track in TRACKS)
    assert (encoder.n_samples, encoder.gain_db) == (whole.n_samples, whole.gain_db)
    assert early >= frames - 40 - 8 - 1  # nothing waits longer than a window


def test_stems_that_arrive_give_the_codes_of_the_whole(model: DuoTok) -> None:
    voice, band, stream = song(12.0, seed=1), song(11.0, seed=2), model.stream()
    state = stream.encoder()
    found = joined(
        list(stream.encode(vocals=pieces(voice, (9999,)), accompaniment=pieces(band, (50_000, 3)), state=state))
    )
    whole = model.encode(vocals=voice, accompaniment=band, gain_db=state.gain_db)
    assert all(torch.equal(found[track], whole[track]) for track in TRACKS)


@pytest.mark.parametrize("rest", [1, 2, 17, 32, 33])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_of_samples_by_channels_keep_that_order_to_the_last(model: DuoTok, rest: int, channels: int) -> None:
    """As soundfile.blocks gives them; the last one may be shorter than a sound has channels. Empty ones are none."""
    sound, stream = song(0.5)[:channels, : 4800 * 3 + rest], model.stream()
    blocks = [part.numpy().T for part in sound.split(4800, dim=1)]
    state = stream.encoder(gain_db=-3.0)
    found = joined(list(stream.encode([*blocks[:1], blocks[0][:0], *blocks[1:]], state=state)))
    whole = model.encode(sound, gain_db=-3.0)
    assert state.n_samples == whole.n_samples == 4800 * 3 + rest
    assert all(torch.equal(found[track], whole[track]) for track in TRACKS)


@pytest.mark.parametrize("size", [3, 8, 16, 32, 33])
@pytest.mark.parametrize("first", [None, 1, 2, 700])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_small_blocks_of_either_order_give_the_sound_of_the_whole(
    size: int, first: int | None, turned: bool, channels: int
) -> None:
    """A block of at most 32 samples does not tell which axis is time; the others do, however late they come."""
    sound = song(0.1)[:channels, : (first or 0) + 40 * size + 1]
    start = first or size
    parts = [sound[:, :start], *sound[:, start:].split(size, dim=1)]
    blocks = [part.T if turned else part for part in parts]
    found = torch.cat(list(_Arriving(blocks, 48_000, 0.0)._blocks_at_48_khz()), dim=1)
    assert torch.equal(found, torch.cat(list(AudioSource(sound)._blocks_at_48_khz()), dim=1))


@pytest.mark.parametrize("size", [8, 16, 32, 33])
@pytest.mark.parametrize("turned", [False, True])
def test_small_blocks_of_either_order_give_the_tokens_of_the_whole(model: DuoTok, size: int, turned: bool) -> None:
    sound, state = song(0.2), model.stream().encoder(gain_db=-3.0)
    blocks = (part.T if turned else part for part in sound.split(size, dim=1))
    found, whole = joined(list(model.stream().encode(blocks, state=state))), model.encode(sound, gain_db=-3.0)
    assert state.n_samples == whole.n_samples
    assert all(torch.equal(found[track], whole[track]) for track in TRACKS)


def test_one_block_has_the_layout_of_a_sound_alone() -> None:
    """Except that a few rows of a few columns are samples: a block may be short, a song of under 33 samples is none."""
    for shape in ((2, 20), (33, 32), (5, 5), (1, 1), (40, 1), (1, 40)):
        sound = torch.rand(shape)
        alone = sound_of(sound, 48_000, "x")[0]
        assert torch.equal(next(_Arriving([sound], 48_000, 0.0)._blocks()), alone) and alone.shape[0] == min(shape)
    assert next(_Arriving([torch.rand(20, 2)], 48_000, 0.0)._blocks()).shape == (2, 20)
    assert sound_of(torch.rand(2, 1), 48_000, "x")[0].shape == (2, 1)


def test_a_mix_that_arrives_gives_the_codes_of_the_whole(model: DuoTok) -> None:
    sound, stream = song(13.0), model.stream(WindowPlan(30, 5))
    state = stream.encoder()
    arrived = 0

    def arriving() -> Iterator[Tensor]:
        nonlocal arrived
        for piece in pieces(sound, (48_000,)):
            arrived += piece.shape[1]
            yield piece

    parts, seen = [], []
    for part in stream.encode(arriving(), state=state):
        parts.append(part)
        seen.append(arrived / 48_000 - sum(p["vocals"].shape[1] for p in parts) / 25)
    assert state.gain_db is not None
    whole = model.encode(sound, gain_db=state.gain_db, plan=WindowPlan(30, 5))
    found = joined(parts)
    assert all(torch.equal(found[track], whole[track]) for track in TRACKS)
    assert len(parts) > 10 and seen[0] < 13 and max(seen) <= stream.look_ahead.encoding
    assert state.gain_db == model.encode(sound[:, :480_000]).gain_db  # measured on the first ten seconds


@pytest.mark.parametrize("frames", [1, 20, 40, 41, 77])
def test_tokens_that_arrive_give_the_sound_of_the_whole(model: DuoTok, frames: int) -> None:
    tokens = model.encode(vocals=song(frames / 25 - 0.01, seed=1), accompaniment=song(frames / 25 - 0.01, seed=2))
    given, stream, heard = 0, model.stream(), []

    def arriving() -> Iterator[dict[str, Tensor]]:
        nonlocal given
        for start in range(0, tokens.n_frames, 3):
            given = min(tokens.n_frames, start + 3)
            yield {track: tokens[track][:, start : start + 3] for track in TRACKS}

    for block in stream.decode(arriving(), gain_db=tokens.gain_db, n_samples=tokens.n_samples):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled(), "the caller's mode was changed"
        heard.append(block)
        ahead = given / 25 - sum(block.shape[1] for block in heard[:-1]) / 48_000
        assert ahead <= stream.look_ahead.decoding + 3 / 25
    whole = model.decode(tokens)
    assert torch.allclose(torch.cat(heard, dim=1), whole, atol=1e-5)
    if frames == 77:
        assert len(heard) > 2
    alone = torch.cat(list(stream.decode([tokens], "vocals")), dim=1)
    assert torch.allclose(
        alone[:, : tokens.n_samples], model.decode(tokens, "vocals") * 10 ** (tokens.gain_db / 20), atol=1e-5
    )


@pytest.mark.parametrize("per_frame", [1, 2])
@pytest.mark.parametrize("context", [0, 2, 8])
@pytest.mark.parametrize("frames", [1, 5, 8, 11, 12, 14, 15, 20, 37])
def test_the_windows_are_those_of_the_whole(
    context: int, frames: int, per_frame: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, seen = RenderPlan(window=24, context=context, crossfade=4, decode_block=10), []

    def noted(dit: object, vectors: Tensor, window: RenderWindow, *_: object) -> Tensor:
        assert vectors[:, 0].tolist() == list(range(window.start // per_frame, -(-window.stop // per_frame)))
        seen.append(window)
        return torch.zeros(window.keep_stop - window.keep_start, 4)

    monkeypatch.setattr(arriving, "window_latents", noted)
    state, last = ArrivingVectors(plan, per_frame), False
    for k in range(frames):
        state.push(torch.full((1, 2), float(k)))
        while state.ready():
            state.render(None, RenderSettings(plan=plan), "")  # type: ignore[arg-type]
    while not last:
        last = state.render(None, RenderSettings(plan=plan), "")[1]  # type: ignore[arg-type]
    assert seen == list(windows(per_frame * frames, plan))


def test_arriving_vectors_keep_no_more_than_windows() -> None:
    plan = RenderPlan(window=64, context=16, crossfade=8, decode_block=40)
    state = ArrivingVectors(plan, 2)
    state.render = lambda *given: setattr(state, "keep_start", state.keep_start + plan.hop)  # type: ignore[assignment, method-assign, misc]
    for _ in range(200):
        state.push(torch.zeros(5, 4))
        while state.ready():
            state.render(None, None, "")  # type: ignore[arg-type]
        assert state._buffer is not None and len(state._buffer) <= 2 * 64 // 2 + 20


def test_what_cannot_be_streamed_is_named(model: DuoTok) -> None:
    with pytest.raises(AudioError, match="no sound came"):
        list(model.stream().encode([]))
    with pytest.raises(AudioError, match="block at 44100 samples a second; give rate=44100"):
        list(model.stream().encode([(song(0.1), 44_100)]))
    with pytest.raises(AudioError, match="NoneType is no sound"):
        list(model.stream().encode([song(0.1), None, song(0.1)]))
    with pytest.raises(ConfigError, match="track 'drums'"):
        list(model.stream().decode([], "drums"))
    codes = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"frames \{'vocals': 3\}; give vocals and accompaniment"):
        list(model.stream().decode([{"vocals": codes}]))
    with pytest.raises(ConfigError, match=r"\{'vocals': 3, 'accompaniment': 2\}.*equally many"):
        list(model.stream().decode([{"vocals": codes, "accompaniment": codes[:, :2]}]))


CODES = torch.zeros(1, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("codes", "said"),
    [(CODES + 64, "tokens of vocals, codebook 0: 64 is no code of tiny, which has 0 to 63"), (CODES - 1, "-1 is no code"),
     (CODES.float(), r"torch.float32 \[1, 3\]"), (CODES[0], r"int64 \[3\]; tiny has integers \[1, frames\]"),
     (CODES.repeat(2, 1), r"int64 \[2, 3\]"), (CODES.bool(), "torch.bool"), (CODES.numpy(), "ndarray; .* as a tensor"), ([[1]], "list")],
    ids=["too large", "negative", "floats", "one axis", "two rows", "bool", "numpy", "list"],
)  # fmt: skip
def test_codes_that_are_none_are_refused_as_the_whole_is(model: DuoTok, codes: Tensor, said: str) -> None:
    tokens = {track: codes for track in TRACKS}
    for decoded in (lambda: list(model.stream().decode([tokens], "vocals")), lambda: model.decode(tokens)):
        with pytest.raises(BundleError, match=said):
            decoded()


def test_narrow_codes_and_empty_pieces_are_taken(model: DuoTok) -> None:
    def sound(*parts: Tensor) -> Tensor:
        return torch.cat(list(model.stream().decode([{"vocals": part} for part in parts], "vocals")), dim=1)

    for kind in (torch.int16, torch.uint8, torch.uint16):
        assert torch.equal(sound(CODES[:, :0], CODES.to(kind), CODES[:, :0]), sound(CODES))


@pytest.mark.parametrize(
    "pieces", [5, CODES, {"vocals": CODES}, ["vocals"], [CODES]], ids=lambda value: type(value).__name__
)
def test_what_is_no_row_of_pieces_is_named(model: DuoTok, pieces: object) -> None:
    with pytest.raises(ConfigError, match=r"no (row of pieces|piece of tokens)"):
        list(model.stream().decode(pieces, "vocals"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "blocks", [5, "song.wav", song(0.1), song(0.1).numpy(), {}], ids=lambda value: type(value).__name__
)
def test_what_is_no_row_of_blocks_is_named(model: DuoTok, blocks: object) -> None:
    """The rows of one `[channels, samples]` were read as blocks that follow each other."""
    with pytest.raises(AudioError, match="is no row of blocks; give an iterable of sound, such as"):
        list(model.stream().encode(blocks))  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="rate 0; give samples per second"):
        list(model.stream().encode([song(0.1)], 0))


@pytest.mark.parametrize("gain", [float("nan"), float("inf"), 121, "3", True])
def test_a_gain_is_a_number_of_decibels(model: DuoTok, gain: float) -> None:
    sound, tokens = song(0.1), {track: CODES for track in TRACKS}
    calls = [
        lambda: model.encode(sound, gain_db=gain), lambda: model.stream().encoder(gain),
        lambda: list(model.stream().encode([sound], gain_db=gain)),
        lambda: list(model.stream().decode([tokens], gain_db=gain)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ConfigError, match=f"gain_db {gain!r}: give decibels, within 120 of 0"):
            call()


@pytest.mark.parametrize("length", [-5, 5.5, "3", True, 3 * 1920 + 1])
def test_a_length_is_one_that_the_pieces_have(model: DuoTok, length: int) -> None:
    tokens = {track: CODES for track in TRACKS}
    with pytest.raises(ConfigError, match=f"n_samples {length!r}: "):
        list(model.stream().decode([tokens], n_samples=length))
    blocks = list(model.stream().decode([tokens], n_samples=0))  # not known
    assert sum(block.shape[1] for block in blocks) == 3 * 1920


def test_a_state_is_for_one_song(model: DuoTok) -> None:
    stream, sound = model.stream(), song(0.1)
    state = stream.encoder()
    list(stream.encode([sound], state=state))
    with pytest.raises(
        ConfigError, match=r"state: has taken sound already; give a new one for each song, stream.encoder\(\)"
    ):
        list(stream.encode([sound], state=state))
    for again in (lambda: state.push(sound, sound), state.finish):
        with pytest.raises(ConfigError, match="its song has ended"):
            list(again())
    with pytest.raises(ConfigError, match="gain_db 3: the state has a gain"):
        list(stream.encode([sound], gain_db=3, state=stream.encoder()))
    with pytest.raises(ConfigError, match="state: int is no encoder"):
        list(stream.encode([sound], state=5))  # type: ignore[arg-type]


def test_plan_and_settings_are_what_they_say(model: DuoTok) -> None:
    with pytest.raises(ConfigError, match="plan 150: give a WindowPlan"):
        model.stream(150)  # type: ignore[arg-type]
    for given in (lambda: model.stream(None, {"steps": 4}), lambda: model.decode({}, settings={"steps": 4})):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="give RenderSettings, or single ones by name"):
            given()

"""Songs changed as tokens: cut, joined, repeated, their tracks exchanged or muted. Exact to the frame (40 ms).

The result is a song like any other. It has one gain, that of its first part: parts of several songs keep the equal loudness to
which encoding brought them. Each step is recorded in `sources` under "edit 1", "edit 2" ...: what was done, and the SHA-256 of
the token file that it was done to (of several files: of their concatenated hashes).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from duotok.clock import FRAME_RATE, FRAME_SAMPLES
from duotok.errors import ConfigError, TokenFileError
from duotok.tokens import LONGEST_TEXT, DualTokens, SourceFile, to_bytes
from duotok.tracks import TRACKS

EDIT = "edit"
MOST_FRAMES = 1 << 22
"""Frames of the longest song that an edit makes: 46 hours."""


def frame_at(text: str | float) -> int:
    """The frame nearest to a moment: seconds (`12.5`), minutes and seconds (`1:02.5`), or a number of frames (`310f`).

    Raises ConfigError for anything else.
    """
    stripped = str(text).strip()  # nine digits are years
    if match := re.fullmatch(r"(\d{1,9})f", stripped):
        return int(match[1])
    if match := re.fullmatch(r"(?:(\d{1,9}):)?(?:(\d{1,9}):)?(\d{1,9}(?:\.\d*)?|\.\d+)s?", stripped):
        hours, minutes = (match[1], match[2]) if match[2] else (None, match[1])
        return round((3600 * int(hours or 0) + 60 * int(minutes or 0) + float(match[3])) * FRAME_RATE)
    raise ConfigError(f"moment '{stripped[:40]}': write seconds as in 12.5, minutes as in 1:02.5, or frames as in 310f")


def moment(frame: int) -> str:
    """A frame as people read it: `1:02.48`."""
    minutes, seconds = divmod(frame / FRAME_RATE, 60)
    return f"{int(minutes)}:{seconds:05.2f}"


def cut(tokens: DualTokens, start: int = 0, stop: int | None = None) -> DualTokens:
    """Frames `start` to `stop` (None: the end). Raises ConfigError when there are none."""
    stop = tokens.n_frames if stop is None else min(stop, tokens.n_frames)
    if not 0 <= start < stop:
        raise ConfigError(
            f"{moment(start)} to {moment(stop)} is no part of a song of {moment(tokens.n_frames)}; begin earlier or end later"
        )
    description = f"cut: {moment(start)} to {moment(stop)} of {_name(tokens)}"
    return _edited(tokens, tokens.stack()[:, start:stop], _samples(tokens, start, stop), description, [tokens])


def join(songs: Sequence[DualTokens]) -> DualTokens:
    """Songs one after another; those before the last take whole frames. Raises TokenFileError for tokens of several models."""
    if not songs:
        raise ConfigError("nothing to join; name at least one token file")
    for song in songs[1:]:
        _check_same_model(songs[0], song)
    frames = sum(song.n_frames for song in songs)
    _check_length(frames)
    last = songs[-1]
    samples = (frames - last.n_frames) * FRAME_SAMPLES + last.n_samples
    description = f"join: {', '.join(map(_name, songs))}"
    return _edited(songs[0], torch.cat([song.stack() for song in songs], dim=1), samples, description, songs)


def loop(tokens: DualTokens, start: int, stop: int | None, times: int) -> DualTokens:
    """The song with frames `start` to `stop` played `times` times in all. Raises ConfigError for less than once."""
    if times < 1:
        raise ConfigError(f"{times} times is none; 1 leaves the song as it is")
    part = cut(tokens, start, stop)
    end = start + part.n_frames
    _check_length(tokens.n_frames + (times - 1) * part.n_frames)
    codes = tokens.stack()
    looped = torch.cat([codes[:, :end], part.stack().repeat(1, times - 1), codes[:, end:]], dim=1)
    added = (looped.shape[1] - tokens.n_frames) * FRAME_SAMPLES
    # The song may end in the middle of its last frame, which is repeated whole.
    description = f"loop: {moment(start)} to {moment(end)} of {_name(tokens)}, {times} times"
    return _edited(tokens, looped, tokens.n_samples + added, description, [tokens])


def combine(vocals: DualTokens, accompaniment: DualTokens, shift: int = 0) -> DualTokens:
    """The vocals of one song over the accompaniment of another, as long as both last.

    shift: frames that the vocals enter after the accompaniment (below 0: before). Raises TokenFileError for tokens of two models,
    ConfigError when the two do not meet.
    """
    _check_same_model(vocals, accompaniment)
    vocals_start, accompaniment_start = max(0, -shift), max(0, shift)
    frames = min(vocals.n_frames - vocals_start, accompaniment.n_frames - accompaniment_start)
    if frames < 1:
        raise ConfigError(f"a shift of {shift} frames is longer than the songs; give a smaller one")
    codes = torch.stack(
        [
            vocals.vocals[vocals_start : vocals_start + frames],
            accompaniment.accompaniment[accompaniment_start : accompaniment_start + frames],
        ]
    )
    samples = min(
        _samples(vocals, vocals_start, vocals_start + frames),
        _samples(accompaniment, accompaniment_start, accompaniment_start + frames),
    )
    description = f"combine: vocals of {_name(vocals)}, accompaniment of {_name(accompaniment)}"
    description += f", vocals {abs(shift)} frames {'later' if shift > 0 else 'earlier'}" if shift else ""
    return _edited(vocals, codes, samples, description, [vocals, accompaniment])


def mute(tokens: DualTokens, track: str, silence: Tensor, start: int = 0, stop: int | None = None) -> DualTokens:
    """The song with frames `start` to `stop` of a track replaced by what silence encodes to.

    silence: int64 `[frames]`, as many codes of silence as are wanted at least once; they are repeated in turn. Raises ConfigError for a
    track or a part that does not exist.
    """
    if track not in TRACKS:
        raise ConfigError(f"track '{track}' does not exist; choose {' or '.join(TRACKS)}")
    part = cut(tokens, start, stop)
    codes = tokens.stack()
    end = start + part.n_frames
    codes[TRACKS.index(track), start:end] = silence.repeat(-(-part.n_frames // len(silence)))[: part.n_frames]
    description = f"mute: {track} of {_name(tokens)} from {moment(start)} to {moment(end)}"
    return _edited(tokens, codes, tokens.n_samples, description, [tokens])


def replace_part(song: DualTokens, insert: DualTokens, start: int, tracks: Sequence[str] = TRACKS) -> DualTokens:
    """The song with frames from `start` on, of some tracks, replaced by those of another; as long as before.

    Raises TokenFileError for tokens of two models, ConfigError for a track or a place that does not exist.
    """
    _check_same_model(song, insert)
    for track in tracks:
        if track not in TRACKS:
            raise ConfigError(f"track '{track}' does not exist; choose {' or '.join(TRACKS)}")
    if not 0 <= start < song.n_frames:
        raise ConfigError(f"{moment(start)} lies outside of a song of {moment(song.n_frames)}; begin earlier")
    codes, frames = song.stack(), min(insert.n_frames, song.n_frames - start)
    for track in tracks:
        codes[TRACKS.index(track), start : start + frames] = insert.track(track)[:frames]
    description = f"splice: {' and '.join(tracks)} of {_name(insert)} into {_name(song)} at {moment(start)}"
    return _edited(song, codes, song.n_samples, description, [song, insert])


def story(sources: Mapping[str, SourceFile]) -> dict[str, SourceFile]:
    """The files that a song was made of, then the steps in the order in which they were done. (A token file has them by name, where
    "edit 10" comes before "edit 2".)"""
    return dict(sorted(sources.items(), key=lambda entry: _step(entry[0])))


def is_edited(tokens: DualTokens) -> bool:
    """Whether these are somebody's work, and not what a song encodes to."""
    return any(_step(role) for role in tokens.sources)


def _step(role: str) -> int:
    """The number of a step, 0 for a file."""
    match = re.fullmatch(rf"{EDIT} (\d+)", role)
    return int(match[1]) if match else 0


def done_to(tokens: DualTokens, files: Sequence[bytes]) -> DualTokens:
    """Edited tokens whose last step is recorded as done to these token files: those of an earlier DuoTok, or without a source, are not what
    would be written of them now."""
    last = max(tokens.sources, key=_step)
    return replace(tokens, sources={**tokens.sources, last: _record(tokens.sources[last].name, files)})


def _record(description: str, files: Sequence[bytes]) -> SourceFile:
    hashes = [hashlib.sha256(file) for file in files]
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256(b"".join(single.digest() for single in hashes))
    return SourceFile(description, digest.hexdigest(), sum(map(len, files)))


def _check_length(frames: int) -> None:
    if frames > MOST_FRAMES:
        raise ConfigError(
            f"{moment(frames)} is longer than a token file may be ({moment(MOST_FRAMES)}); make it shorter"
        )


def _samples(tokens: DualTokens, start: int, stop: int) -> int:
    """Samples of these frames: whole ones, but for the last of a song."""
    return min(tokens.n_samples, stop * FRAME_SAMPLES) - start * FRAME_SAMPLES


def _name(tokens: DualTokens) -> str:
    return tokens.source or "a song"


def _check_same_model(first: DualTokens, other: DualTokens) -> None:
    first_model, other_model = ((t.model_hash, t.codebook_sizes) for t in (first, other))
    if first_model != other_model:
        raise TokenFileError(
            f"tokens of {first.model_id or 'one model'} ({first.model_hash[:8]}) and of {other.model_id or 'another'} "
            f"({other.model_hash[:8]}) do not belong together; encode both songs with one model"
        )


def recorded(tokens: DualTokens, description: str, inputs: Sequence[DualTokens]) -> DualTokens:
    """The tokens with a record of how they were made: what these songs (none: no song) were made of and, as the last step, what was
    done to them."""
    sources: dict[str, SourceFile] = {}
    steps = 0
    for song in {id(song): song for song in inputs}.values():
        for role, file in story(song.sources).items():
            name = role
            if _step(role):
                steps += 1
                name = f"{EDIT} {steps}"
            number = 2
            while sources.get(name, file) != file:
                name, number = f"{role} {number}", number + 1
            sources[name] = file
    shortened = description if len(description) <= LONGEST_TEXT else f"{description[: LONGEST_TEXT - 3]}..."
    sources[f"{EDIT} {steps + 1}"] = _record(shortened, [to_bytes(song) for song in inputs])
    return replace(tokens, sources=sources, origin="")


def _edited(
    first: DualTokens, codes: Tensor, samples: int, description: str, inputs: Sequence[DualTokens]
) -> DualTokens:
    """Tokens with the gain and the model of `first`, and a record of how they were made."""
    precision = first.precision if len({song.precision for song in inputs}) == 1 else ""
    changed = replace(
        first,
        vocals=codes[0].contiguous(),
        accompaniment=codes[1].contiguous(),
        n_samples=samples,
        precision=precision,
    )
    return recorded(changed, description, inputs)

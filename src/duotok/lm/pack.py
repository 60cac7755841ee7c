"""Pack sound or token files into one corpus, resumable: finished songs are kept in PATH.parts until the end.

From shards, a row is a stretch: segments of a recording that follow each other without a gap; their sound is joined and
encoded as one. A gap (silence and scraps that no segment covers) begins a new row, with its `start_frame`, so that no model
learns a transition across a cut. Rows and their ids follow from the shards alone, so they are the same for all codecs;
`start_frame` is in frames of the codec.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track as progress
from torch import Tensor

from duotok.audio.resampling import resampled_length
from duotok.clock import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE
from duotok.codec import Codec
from duotok.codec.duotok import FULL_PRECISION
from duotok.codec.token_files import SUFFIX as PART
from duotok.codec.token_files import load_tokens, save_tokens
from duotok.corpora.base import split_by_identity
from duotok.errors import DuoTokError, TokenFileError
from duotok.files import held, text_of
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.song import Codes, TokenizedSong
from duotok.lm.start import Vectors, principal
from duotok.lm.streams import CodecIdentity, codec_identity, tokens_identity
from duotok.records import SPLITS, Split
from duotok.shards.index import track_parts
from duotok.shards.neighbours import joined
from duotok.shards.store import ShardStore
from duotok.tokens import SUFFIX, DualTokens, Tokens
from duotok.tracks import TRACKS

T = TypeVar("T")
LOCK = "lock"
"""In the folder of the parts: held by the run at work."""
SOLO = {"instrumental": "accompaniment", "voice": "vocals"}
"""Kinds of recordings that by nature have one track and no other."""


@dataclass(frozen=True)
class SongStretch:
    """Segments (indices into a store, in the order of time) that follow each other in one recording.

    start_frame, frames: at 25 Hz, as shards have it.
    """

    recording: str
    start_frame: int
    identity: str
    split: Split
    tracks: tuple[str, ...]
    segments: tuple[int, ...]
    frames: int
    sound: str
    """Hash of the FLACs that it is made of."""

    @property
    def id(self) -> str:
        return f"{self.recording}@{self.start_frame}" if self.start_frame else self.recording

    @property
    def file(self) -> str:
        """Name of its part, without the ending."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:32]

    @property
    def source(self) -> str:
        return f"{self.id} {self.sound}"


@dataclass(frozen=True)
class Packed:
    """What was packed. kept: songs that an earlier, stopped run had encoded; left_out: segments without both tracks."""

    songs: int
    frames: int
    kept: int
    left_out: int


def stretches(store: ShardStore, splits: Sequence[Split] = SPLITS, solo: Sequence[Split] = ()) -> list[SongStretch]:
    """All stretches that have vocals and accompaniment, split by split, each in the order of recordings and time.

    solo: splits of which instrumentals and solo voices are taken as well; their other track is silence.
    """
    columns = ("recording", "start_frame", "frames", "corpus", "identity", "stems", "sha256")
    result: list[SongStretch] = []
    for split in splits:
        indices = store.where(split, needs=TRACKS)
        for kind, track in SOLO.items() if split in solo else ():
            indices = np.union1d(indices, store.where(split, kinds=(kind,), needs=(track,)))
        values = store.segments.values(indices, *columns) if len(indices) else []
        rows = dict(zip(indices.tolist(), values, strict=True))
        for run in joined(store, indices):
            first, parts = rows[run[0]], [rows[i] for i in run]
            stems = track_parts(tuple(first["stems"]))
            tracks = tuple(track for track in TRACKS if track in stems)
            hashes = [[row["sha256"][stem] for track in tracks for stem in stems[track]] for row in parts]
            result.append(
                SongStretch(
                    first["recording"], first["start_frame"], f"{first['corpus']}/{first['identity']}", split, tracks,
                    tuple(run), sum(row["frames"] for row in parts),
                    hashlib.sha256(json.dumps(hashes).encode()).hexdigest(),
                )
            )  # fmt: skip
    return result


def pack_shards(
    model: Codec,
    store: ShardStore,
    path: Path,
    splits: Sequence[Split] = SPLITS,
    solo: Sequence[Split] = (),
    batch_size: int = 1,
    force: bool = False,
) -> Packed:
    """Encode all songs of a store (`stretches`) and pack them as `path`; called again after a stop, it resumes.

    Raises TokenFileError when there are none, DuoTokError when `path` holds something else (not with `force`).
    """
    to_pack = stretches(store, splits, solo)
    left_out = len(store.select(*splits)) - sum(len(stretch.segments) for stretch in to_pack)
    if not to_pack:
        raise TokenFileError(
            f"{store.ranges.url}: no segment has both {' and '.join(TRACKS)}; separate the mixes first"
        )
    with _at_work(path):
        return _pack_stretches(model, store, path, to_pack, left_out, batch_size, force)


def _pack_stretches(
    model: Codec, store: ShardStore, path: Path, to_pack: Sequence[SongStretch], left_out: int, batch_size: int, force: bool
) -> Packed:  # fmt: skip
    identity = codec_identity(model)
    frames = {s.id: _frames(model, s) for s in to_pack}
    rows = [[s.id, s.split, s.sound] for s in to_pack]
    source = hashlib.sha256(json.dumps([rows, how] if (how := _precision(model)) else rows).encode()).hexdigest()
    parts = _parts(path)
    if _is_packed(path, identity, source, force):
        before = TokenCorpus(path)
        identities = {s.id: s.identity for s in to_pack}
        # Packed by an earlier version or damaged, or the shards name other artists since.
        if not before.has_vectors or before.identities() != identities:
            songs_before = (
                replace(song, identity=identities[song.id]) for split in before.counts for song in before.songs(split)
            )
            write_tokens(path, identity, songs_before, source, code_vectors(model))
        _remove_parts(parts, to_pack)  # of a run that was killed once it had packed
        return Packed(len(to_pack), sum(frames.values()), len(to_pack), left_out)
    kept = 0
    for stretch in _with_progress(to_pack, "encoding"):
        if _is_encoded(parts, model, stretch):
            kept += 1
            continue
        sound = {track: _sound(store, stretch, track) for track in TRACKS}
        _encode(parts, model, stretch, sound, batch_size)

    def songs() -> Iterator[TokenizedSong]:
        for s in to_pack:
            start = identity.frames(s.start_frame / FRAME_RATE)
            song = TokenizedSong(s.id, s.split, _codes(load_tokens(_part(parts, s))[0]), s.identity, s.recording, start)
            if song.frames != frames[s.id]:
                raise TokenFileError(
                    f"{parts}: song '{s.id}' has {song.frames} frames, not {frames[s.id]}; remove the folder"
                )
            yield song

    count = write_tokens(path, identity, songs(), source, code_vectors(model))
    _remove_parts(parts, to_pack)
    return Packed(count, sum(frames.values()), kept, left_out)


def code_vectors(model: Codec) -> Vectors:
    """Principal components of the codec's code vectors, by column."""
    return {
        f"{stream}.{k}": principal(table)
        for stream, tables in model.codebook_vectors().items()
        for k, table in enumerate(tables)
    }


def _precision(model: Codec) -> str:
    """What the source of encoded songs says of a `DuoTok` that computes in less than full precision; "" for all others."""
    precision = getattr(model, "precision", FULL_PRECISION)
    return "" if precision == FULL_PRECISION else f" {precision}"


def _frames(model: Codec, stretch: SongStretch) -> int:
    """Frames of the codec in a stretch."""
    return model.n_frames(resampled_length(stretch.frames * FRAME_SAMPLES, SAMPLE_RATE, model.sample_rate))


def _parts(path: Path) -> Path:
    """The folder of the parts of `path`."""
    return path.with_name(f"{path.name}.parts")


@contextlib.contextmanager
def _at_work(path: Path) -> Iterator[None]:
    """`path` and its parts are this run's for the block. Raises DuoTokError when another run has them, or when nothing can be written."""
    with contextlib.ExitStack() as stack:
        try:
            ours = stack.enter_context(held(_parts(path) / LOCK))
        except OSError as error:
            raise DuoTokError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
        if not ours:
            raise DuoTokError(f"{path}: another run of duotok pack is at work on it; wait for it, or end it")
        yield


def _part(parts: Path, stretch: SongStretch) -> Path:
    return parts / (stretch.file + PART)


def _encode(parts: Path, model: Codec, stretch: SongStretch, sound: Mapping[str, Tensor], batch_size: int) -> None:
    tokens = model.encode(vocals=sound["vocals"], accompaniment=sound["accompaniment"], batch_size=batch_size)
    save_tokens(_part(parts, stretch), tokens, model, stretch.source + _precision(model))


def _is_encoded(parts: Path, model: Codec, stretch: SongStretch) -> bool:
    """Whether an earlier run has encoded the same sound with the same codec."""
    try:
        tokens, header = load_tokens(_part(parts, stretch))
    except TokenFileError:
        return False
    same = {**header, "model_hash": model.model_hash, "source": stretch.source + _precision(model)} == header
    return same and set(tokens) == {stream.name for stream in model.streams}


def _remove_parts(parts: Path, encoded: Sequence[SongStretch]) -> None:
    """Remove the parts of these stretches, and the folder unless something else lies in it."""
    for stretch in encoded:
        _part(parts, stretch).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        parts.rmdir()


def _sound(store: ShardStore, stretch: SongStretch, track: str) -> Tensor:
    if track not in stretch.tracks:
        return torch.zeros(2, stretch.frames * FRAME_SAMPLES)
    return torch.cat([store.audio(index, track, channels=2) for index in stretch.segments], dim=1)


def _codes(tokens: Tokens) -> dict[str, Codes]:
    return {stream: codes.numpy().astype(np.int32) for stream, codes in tokens.items()}


def token_files(folder: Path) -> list[Path]:
    """The .duotok files below a folder, sorted. Raises TokenFileError when there are none."""
    files = sorted(folder.rglob(f"*{SUFFIX}"))
    if not files:
        raise TokenFileError(f"{folder}: no {SUFFIX} files in this folder; name another")
    return files


def pack_tokens(
    folder: Path,
    path: Path,
    split: Split | None = None,
    codec: CodecIdentity | None = None,
    force: bool = False,
    model: Codec | None = None,
) -> Packed:
    """Pack a tree of .duotok files. The name without the ending is a song's id.

    The split is `split`, or the first folder when that is train, validation or test, or follows from a hash of the name (5 %
    validation, 5 % test). codec: the only one that is accepted, by default that of the first file.
    model: the one that made the tokens, whose code vectors are packed too (`tables: codec` of a language model needs them).
    Raises TokenFileError for a file of another codec, of none, or for a folder without any.
    """
    files = token_files(folder)
    first = codec or tokens_identity(DualTokens.load(files[0]))

    def song(file: Path) -> TokenizedSong:
        tokens = DualTokens.load(file)
        if not tokens.model_hash:
            raise TokenFileError(f"{file}: does not say which model made it; encode the song again")
        first.require(tokens_identity(tokens), str(file))
        below = file.relative_to(folder).with_suffix("")
        top_folder = below.parts[0] if len(below.parts) > 1 else ""
        name = text_of(below.as_posix())
        song_split: Split = split or (top_folder if top_folder in SPLITS else split_by_identity(name))  # type: ignore[assignment]
        return TokenizedSong(name, song_split, _codes(tokens), name)

    songs = [song(file) for file in _with_progress(files, "reading")]
    songs.sort(key=lambda s: SPLITS.index(s.split))
    rows = [[s.id, s.split, *(hashlib.sha256(s.tokens[t].tobytes()).hexdigest() for t in TRACKS)] for s in songs]
    source = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    frames = sum(s.frames for s in songs)
    vectors = None if model is None else code_vectors(model)
    with _at_work(path):
        if _is_packed(path, first, source, force) and (vectors is None or TokenCorpus(path).has_vectors):
            return Packed(len(songs), frames, len(songs), 0)
        return Packed(write_tokens(path, first, songs, source, vectors), frames, 0, 0)


def _is_packed(path: Path, identity: CodecIdentity, source: str, force: bool) -> bool:
    """Whether `path` holds this corpus already, undamaged. Raises DuoTokError when it is something else, unless `force`."""
    if force or not os.path.lexists(path):
        return False
    corpus = None
    try:
        corpus = TokenCorpus(path)
    except TokenFileError:
        raise DuoTokError(
            f"{path}: is there, and no packed tokens, or damaged; choose another name, or force"
        ) from None
    if (corpus.identity, corpus.source) != (identity, source):
        raise DuoTokError(f"{path}: holds other tokens ({corpus.identity}); choose another name, or force")
    try:
        corpus.check()
    except TokenFileError as error:
        Console(stderr=True).print(f"{str(error).split(';')[0]}: packed again", highlight=False, soft_wrap=True)
        return False
    return True


def _with_progress(items: Sequence[T], what: str) -> Iterator[T]:
    yield from progress(items, what, console=Console(stderr=True), transient=True)

"""Score a language model on songs: bits and rank of every target token, by teacher forcing, resumable song by song."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from duotok.errors import DuoTokError, TokenFileError
from duotok.files import write_bytes
from duotok.lm.corpus import TokenCorpus
from duotok.lm.model import MultiStreamLM
from duotok.lm.pieces import SHORTEST, Piece, check_lengths, pieces
from duotok.lm.protocols import Protocol, batched
from duotok.lm.scores import SongScore, load_scores, save_scores
from duotok.lm.song import TokenizedSong, check_song
from duotok.records import Split

SECONDS = 30.0
FACTS = "facts.json"
GROUP = 8  # batches that are sorted by length together; finished songs are written after each group


def evaluate(
    model: MultiStreamLM,
    corpus: TokenCorpus,
    split: Split,
    protocol: Protocol,
    *,
    seconds: float = SECONDS,
    shortest: float = SHORTEST,
    batch_size: int = 8,
    out: Path | None = None,
) -> list[SongScore]:
    """`score_songs` over a split; stretches of one recording are joined, so that a song is a recording.

    Raises TokenFileError when the corpus holds tokens of another codec than the model's.
    """
    model.codec.require(corpus.identity, str(corpus.path))
    songs = corpus.songs(split)
    scores = score_songs(model, songs, protocol, seconds=seconds, shortest=shortest, batch_size=batch_size, out=out)
    return joined(scores, songs)


def score_songs(
    model: MultiStreamLM,
    songs: Sequence[TokenizedSong],
    protocol: Protocol,
    *,
    seconds: float = SECONDS,
    shortest: float = SHORTEST,
    batch_size: int = 8,
    last: int | None = None,
    out: Path | None = None,
) -> list[SongScore]:
    """One SongScore for each song and each codebook that the protocol predicts, in the order of songs and codebooks.

    Songs are cut by `pieces`; scores of a song's pieces follow each other in time. Songs too short for one piece are left
    out. last: only so many frames at the end of each piece are scored (the model sees all of it).
    out: a folder for finished songs (one file each), so that a stopped evaluation can resume.
    Raises TokenFileError for tokens that are not of the model's codec, ConfigError for pieces no longer than the prefix,
    DuoTokError when `out` holds scores of another evaluation.
    """
    model.codec.require(protocol.codec, "protocol")
    check_lengths(protocol, seconds, shortest)
    for song in songs:
        check_song(model.codec, _without_pad(song, protocol), "tokens")
    store = None
    if out is not None:
        store = _Folder(out, {
            "model": fingerprint(model), "codec": model.codec.as_json(), **protocol.describe(), "seconds": seconds,
            "shortest": shortest, "songs": _digest(songs), **({} if last is None else {"last": last}),
        })  # fmt: skip
    scores_by_song: dict[int, list[SongScore]] = {}
    todo = []
    for piece in pieces(songs, model.codec, seconds, shortest):
        if piece.song not in scores_by_song and store is not None:
            kept = store.load(piece.song)
            if kept is not None:
                scores_by_song[piece.song] = kept
        if piece.song not in scores_by_song:
            todo.append(piece)
    was_training = model.training
    model.eval()
    try:
        for index, scores in _score(model, songs, protocol, todo, batch_size, last):
            scores_by_song[index] = scores
            if store is not None:
                store.save(index, scores)
    finally:
        model.train(was_training)
    if not scores_by_song:
        raise TokenFileError(
            f"no song of at least {min(shortest, seconds):g} s among {len(songs)}; score shorter pieces"
        )
    return [score for index in sorted(scores_by_song) for score in scores_by_song[index]]


def _without_pad(song: TokenizedSong, protocol: Protocol) -> TokenizedSong:
    """The song with PAD in its source replaced by code 0. Only a source may hold PAD: the corruption test masks it so."""
    if protocol.name == "parallel" or protocol.source not in song.tokens:
        return song
    pads = np.array([[size + 2] for size in protocol.codec.stream(protocol.source).codebook_sizes])
    codes = song.tokens[protocol.source]
    return replace(song, tokens={**song.tokens, protocol.source: np.where(codes == pads, 0, codes)})


def joined(scores: Sequence[SongScore], songs: Sequence[TokenizedSong]) -> list[SongScore]:
    """Scores of the stretches of one recording, joined in the order of time and named after the recording."""
    places = {song.id: (song.recording_id, song.start_frame) for song in songs}
    parts: dict[tuple[str, str, int], list[SongScore]] = {}
    for score in scores:
        parts.setdefault((places[score.song][0], score.stream, score.codebook), []).append(score)
    result = []
    for (name, _, _), stretches in parts.items():
        stretches.sort(key=lambda score: places[score.song][1])
        result.append(replace(_concatenated(stretches), song=name))
    return result


def _score(
    model: MultiStreamLM,
    songs: Sequence[TokenizedSong],
    protocol: Protocol,
    todo: Sequence[Piece],
    batch_size: int,
    last: int | None,
) -> Iterator[tuple[int, list[SongScore]]]:
    """(number of a song, its scores) as soon as all of its pieces are done."""
    done: dict[int, list[tuple[int, list[SongScore]]]] = {}
    pieces_of_song = Counter(piece.song for piece in todo)
    console = Console(stderr=True)
    # without a terminal rich writes a blank line for every bar
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("scores", total=len(todo))
        for first in range(0, len(todo), GROUP * batch_size):
            group = sorted(todo[first : first + GROUP * batch_size], key=lambda p: p.start - p.stop)
            for start in range(0, len(group), batch_size):
                part = group[start : start + batch_size]
                for piece, scores in zip(part, score_pieces(model, songs, protocol, part, last), strict=True):
                    done.setdefault(piece.song, []).append((piece.start, scores))
                progress.advance(task, len(part))
            for index in [index for index, parts in done.items() if len(parts) == pieces_of_song[index]]:
                parts = [scores for _, scores in sorted(done.pop(index), key=lambda part: part[0])]
                yield index, [_concatenated(column) for column in zip(*parts, strict=True)]


def _concatenated(parts: Sequence[SongScore]) -> SongScore:
    """Consecutive scores of one codebook, joined."""
    bits, ranks, codes = (np.concatenate([getattr(s, name) for s in parts]) for name in ("bits", "ranks", "codes"))
    return replace(parts[0], bits=bits, ranks=ranks, codes=codes)


def score_pieces(
    model: MultiStreamLM,
    songs: Sequence[TokenizedSong],
    protocol: Protocol,
    part: Sequence[Piece],
    last: int | None = None,
) -> list[list[SongScore]]:
    """Scores of one batch of pieces: for each piece, one SongScore for each predicted codebook, of its `last` scored frames
    or of all."""
    examples = [protocol.example(piece.tokens(songs)) for piece in part]
    inputs, targets, mask = batched(examples, model.codec)
    sizes = targets.new_tensor(model.sizes)
    mask &= targets < sizes  # EOS is learned, but it is not a code and does not count in the figures
    if last is not None:
        mask &= mask.flip(1).cumsum(1).flip(1) <= last
    scores = model.scores(*(value.to(model.device) for value in (inputs, targets, mask)))
    columns = model.codec.columns
    result: list[list[SongScore]] = [[] for _ in part]
    for k in protocol.scored:
        bits, ranks = (value.cpu().numpy() for value in scores[k])
        ends = mask[..., k].sum(1).cumsum(0).tolist()
        for i, (piece, start, stop) in enumerate(zip(part, [0, *ends], ends, strict=False)):
            codes = targets[i, :, k][mask[i, :, k]].numpy().astype(np.int32)
            name, column = songs[piece.song].id, columns[k]
            result[i].append(
                SongScore(
                    name, column.stream, column.codebook, column.size,
                    bits[start:stop], ranks[start:stop].astype(np.int32), codes,
                )
            )  # fmt: skip
    return result


def fingerprint(model: MultiStreamLM) -> str:
    """sha256 of the weights, which with the tokens determine all scores."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).data)
    return digest.hexdigest()


def _digest(songs: Sequence[TokenizedSong]) -> str:
    digest = hashlib.sha256()
    for song in songs:
        digest.update(f"\0{song.id}\0".encode())
        for name in sorted(song.tokens):
            digest.update(np.ascontiguousarray(song.tokens[name], dtype=np.int32).data)
    return digest.hexdigest()


class _Folder:
    """Scores of finished songs, one file each, with the facts that identify the evaluation."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        path = folder / FACTS
        text = json.dumps(facts, indent=1, sort_keys=True)
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if any(folder.glob("song-*.safetensors")):
                raise DuoTokError(
                    f"{folder}: has scores, and no {FACTS} that says of which model; delete it or name another folder"
                ) from None
            write_bytes(path, text.encode())
            return
        except ValueError:
            before = {}
        if before != json.loads(text):
            other = sorted(key for key in {*facts, *before} if before.get(key) != json.loads(text).get(key))
            raise DuoTokError(
                f"{folder}: holds scores of another evaluation ({', '.join(other)} differ); delete it or name another folder"
            )

    def path(self, index: int) -> Path:
        return self.folder / f"song-{index:06d}.safetensors"

    def save(self, index: int, scores: list[SongScore]) -> None:
        save_scores(self.path(index), scores, {})

    def load(self, index: int) -> list[SongScore] | None:
        """None where they are not there as they were written."""
        try:
            return load_scores(self.path(index))[0]
        except TokenFileError:
            return None

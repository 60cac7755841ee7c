"""Check that several packed corpora hold the same songs, and choose the moments that are scored, the same for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from duotok.errors import MetricError
from duotok.lm.corpus import TokenCorpus
from duotok.lm.song import TokenizedSong
from duotok.records import Split


class Row(NamedTuple):
    """A song (or a stretch of one) of all corpora; start, seconds: where it begins in its recording and how long it lasts,
    the shortest of the corpora."""

    id: str
    split: str
    identity: str
    recording_id: str
    start: float
    seconds: float


class Moment(NamedTuple):
    """Seconds `start` to `stop` of row number `row`."""

    row: int
    start: float
    stop: float

    def id(self, rows: Sequence[Row]) -> str:
        """The name of this moment in score files, unique among the moments."""
        return f"{rows[self.row].id}#{self.start:g}s"


def rows_of(corpus: TokenCorpus) -> list[Row]:
    """Every row, in the order of the file, without its tokens."""
    import pyarrow.parquet

    rate = corpus.identity.frame_rate
    columns = ["id", "split", "identity", "recording", "start_frame", "n_frames"]
    return [
        Row(
            r["id"], r["split"], r["identity"], r["recording"] or r["id"], r["start_frame"] / rate, r["n_frames"] / rate
        )
        for r in pyarrow.parquet.read_table(corpus.path.absolute(), columns=columns).to_pylist()
    ]


def check_same(corpora: Mapping[str, TokenCorpus]) -> list[Row]:
    """The rows that all corpora share. Raises MetricError, naming the first difference: a song that one lacks, another
    split, identity or place, another duration (beyond the rounding to frames of both), another order."""
    (first, corpus), *others = corpora.items()
    rows = rows_of(corpus)
    for name, other in others:
        slack = 1 / corpus.identity.frame_rate + 1 / other.identity.frame_rate + 1e-6
        other_rows = rows_of(other)
        by_id, other_by_id = ({row.id: row for row in each} for each in (rows, other_rows))
        for left, right, in_left, in_right in ((first, name, by_id, other_by_id), (name, first, other_by_id, by_id)):
            for row in in_left.values():
                if row.id not in in_right:
                    raise MetricError(
                        f"{corpora[right].path} ({right}) lacks song '{row.id}' ({row.split}), which {left} has; pack the same songs"
                    )
        for row in rows:
            other_row = other_by_id[row.id]
            for key, unit in (
                ("split", ""),
                ("identity", ""),
                ("recording_id", ""),
                ("start", " s"),
                ("seconds", " s"),
            ):
                a, b = getattr(row, key), getattr(other_row, key)
                if (abs(a - b) > slack) if unit else (a != b):
                    a, b = (f"{value:.3f}{unit}" if unit else f"'{value}'" for value in (a, b))
                    raise MetricError(
                        f"song '{row.id}': {WORDS[key]} is {a} in {first} and {b} in {name}; pack the same songs"
                    )
        for number, (row, other_row) in enumerate(zip(rows, other_rows, strict=True)):
            if row.id != other_row.id:  # training draws songs by their number
                raise MetricError(
                    f"song {number} is '{row.id}' in {first} and '{other_row.id}' in {name}; pack in the same order"
                )
        rows = [row._replace(seconds=min(row.seconds, other_by_id[row.id].seconds)) for row in rows]
    return rows


WORDS = {
    "split": "its split",
    "identity": "its identity",
    "recording_id": "its recording",
    "start": "its start",
    "seconds": "its duration",
}


def moments(rows: Sequence[Row], split: Split, seconds: float, shortest: float) -> list[Moment]:
    """Songs of a split in pieces of `seconds` from their beginning. A shorter last piece counts from `shortest` seconds on."""
    pieces = []
    for index, row in enumerate(rows):
        if row.split != split:
            continue
        for place in range(math.ceil(row.seconds / seconds)):
            start, stop = place * seconds, min((place + 1) * seconds, row.seconds)
            if stop - start >= min(shortest, seconds) - 1e-6:
                pieces.append(Moment(index, start, stop))
    return pieces


def cut(corpus: TokenCorpus, split: Split, rows: Sequence[Row], chosen: Sequence[Moment]) -> list[TokenizedSong]:
    """The tokens of `chosen`, each a song of its own, under its `Moment.id`."""
    codec = corpus.identity
    songs = {song.id: song for song in corpus.songs(split)}
    result = []
    for moment in chosen:
        song = songs[rows[moment.row].id]
        start = codec.frames(moment.start)
        # As many frames for every piece of the same length, wherever it begins.
        stop = min(start + codec.frames(moment.stop - moment.start), song.frames)
        tokens = {stream: codes[:, start:stop] for stream, codes in song.tokens.items()}
        result.append(replace(song, id=moment.id(rows), tokens=tokens))
    return result

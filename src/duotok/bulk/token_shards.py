"""Shards of a token store (`duotok.lm.token_store` reads them), written from what the ledgers know, and the manifest over them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotok.bulk.encoding import codes_of
from duotok.bulk.folder import FAILURES, shard_files
from duotok.bulk.ledger import WAS, Ledger
from duotok.clock import n_frames
from duotok.errors import TokenFileError
from duotok.files import remove, sha256, write_bytes, writing
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity
from duotok.lm.token_store import FORMAT, LENGTHS, MANIFEST, VECTORS
from duotok.records import Split
from duotok.seals import seal

SHARD_FRAMES = 1 << 25
"""Frames after which a shard goes on in another file: 373 hours, at most 256 MiB."""


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}"


def write_shard(folder: Path, name: str, ledger: Ledger, identity: CodecIdentity, most: int = SHARD_FRAMES) -> int:
    """Write the files of a shard from the journal and from its files as they were, then settle its ledger.

    The songs that are done, in the order of their places; a new file begins where one would get more than `most` frames. A song whose codes
    are damaged is taken out of the ledger, so that it is done again; returns how many. Raises OSError, TokenFileError.
    """
    known = len(ledger.rows)
    before = _Before(folder, ledger)
    songs: dict[int, str] = {}
    files: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(_parts(_songs(ledger, before, songs), most)):
        file = f"{name}.parquet" if not number else f"{name}.{number}.parquet"
        counted = _Counted(part)
        write_tokens(folder / file, identity, counted, name)
        files[file] = {
            "bytes": (folder / file).stat().st_size, "sha256": sha256(folder / file), "songs": counted.songs, "frames": counted.frames,
            "groups": _groups(folder / file),
        }  # fmt: skip
    stale = [file for file in ledger.files if file not in files]
    ledger.settle(files, songs)
    for file in stale:
        remove(folder / file)
    return known - len(ledger.rows)


def _groups(path: Path) -> list[int]:
    """Songs of each row group."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path.absolute())
    return [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]


class _Counted:
    def __init__(self, songs: Iterable[TokenizedSong]) -> None:
        self._iterable, self.songs, self.frames = songs, 0, 0

    def __iter__(self) -> Iterator[TokenizedSong]:
        for song in self._iterable:
            self.songs, self.frames = self.songs + 1, self.frames + song.frames
            yield song


def _parts(songs: Iterator[TokenizedSong], most: int) -> Iterator[Iterator[TokenizedSong]]:
    """The songs in runs of at most `most` frames; each run is to be used up before the next is asked for."""
    waiting = [song for song in [next(songs, None)] if song is not None]

    def run() -> Iterator[TokenizedSong]:
        frames = 0
        while waiting and (not frames or frames + waiting[0].frames <= most):
            song = waiting.pop()
            frames += song.frames
            following = next(songs, None)
            if following is not None:
                waiting.append(following)
            yield song

    while waiting:
        yield run()


def _songs(ledger: Ledger, before: _Before, songs: dict[int, str]) -> Iterator[TokenizedSong]:
    """The songs of a shard in order; notes the hash of each in `songs`."""
    for place in sorted(ledger.rows):
        row = ledger.rows[place]
        if "error" in row:
            continue
        texts = ledger.codes(place)
        if texts is not None:
            song = _checked(TokenizedSong(row["id"], row["split"], codes_of(texts)), row)
        else:
            song = before.song(row)
        if song is None:
            del ledger.rows[place]
            continue
        songs[place] = song.sha256
        yield song


class _Before:
    """The songs of a shard as its files have them; they are opened at once, because files of the same names are written next."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._rows: dict[str, tuple[TokenCorpus, int, int]] = {}
        self._group: tuple[TokenCorpus, int, list[TokenizedSong]] | None = None
        if all(ledger.has_codes(place) or "error" in row for place, row in ledger.rows.items()):
            return
        for name in ledger.files:
            with contextlib.suppress(TokenFileError):
                corpus = TokenCorpus(folder / name)
                self._rows |= {id: (corpus, group, place) for group, place, id in corpus.index()}

    def song(self, row: dict[str, Any]) -> TokenizedSong | None:
        if row["id"] not in self._rows:
            return None
        corpus, group, place = self._rows[row["id"]]
        if self._group is None or self._group[:2] != (corpus, group):
            try:
                self._group = corpus, group, corpus.group(group)
            except TokenFileError:
                return None
        return _checked(self._group[2][place], row)


def _checked(song: TokenizedSong, row: dict[str, Any]) -> TokenizedSong | None:
    """The song with the identity of its row, if it is the one that the row was written for."""
    if dataclasses.replace(song, identity=row.get(WAS, row["identity"])).sha256 != row.get("song"):
        return None
    return dataclasses.replace(song, identity=row["identity"])


def song_of(folder: Path, ledger: Ledger, place: int) -> TokenizedSong | None:
    """A song of a settled shard; None where its file is damaged."""
    return _Before(folder, ledger).song(ledger.rows[place])


def places_of(folder: Path, ledger: Ledger) -> set[int]:
    """Places whose songs the files of a shard have, as after a kill between the files and the ledger."""
    before = _Before(folder, ledger)
    return {
        place
        for place, row in sorted(ledger.rows.items())
        if "error" not in row and not ledger.has_codes(place) and before.song(row) is not None
    }


def write_failure(path: Path, id: str, error: str) -> None:
    """Add a line to a file of failures. Raises OSError."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": id, "error": error}) + "\n")


def write_manifest(
    folder: Path, identity: CodecIdentity, ledgers: Iterable[tuple[Split, Ledger]], unread: Path | None = None
) -> dict[str, int]:
    """Write manifest and failures from the ledgers of all shards, in order. Returns how many songs, failed ones and frames.

    unread: a file of more failures, if it is there.
    """
    shards: list[dict[str, Any]] = []
    totals = {"songs": 0, "failed": 0, "frames": 0, "bytes": 0}
    lengths: list[NDArray[np.int32]] = []
    with writing(folder / FAILURES) as partial, partial.open("w", encoding="utf-8") as file:
        for split, ledger in ledgers:
            for name, facts in ledger.files.items():
                shards.append({"name": name, "split": split, **facts})
                for key in ("songs", "frames", "bytes"):
                    totals[key] += facts[key]
            rows = [ledger.rows[place] for place in sorted(ledger.rows)]
            lengths.append(np.array([n_frames(row["n_samples"]) for row in rows if "error" not in row], np.int32))
            for row in rows:
                if "error" in row:
                    totals["failed"] += 1
                    file.write(json.dumps({"id": row["id"], "error": row["error"]}) + "\n")
        if unread is not None and unread.exists():
            with unread.open(encoding="utf-8") as more:
                shutil.copyfileobj(more, file)
    names = {shard["name"] for shard in shards}
    for path in shard_files(folder):
        if path.name not in names:  # what a kill between two steps left
            remove(path)
    array = io.BytesIO()
    np.save(array, np.concatenate(lengths), allow_pickle=False)
    write_bytes(folder / LENGTHS, array.getvalue())
    facts = {
        "format": FORMAT, "codec": identity.as_json(), "vectors": sha256(folder / VECTORS), "lengths": sha256(folder / LENGTHS),
        "totals": totals, "shards": shards,
    }  # fmt: skip
    write_bytes(folder / MANIFEST, (json.dumps(seal(facts), indent=1) + "\n").encode())
    return totals

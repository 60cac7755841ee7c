"""A run over the listed songs: which are to be done, what became of each, and the shards that are whole.

A song is done when the ledger has a row of it for these very bytes. It comes into the journal once its codes are there and
into a shard once all of that shard's songs are; so a kill at any moment loses the songs under way and doubles none.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duotok.bulk.encoding import codes_of
from duotok.bulk.engines import Job, Result
from duotok.bulk.folder import LEDGERS, SCRATCH, UNREAD
from duotok.bulk.ledger import WAS, Ledger
from duotok.bulk.plan import PLAN
from duotok.bulk.planning import ListedSongs, Planned
from duotok.bulk.settings import Settings, Summary, Watch
from duotok.bulk.token_shards import places_of, shard_name, write_failure, write_shard
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity
from duotok.records import SPLITS, Split

IDLE_LEDGERS = 8
"""Ledgers without open work that stay in memory."""
OPEN_LEDGERS = 64
"""Journals whose files stay open: songs that come in another order than they have in the store touch all shards at once."""


def ledgers(folder: Path) -> Iterator[tuple[Split, Ledger]]:
    for split in SPLITS:
        for path in sorted((folder / LEDGERS).glob(f"{split}-*.jsonl")):
            yield split, Ledger.read(path)


@dataclass
class _Shard:
    """split, name: of the shard; to_come: its songs that the listing has not come to; open: those under way."""

    split: Split
    name: str
    ledger: Ledger
    to_come: int
    open: int = 0

    @property
    def idle(self) -> bool:
        return not self.open and not self.ledger.dirty


class Run:
    """jobs() is used up by the engine's threads while ended() is called by another: a lock is around both."""

    def __init__(
        self,
        folder: Path,
        identity: CodecIdentity,
        codec: DuoTok,
        settings: Settings,
        summary: Summary,
        watch: Watch,
        found: ListedSongs,
    ) -> None:
        self.folder, self.identity, self.settings, self.summary, self.watch = folder, identity, settings, summary, watch
        self.found, self.left = found, dict(found.counts)
        self.common = {
            "highpass": codec.config.codec.highpass_hz, "separates": codec.separator is not None,
            "scratch": str((folder / SCRATCH).absolute()),  # workers of a cluster run in other folders
        }  # fmt: skip
        self.unread = folder / SCRATCH / UNREAD
        self.lock = threading.Lock()
        self.shards: dict[int, _Shard] = {}
        self.open: OrderedDict[str, Ledger] = OrderedDict()
        self.under_way: dict[int, Planned] = {}

    def jobs(self) -> Iterator[Job]:
        """The songs that are not done, in the order of the listing."""
        for number, planned in enumerate(self.found):
            with self.lock:
                job = self._job(number, planned)
            if job is not None:
                yield job

    def _job(self, number: int, planned: Planned) -> Job | None:
        shard = self._shard(planned.shard)
        shard.to_come -= 1
        entry, row = planned.entry, shard.ledger.rows.get(planned.place)
        if row is not None and row["id"] != entry.id:
            raise DuoTokError(
                f"{self.folder}: {row['id']} stands where {PLAN} has {entry.id}, so they are not of one store; copy all of it, or choose "
                "another place with -o"
            )
        job = None
        if entry.problem:
            if (
                row is not None and "error" not in row
            ):  # files that are not there must not cost the tokens of their song
                write_failure(self.unread, entry.id, entry.problem)
            elif row is None or row["error"] != entry.problem:
                self._append(shard.ledger, self._row(planned) | {"error": entry.problem})
            self._failed(entry.id, entry.problem)
        elif row is not None and "error" in row and not self.settings.retry and _same(row, entry.marks):
            self._failed(entry.id, row["error"])
        elif row is not None and "error" not in row and _same(row, entry.marks) and all(entry.marks.values()):
            if row["identity"] != entry.identity:
                self._change(shard.ledger, row, identity=entry.identity)
            self.summary.kept += 1
            self.watch.kept(1)
        else:
            self.under_way[number] = planned
            shard.open += 1
            known = None if row is None or "error" in row else {"sha256": row["sha256"], "marks": row["marks"]}
            sources = {role: list(place) for role, place in entry.sources.items()}
            job = Job(number, entry.id, {**self.common, "sources": sources, "marks": entry.marks, "known": known})
        if job is None:
            self._settle_if_whole(shard)
        return job

    def _failed(self, id: str, error: str) -> None:
        self.summary.failed += 1
        self.watch.ended(id, {"error": error if error.startswith(id) else f"{id}: {error}"})

    def _row(self, planned: Planned) -> dict[str, Any]:
        entry = planned.entry
        return {
            "place": planned.place,
            "id": entry.id,
            "split": SPLITS[planned.shard >> 32],
            "identity": entry.identity,
            "marks": entry.marks,
        }

    def ended(self, number: int, result: Result) -> None:
        """Take the result of a job. One that comes a second time, as of a machine thought lost, is dropped. Raises OSError."""
        with self.lock:
            planned = self.under_way.pop(number, None)
            if planned is None:
                return
            shard, entry = self._shard(planned.shard), planned.entry
            row = self._row(planned)
            if "error" in result:
                if result.get("unread"):  # a disk that is not mounted must not cost the tokens of its songs
                    write_failure(self.unread, entry.id, result["error"])
                else:
                    self._append(shard.ledger, row | {"error": result["error"]})
                self.summary.failed += 1
            elif result.get("same"):
                before, now = shard.ledger.rows[planned.place], {"marks": result["marks"], "identity": entry.identity}
                if any(before[key] != value for key, value in now.items()):
                    self._change(shard.ledger, before, **now)
                self.summary.kept += 1
            else:
                song = TokenizedSong(entry.id, row["split"], codes_of(result["codes"]), entry.identity)
                facts = {key: result[key] for key in ("sha256", "marks", "n_samples", "gain_db", "codes")}
                self._append(shard.ledger, row | facts | {"song": song.sha256})
                self.summary.encoded += 1
                self.summary.seconds += result["seconds"]
            shard.open -= 1
            self._settle_if_whole(shard)
        self.watch.ended(entry.id, result)

    def _change(self, ledger: Ledger, row: dict[str, Any], **facts: Any) -> None:
        """What is known of a song that is done, while its codes stay."""
        codes = ledger.codes(row["place"])
        more = {} if codes is None else {"codes": codes}
        self._append(ledger, {WAS: row["identity"]} | row | more | facts)

    def _append(self, ledger: Ledger, row: dict[str, Any]) -> None:
        ledger.append(row)
        self.open[ledger.path.name] = ledger
        self.open.move_to_end(ledger.path.name)
        if len(self.open) > OPEN_LEDGERS:
            self.open.popitem(last=False)[1].close()

    def _shard(self, number: int) -> _Shard:
        if number not in self.shards:
            idle = [key for key, shard in self.shards.items() if shard.idle]
            for key in idle[: max(0, len(idle) - IDLE_LEDGERS + 1)]:
                shard = self.shards.pop(key)
                self.left[key] = shard.to_come
                shard.ledger.close()
            split = SPLITS[number >> 32]
            name = shard_name(split, number & 0xFFFFFFFF)
            ledger = Ledger.read(self.folder / LEDGERS / f"{name}.jsonl")
            if any(not _is_there(self.folder / file, facts["bytes"]) for file, facts in ledger.files.items()):
                ledger.lose_files(places_of(self.folder, ledger))
            self.shards[number] = _Shard(split, name, ledger, self.left.get(number, 0))
        return self.shards[number]

    def _settle_if_whole(self, shard: _Shard) -> None:
        if shard.ledger.dirty and not shard.to_come and not shard.open:
            self.summary.damaged += write_shard(self.folder, shard.name, shard.ledger, self.identity)

    def settle_all(self) -> None:
        """Write the shards of which other runs left a part, and songs of other sources."""
        with self.lock:
            for shard in self.shards.values():
                self._settle_if_whole(shard)
            for _, ledger in ledgers(self.folder):
                if ledger.dirty:
                    self.summary.damaged += write_shard(self.folder, ledger.path.stem, ledger, self.identity)

    def close(self) -> None:
        for shard in self.shards.values():
            shard.ledger.close()


def _same(row: dict[str, Any], marks: dict[str, str]) -> bool:
    """Whether the files are those of the row, as far as the listing tells."""
    before = row["marks"]
    return before.keys() == marks.keys() and all(not mark or mark == before[role] for role, mark in marks.items())


def _is_there(path: Path, size: int) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == size
    return False

"""The run of `duotok tokenize`: list, give every song its place, encode what is not done, write shards as they fill.

A song is done when the ledger has a row of it for these very bytes. It comes into the journal once its codes are there and
into a shard once all of that shard's songs are; so a kill at any moment loses the songs under way and doubles none. Which song stands
where follows from the listing alone, so the shards are the same bytes with any engine, number of workers, and history of kills.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duotok.bulk.encoding import codes_of
from duotok.bulk.engines import Job, Pipeline, Result, Times
from duotok.bulk.ledger import WAS, Ledger
from duotok.bulk.planning import ListedSongs, Planned, listed
from duotok.bulk.sources import Listing, songs
from duotok.bulk.store import (
    LEDGERS,
    PLAN,
    SCRATCH,
    UNREAD,
    Plan,
    begin,
    check_place,
    check_same,
    held,
    places_of,
    shard_name,
    song_of,
    write_failure,
    write_manifest,
    write_shard,
)
from duotok.bulk.verifying import Compared, chosen, compare
from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError, DuoTokError
from duotok.lm.pack import code_vectors
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity, codec_identity
from duotok.lm.token_store import SHARD_REMEDY, STORE
from duotok.records import SPLITS, Split

SHARD_SONGS = 1000
DAMAGED = f"its shard is damaged; {SHARD_REMEDY}"
IDLE_LEDGERS = 8
"""Ledgers without open work that stay in memory."""
OPEN_LEDGERS = 64
"""Journals whose files stay open: songs that come in another order than they have in the store touch all shards at once."""


@dataclass(frozen=True)
class Settings:
    """split: of all songs, None as the sources say; retry: failed songs again; shard_songs: songs of a shard, of songs that are
    new to the store; verify: so many songs are encoded once more in the end, alone, and compared."""

    split: Split | None = None
    retry: bool = False
    shard_songs: int = SHARD_SONGS
    verify: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.shard_songs < 1 or self.verify < 0:
            raise ConfigError(
                f"shard_songs = {self.shard_songs}, verify = {self.verify}: at least one song in a shard, and none or more to verify"
            )


@dataclass
class Summary:
    """What a run did, in songs, and what the store holds now: songs, failed, frames, bytes."""

    listed: int = 0
    encoded: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0
    """Of music that was encoded."""
    store: dict[str, int] = field(default_factory=dict)
    listing: Listing = field(default_factory=Listing)
    damaged: int = 0
    """Songs that a shard had lost; the same command does them again."""
    verified: list[Compared] = field(default_factory=list)
    times: Times = field(default_factory=Times)


@dataclass
class Watch:
    """Called as the run goes on: `begun(songs listed)`, and `ended(id, result)` of each song that was worked on."""

    begun: Callable[[int], None] = lambda count: None
    ended: Callable[[str, Result], None] = lambda id, result: None
    kept: Callable[[int], None] = lambda count: None


def tokenize(
    sources: Sequence[str | Path],
    folder: str | Path,
    codec: DuoTok,
    pipeline: Callable[[Path], Pipeline],
    settings: Settings | None = None,
    watch: Watch | None = None,
) -> Summary:
    """Bring the songs of the sources into a store.

    codec: the model, for its identity; pipeline: makes the engine, given the folder for prepared sounds. Songs that the store has and the
    sources do not are left as they are. Raises DuoTokError when the store is another model's or in use, CorpusError for a
    source that is not there, JobError when nothing can go on; what was finished is kept.
    """
    settings, watch, folder, sources = settings or Settings(), watch or Watch(), Path(folder), _texts(sources)
    identity = codec_identity(codec)
    with held(folder):
        begin(folder, identity, options_of(codec), code_vectors(codec))
        scratch = folder / SCRATCH
        scratch.mkdir()
        summary = Summary()
        found = listed(
            scratch / "listing.parquet", songs(sources, summary.listing, settings.split), Plan(folder / PLAN, settings.shard_songs),
            summary.listing,
        )  # fmt: skip
        if not len(found):
            raise DuoTokError(_no_songs(sources, summary.listing))
        summary.listed = len(found)
        watch.begun(len(found))
        run = _Run(folder, identity, codec, settings, summary, watch, found)
        engine = pipeline(scratch)
        summary.times = engine.times
        try:
            for number, result in engine.run(run.jobs()):
                run.ended(number, result)
        finally:
            run.close()
        run.settle_all()
        summary.store = write_manifest(folder, identity, _ledgers(folder), run.unread)
        summary.verified = list(_verified(folder, codec, found, settings, scratch))
    return summary


def _texts(sources: Sequence[str | Path]) -> list[str]:
    if isinstance(sources, str | Path):
        raise ConfigError(f"sources = {sources}: give a list of sources")
    return [str(source) for source in sources]


def _no_songs(sources: Sequence[str], listing: Listing) -> str:
    left = ", ".join(f"{count} {kind}" for kind, count in listing.left_out.most_common(3))
    source = (
        f"{sources[0]}: no songs there{f' ({left} left out)' if left else ''}; name another source"
        if sources
        else "no source is named"
    )
    return listing.broken[0] if listing.broken else source


def _verified(folder: Path, codec: DuoTok, found: ListedSongs, settings: Settings, scratch: Path) -> Iterator[Compared]:
    """Some songs of this listing that are done, encoded again."""
    if not settings.verify:
        return

    @functools.lru_cache(maxsize=IDLE_LEDGERS)
    def ledger_of(shard: int) -> Ledger:
        return Ledger.read(folder / LEDGERS / f"{shard_name(SPLITS[shard >> 32], shard & 0xFFFFFFFF)}.jsonl")

    def row_of(planned: Planned) -> dict[str, Any]:
        return ledger_of(planned.shard).rows.get(planned.place, {"error": "not there"})

    done = (planned for planned in found if "error" not in row_of(planned))
    for planned in chosen(done, settings.verify, settings.seed):
        song = song_of(folder, ledger_of(planned.shard), planned.place)
        yield compare(codec, planned, song, scratch) if song else Compared(planned.entry.id, error=DAMAGED)


def preview(
    sources: Sequence[str | Path], folder: Path, settings: Settings, codec: DuoTok | None = None
) -> dict[str, Any]:
    """What a run would list, and how many of these songs the store does not know; writes nothing.

    codec: to compare the store with, if there is one. Raises what `tokenize` would before it encodes.
    """
    listing, sources = Listing(), _texts(sources)
    check_place(folder)
    if codec is not None and (folder / STORE).exists():
        check_same(folder, codec_identity(codec), options_of(codec))
    with tempfile.TemporaryDirectory(prefix="duotok-") as own:
        plan = Plan(folder / PLAN, settings.shard_songs)
        before, plan.path = len(plan), Path(own) / PLAN
        found = listed(Path(own) / "listing.parquet", songs(sources, listing, settings.split), plan, listing)
        new = len(Plan(plan.path, settings.shard_songs)) if plan.path.exists() else 0
    if not len(found):
        raise DuoTokError(_no_songs(sources, listing))
    return {
        "listed": len(found),
        "new": new,
        "in the store": before,
        "left out": dict(listing.left_out),
        "broken": listing.broken,
    }


def options_of(codec: DuoTok) -> dict[str, Any]:
    """What tokens depend on besides the model's hash."""
    separator, plan = codec.separator_source, codec.config.codec.plan
    return {
        "precision": codec.precision, "window": plan.window, "context": plan.context,
        "separator": None if separator is None else separator.sha256,
    }  # fmt: skip


def _ledgers(folder: Path) -> Iterator[tuple[Split, Ledger]]:
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


class _Run:
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
            for _, ledger in _ledgers(self.folder):
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

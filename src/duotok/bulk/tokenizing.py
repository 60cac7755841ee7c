"""`duotok tokenize`: list, give every song its place, encode what is not done, write shards as they fill.

Which song stands where follows from the listing alone, so the shards are the same bytes with any engine, number of workers, and
history of kills (`run.py`: what is done).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from duotok.bulk.engines import Pipeline
from duotok.bulk.folder import LEDGERS, SCRATCH, begin, check_place, check_same, held
from duotok.bulk.ledger import Ledger
from duotok.bulk.listing import Listing
from duotok.bulk.plan import PLAN, Plan
from duotok.bulk.planning import ListedSongs, Planned, knows, listed
from duotok.bulk.run import IDLE_LEDGERS, Run, ledgers
from duotok.bulk.settings import Settings, Summary, Watch
from duotok.bulk.sources import songs
from duotok.bulk.token_shards import shard_name, song_of, write_manifest
from duotok.bulk.verifying import Compared, chosen, compare
from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError, DuoTokError
from duotok.files import temporary_folder
from duotok.lm.pack import code_vectors
from duotok.lm.streams import codec_identity
from duotok.lm.token_store import SHARD_REMEDY, STORE
from duotok.records import SPLITS

DAMAGED = f"its shard is damaged; {SHARD_REMEDY}"


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
        plan = Plan(folder / PLAN, settings.shard_songs)
        entries = songs(sources, summary.listing, settings.splitting, functools.partial(knows, plan))
        found = listed(scratch / "listing.parquet", entries, plan, summary.listing)
        if not len(found):
            raise DuoTokError(_no_songs(sources, summary.listing))
        summary.listed = len(found)
        watch.begun(len(found))
        run = Run(folder, identity, codec, settings, summary, watch, found)
        engine = pipeline(scratch)
        summary.times = engine.times
        try:
            for number, result in engine.run(run.jobs()):
                run.ended(number, result)
        finally:
            run.close()
        run.settle_all()
        summary.store = write_manifest(folder, identity, ledgers(folder), run.unread)
        summary.verified = list(_verified(folder, codec, found, settings, scratch))
    return summary


def _texts(sources: Sequence[str | Path]) -> list[str]:
    if isinstance(sources, str | Path):
        raise ConfigError(f"sources = {sources}: give a list of sources")
    return [str(source) for source in sources]


def _no_songs(sources: Sequence[str], listing: Listing) -> str:
    left = listing.summary()
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
    with temporary_folder() as own:
        plan = Plan(folder / PLAN, settings.shard_songs)
        before, plan.path = len(plan), own / PLAN
        entries = songs(sources, listing, settings.splitting, functools.partial(knows, plan))
        found = listed(own / "listing.parquet", entries, plan, listing)
        new = len(Plan(plan.path, settings.shard_songs)) if plan.path.exists() else 0
    if not len(found):
        raise DuoTokError(_no_songs(sources, listing))
    return {
        "listed": len(found),
        "new": new,
        "in the store": before,
        "left out": dict(listing.left_out),
        "broken": listing.broken,
        "notes": listing.notes,
    }


def options_of(codec: DuoTok) -> dict[str, Any]:
    """What tokens depend on besides the model's hash."""
    separator, plan = codec.separator_source, codec.config.codec.plan
    return {
        "precision": codec.precision, "window": plan.window, "context": plan.context,
        "separator": None if separator is None else separator.sha256,
    }  # fmt: skip

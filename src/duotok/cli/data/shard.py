"""`duotok data shard`: segments into tars that a loader can read from anywhere."""

from __future__ import annotations

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import (
    WORKERS,
    Address,
    AsJson,
    DryRun,
    EngineName,
    Retry,
    Seed,
    ShardFormat,
    ShardSegments,
    Work,
    Workers,
    would,
)


def shard(
    work: Work,
    seed: Seed = 0,
    shard_segments: ShardSegments = 256,
    shard_format: ShardFormat = "flac",
    engine: EngineName = "local",
    workers: Workers = WORKERS,
    address: Address = None,
    retry: Retry = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Cut the segments out of their recordings into WORK/shards: tars (WebDataset), manifest.parquet, shards.json.

    The same segments, seed and sound give the same bytes, whichever engine writes them and however often it was stopped.
    shards.json is written last: a folder that has none is not finished.

    \b
      duotok data shard --work work
      duotok data shard --work work --seed 1 --shard-segments 512 --workers 8
    """
    from duotok.data import jobs
    from duotok.data.pipeline import catalogued, segmented
    from duotok.data.sharding import pending_shards, run_shards

    chosen = jobs.engine(engine, workers, address)
    recordings, segments = catalogued(work), segmented(work)
    if dry_run:
        todo = would(pending_shards(segments, recordings, work, seed, shard_segments, retry, shard_format))
        put_json(todo) if as_json else typer.echo(", ".join(f"{name}: {n:,}" for name, n in todo.items()))
        return
    results = run_shards(
        segments, recordings, work, chosen, seed=seed, shard_segments=shard_segments, retry=retry, audio=shard_format
    )
    size = sum(facts_of_shard["bytes"] for facts_of_shard in results.done.values())
    facts = {"shards": len(results.done), "kept": results.kept, "segments": len(segments), "bytes": size}
    if as_json:
        put_json({"folder": str(work / "shards"), **facts})
    else:
        say(f"{work / 'shards'}: {len(segments):,} segments in {len(results.done):,} shards, {size / 1e9:.2f} GB")

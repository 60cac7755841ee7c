"""`duotok tokenize`: songs by the thousand or million into a store of token shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import open_model, progress_bars, put_json, say
from duotok.errors import ConfigError

if TYPE_CHECKING:
    from duotok.bulk.settings import Settings, Summary

SHOWN = 20


def tokenize(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Folders, lists, tars, or URLs; NAME=SOURCE names its ids.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The store: a folder, a new one or one that is to go on.")],
    model: Annotated[str, typer.Option(help="A bundle: a name, a folder, or owner/name on the hub.")] = "mini",
    device: Annotated[str, typer.Option(help="cpu, cuda, several as cuda:0,cuda:1; on Ray cuda/2 for two actors on each GPU.")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Processes that compute, on each device; on Ray actors in all.")] = 1,
    readers: Annotated[int, typer.Option(min=0, help="Processes that fetch and decode; 0: as the devices need.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Songs, and windows of a song, at once on a device; more than 1 pays on a GPU.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32; bf16, faster on a GPU; int8, faster on a CPU.")] = "fp32",
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster, as auto or ray://host:10001; none starts one here.")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test for all songs.")] = None,
    identity: Annotated[str, typer.Option(help="What no split may cut, where a list does not say: song, or folder for all in one.")] = "song",
    shard_songs: Annotated[int, typer.Option(min=1, help="Songs of a shard, of songs that are new.")] = 1000,
    retry: Annotated[bool, typer.Option("--retry", help="Try songs that failed once more.")] = False,
    verify: Annotated[int, typer.Option(min=0, help="In the end encode so many songs again, alone, and compare.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List and count; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:  # fmt: skip
    """Tokenize very many songs into shards that language models train from.

    The store holds packed tokens in Parquet files of bounded size, a manifest with their hashes, and a ledger that says of which
    bytes every song was made. The same command goes on after a stop or kill: a song is done when the same bytes of its files are, so
    a changed file is encoded anew. What fails is named in STORE/failures.jsonl, the rest is done, and the exit code is 1.

    Files named SONG.vocals.EXT and SONG.accompaniment.EXT (or one of them and SONG.EXT) are given stems: nothing is separated
    then. Folders named train, validation and test say the split; otherwise the song's name decides it, or with --identity folder that of
    its folder (an album, an artist), which no split cuts then.

    \b
      duotok tokenize music/ -o tokens
      duotok tokenize music/ more.csv -o tokens --workers 8 --verify 3
      duotok tokenize s3://bucket/music -o tokens --device cuda:0,cuda:1 --batch-size 16
      duotok tokenize gs://bucket/songs.tar -o tokens --engine ray --address auto --device cuda/2 --workers 8
    """
    from duotok.bulk.settings import Settings
    from duotok.bulk.sources import IDENTITIES
    from duotok.bulk.tokenizing import preview
    from duotok.lm.token_store import STORE
    from duotok.records import SPLITS

    if split is not None and split not in SPLITS:
        raise ConfigError(f"--split {split} is unknown; there are {', '.join(SPLITS)}")
    if identity not in IDENTITIES:
        raise ConfigError(f"--identity {identity} is unknown; there are {', '.join(IDENTITIES)}")
    settings = Settings(split, retry, shard_songs, verify, identity=identity)  # type: ignore[arg-type]
    if dry_run:
        codec = open_model(model, "cpu", precision=precision) if (out / STORE).exists() else None
        _say_preview(preview(sources, out, settings, codec), as_json)
        return
    summary = _run(sources, out, model, device, workers, readers, batch_size, precision, engine, address, settings)
    _report(summary, out, as_json)
    if summary.failed or summary.damaged or summary.listing.broken or not all(c.equal for c in summary.verified):
        raise typer.Exit(1)


def _say_preview(facts: dict[str, Any], as_json: bool) -> None:
    """Raises Exit where a run would end with 1 before it encodes."""
    for line in facts["broken"]:
        say(f"error: {line}")
    for line in facts["notes"]:
        say(f"note: {line}")
    if as_json:
        put_json(facts)
    else:
        counts = {key: facts[key] for key in ("listed", "new", "in the store")} | {
            "left out": sum(facts["left out"].values())
        }
        kinds = ", ".join(f"{count} {kind}" for kind, count in facts["left out"].items())
        say(", ".join(f"{key}: {count}" for key, count in counts.items()) + (f" ({kinds})" if kinds else ""))
    if facts["broken"]:
        raise typer.Exit(1)


def _run(
    sources: list[str], out: Path, model: str, device: str, workers: int, readers: int, batch_size: int, precision: str, engine: str,
    address: str | None, settings: Settings,
) -> Summary:  # fmt: skip
    from duotok.bulk.engines import Model
    from duotok.bulk.pipelines import pipeline
    from duotok.bulk.settings import Watch
    from duotok.bulk.tokenizing import tokenize as run

    # The driver encodes nothing but what it verifies; devices of a cluster may not be here.
    codec = open_model(model, "cpu" if engine == "ray" else device.split(",")[0], precision=precision)
    engine_here = pipeline(
        engine, Model(model, codec.model_hash, precision, batch_size), device, workers, readers, address
    )
    with progress_bars(1) as bars, bars.file(f"{out.name}") as advance:
        listed, done, failed = 0, 0, 0

        def begun(count: int) -> None:
            nonlocal listed
            listed = count

        def kept(count: int) -> None:
            nonlocal done
            done += count

        def ended(id: str, result: dict[str, Any]) -> None:
            nonlocal done, failed
            done += 1
            if "error" in result:
                failed += 1
                if failed <= SHOWN:
                    say(f"error: {result['error']}")
            advance(done / max(1, listed))

        return run(sources, out, codec, lambda scratch: engine_here, settings, Watch(begun, ended, kept))


def _report(summary: Summary, out: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from duotok.bulk.folder import FAILURES

    for line in summary.listing.broken:
        say(f"error: {line}")
    for line in summary.listing.notes:
        say(f"note: {line}")
    for one in summary.verified:
        say(
            f"{'verified' if one.equal else 'error'}: {one.id}: {one.error or f'{one.differing} of {one.tokens} tokens differ'}"
        )
    if summary.damaged:
        say(f"error: {out}: {summary.damaged} songs were damaged and are taken out; run the same command again")
    if summary.failed:
        say(f"{summary.failed} failed, named in {out / FAILURES}; --retry tries them again")
    if as_json:
        facts = {
            key: getattr(summary, key) for key in ("listed", "encoded", "kept", "failed", "damaged", "seconds", "store")
        }
        more = {
            "left out": dict(summary.listing.left_out),
            "broken": summary.listing.broken,
            "notes": summary.listing.notes,
            "times": asdict(summary.times),
        }
        put_json(facts | more | {"verified": [asdict(one) for one in summary.verified]})
        return
    left_out, store = summary.listing.left_out.total(), summary.store
    say(
        f"{out}: {summary.listed} listed, {summary.encoded} encoded ({summary.seconds / 3600:.2f} h), {summary.kept} kept"
        + (f", {left_out} files left out ({summary.listing.summary()})" if left_out else "")
        + f"; the store has {store['songs']} songs, {store['frames']:,} frames, {store['bytes'] / 1e6:.2f} MB"
    )

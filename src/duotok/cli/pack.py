"""`duotok pack`: songs into one file for training language models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import put_json, say
from duotok.errors import ConfigError, DuoTokError

if TYPE_CHECKING:
    from duotok.codec.duotok import DuoTok


def pack(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="WORK of `duotok data`, shards (a folder or a URL), or a folder of .duotok files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The packed corpus, e.g. tokens.parquet.")],
    model: Annotated[str, typer.Option(help="Encodes shards, or made the token files: a bundle, transformers:FOLDER, external:FILE.")] = "mini",
    codebooks: Annotated[int | None, typer.Option(min=1, help="Of other tokenizers: the first so many codebooks; all by default.")] = None,
    mix: Annotated[bool, typer.Option("--mix", help="Of other tokenizers: one stream of the mix, not one a track.")] = False,
    split: Annotated[list[str] | None, typer.Option(help="train, validation, test: only these shards; of token files, what they all are.")] = None,
    solo: Annotated[list[str] | None, typer.Option("--solo", help="A split whose bands and voices without the other track come too.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows that are encoded at once; more than 1 pays on a GPU.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT when it holds something else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be packed; encode and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:  # fmt: skip
    """Pack the tokens of many songs, with the codec's identity, into one Parquet file.

    From shards, every song that has vocals and accompaniment is encoded (mixes must be separated before: `duotok data
    separate`); stopped, the same command goes on.
    From token files, folders named train, validation and test say the split; otherwise a song's name decides it.

    \b
      duotok pack WORK -o tokens.parquet                     every song of WORK/shards, encoded by duotok-mini
      duotok pack WORK -o tokens.parquet --solo train --solo validation    more to learn from: bands and voices alone
      duotok pack s3://bucket/shards -o tokens.parquet --model bundles/large --device cuda --batch-size 16
      duotok pack WORK -o dac.parquet --model transformers:models/dac_44khz --codebooks 4
      duotok encode music/ -o tokens/ && duotok pack tokens/ -o tokens.parquet
    """
    from duotok.cli.files import check_writable

    check_writable(out)
    place = Path(source)
    _check_input(place, out)
    shards = source if "://" in source else next(
        (str(p) for p in (place / "shards", place) if (p / "shards.json").is_file()), None
    )  # fmt: skip
    if shards is not None:
        facts = _from_shards(shards, out, model, codebooks, mix, split, solo, device, batch_size, force, dry_run)
    elif place.is_dir():
        if codebooks is not None or mix or solo:
            raise ConfigError(f"{source}: token files are encoded already; leave --codebooks, --mix and --solo out")
        facts = _from_files(place, out, split, force, dry_run, model, device)
    else:
        raise ConfigError(f"{source}: no such folder; name WORK, a folder of shards, or one of .duotok files")
    if as_json:
        put_json(facts)
    else:
        say(", ".join(f"{name}: {n:,}" if isinstance(n, int) else f"{name}: {n}" for name, n in facts.items()))


def _check_input(folder: Path, out: Path) -> None:
    """A file in INPUT may be replaced only when it is a packed corpus. Raises DuoTokError."""
    from duotok.lm.corpus import TokenCorpus

    if not (out.is_file() and folder.is_dir() and out.resolve().is_relative_to(folder.resolve())):
        return
    try:
        TokenCorpus(out)
    except DuoTokError:
        raise DuoTokError(
            f"{out}: is in {folder}, the input, and no packed tokens; choose another place with -o"
        ) from None


def _splits(option: str, names: list[str] | None) -> tuple[Any, ...]:
    from duotok.records import SPLITS

    unknown = [name for name in names or () if name not in SPLITS]
    if unknown:
        raise ConfigError(f"{option} {unknown[0]} is unknown; there are {', '.join(SPLITS)}")
    return tuple(names or ())


def _from_shards(
    shards: str,
    out: Path,
    model: str,
    codebooks: int | None,
    mix: bool,
    split: list[str] | None,
    solo: list[str] | None,
    device: str,
    batch_size: int,
    force: bool,
    dry_run: bool,
) -> dict[str, Any]:
    from duotok.clock import FRAME_RATE
    from duotok.codec import open_codec
    from duotok.lm.pack import pack_shards, stretches
    from duotok.records import SPLITS
    from duotok.shards.store import ShardStore

    splits, alone = _splits("--split", split) or SPLITS, _splits("--solo", solo)
    store = ShardStore(shards)
    if dry_run:
        selected = stretches(store, splits, alone)
        seconds = sum(stretch.frames for stretch in selected) / FRAME_RATE
        return {"would encode": len(selected), "seconds": round(seconds, 2)}
    codec = open_codec(model, device, codebooks, ("mix",) if mix else None)
    done = pack_shards(codec, store, out, splits, alone, batch_size, force)
    return {
        "packed": str(out), "songs": done.songs, "frames": done.frames, "kept": done.kept,
        "segments left out": done.left_out,
    }  # fmt: skip


def _from_files(
    folder: Path, out: Path, split: list[str] | None, force: bool, dry_run: bool, model: str, device: str
) -> dict[str, Any]:
    from duotok.lm.pack import pack_tokens, token_files
    from duotok.tokens import load

    if split and len(split) > 1:
        raise ConfigError("--split: token files are all of one split; name one, or none")
    all_of = _splits("--split", split)[0] if split else None
    files = token_files(folder)
    if dry_run:
        return {"would pack": len(files)}
    codec = _matching_model(model, device, load(files[0]).model_hash)
    done = pack_tokens(folder, out, all_of, force=force, model=codec)
    return {
        "packed": str(out),
        "songs": done.songs,
        "frames": done.frames,
        "code vectors": "none" if codec is None else "packed",
    }


def _matching_model(model: str, device: str, model_hash: str) -> DuoTok | None:
    """The model that made the tokens, if --model names it: its code vectors are packed as well."""
    from duotok.cli.console import open_model
    from duotok.errors import BundleError

    try:
        codec = open_model(model, device)
        if codec.model_hash == model_hash:
            return codec
        why = f"{model} is not the model that made them"
    except BundleError as error:
        why = str(error)
    say(f"packed without code vectors: {why}; --model names it, or train with --set tables=random")
    return None

"""`duotok bundle`: from trained runs to a bundle, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import say
from duotok.errors import DuoTokError


def bundle(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the bundle.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of `duotok data prepare` that the runs learned from: licences, attributions.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="The model's name, as token files will know it.")] = "duotok",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Name a run: tokenizer_from=RUN; or override stage 4: steps=50.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what OUT holds already.")] = False,
    mismatched: Annotated[bool, typer.Option("--mismatched", help="Also renderers that were trained for another tokenizer or autoencoder.")] = False,
    tokens_only: Annotated[bool, typer.Option("--tokens-only", help="Of stage 3 alone: it encodes and cannot decode.")] = False,
    unpack: Annotated[str | None, typer.Option("--unpack", metavar="MODEL", help="Instead: a bundle's parts as runs in RUNS, to train on.")] = None,
    seal: Annotated[Path | None, typer.Option("--seal", metavar="FOLDER", help="Instead: vouch for a bundle that was changed.")] = None,
) -> None:  # fmt: skip
    """Collect the trained parts of RUNS into a bundle of eight bits a weight with its model card.

    Needs separator, stage4 of both tracks, and the tokenizer and autoencoder that these name (adapt, where it was trained).
    Other runs are named by --set tokenizer_from, autoencoder_from, renderer_from.vocals, renderer_from.accompaniment and
    separator_from. RUNS/notes.md and RUNS/measurements.md go into the card. `duotok encode --model
    FOLDER` and DuoTok.from_pretrained(FOLDER) then open it.

    \b
      duotok bundle --runs runs/mine --data work -o my-bundle --name my-duotok
      duotok bundle --runs runs/mine --data work -o tokens --tokens-only     before stage 4: for `duotok pack`
      duotok bundle --unpack mini --runs runs/own      the released weights as runs: train on from them (docs/training.md)
      duotok bundle --seal my-bundle      after a file of it was edited, or where an earlier DuoTok made it without seals
    """
    from duotok.errors import ConfigError

    instead = {"--seal": seal, "--unpack": unpack}
    made = {
        "--out": out,
        "--data": data,
        "--name": name != "duotok",
        "--set": overrides,
        "--force": force,
        "--mismatched": mismatched,
        "--tokens-only": tokens_only,
    }
    named = [option for option, value in {**instead, **made}.items() if value]
    if seal and runs != Path("runs"):
        named.append("--runs")
    if len(named) > 1 and named[0] in instead:
        raise ConfigError(f"{named[0]} and {named[1]}: one of them; {named[0]} makes no bundle")
    if seal is not None:
        _seal(seal)
        return
    if unpack is not None:
        from duotok.training.unpack import unpack as unpack_bundle

        for run in unpack_bundle(unpack, runs):
            say(f"{run}: written, with {run.name}.yaml beside it")
        return
    if out is None or data is None:
        raise ConfigError("--out and --data are missing: where the bundle goes, and what the runs were trained on")
    from duotok.shards.index import SegmentIndex
    from duotok.training.assemble import assemble

    if out.is_dir() and _is_input(out, runs, data):
        raise DuoTokError(f"{out}: is an input, and files of it would be replaced; choose another place with -o")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise DuoTokError(f"{out}: holds files already; name a new folder, or --force puts the bundle there")
    store = SegmentIndex(data / "shards", tables_only=True)  # after a training elsewhere the sound may not be here
    command = f"duotok bundle --runs {runs} --data {data} -o {out} --name {name}"
    command += "".join(f" --set {text}" for text in overrides or []) + " --tokens-only" * tokens_only
    command += " --mismatched" * mismatched
    written = assemble(runs, store, out, name, command, tokens_only, overrides or [], force, mismatched)
    size = sum(path.stat().st_size for path in written.iterdir())
    say(f"{written}: {size / 1e6:.1f} MB")


def _is_input(out: Path, runs: Path, data: Path) -> bool:
    """Whether a folder is RUNS or WORK, or is inside one and contains something other than a bundle, such as a run or shards."""
    from duotok.codec.bundle import is_bundle

    place = out.resolve()
    if place in (runs.resolve(), data.resolve()):
        return True
    inside = any(place.is_relative_to(folder.resolve()) for folder in (runs, data))
    return inside and any(out.iterdir()) and not is_bundle(out)


def _seal(folder: Path) -> None:
    """Seal a bundle and the language model inside it, or a language model."""
    from duotok.codec.bundle import seal_bundle
    from duotok.codec.hub import CONFIG_FILE
    from duotok.lm.saved import PACKAGED_LM, WEIGHTS_FILE, seal_lm

    language_model = (folder / WEIGHTS_FILE).is_file()
    say(f"{seal_lm(folder) if language_model else seal_bundle(folder)}: sealed")
    if (folder / PACKAGED_LM / CONFIG_FILE).is_file():
        say(f"{seal_lm(folder / PACKAGED_LM)}: sealed")

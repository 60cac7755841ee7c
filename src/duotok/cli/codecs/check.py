"""`duotok codecs check`: whether a tokenizer keeps its promises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from duotok.cli.console import put_json, say


def check(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A bundle, transformers:FOLDER, or external:FILE.")],
    codebooks: Annotated[int | None, typer.Option(min=1, help="The first so many codebooks; all by default.")] = None,
    mix: Annotated[bool, typer.Option("--mix", help="One stream of the mix, not one a track.")] = False,
    seconds: Annotated[float, typer.Option(min=1.0, max=60.0, help="How long the clip is.")] = 10.0,
    vocals: Annotated[Path | None, typer.Option(help="Its vocals; the song that comes with DuoTok by default.")] = None,
    accompaniment: Annotated[Path | None, typer.Option(help="Its accompaniment.")] = None,
    every: Annotated[bool, typer.Option("--every", help="Encode a sound for every remainder, not for eight of them.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:  # fmt: skip
    """Open a tokenizer and see whether its lengths are as promised, and which of its codes change when nothing should.

    Lengths: `n_frames` for every remainder of a frame, sounds encoded at eight of them, decoded at two. Codes: the same
    seconds again, with more sound behind them in a batch, as mono and dual mono, from 44.1 kHz, 6 dB quieter, a frame later;
    the share of equal codes in each stream. 1 is what a language model wants; no case must be 1 but the first and the
    mono one. The exit code is 1 when a length is wrong.

    \b
      duotok codecs check mini
      duotok codecs check transformers:models/dac_44khz --codebooks 4
      duotok codecs check external:wavtokenizer.yaml --mix --json
      duotok codecs check mini --vocals voice.wav --accompaniment band.wav --seconds 20
    """
    import torch

    from duotok.cli.console import default_threads
    from duotok.codec import open_codec
    from duotok.codec.checks import equal_shares, lengths

    torch.set_num_threads(default_threads())
    sounds = _sounds(vocals, accompaniment, seconds)
    codec = open_codec(name, device, codebooks, ("mix",) if mix else None)

    def report(what: str) -> None:
        say(f"{codec.model_id}: {what}")

    found = lengths(codec, every, report)
    shares = equal_shares(codec, sounds, report)
    if as_json:
        put_json(
            {
                "model_id": codec.model_id, "model_hash": codec.model_hash, "sample_rate": codec.sample_rate,
                "frame_rate": codec.frame_rate, "streams": {s.name: list(s.codebook_sizes) for s in codec.streams},
                "lengths": dataclasses.asdict(found), "shares": [dataclasses.asdict(share) for share in shares],
            },
            indent=1,
        )  # fmt: skip
    else:
        _show(codec, found, shares)
    if found.problems:
        raise typer.Exit(1)


def _sounds(vocals: Path | None, accompaniment: Path | None, seconds: float) -> dict[str, Any]:
    """`seconds` of both tracks, `[2, samples]` at 48 kHz, from the middle, where a song sounds."""
    from duotok.audio.io import read
    from duotok.clock import SAMPLE_RATE
    from duotok.demo.report import demo_song
    from duotok.errors import ConfigError

    if (vocals is None) != (accompaniment is None):
        raise ConfigError("--vocals and --accompaniment: give both or neither")
    if vocals is None or accompaniment is None:
        song = demo_song()
        if song.truth is None:
            raise ConfigError("this installation's demo song has no stems; give --vocals and --accompaniment")
        vocals, accompaniment = song.truth
    sounds = {name: read(path, SAMPLE_RATE, 2) for name, path in (("vocals", vocals), ("accompaniment", accompaniment))}
    length = min(sound.shape[1] for sound in sounds.values())
    wanted = min(length, round(seconds * SAMPLE_RATE))
    start = (length - wanted) // 2
    return {name: sound[:, start : start + wanted] for name, sound in sounds.items()}


def _show(codec: Any, found: Any, shares: Any) -> None:
    streams = ", ".join(f"{s.name} {s.codebooks} x {s.codebook_sizes[0]}" for s in codec.streams)
    typer.echo(
        f"{codec.model_id}  {codec.sample_rate} Hz, {codec.frame_rate:.8g} frames a second; {streams}; {codec.model_hash[:12]}"
    )
    typer.echo(
        f"\nlengths: {found.remainders} remainders of a frame of {found.samples_per_frame:g} samples; frames less sound: "
        f"{found.least:.3f} to {found.most:.3f}; {len(found.encoded)} encoded, {len(found.decoded)} decoded"
    )
    for problem in found.problems or ("all as promised",):
        typer.echo(f"  {problem}")
    names = [s.name for s in codec.streams]
    typer.echo("\n" + f"{'share of equal codes':<52}" + "".join(f"{name:>15}" for name in names) + f"{'frames':>8}")
    for share in shares:
        typer.echo(
            f"{share.case:<52}" + "".join(f"{share.streams[name]:>15.4f}" for name in names) + f"{share.frames:>8}"
        )

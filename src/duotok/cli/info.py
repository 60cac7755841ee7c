"""`duotok info`: what a token file, a bundle or a sound file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from duotok.cli.console import put_json
from duotok.errors import DuoTokError


def info(
    what: Annotated[str, typer.Argument(metavar="FILE|BUNDLE", help="A token file, a bundle, or a sound file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what is in a token file or a bundle.

    Damaged files are found out and named.

    \b
      duotok info song.duotok
      duotok info song.duotok --json
      duotok info mini                    the bundle that comes with the package
      duotok info runs/mini/bundle
      duotok info song.mp3                how DuoTok reads a sound file
      duotok info - < song.duotok
    """
    from duotok.audio.finding import AUDIO_SUFFIXES
    from duotok.cli.files import shown, stream_copies, streamed
    from duotok.tokens import is_token_file

    path = Path(what)
    if streamed(path):
        with stream_copies([path]) as copies:
            facts = _tokens(copies[path]) if is_token_file(copies[path]) else _sound(copies[path])
        facts["file"] = shown(path)
    elif path.is_file():
        facts = _sound(path) if path.suffix.lower() in AUDIO_SUFFIXES else _tokens(path)
    elif path.suffix.lower() in (*AUDIO_SUFFIXES, ".duotok") and not path.is_dir():
        raise DuoTokError(f"{what}: no such file; check the name")
    else:
        facts = _bundle(what)
    if as_json:
        put_json(facts, indent=1)
        return
    if "sources" in facts:
        facts = {**facts, "sources": {role: file["name"] for role, file in facts["sources"].items()} or "not known"}
    if "lineage" in facts:
        facts = {**facts, "lineage": _lineage(facts["lineage"])}
    for line in _lines(facts):
        typer.echo(line)


def _lineage(parts: dict[str, Any]) -> dict[str, Any] | str:
    """The origin of each part and of the runs it was made from, for people."""
    from duotok.lineage import Origin

    def shown(origin: Origin) -> dict[str, Any]:
        if origin.parents is None:
            return {"checkpoint": str(origin), "made_from": "not known, an earlier DuoTok trained it"}
        return {"checkpoint": str(origin), **{key: shown(parent) for key, parent in origin.parents.items()}}

    origins = {part: shown(Origin.model_validate(values)) for part, values in parts.items()}
    return origins or "not known, an earlier DuoTok made this bundle"


def _tokens(path: Path) -> dict[str, Any]:
    import math

    from duotok.clock import FRAME_RATE
    from duotok.editing import story
    from duotok.evaluation.codes import CodeUsage
    from duotok.tokens import load
    from duotok.tracks import TRACKS

    tokens = load(path)
    tracks = {}
    for track, size in zip(TRACKS, tokens.codebook_sizes, strict=True):
        codes = tokens.track(track)
        usage = CodeUsage(size).add(codes)
        tracks[track] = {
            "codebook_size": size,
            "different_codes": int((usage.counts > 0).sum()),
            "bits_per_second": round(FRAME_RATE * math.log2(size), 1),
            "entropy_bits": round(usage.entropy(), 3),
            "first_codes": codes[:8].tolist(),
        }
    return {
        "kind": "token file",
        "file": str(path),
        "bytes": path.stat().st_size,
        "source": tokens.source,
        "sources": {role: file._asdict() for role, file in story(tokens.sources).items()},
        "seconds": round(tokens.seconds, 6),
        "n_samples": tokens.n_samples,
        "frames": tokens.n_frames,
        "gain_db": round(tokens.gain_db, 3),
        "model": tokens.model_id,
        "model_hash": tokens.model_hash,
        "window": tokens.plan.window,
        "context": tokens.plan.context,
        "precision": tokens.precision or "not known",
        "tracks": tracks,
    }


def _bundle(name: str) -> dict[str, Any]:
    from duotok.codec.bundle import Bundle, facts
    from duotok.codec.hub import find_bundle

    return {"kind": "bundle", **facts(Bundle(find_bundle(name)))}


def _sound(path: Path) -> dict[str, Any]:
    from duotok.audio.io import probe

    audio = probe(path)
    return {
        "kind": "sound",
        "file": str(path),
        "format": audio.format,
        "rate": audio.rate,
        "channels": audio.channels,
        "n_samples": audio.n_samples,
        "exact": audio.exact,
        "seconds": round(audio.seconds, 6),
        **({"note": audio.note} if audio.note else {}),
    }


def _lines(facts: dict[str, Any], depth: int = 0) -> list[str]:
    lines = []
    for key, value in facts.items():
        label = "  " * depth + str(key).replace("_", " ")
        if isinstance(value, dict):
            lines += [label, *_lines(value, depth + 1)]
        elif isinstance(value, list):
            lines.append(f"{label:<22}  {' '.join(map(str, value))}")
        else:
            lines.append(f"{label:<22}  {value}")
    return lines

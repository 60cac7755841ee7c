"""The files of a demo: the page, the measurements, the tokens, pictures and sounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from duotok.audio.io import write
from duotok.audio.marks import MARK
from duotok.clock import SAMPLE_RATE
from duotok.demo import pictures
from duotok.demo.page import render
from duotok.demo.report import PIECES, DemoReport, Progress
from duotok.errors import DuoTokError
from duotok.files import sha256, write_bytes
from duotok.tracks import TRACKS

MADE_BY = "duotok demo"
FACTS, PAGE = "facts.json", "index.html"


def outputs(folder: Path) -> list[Path]:
    """Every file that `save` writes into `folder`."""
    sounds = (name for piece in PIECES for name in (_sound_name(piece), f"decoded.{piece}.flac"))
    return [folder / name for name in ("song.duotok", *sounds, "picture.png", FACTS, PAGE)]


def _sound_name(piece: str) -> str:
    return f"{'original' if piece == 'mix' else piece}.flac"


def made_before(folder: Path) -> Callable[[Path], bool]:
    """Whether a file of `folder` is unchanged since an earlier `save`, by the hashes in `facts.json`."""
    try:
        known = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        files = dict(known["files"]) if known["made_by"] == MADE_BY else {}
    except (OSError, ValueError, KeyError, TypeError):
        files = {}

    def mine(path: Path) -> bool:
        if path.name == FACTS:
            return bool(files)
        # null: that run was stopped while it wrote this file
        return path.name in files and path.is_file() and files[path.name] in (None, sha256(path))

    return mine


def save(report: DemoReport, folder: Path, progress: Progress | None = None) -> Path:
    """Write `index.html` (self-contained), `facts.json`, the token file, `picture.png` and FLAC files into `folder`.

    Returns the path of the page. The page is written last; `facts.json` knows the hashes of all, for `made_before`. What is
    there already is replaced: ask `made_before` first. Raises DuoTokError when the folder cannot be written.
    """
    note: Progress = progress or (lambda _what, _fraction: None)
    note("writing", 0.0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be made ({error.strerror}); name another folder with -o") from None
    try:
        _write_facts(report, folder, {path.name: None for path in outputs(folder) if path.name != FACTS})
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror}); name another folder with -o") from None
    report.tokens.save(folder / "song.duotok")
    for name in PIECES:
        write(folder / _sound_name(name), _playable(report.sounds[name]), SAMPLE_RATE, comment=f"{MARK}demo")
        write(folder / f"decoded.{name}.flac", _playable(report.decoded[name]), SAMPLE_RATE, comment=f"{MARK}demo")
    note("drawing", 0.4)
    vectors = {track: report.model.code_vectors(report.tokens, track).cpu() for track in TRACKS}
    overview = pictures.overview_picture(
        {track: report.sounds[track] for track in TRACKS},
        {track: report.decoded[track] for track in TRACKS},
        {track: report.tokens.track(track) for track in TRACKS},
        vectors,
        SAMPLE_RATE,
    )
    note("drawing", 0.6)
    page = render(report, vectors).encode()
    try:
        write_bytes(folder / "picture.png", overview)
        written = {path.name: sha256(path) for path in outputs(folder) if path.name not in (FACTS, PAGE)}
        _write_facts(report, folder, {**written, PAGE: hashlib.sha256(page).hexdigest()})
        write_bytes(folder / PAGE, page)
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror}); name another folder with -o") from None
    note("writing", 1.0)
    return folder / PAGE


def _write_facts(report: DemoReport, folder: Path, files: Mapping[str, str | None]) -> None:
    facts = {"made_by": MADE_BY, **report.facts(), "files": files}
    write_bytes(folder / FACTS, json.dumps(facts, indent=2).encode() + b"\n")


def _playable(audio: Tensor) -> Tensor:
    """FLAC holds samples from -1 to 1. Louder sound is scaled down as a whole instead of clipped."""
    return audio / torch.clamp(audio.abs().max(), min=1.0)

"""The part of a song's way that needs no model: its bytes fetched, hashed, decoded, filtered, and put on disk for the encoder.

One file a song in a scratch folder: of a mix that is to be separated its samples at 48 kHz, of given stems the encoder's two mono
tracks. So memory does not grow with a song, and what computes waits for no decoder.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotok.bulk.places import Place, UnreadError, fetched, fingerprint
from duotok.clock import SAMPLE_RATE
from duotok.codec.spool import BLOCK_SECONDS, AudioSource, Spool, tracks_of
from duotok.data.engines import no_space
from duotok.errors import AudioError, one_line
from duotok.records import CorpusError

ENDING = ".prepared"


def prepare(payload: dict[str, Any]) -> dict[str, Any]:
    """Make one song ready.

    payload: `sources` role -> `Place` as a list; `marks` role -> fingerprint as listed; `known`, None or the `sha256` and `marks` of
    what the store has tokens of; `highpass` in Hz; `separates`, whether a mix alone will do; `scratch`, a folder. Returns `sha256`
    and `marks` by role, and either `same`, when nothing has changed, or `kind` (mix, pair), `file`, `bytes`, `seconds`, and of a pair
    what its `Spool` knows; or `error` and `unread` where the files of a song that the store has cannot be read. Raises AudioError, and OSError
    of the scratch folder.
    """
    try:
        return _prepared(payload)
    except (UnreadError, CorpusError) as error:
        if not payload.get("known"):
            raise
        return {"error": f"{one_line(error, None)}; its tokens stay", "unread": True}
    except OSError as error:
        if no_space(error):
            raise OSError(error.errno, error.strerror, payload["scratch"]) from None
        raise


def _prepared(payload: dict[str, Any]) -> dict[str, Any]:
    scratch = Path(payload["scratch"])
    places = {role: Place(*place) for role, place in payload["sources"].items()}
    marks = {role: payload["marks"].get(role) or _mark(place) for role, place in places.items()}
    known = payload.get("known") or {}
    if all(marks.values()) and marks == known.get("marks"):
        return {"sha256": known["sha256"], "marks": marks, "same": True}
    out = scratch / f"{uuid.uuid4().hex}{ENDING}"
    try:
        with contextlib.ExitStack() as stack:
            files = {role: stack.enter_context(fetched(place, scratch)) for role, place in places.items()}
            hashes = {role: digest for role, (_, digest) in files.items()}
            if hashes == known.get("sha256"):
                return {"sha256": hashes, "marks": marks, "same": True}
            names = {str(path): places[role].shown for role, (path, _) in files.items()}
            try:
                with _Warnings(names):
                    facts = _kept(files, places, payload, out)
            except AudioError as error:
                raise AudioError(_with_places(str(error), names)) from None
    except BaseException:  # also of a file that changed meanwhile, which is known only now
        out.unlink(missing_ok=True)
        raise
    return {"sha256": hashes, "marks": marks, "file": str(out), "bytes": out.stat().st_size, **facts}


def _kept(
    files: dict[str, tuple[Path, str]], places: dict[str, Place], payload: dict[str, Any], out: Path
) -> dict[str, Any]:
    sounds = {role: _Named(path, places[role].shown, payload["highpass"]) for role, (path, _) in files.items()}
    if set(sounds) != {"mix"}:
        return _keep_pair(sounds, out)
    if not payload["separates"]:
        raise AudioError(f"{sounds['mix'].name}: the bundle has no separator; give vocals and accompaniment")
    return _keep_mix(sounds["mix"], out)


def _mark(place: Place) -> str:
    """The fingerprint of a file that its listing did not tell. Raises UnreadError."""
    try:
        mark = fingerprint(place.uri)
    except FileNotFoundError:
        raise UnreadError(
            f"{place.shown}: is not there; it was removed since it was listed, or its name is wrong"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UnreadError(f"{place.shown}: cannot be read ({one_line(error)}); check it, then --retry") from None
    return f"{mark} {place.offset} {place.size}" if mark and place.name else mark


def _with_places(message: str, names: dict[str, str]) -> str:
    """A message that names the places, not the copies of them."""
    for copy, name in names.items():
        message = message.replace(copy, name)
    return message


class _Warnings(logging.Filter):
    """The same of the warnings of those who read, for the block. names: path of a copy -> place."""

    LOGS = tuple(logging.getLogger(name) for name in ("duotok.audio.io", "duotok.audio.decoders"))

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self.names = names

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _with_places(record.getMessage(), self.names), ()
        return True

    def __enter__(self) -> None:
        for log in self.LOGS:
            log.addFilter(self)

    def __exit__(self, *error: object) -> None:
        for log in self.LOGS:
            log.removeFilter(self)


class _Named(AudioSource):
    """A file under the name of the place that it came from."""

    def __init__(self, path: Path, name: str, highpass_hz: float) -> None:
        super().__init__(path, highpass_hz=highpass_hz)
        self.name = name


def _keep_mix(mix: AudioSource, out: Path) -> dict[str, Any]:
    samples = 0
    with out.open("wb") as file:
        for block in mix.blocks():
            samples += block.shape[1]
            file.write(np.ascontiguousarray(block.numpy().T, dtype=np.float32).tobytes())
    if not samples:
        raise AudioError(f"{mix.name}: holds no sound; check it")
    return {"kind": "mix", "seconds": samples / SAMPLE_RATE}


def _keep_pair(sounds: dict[str, _Named], out: Path) -> dict[str, Any]:
    pairs = tracks_of(sounds.get("mix"), sounds.get("vocals"), sounds.get("accompaniment"), None)
    with Spool() as spool, contextlib.closing(pairs):
        spool.fill(pairs)
        spool.keep(out)
        loudness = spool.loudness if np.isfinite(spool.loudness) else None  # JSON has no infinity
        facts = {"n_samples": spool.n_samples, "loudness": loudness, "peak": spool.peak}
        return {"kind": "pair", "seconds": spool.n_samples / SAMPLE_RATE, **facts}


class PreparedMix:
    """The sound of a prepared mix, with as much of `AudioSource` as `tracks_of` asks for."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def blocks(self) -> Iterator[Tensor]:
        """float32 `[2, samples]` at 48 kHz, cut as `AudioSource.blocks` does."""
        samples = round(BLOCK_SECONDS * SAMPLE_RATE)
        with self.path.open("rb") as file:
            while data := file.read(8 * samples):
                yield torch.from_numpy(np.frombuffer(bytearray(data), np.float32).reshape(-1, 2).T.copy())


def spool_of(prepared: dict[str, Any]) -> Spool:
    """The spool of a prepared pair. Raises OSError when its file is gone."""
    loudness = prepared["loudness"]
    return Spool.kept(
        Path(prepared["file"]), prepared["n_samples"], float("-inf") if loudness is None else loudness, prepared["peak"]
    )

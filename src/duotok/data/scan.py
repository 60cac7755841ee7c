"""Scan: every file of a recording is decoded once, to find damage and wrong metadata before anything is built from it.

WORK/scan/ID.json + ID.levels.npy; the ledger WORK/ledger/scan.jsonl names each recording that cannot be used, and why.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.audio.io import probe, stream
from duotok.audio.loudness import LoudnessMeter
from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.data.jobs import Engine, Pending, Results, Unit, atomic_write, pending, read_ledger, run_units
from duotok.data.sources import fingerprint, local
from duotok.errors import AudioError
from duotok.files import sha256
from duotok.records import CorpusError, Recording
from duotok.seals import is_sealed, read_json, seal

# Whole token frames, so that blocks and frames have common borders.
BLOCK_SECONDS = 10.0
LENGTH_RELATIVE, LENGTH_SECONDS = 0.02, 0.5
SILENCE_DB = -120.0
OVER_DB = 3.0  # peaks of lossy files and of resampling are lower
LEDGER = Path("ledger") / "scan.jsonl"
LEVELS = "levels_sha256"
FORMAT = 2  # of a scan's files; a new number makes everything be scanned again
# 2 looks at the pages of ogg and at the channel masks of wav, of which files with these endings have none.
UNCHANGED = (".flac", ".mp3", ".m4a")


def mix_parts(stems: Sequence[str]) -> tuple[str, ...]:
    """The stems that make up a recording's mix: the mix itself, or the stems that it is the sum of."""
    if "mix" in stems:
        return ("mix",)
    accompaniment = ("accompaniment",) if "accompaniment" in stems else ("drums", "bass", "other")
    return tuple(stem for stem in ("vocals", *accompaniment) if stem in stems)


def scan_recording(payload: dict[str, Any]) -> dict[str, Any]:
    """The unit of work: decode all files of `payload["recording"]` block by block; write and return the facts.

    Raises AudioError for a missing, empty or damaged file, or stems of unequal length; CorpusError where the length is
    not what the metadata says.
    """
    recording, folder = payload["recording"], Path(payload["folder"])
    for path in scan_files(folder, recording["id"]):
        path.unlink(missing_ok=True)  # an older scan must not outlive a file that is damaged now
    audio: dict[str, str] = recording["audio"]
    if not audio:
        raise CorpusError(f"{recording['id']}: has no audio file at all")
    stems = sorted(audio)
    start, stop = recording["start"], recording["stop"]
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(local(audio[stem])) for stem in stems]
        scan = _Scan(stems)
        streams = [_blocks(path, start, stop) for path in paths]
        for block in _side_by_side(streams):
            scan.push(block)
        hashes = {stem: sha256(path) for stem, path in zip(stems, paths, strict=True)}
        rates = {probe(path).rate for path in paths} - {SAMPLE_RATE}
    if payload.get("separated") not in (None, hashes.get("mix")):
        raise CorpusError(f"{audio['mix']}: its stems were separated from other sound; run: duotok data separate")
    samples = scan.samples([audio[stem] for stem in stems])
    _check_length(recording, samples / SAMPLE_RATE)
    notes = [f"resampled from {rate} Hz" for rate in sorted(rates)]
    if len(set(scan.lengths)) > 1:
        notes.append(f"stems differ by {max(scan.lengths) - min(scan.lengths)} samples; the shortest counts")
    over = 20 * math.log10(max(scan.highest, 1.0))
    if over > OVER_DB:
        notes.append(f"peaks {over:.1f} dB over full scale, which shards clip; export it softer")
    facts = {
        "seconds": samples / SAMPLE_RATE, "samples": samples, "channels": scan.channels, "loudness": scan.loudness(),
        "peak": scan.peak, "sha256": hashes, "stems": stems, "notes": notes,
    }  # fmt: skip
    text, levels = scan_files(folder, recording["id"])
    with atomic_write(levels) as file:
        np.save(file, scan.levels(samples), allow_pickle=False)
    with atomic_write(text) as file:
        file.write(json.dumps(seal({**facts, LEVELS: sha256(levels)}), indent=1).encode())
    return facts


def scan_files(folder: Path, recording: str) -> tuple[Path, Path]:
    """The files of a recording's scan: the facts, and the levels."""
    return folder / f"{recording}.json", folder / f"{recording}.levels.npy"


def read_scan(work: Path, recording: str) -> tuple[dict[str, Any], NDArray[np.float16]]:
    """The facts of a scan, and the levels `[stems, token frames]` in dB of full scale (stems as in `facts["stems"]`).

    Raises CorpusError when the recording is not scanned.
    """
    text, levels = scan_files(work / "scan", recording)
    try:
        facts: dict[str, Any] = read_json(text.read_text(encoding="utf-8"))
        # Scans of an earlier DuoTok have neither.
        if ("seal" in facts or LEVELS in facts) and not (is_sealed(facts) and facts[LEVELS] == sha256(levels)):
            raise ValueError("not as it was written")
        rows: NDArray[np.float16] = np.load(levels, allow_pickle=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorpusError(
            f"{text}: no scan there ({error}); delete it if it is, and run: duotok data scan --work {work}"
        ) from None
    return {key: value for key, value in facts.items() if key not in ("seal", LEVELS)}, rows


def _blocks(path: Path, start: float, stop: float) -> Iterator[Tensor]:
    channels = None if probe(path).channels <= 2 else 2
    seconds = stop - start if stop else None
    return stream(path, SAMPLE_RATE, channels, BLOCK_SECONDS, start, seconds, strict=True)


def _side_by_side(streams: list[Iterator[Tensor]]) -> Iterator[list[Tensor | None]]:
    """The next block of every file, None for one that has ended."""
    while True:
        blocks = [next(stream, None) for stream in streams]
        if all(block is None for block in blocks):
            return
        yield blocks


class _Scan:
    """Accumulates facts from the blocks of all stems; its memory grows only by the levels."""

    def __init__(self, stems: list[str]) -> None:
        self.stems = stems
        self.mix = [stems.index(stem) for stem in mix_parts(stems)]
        self.lengths = [0] * len(stems)
        self.channels = 1
        self.peak = 0.0
        self.highest = 0.0  # of any stem
        self._levels: list[list[NDArray[np.float16]]] = [[] for _ in stems]
        self._meter = LoudnessMeter(SAMPLE_RATE)
        self._meter_channels = 0

    def push(self, blocks: list[Tensor | None]) -> None:
        for n, block in enumerate(blocks):
            if block is not None:
                self.channels = max(self.channels, block.shape[0])
                self.lengths[n] += block.shape[1]
                self.highest = max(self.highest, float(block.abs().max()))
                self._levels[n].append(frame_levels(block))
        parts = [part for n in self.mix if (part := blocks[n]) is not None]
        if parts:
            mix = _sum(parts)
            # When a stereo part ends before a mono one, the meter keeps its number of channels.
            self._meter_channels = self._meter_channels or mix.shape[0]
            self._meter.push(mix.expand(self._meter_channels, -1))
            self.peak = max(self.peak, float(mix.abs().max()))

    def samples(self, names: list[str]) -> int:
        """The common length of the stems. Raises AudioError when they differ by a frame or more."""
        shortest, longest = min(self.lengths), max(self.lengths)
        if longest - shortest >= FRAME_SAMPLES:
            a, b = (self.lengths.index(length) for length in (shortest, longest))
            raise AudioError(
                f"{names[a]}: is {shortest / SAMPLE_RATE:.3f} s long, {names[b]} {longest / SAMPLE_RATE:.3f} s; "
                "stems of one recording must be of one length"
            )
        return shortest

    def levels(self, samples: int) -> NDArray[np.float16]:
        frames = -(-samples // FRAME_SAMPLES)
        return np.stack([np.concatenate(rows)[:frames] for rows in self._levels])

    def loudness(self) -> float | None:
        value = self._meter.integrated()
        return value if math.isfinite(value) else None


def _sum(parts: list[Tensor]) -> Tensor:
    """The sum of parts. Mono parts go to both channels; parts that end early are padded with silence."""
    if len(parts) == 1:
        return parts[0]
    mix = torch.zeros(max(p.shape[0] for p in parts), max(p.shape[1] for p in parts))
    for part in parts:
        mix[:, : part.shape[1]] += part
    return mix


def frame_levels(block: Tensor) -> NDArray[np.float16]:
    """Mean power of each token frame of `[channels, samples]` in dB of full scale; the last frame is padded with zeros."""
    frames = -(-block.shape[1] // FRAME_SAMPLES)
    padded = torch.nn.functional.pad(block, (0, frames * FRAME_SAMPLES - block.shape[1]))
    power = padded.reshape(-1, frames, FRAME_SAMPLES).square().mean(dim=(0, 2)).numpy().astype(np.float64)
    levels: NDArray[np.float16] = (10.0 * np.log10(power + 10.0 ** (SILENCE_DB / 10.0))).astype(np.float16)
    return levels


def _check_length(recording: dict[str, Any], seconds: float) -> None:
    stated = recording["seconds"]
    if stated is None:
        stated = recording["stop"] - recording["start"] if recording["stop"] else None
    if stated is not None and abs(seconds - stated) > LENGTH_RELATIVE * stated + LENGTH_SECONDS:
        files = ", ".join(recording["audio"].values())
        raise CorpusError(f"{files}: {seconds:.2f} s long, its metadata say {stated:.2f} s; get the file again")


def scan_units(recordings: Sequence[Recording], work: Path) -> list[Unit]:
    """One unit a recording; changed files change the stamp of its unit."""
    fields = ("id", "audio", "seconds", "start", "stop")
    separations = read_ledger(work / "ledger" / "separate.jsonl")
    units = []
    for recording in recordings:
        payload = {
            "recording": {name: getattr(recording, name) for name in fields},
            "files": {stem: fingerprint(place) for stem, place in recording.audio.items()},
            "format": 1 if all(place.lower().endswith(UNCHANGED) for place in recording.audio.values()) else FORMAT,
        }
        place: dict[str, Any] = {"folder": str(work.absolute() / "scan")}
        entry = separations.get(recording.id)
        if (
            entry is not None
            and entry.result
            and Path(recording.audio.get("vocals", "")).is_relative_to(work / "stems")
        ):
            place["separated"] = entry.result.get("sha256")  # none in ledgers of an earlier DuoTok
        units.append(Unit(recording.id, payload, place))
    return units


def _intact(unit: Unit, result: dict[str, Any]) -> bool:
    return all(path.is_file() for path in scan_files(Path(unit.place["folder"]), unit.id))


def pending_scan(recordings: Sequence[Recording], work: Path, retry: bool = False) -> Pending:
    """What `run_scan` would do; writes nothing."""
    return pending(scan_units(recordings, work), work / LEDGER, retry=retry, intact=_intact)


def run_scan(recordings: Sequence[Recording], work: Path, engine: Engine, retry: bool = False) -> Results:
    """Scan all recordings; see `run_units` for what is kept, retried and raised."""
    folders = {scan_files(work / "scan", recording.id)[0].parent for recording in recordings}
    units, ledger = scan_units(recordings, work), work / LEDGER
    return run_units(scan_recording, units, ledger, engine, "scan", retry=retry, intact=_intact, folders=folders)

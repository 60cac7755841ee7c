"""What the renderer trains on, computed once and memory-mapped: latents, codes and loudness of each recording's track.

    DATA/code_vectors.TRACK.npy                 float32 [codes, code_dim]: the vectors of the trained tokenizer
    DATA/SPLIT/RECORDING/TRACK.latents.npy      float16 [latent_frames, latent_dim] at 50 Hz, unit variance
    DATA/SPLIT/RECORDING/TRACK.codes.npy        int32 [frames] at 25 Hz
    DATA/SPLIT/RECORDING/TRACK.levels.npy       float16 [frames], dB of full scale; may be missing (all counts as sound)

SPLIT is `train` or `held_out`; RECORDING may hold slashes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duotok.errors import ConfigError

FRAME_SAMPLES = 1920
SILENCE_DB = -55.0
LATENTS_PER_FRAME = 2


def frame_levels(audio: Tensor) -> Tensor:
    """RMS of each token frame in dB full scale: `[samples]` at 48 kHz to `[ceil(samples / 1920)]`, at least -120."""
    padded = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % FRAME_SAMPLES))
    power = padded.reshape(-1, FRAME_SAMPLES).square().mean(1)
    return 10 * power.clamp_min(1e-12).log10()


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_code_vectors(data: Path, track: str, vectors: Tensor) -> None:
    """Store the tokenizer's code vectors `[codes, code_dim]` of a track."""
    _write(data / f"code_vectors.{track}.npy", vectors.detach().float().cpu().numpy())


def write_latents(
    data: Path, split: str, recording: str, track: str, latents: Tensor, levels: Tensor | None = None
) -> None:
    """Store latents `[latent_frames, latent_dim]` and levels `[frames]` (from `frame_levels`) of one track."""
    folder = data / split / recording
    if levels is not None:
        _write(folder / f"{track}.levels.npy", levels.cpu().numpy().astype(np.float16))
    _write(folder / f"{track}.latents.npy", latents.detach().cpu().numpy().astype(np.float16))


def write_codes(data: Path, split: str, recording: str, track: str, codes: Tensor) -> None:
    """Store codes `[frames]` of one track."""
    _write(data / split / recording / f"{track}.codes.npy", codes.cpu().numpy().astype(np.int32))


def write_recording(
    data: Path, split: str, recording: str, track: str, latents: Tensor, codes: Tensor, levels: Tensor | None = None
) -> None:
    """Store codes, levels and latents of one track."""
    write_codes(data, split, recording, track, codes)
    write_latents(data, split, recording, track, latents, levels)


def _read(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); delete it and prepare the data again") from None
    return array


@dataclass(frozen=True)
class LatentRecording:
    """One track of one recording: `latents [2 frames, dim]`, `codes [frames]`; `sound` counts loud frames so far."""

    name: str
    latents: np.ndarray
    codes: np.ndarray
    sound: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.codes)

    def share_of_sound(self, start: int, frames: int) -> float:
        """Share of the frames from `start` that hold sound."""
        stop = min(start + frames, self.frames)
        return float(self.sound[stop] - self.sound[start]) / max(1, stop - start)


class LatentData:
    """All recordings of one track in a data folder. Raises ConfigError when something is missing or does not fit."""

    def __init__(self, data: Path, track: str) -> None:
        self.data, self.track = Path(data), track
        self.vectors = torch.from_numpy(np.array(_read(self.data / f"code_vectors.{track}.npy"), dtype=np.float32))

    def recordings(self, split: str) -> list[LatentRecording]:
        """The recordings of a split, by name. Raises ConfigError when there is none."""
        root = self.data / split
        found = sorted(root.rglob(f"{self.track}.latents.npy"))
        if not found:
            raise ConfigError(f"{root}: no {self.track}.latents.npy below it; prepare latents and codes first")
        return [self._recording(path, root) for path in found]

    def _recording(self, path: Path, root: Path) -> LatentRecording:
        latents, codes = _read(path), _read(path.with_name(f"{self.track}.codes.npy"))
        frames = min(len(codes), len(latents) // LATENTS_PER_FRAME)
        if frames < 1 or abs(len(latents) - LATENTS_PER_FRAME * len(codes)) > LATENTS_PER_FRAME:
            raise ConfigError(
                f"{path}: {len(latents)} latents do not fit {len(codes)} codes (2 a code); prepare it again"
            )
        if int(codes.min()) < 0 or int(codes.max()) >= len(self.vectors):
            raise ConfigError(f"{path}: codes beyond the {len(self.vectors)} code vectors; prepare it again")
        levels = path.with_name(f"{self.track}.levels.npy")
        loud = _read(levels)[:frames] > SILENCE_DB if levels.is_file() else np.ones(frames, dtype=bool)
        sound = np.concatenate([[0], np.cumsum(loud)]).astype(np.int32)
        name = str(path.parent.relative_to(root))
        return LatentRecording(name, latents[: LATENTS_PER_FRAME * frames], codes[:frames], sound)


def crop(recording: LatentRecording, start: int, frames: int) -> tuple[Tensor, Tensor, int]:
    """Latents `[2 frames, dim]`, codes `[frames]` (both padded with zeros) and the number of real latent frames."""
    codes = torch.from_numpy(np.array(recording.codes[start : start + frames], dtype=np.int64))
    part = recording.latents[LATENTS_PER_FRAME * start : LATENTS_PER_FRAME * (start + frames)]
    latents = torch.from_numpy(np.array(part, dtype=np.float32))
    missing = frames - len(codes)
    if missing:
        codes = torch.nn.functional.pad(codes, (0, missing))
        latents = torch.nn.functional.pad(latents, (0, 0, 0, LATENTS_PER_FRAME * missing))
    return latents, codes, LATENTS_PER_FRAME * (frames - missing)


def stack(crops: list[tuple[Tensor, Tensor, int]]) -> dict[str, Tensor]:
    """A batch of crops: `latents`, `codes`, `lengths` (real latent frames)."""
    latents, codes, lengths = zip(*crops, strict=True)
    return {"latents": torch.stack(latents), "codes": torch.stack(codes), "lengths": torch.tensor(lengths)}

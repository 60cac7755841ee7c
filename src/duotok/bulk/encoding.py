"""The part of a song's way that needs the model: from prepared sound to codes, one song or several at once.

It is `DuoTok.encode` cut in two: the same functions in the same order, so the same tokens. What runs on the device goes
through `batching`.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from duotok.bulk.batching import Batches, Device
from duotok.bulk.preparing import PreparedMix, spool_of
from duotok.codec.duotok import DuoTok
from duotok.codec.spool import AudioSource, Spool, StemSeparator, tracks_of
from duotok.devices import answers, check_device, reason_of
from duotok.errors import ConfigError, DuoTokError, one_line
from duotok.separation.separator import MiniSeparator
from duotok.tracks import TRACKS

CODES = "<i4"


class DeviceLost(ConfigError):
    """The device does not compute any more; no song is to blame."""


@functools.lru_cache(maxsize=1)
def opened(model: str, device: str, precision: str) -> DuoTok:
    """The model of this process. Raises BundleError, ConfigError."""
    check_device(device, "--device ")
    return DuoTok.from_pretrained(model, device, precision)


def encode_group(payload: dict[str, Any]) -> dict[str, Any]:
    """Encode prepared songs.

    payload: `model`, `model_hash`, `device`, `precision`, `batch_size`, and `songs`, each what `prepare` returned and its `name`.
    Returns `songs`, one for each: `codes` (see `codes_of`), `n_samples`, `gain_db`, or `error` (and `again` when it may be that of
    the others); and the seconds of `model` and of `all`. Raises DeviceLost, also for a model that is not `model_hash`.
    """
    try:
        codec = opened(payload["model"], payload["device"], payload["precision"])
        _ = codec.model_hash, codec.separator if any(song["kind"] == "mix" for song in payload["songs"]) else None
    except RuntimeError as error:  # torch's: there is no place for the weights, or no device any more
        raise DeviceLost(f"{payload['device']}: the model cannot be loaded ({reason_of(error)})") from None
    began = time.perf_counter()
    if codec.model_hash != payload["model_hash"]:
        raise DeviceLost(
            f"{payload['model']}: is another model on this machine ({codec.model_hash[:8]}); give all the same"
        )
    rows = payload["batch_size"]
    results: list[dict[str, Any]] = [{} for _ in payload["songs"]]
    device = Batches(rows * len(TRACKS)) if len(results) > 1 else Device()

    def lane(number: int) -> None:
        results[number] = _attempt(codec, payload["songs"][number], device, rows)

    if isinstance(device, Batches):
        device.run([functools.partial(lane, number) for number in range(len(results))])
    else:
        lane(0)
    lost = next((result["lost"] for result in results if "lost" in result), None)
    if lost:
        raise DeviceLost(f"{payload['device']}: {lost}")
    return {"songs": results, "model": device.seconds, "all": time.perf_counter() - began}


def _attempt(codec: DuoTok, song: dict[str, Any], device: Device, rows: int) -> dict[str, Any]:
    try:
        return _encode(codec, song, device, rows)
    except DuoTokError as error:
        return {"error": one_line(error, None)}
    except FileNotFoundError:
        return {"error": f"{song['name']}: its prepared sound is gone; --retry", "again": True}
    except RuntimeError as error:  # torch's: memory of the device, or the device itself
        if "out of memory" in str(error):
            remedy = "give a smaller --batch-size" if rows > 1 else "free memory of the device"
            return {"error": f"{song['name']}: {reason_of(error)}; {remedy}, then --retry", "again": True}
        if not answers(codec.device):
            return {"lost": reason_of(error)}
        # Libraries of a GPU have errors of their own (cuDNN, cuFFT); another device may do.
        return {
            "error": f"{song['name']}: unexpected {type(error).__name__}: {one_line(error)}",
            "again": codec.device.type != "cpu",
        }
    except Exception as error:
        return {"error": f"{song['name']}: unexpected {type(error).__name__}: {one_line(error)}"}


def _encode(codec: DuoTok, song: dict[str, Any], device: Device, rows: int) -> dict[str, Any]:
    def run(mel: Tensor, routes: Tensor) -> Tensor:
        return device.ask(codec.encode_mel, mel, routes)

    with _filled(codec, song, device) as spool:
        codes, gain_db = codec.encode_spool(spool, song["name"], batch_size=rows, run=run)
        return {"codes": packed(codes), "n_samples": spool.n_samples, "gain_db": gain_db}


@contextlib.contextmanager
def _filled(codec: DuoTok, song: dict[str, Any], device: Device) -> Iterator[Spool]:
    if song["kind"] == "pair":
        with spool_of(song) as spool:
            yield spool
        return
    mix = cast(AudioSource, PreparedMix(Path(song["file"]), song["name"]))
    with Spool() as spool, contextlib.closing(tracks_of(mix, None, None, _through(codec.separator, device))) as pairs:
        spool.fill(pairs)
        yield spool


def _through(separator: StemSeparator | None, device: Device) -> StemSeparator | None:
    """The same separator, whose chunks go through `device`. One of another kind computes in its own song's thread."""
    if not isinstance(separator, MiniSeparator):
        return separator
    lane = copy.copy(separator)

    def estimate(mix: Tensor, stems: tuple[str, ...]) -> Tensor:
        return device.ask(separator.estimates, mix[None], extra=stems)[0]

    lane.estimate = estimate  # type: ignore[method-assign]
    return lane


def packed(codes: list[Tensor]) -> list[str]:
    """Codes of each track, int64 `[frames]`, as text."""
    return [base64.b64encode(track.numpy().astype(CODES).tobytes()).decode() for track in codes]


def codes_of(texts: list[str]) -> dict[str, np.ndarray]:
    """Undo `packed`: track -> int32 `[1, frames]`."""
    arrays = [np.frombuffer(base64.b64decode(text), CODES).astype(np.int32)[None] for text in texts]
    return dict(zip(TRACKS, arrays, strict=True))

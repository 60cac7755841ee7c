"""What is left of the lowest partials from step to step: of the mel that a tokenizer hears, of its features, codes and latents.

    python -m benchmarks.partials --data WORK
    python -m benchmarks.partials --data WORK --track vocals --low 80 --high 1000

WORK: folder of `duotok data prepare`. From five token frames (0.2 s; --reach) of each representation a small network is taught,
on `--minutes` of its train split, the log magnitudes of the STFT bins (12.5 Hz, 80 ms) from --low to --high Hz, and asked on its
validation split:

    corr     correlation over these bins of told and true magnitudes, mean over token frames that sound; 1: the same notes
    loudest  share of these frames whose loudest bin is told
    error    |ln A - ln A'|, mean over bins and frames

    nothing  a constant: what the average spectrum gives, the control
    mel      what the tokenizer hears
    hidden   behind its frozen lower half
    z        behind the track's proj in
    codes    the code vectors of its tokens
    latents  of the bundle's autoencoder: what its renderer could say at best

Between two rows stands what the step between them loses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track as progress
from torch import Tensor, nn

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import conditions, mean, parser, show, table
from duotok.audio.io import resample
from duotok.clock import ANALYSIS_RATE, FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError
from duotok.records import Split
from duotok.renderer.griffin_lim import FAINT
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.sounds import SegmentSound

N_FFT, HOP = 3840, 480
SOUNDING_DB = -40.0
ALL = 1e9
FIGURES = ("corr", "loudest", "error")
ROWS = ("nothing", "mel", "hidden", "z", "codes", "latents")
Told = dict[str, Tensor]


def bins(low: float, high: float) -> slice:
    """STFT bins from `low` to `high` Hz. Raises ConfigError when there are fewer than four."""
    width = SAMPLE_RATE / N_FFT
    found = slice(round(low / width), round(high / width) + 1)
    if found.stop - found.start < 4 or found.start < 0 or found.stop > N_FFT // 2:
        raise ConfigError(f"--low {low:g} --high {high:g}: take at least 50 Hz between 0 and {SAMPLE_RATE / 2:g}")
    return found


def magnitudes(sound: Tensor, chosen: slice) -> Tensor:
    """`[samples]`, whole token frames, to ln magnitudes `[frames, bins]`, each the mean of its four STFT frames."""
    margin = (N_FFT - HOP) // 2
    frames = nn.functional.pad(sound, (margin, margin)).unfold(0, N_FFT, HOP) * torch.hann_window(N_FFT)
    size = torch.fft.rfft(frames)[:, chosen].abs().clamp_min(FAINT)
    of_tokens: Tensor = size.reshape(-1, FRAME_SAMPLES // HOP, size.shape[1]).mean(1).log()
    return of_tokens


def in_context(rows: Tensor, reach: int) -> Tensor:
    """`[frames, width]` to `[frames, (2 reach + 1) width]`: each with its neighbours, the ends repeated."""
    padded = nn.functional.pad(rows.T[None], (reach, reach), mode="replicate")[0].T
    return padded.unfold(0, 2 * reach + 1, 1).reshape(len(rows), -1)


@torch.inference_mode()
def representations(model: DuoTok, sound: Tensor, track: str, reach: int) -> Told:
    """Each representation of mono 48 kHz sound `[samples]`, whole token frames, with its context: `[frames, width]`."""
    mel = model.mel(resample(sound[None], SAMPLE_RATE, ANALYSIS_RATE))
    hidden = model.tokenizer.lower(mel)
    quantized = model.tokenizer.quantize(hidden, track)
    latents = model.autoencoder.encode(sound[None, None])[0]
    frames = hidden.shape[1]
    rows = {
        "mel": mel[0].reshape(frames, -1, mel.shape[-1]).mean(1),
        "hidden": hidden[0],
        "z": quantized.z[0],
        "codes": quantized.z_q[0],
        "latents": latents.reshape(frames, -1),
    }
    return {"nothing": torch.zeros(frames, 1)} | {name: in_context(of_it, reach) for name, of_it in rows.items()}


def segments(store: ShardStore, split: Split, track: str, minutes: float, seed: int) -> list[SegmentSound]:
    """Up to so many minutes of a split, shuffled. Raises ConfigError when there is nothing."""
    found = [SegmentSound(store, index) for index in store.select(split, needs=(track,))]
    np.random.default_rng(seed).shuffle(found)  # type: ignore[arg-type]
    chosen, frames = [], 0
    for sound in found:
        if frames < minutes * 60 * FRAME_RATE:
            chosen.append(sound)
            frames += sound.frames
    if not chosen:
        raise ConfigError(f"{store.ranges.url}: no {split} segment has a track `{track}`")
    return chosen


def described(
    model: DuoTok, sounds: list[SegmentSound], track: str, chosen: slice, reach: int, what: str
) -> Iterator[tuple[str, Told, Tensor]]:
    """Recording, representations and magnitudes of each segment that sounds at all."""
    for sound in progress(sounds, description=what, console=Console(stderr=True)):
        audio = sound.mono(track)
        if float(audio.abs().max()) > 1e-3:
            yield sound.segment.recording, representations(model, audio, track, reach), magnitudes(audio, chosen)


def teach(inputs: Tensor, targets: Tensor, steps: int, seed: int) -> nn.Module:
    """A network of two hidden layers that tells `targets [frames, bins]` from `inputs [frames, width]`."""
    torch.manual_seed(seed)
    center, spread = inputs.mean(0), inputs.std(0) + 1e-3
    first, last = nn.Linear(inputs.shape[1], 256), nn.Linear(256, targets.shape[1])
    net = nn.Sequential(first, nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 256), nn.GELU(), last)
    with torch.no_grad():
        last.bias.copy_(targets.median(0).values)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        rows = torch.randint(len(inputs), (256,))
        loss = (net((inputs[rows] - center) / spread) - targets[rows]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # the scales go into the first layer
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ center)
    return net.eval()


def figures(told: Tensor, true: Tensor) -> tuple[float, float, float, int]:
    """corr, loudest, error, and the number of frames that sound."""
    a, b = told.exp(), true.exp()
    power = b.square().sum(-1)
    heard = power > power.max() * 10 ** (SOUNDING_DB / 10)
    a, b = a[heard], b[heard]
    corr = nn.functional.cosine_similarity(a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True), dim=-1).mean()
    loudest = (a.argmax(-1) == b.argmax(-1)).float().mean()
    return float(corr), float(loudest), float((told - true).abs()[heard].mean()), int(heard.sum())


def measure(model: DuoTok, store: ShardStore, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row of figures for each representation and recording of the validation split."""
    chosen = bins(options.low, options.high)
    splits: tuple[tuple[Split, float], ...] = (("train", options.minutes), ("validation", ALL))
    parts = {
        split: list(described(model, segments(store, split, options.track, minutes, options.seed), options.track, chosen, options.reach, split))
        for split, minutes in splits
    }  # fmt: skip
    targets = torch.cat([true for _, _, true in parts["train"]])
    rows = []
    for name in ROWS:
        net = teach(torch.cat([told[name] for _, told, _ in parts["train"]]), targets, options.steps, options.seed)
        found: dict[str, list[tuple[float, ...]]] = {}
        for recording, told, true in parts["validation"]:
            with torch.inference_mode():
                found.setdefault(recording, []).append(figures(net(told[name]), true))
        for recording, values in found.items():
            weights = [value[-1] for value in values]
            if sum(weights):
                of_all = np.average([value[:-1] for value in values], axis=0, weights=weights)
                row = dict(zip(FIGURES, map(float, of_all), strict=True))
                rows.append({"representation": name, "recording": recording, **row, "frames": int(sum(weights))})
    return rows


@mistakes_in_one_line
def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, required=True, help="WORK of `duotok data prepare`")
    arguments.add_argument("--track", choices=TRACKS, default="accompaniment")
    arguments.add_argument("--low", type=positive_number, default=25.0, help="Hz")
    arguments.add_argument("--high", type=positive_number, default=300.0, help="Hz")
    arguments.add_argument("--reach", type=int_from_0, default=2, help="token frames of context on each side")
    arguments.add_argument("--minutes", type=positive_number, default=25.0, help="of the train split to learn from")
    arguments.add_argument(
        "--steps", type=positive_int, default=1500, help="of 256 token frames, for each representation"
    )
    arguments.add_argument("--seed", type=int_from_0, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model = DuoTok.from_pretrained(options.model, options.device)
    rows = measure(model, ShardStore(options.data / "shards", options.data / "derived"), options)
    means = [
        {"representation": name, **{key: mean([row[key] for row in rows if row["representation"] == name]) for key in FIGURES}}
        for name in ROWS
    ]  # fmt: skip
    told = {key: getattr(options, key) for key in ("track", "low", "high", "reach", "minutes", "steps", "seed")}
    result = {"conditions": {**conditions(model, options.threads), **told}, "means": means, "recordings": rows}
    corr = {(row["representation"], row["recording"]): row["corr"] for row in rows}
    each = [[name, *(corr[kind, name] for kind in ROWS)] for name in dict.fromkeys(row["recording"] for row in rows)]
    tables = [table(["representation", *FIGURES], [list(row.values()) for row in means]), table(["corr", *ROWS], each)]
    show(result, tables, options.json)


if __name__ == "__main__":
    main()

"""The pictures of the report: mels, token strips, variety, self-similarity, code ranks. All return PNG bytes.

Pictures with a time axis are drawn edge to edge, so that the page can lay a playhead over them: the fraction of the
width is the fraction of the song. Labels stand inside. The palette reads on light and dark pages.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.audio.features import MEL_BINS, LogMel
from duotok.audio.io import resample
from duotok.clock import ANALYSIS_RATE, MEL_HOP
from duotok.random import GAMMA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"vocals": "#e8743b", "accompaniment": "#3b8fe8"}
GREY = "#8a8f98"
DARKEST, BRIGHTEST = -9.0, 8.0  # ln mel power
LABELLED_HZ = ((300, "300 Hz"), (1000, "1 kHz"), (3000, "3 kHz"), (10_000, "10 kHz"))


def _figure(width: float, height: float) -> Figure:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100)


def _png(figure: Figure, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=transparent, metadata={"Software": None})
    return buffer.getvalue()


def _full_bleed(figure: Figure) -> Axes:
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    return axis


def _time_ticks(seconds: float) -> list[float]:
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300) if seconds / s <= 8), 600)
    return [step * i for i in range(1, math.ceil(seconds / step))]


def clock(seconds: float) -> str:
    """`1:05`, and `0:02.5` where half seconds matter."""
    whole = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    return whole if seconds == int(seconds) else f"{whole}.{int(10 * (seconds % 1))}"


def log_mel(audio: Tensor, rate: int) -> NDArray[np.float32]:
    """Natural-log mel power `[128, frames]` at 100 Hz of `[channels, samples]`."""
    mono = resample(audio.mean(0, keepdim=True), rate, ANALYSIS_RATE)[0]
    mono = torch.nn.functional.pad(mono, (0, -len(mono) % MEL_HOP))
    front = LogMel()
    picture: NDArray[np.float32] = front.denormalise(front(mono)).T.numpy()
    return picture


def _band(hz: float) -> float:
    return MEL_BINS * math.log1p(hz / 700) / math.log1p(ANALYSIS_RATE / 2 / 700)


def _label(axis: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """A white label with a dark rim, readable on any picture."""
    from matplotlib.patheffects import withStroke

    axis.text(x, y, text, color="white", path_effects=[withStroke(linewidth=2, foreground="#000000a0")], **style)


def draw_mel(axis: Axes, mel: NDArray[np.float32], seconds: float, label: str = "") -> None:
    """Draw `mel [128, frames]` into a full-bleed axis with labels inside."""
    # More columns than pixels: keep the loudest, so that short notes do not vanish.
    stride = max(1, mel.shape[1] // 1500)
    mel = mel[:, : mel.shape[1] // stride * stride].reshape(MEL_BINS, -1, stride).max(-1)
    extent = (0.0, seconds, 0.0, float(MEL_BINS))
    axis.imshow(mel, origin="lower", aspect="auto", cmap="magma", vmin=DARKEST, vmax=BRIGHTEST, extent=extent)
    for hz, text in LABELLED_HZ:
        _label(axis, seconds * 0.004, _band(hz), text, fontsize=7, va="center")
    for tick in _time_ticks(seconds):
        _label(axis, tick, 1, clock(tick), fontsize=7, ha="center", va="bottom")
    if label:
        _label(axis, seconds * 0.995, MEL_BINS - 3, label, fontsize=10, ha="right", va="top", weight="bold")


def mel_picture(audio: Tensor, rate: int) -> bytes:
    """The log-mel spectrogram of `[channels, samples]`."""
    figure = _figure(7.2, 2.1)
    draw_mel(_full_bleed(figure), log_mel(audio, rate), audio.shape[-1] / rate)
    return _png(figure)


def identity_colours(codes: Tensor) -> NDArray[np.float64]:
    """A fixed colour for every code, `[frames, 3]` in 0..1: equal tokens, equal colours; neighbours say nothing."""
    values = codes.numpy().astype(np.uint64)
    mixed = (values + np.uint64(1)) * np.uint64(GAMMA)
    hue = (mixed >> np.uint64(40)).astype(np.float64) / (1 << 24)
    light = (mixed >> np.uint64(20) & np.uint64(0xFFFF)).astype(np.float64) / 65536
    return _rgb(hue, 0.55 + 0.4 * light)


def meaning_colours(vectors: Tensor) -> NDArray[np.float64]:
    """Similar sound, similar colour, `[frames, 3]` in 0..1: the first two principal directions of `[frames, width]`
    give the hue (their angle), the third the brightness."""
    x = vectors.double()
    x = x - x.mean(0)
    if len(x) < 4 or float(x.abs().max()) == 0.0:
        return np.full((len(x), 3), 0.5)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    # The sign of a principal direction is arbitrary. It is fixed here, so that a song always looks the same.
    sign = torch.sign(vh.gather(1, vh.abs().argmax(1, keepdim=True)))[:, 0]
    scores = torch.zeros(len(x), 3, dtype=torch.float64)
    scores[:, : min(3, len(s))] = (u * s * sign)[:, :3]
    scores = scores / scores.std(0).clamp_min(1e-9)
    hue = (torch.atan2(scores[:, 1], scores[:, 0]) / (2 * math.pi)) % 1.0
    light = 0.72 + 0.23 * torch.tanh(scores[:, 2] / 1.5)
    return _rgb(hue.numpy(), light.numpy())


def _rgb(hue: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    from matplotlib.colors import hsv_to_rgb

    colours: NDArray[np.float64] = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.62), value], axis=-1))
    return colours


def draw_strip(axis: Axes, codes: Tensor, vectors: Tensor | None, seconds: float, label: str = "") -> None:
    """Token strip: above by sound (`vectors [frames, width]`, where the model gives them), below by identity."""
    identity = identity_colours(codes)
    rows = [identity] if vectors is None else [meaning_colours(vectors), meaning_colours(vectors), identity]
    axis.imshow(np.stack(rows), aspect="auto", interpolation="nearest", extent=(0, seconds, 0, 3))
    if label:
        _label(axis, seconds * 0.995, 1.5, label, fontsize=10, ha="right", va="center", weight="bold")


def strip_picture(codes: Tensor, vectors: Tensor | None, seconds: float) -> bytes:
    """The token strip of one track, edge to edge."""
    figure = _figure(14.4, 0.72)
    draw_strip(_full_bleed(figure), codes, vectors, seconds)
    return _png(figure)


def variety(codes: Tensor, window: int = 50) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distinct codes in the `window` frames around each frame, and the codes seen so far that are new: both `[frames]`.

    The first is a share of the window (1: no token comes twice within it), the second the share of all tokens up to a
    frame that had not occurred before.
    """
    values = codes.tolist()
    frames = len(values)
    distinct, fresh, seen = np.zeros(frames), np.zeros(frames), set[int]()
    for i, code in enumerate(values):
        start = max(0, min(i - window // 2, frames - window))
        part = values[start : start + window]
        distinct[i] = len(set(part)) / len(part)
        seen.add(code)
        fresh[i] = len(seen) / (i + 1)
    return distinct, fresh


def variety_picture(tracks: Mapping[str, Tensor], seconds: float) -> bytes:
    """Distinct tokens in 2 s around every moment (solid), and the share of new tokens so far (dotted)."""
    figure = _figure(14.4, 1.6)
    axis = _full_bleed(figure)
    for name, codes in tracks.items():
        distinct, fresh = variety(codes)
        time = (np.arange(len(codes)) + 0.5) / len(codes) * seconds
        axis.plot(time, distinct, color=COLOURS[name], linewidth=1.8)
        axis.plot(time, fresh, color=COLOURS[name], linewidth=1.2, linestyle=":")
    for level in (0.0, 0.5, 1.0):
        axis.axhline(level, color=GREY, linewidth=0.5, alpha=0.5)
        axis.text(seconds * 0.003, level + 0.02, f"{level:.0%}", color=GREY, fontsize=9)
    for tick in _time_ticks(seconds):
        axis.text(tick, -0.02, clock(tick), color=GREY, fontsize=9, ha="center", va="top")
    axis.set_xlim(0, seconds)
    axis.set_ylim(-0.16, 1.16)
    return _png(figure, transparent=True)


def similarity_picture(vectors: Tensor) -> bytes:
    """Self-similarity: the cosine similarity of all pairs of frames of `[frames, width]`, bright where the song repeats."""
    frames = len(vectors)
    groups = min(frames, 400)
    edges = torch.linspace(0, frames, groups + 1).round().long()
    unit = torch.nn.functional.normalize(vectors.double() - vectors.double().mean(0), dim=1)
    pooled = torch.stack([unit[a:b].mean(0) for a, b in pairwise(edges.tolist())])
    pooled = torch.nn.functional.normalize(pooled, dim=1)
    figure = _figure(4.0, 4.0)
    similarity: Any = (pooled @ pooled.T).numpy()
    _full_bleed(figure).imshow(similarity, origin="lower", cmap="magma", vmin=-0.2, vmax=1, aspect="auto")
    return _png(figure)


def rank_picture(tracks: Mapping[str, Tensor]) -> bytes:
    """The frequency of each code, most frequent first, from shares or counts `[codebook_size]` of each track."""
    figure = _figure(6.4, 2.8)
    axis = figure.add_axes((0.11, 0.2, 0.86, 0.76))
    for name, counts in tracks.items():
        used = counts[counts > 0].sort(descending=True).values.numpy()
        axis.step(np.arange(1, len(used) + 1), used, where="mid", color=COLOURS[name], linewidth=1.8, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("codes, most frequent first", color=GREY, fontsize=9)
    axis.set_ylabel("times used", color=GREY, fontsize=9)
    axis.tick_params(colors=GREY, which="both", labelsize=8)
    for spine in axis.spines.values():
        spine.set_color(GREY)
        spine.set_alpha(0.4)
    axis.legend(frameon=False, labelcolor=GREY, fontsize=9)
    return _png(figure, transparent=True)


def overview_picture(
    stems: Mapping[str, Tensor],
    decoded: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
    rate: int,
) -> bytes:
    """The overview picture of the README: for both tracks the stem, its tokens, and the decoded sound."""
    figure = _figure(11, 6.4)
    figure.set_facecolor("#16181d")
    seconds = next(iter(stems.values())).shape[-1] / rate
    top = 0.99
    for name in stems:
        parts = (("stem", 0.2), ("tokens", 0.05), ("decoded", 0.2))
        for part, height in parts:
            axis = figure.add_axes((0.01, top - height, 0.98, height))
            axis.set_axis_off()
            if part == "tokens":
                count = f"{len(codes[name])} tokens, 25 a second"
                draw_strip(axis, codes[name], vectors.get(name), seconds, count)
            else:
                sound = stems[name] if part == "stem" else decoded[name]
                text = name if part == "stem" else "decoded from the tokens alone"
                draw_mel(axis, log_mel(sound, rate), seconds, text)
            top -= height + 0.006
        top -= 0.04
    return _png(figure)

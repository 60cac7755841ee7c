"""Learning curves of one or several runs, from `log.jsonl`, in one picture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duotok.errors import ConfigError
from duotok.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Draw = Callable[[Axes], None]

Curve = tuple[np.ndarray, np.ndarray]
"""Steps and values."""

LOGGED = "log.jsonl"
NOT_LOSSES = {"lr", "rate", "seconds", "waiting", "gradient", "items_per_second", "memory_gb"}
PARTS = 8  # gradient norms drawn, the largest
COLUMNS = 3
STYLES = ("-", "--", ":", "-.")
COLOURS = ("#3066be", "#d1495b", "#2e933c", "#edae49", "#7d53de", "#00798c", "#a23b72", "#5c5c5c")


@dataclass
class History:
    """The log of a run: figure -> curve, on training and on held-out data; `speed` in steps per second."""

    name: str
    train: dict[str, Curve] = field(default_factory=dict)
    held_out: dict[str, Curve] = field(default_factory=dict)
    speed: Curve = (np.zeros(0), np.zeros(0))

    @property
    def last(self) -> float:
        """The last step that was logged."""
        return float(max((steps[-1] for steps, _ in (*self.train.values(), *self.held_out.values())), default=0))


def read_history(run: Path) -> History:
    """The log of a run. Where the run resumed from an earlier checkpoint, the entries after that checkpoint are left out.

    Raises ConfigError for a folder without a log, or with an empty one.
    """
    path = run / LOGGED
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path}: no log of a run there ({error.strerror}); name a folder that `duotok train` made"
        ) from None
    entries: list[dict[str, Any]] = []
    for text in lines:
        try:
            line = json.loads(text)
            step, kind = line["step"], line["kind"]
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a kill
        if kind == "start":
            entries = [earlier for earlier in entries if earlier["step"] <= step]
        entries.append(line)
    train, held_out = ([line for line in entries if line["kind"] == kind] for kind in ("train", "held_out"))
    if not train and not held_out:
        raise ConfigError(f"{path}: no losses in it yet (or of an older version); wait for the first `log_every` steps")
    return History(run.name, _curves(train), _curves(held_out), _speed(entries))


def _curves(lines: list[dict[str, Any]]) -> dict[str, Curve]:
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step" and np.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in curves.items()}


def _speed(lines: list[dict[str, Any]]) -> Curve:
    """Steps a second between two lines of one start (the log's own rate is the mean since the start)."""
    steps, rates = [], []
    before, clock = 0.0, 0.0
    for line in lines:
        if line["kind"] == "start":
            before, clock = line["step"], 0.0
        elif line["kind"] == "train" and line.get("seconds", 0.0) > clock:
            steps.append(line["step"])
            rates.append((line["step"] - before) / (line["seconds"] - clock))
            before, clock = line["step"], line["seconds"]
    return np.array(steps), np.array(rates)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean, over fewer values at both ends."""
    half = min(window, len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    mean: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return mean


def window(values: np.ndarray) -> int:
    """The length of the moving mean: a few values for a short curve, a twentieth of a long one."""
    return max(min(5, len(values) // 4), len(values) // 20)


MARK = "duotok plot"
"""In the metadata of the pictures: `duotok plot` replaces only pictures that it made."""


def plot(runs: list[Path], picture: Path, force: bool = False) -> None:
    """Write a PNG (or what the ending says) with the learning curves of the runs, one colour a run.

    Raises ConfigError for a run without a log, a picture of an unknown kind or that cannot be written, or a file that is there and no
    such picture (unless `force`).
    """
    if picture.is_dir():
        raise ConfigError(f"{picture}: is a folder; name a picture in it, e.g. {picture / 'curves.png'}")
    ending = picture.suffix.lower()
    if not ending:  # matplotlib would add one, and replace what has that name
        raise ConfigError(f"{picture}: a picture of no kind; name it {picture.name}.png")
    if any(picture.exists() and picture.samefile(run / LOGGED) for run in runs if (run / LOGGED).exists()):
        raise ConfigError(f"{picture}: is the log of a run; name another picture")
    nowhere = picture.is_symlink() and not picture.exists()
    if not force and (nowhere or (picture.is_file() and MARK.encode() not in picture.read_bytes())):
        raise ConfigError(f"{picture}: is there already, and no learning curves; name another, or --force replaces it")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    histories = [read_history(run) for run in runs]
    _make_names_unique(histories, runs)
    for history in histories:
        history.name = as_drawn(history.name)
    panels = _panels(histories)
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(5.2 * min(COLUMNS, len(panels)), 3.1 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, draw) in enumerate(panels):
        axis = figure.add_subplot(rows, min(COLUMNS, len(panels)), index + 1)
        axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.tick_params(labelsize=8)
        draw(axis)
        axis.set_xlim(0, 1.01 * max(history.last for history in histories))
        for line in axis.lines:
            if np.size(line.get_xdata()) == 1:  # a single point draws no line
                line.set_marker("o")
        if index >= len(panels) - COLUMNS:
            axis.set_xlabel("steps", fontsize=9)
    figure.suptitle("  ·  ".join(history.name for history in histories), fontsize=12)
    drawn = io.BytesIO()
    try:
        key = "Software" if ending == ".png" else "Creator"
        marked = ending in (".png", ".svg", ".pdf")
        figure.savefig(drawn, format=ending[1:], dpi=110, metadata={key: MARK} if marked else None)
    except ValueError as error:
        raise ConfigError(f"{picture}: {str(error).splitlines()[0]}; name a .png") from None
    try:
        write_bytes(picture, drawn.getvalue())
    except OSError as error:
        raise ConfigError(f"{picture}: cannot be written ({error.strerror or error}); name another place") from None


def _make_names_unique(histories: list[History], runs: list[Path]) -> None:
    """Prefix the names of runs in equally named folders with their parent folder."""
    names = [history.name for history in histories]
    for history, run in zip(histories, runs, strict=True):
        if names.count(history.name) > 1:
            history.name = f"{run.resolve().parent.name}/{history.name}"


def as_drawn(name: str) -> str:
    """A name as matplotlib shows it: a dollar is no formula, and a legend has no name that begins with `_`."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _panels(histories: list[History]) -> list[tuple[str, Draw]]:
    """Title and drawing function of each panel, for the figures that the runs have."""
    names = dict.fromkeys(name for h in histories for name in (*h.train, *h.held_out))
    use = [name for name in names if name.startswith(("use_", "distinct_"))]
    losses = [name for name in names if name not in {*NOT_LOSSES, *use} and not name.startswith("gradient.")]
    losses.sort(key=lambda name: name != "loss")
    panels: list[tuple[str, Draw]] = [(name, _loss(histories, name, name == losses[0])) for name in losses]
    for prefix, title in (("use_", "share of the codebook in use"), ("distinct_", "distinct codes / frames")):
        if any(name.startswith(prefix) for name in use):
            panels.append((title, _codes(histories, prefix)))
    if "lr" in names:
        panels.append(("learning rate", _single(histories, "lr")))
    if "gradient" in names:
        panels.append(("gradient norm", _gradients(histories)))
    if any(len(history.speed[0]) for history in histories):
        panels.append(("steps a second; share of waiting", _rates(histories)))
    return panels


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _loss(histories: list[History], name: str, legend: bool) -> Draw:
    """Values in a pale colour, their moving mean in a strong one, held-out values as dots."""

    def draw(axis: Axes) -> None:
        seen: list[np.ndarray] = []
        for number, history in enumerate(histories):
            if name in history.train:
                steps, values = history.train[name]
                mean = smooth(values, window(values))
                axis.plot(steps, values, color=_colour(number), alpha=0.2, linewidth=0.7)
                axis.plot(steps, mean, color=_colour(number), linewidth=1.6, label=f"{history.name} train")
                seen.append(mean[len(mean) // 50 :])
            if name in history.held_out:
                steps, values = history.held_out[name]
                axis.plot(steps, values, "o--", color=_colour(number), markersize=4, linewidth=0.9, mfc="white",
                          label=f"{history.name} held out")  # fmt: skip
                seen.append(values)
        _fit(axis, np.concatenate(seen))
        if legend:
            axis.legend(fontsize=8, frameon=False)

    return draw


def _fit(axis: Axes, values: np.ndarray) -> None:
    """Set limits that ignore the first steps, and a logarithmic axis where values span more than a decade."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 10 * low:
        _logarithmic(axis)
        axis.set_ylim(low / 1.3, high * 1.3)
    elif high > low:
        axis.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))


def _logarithmic(axis: Axes) -> None:
    """A logarithmic axis with plain numbers, at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _single(histories: list[History], name: str) -> Draw:
    def draw(axis: Axes) -> None:
        for number, history in enumerate(histories):
            if name in history.train:
                axis.plot(*history.train[name], color=_colour(number), linewidth=1.5)
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")

    return draw


def _codes(histories: list[History], prefix: str) -> Draw:
    """A smoothed line for each track (in its own colour for a single run), held-out values as dots."""

    def draw(axis: Axes) -> None:
        for number, history in enumerate(histories):
            names = sorted(name for name in {**history.train, **history.held_out} if name.startswith(prefix))
            for track, name in enumerate(names):
                alone = len(histories) == 1
                style, colour = ("-", _colour(track)) if alone else (STYLES[track % len(STYLES)], _colour(number))
                label = name.removeprefix(prefix) if alone else f"{history.name} {name.removeprefix(prefix)}"
                if name in history.train:
                    steps, values = history.train[name]
                    axis.plot(steps, values, color=colour, alpha=0.15, linewidth=0.7)
                    mean = smooth(values, window(values))
                    axis.plot(steps, mean, style, color=colour, linewidth=1.4, label=label)
                if name in history.held_out:
                    axis.plot(*history.held_out[name], "o", color=colour, markersize=4, mfc="white")
        axis.set_ylim(0, None)
        axis.legend(fontsize=7, frameon=False)

    return draw


def _gradients(histories: list[History]) -> Draw:
    """The total gradient norm of each run; for a single run also the norms by part."""

    def draw(axis: Axes) -> None:
        for number, history in enumerate(histories):
            if "gradient" in history.train:
                axis.plot(*history.train["gradient"], color=_colour(number) if len(histories) > 1 else "black",
                          linewidth=1.5, label="all" if len(histories) == 1 else None)  # fmt: skip
        if len(histories) == 1:
            parts = {n: c for n, c in histories[0].train.items() if n.startswith("gradient.")}
            largest = sorted(parts, key=lambda name: -float(np.median(parts[name][1])))[:PARTS]
            for number, name in enumerate(largest):
                steps, values = parts[name]
                label = name.removeprefix("gradient.")
                axis.plot(steps, smooth(values, window(values)), color=_colour(number), linewidth=0.9, label=label)
            axis.legend(fontsize=6.5, frameon=False, ncols=2)
        _logarithmic(axis)

    return draw


def _rates(histories: list[History]) -> Draw:
    """Steps per second on the left axis, the share of time spent waiting for batches (dotted) on the right one."""

    def draw(axis: Axes) -> None:
        right = axis.twinx()
        for number, history in enumerate(histories):
            steps, rates = history.speed
            axis.plot(steps, smooth(rates, window(rates)), color=_colour(number), linewidth=1.5)
            if "waiting" in history.train:
                right.plot(*history.train["waiting"], ":", color=_colour(number), linewidth=1.2)
        axis.set_ylim(bottom=0)
        right.set_ylim(0, 1)
        right.tick_params(labelsize=8)
        right.spines["top"].set_visible(False)
        right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")

    return draw

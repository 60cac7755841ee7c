"""The output of a run: `log.jsonl`, TensorBoard, a progress bar (or a line now and then), and pictures of mels."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from duotok.audio.features import LogMel
from duotok.audio.io import resample
from duotok.clock import ANALYSIS_RATE, MEL_RATE
from duotok.distributed import total, world
from duotok.files import naming

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class Log:
    """Opened by the first process only. first, total: the first and last step of this run; total is None with a time budget."""

    def __init__(self, run: Path, name: str, first: int, total: int | None) -> None:
        self.path, self.name, self.first, self.total = run / "log.jsonl", name, first, total
        self.console = Console(stderr=True)
        self.started, self.said = time.monotonic(), 0.0
        self.progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[figures]}"), console=self.console,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task(name, total=total, completed=first, figures="")
        self.progress.start()
        self.cut = _is_cut(self.path)
        self.board = Board(run / "tensorboard", first, self.note)

    def note(self, text: str) -> None:
        """Print one line."""
        self.progress.console.print(f"[bold]{self.name}[/] {text}", highlight=False)

    def write(self, step: int, kind: str, **figures: Any) -> None:
        """Write one line of `log.jsonl`; kind is train, held_out or start. Raises OSError."""
        line = json.dumps({"step": step, "kind": kind, **figures}) + "\n"
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + line if self.cut else line)
        self.cut = False
        for key, value in figures.items():
            if isinstance(value, int | float):
                self.board.add("scalar", f"{kind}/{key}", value, step)

    def step(self, step: int, figures: dict[str, float] | None, lr: float, left: float | None = None) -> None:
        """Progress after each step; `figures` (means since the last ones) every `log_every` steps; left: minutes."""
        now = time.monotonic()
        if figures is not None:
            rate = (step - self.first) / max(1e-9, now - self.started)
            self.write(step, "train", rate=rate, lr=lr, seconds=now - self.started, **figures)
            text = "  ".join(f"{k} {v:.4g}" for k, v in figures.items() if not k.startswith("gradient."))
            self.progress.update(self.task, figures=f"{rate:.2f}/s  {text}")
            if self.progress.disable and (now - self.said > LINE_EVERY or step == self.total):
                if self.total is not None:
                    left = (self.total - step) / max(rate, 1e-9) / 60
                of = "" if self.total is None else f"/{self.total}"
                self.note(f"{step}{of}  {rate:.2f} steps/s  {left or 0:.1f} min left  lr {lr:.1e}  {text}")
                self.said = now
        self.progress.update(self.task, completed=step)

    def pictures(self, folder: Path, step: int) -> None:
        """Show the pictures of `sample` on TensorBoard as well."""
        from matplotlib.image import imread

        for path in sorted(folder.glob("*.png")):
            self.board.add("image", path.stem, imread(path)[..., :3], step, dataformats="HWC")

    def close(self) -> None:
        self.progress.stop()
        self.board.close()


class Board:
    """TensorBoard, where it is installed. A disk that takes no more ends what it shows and not the run: `log.jsonl` has the same figures."""

    def __init__(self, folder: Path, first: int, note: Callable[[str], None]) -> None:
        self._folder, self._note, self._writer = folder, note, None
        self._hook = threading.excepthook
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        threading.excepthook = self._of_thread
        with self._unless_full():
            self._writer = SummaryWriter(str(folder), purge_step=first)

    def add(self, kind: str, *values: Any, **options: Any) -> None:
        """Call `add_KIND` of the writer."""
        with self._unless_full():
            if self._writer is not None:
                getattr(self._writer, f"add_{kind}")(*values, **options)

    def close(self) -> None:
        with self._unless_full():
            if self._writer is not None:
                self._writer.close()
        threading.excepthook = self._hook

    @contextmanager
    def _unless_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            reason = error.strerror or str(error)
            self._note(f"{self._folder}: not written from here on ({reason}); log.jsonl has the figures")

    def _of_thread(self, problem: threading.ExceptHookArgs) -> None:
        """The writer's thread ends with a traceback before the next call raises the same."""
        if not (isinstance(problem.exc_value, OSError) and "tensorboard" in type(problem.thread).__module__):
            self._hook(problem)


@dataclass
class Sums:
    """Sums of losses since the last report, kept on the device because reading them makes a GPU wait."""

    values: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def add(self, losses: dict[str, Tensor], waited: float) -> None:
        self.count += 1
        self.waited += waited
        for name, value in losses.items():
            value = value.detach().float()
            self.values[name] = self.values[name] + value if name in self.values else value

    def means(self) -> dict[str, float]:
        """Means over steps and processes, and the share of time spent waiting for batches."""
        names = sorted(self.values)
        stacked = total(torch.stack([self.values[name] for name in names])) / (self.count * world())
        figures = dict(zip(names, stacked.tolist(), strict=True))
        return figures | {"waiting": self.waited / max(1e-9, time.monotonic() - self.since)}


def _is_cut(path: Path) -> bool:
    """Whether the last line of a log was cut off, by a kill or a full disk; the next one must not be written into it."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:  # none yet, or empty
        return False


def show_mels(path: Path, mels: dict[str, Tensor]) -> None:
    """Write a PNG of normalised log-mels `[mel_frames, 128]`, one below the other on one colour scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.4 * len(mels)))
    axes = figure.subplots(len(mels), 1, squeeze=False, sharex=True)
    for axis, (name, mel) in zip(axes[:, 0], mels.items(), strict=True):
        picture = LogMel().denormalise(mel).T.numpy()
        axis.imshow(
            picture, origin="lower", aspect="auto", vmin=-11.5, vmax=8, extent=(0, len(mel) / MEL_RATE, 0, len(picture))
        )
        axis.set_title(name, fontsize=9)
        axis.set_ylabel("mel band")
    axes[-1, 0].set_xlabel("seconds")
    edge = 0.5 / (2.4 * len(mels))  # half an inch for the words; a layout that measures them draws all twice
    figure.subplots_adjust(left=0.06, right=0.99, bottom=edge, top=1 - edge / 2, hspace=0.25)
    figure.savefig(path, dpi=80, pil_kwargs={"compress_level": 1})


def compare_mels(path: Path, sounds: dict[str, Tensor], rate: int) -> None:
    """Write a PNG with the log-mel of each sound (`[samples]` at `rate`)."""
    mel = LogMel()
    mels = {}
    for name, sound in sounds.items():
        mono = resample(sound[None], rate, ANALYSIS_RATE)[0]
        mels[name] = mel(torch.nn.functional.pad(mono, (0, -len(mono) % 240)))
    show_mels(path, mels)

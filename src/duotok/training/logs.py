"""What a run says: `log.jsonl` for programs, TensorBoard for eyes, a progress bar (or a line now and then) for people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class Log:
    """Opened by the first process only. `first` and `total`: the steps of this run; None when it goes by the clock."""

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
        self.board = _board(run / "tensorboard", first)

    def note(self, text: str) -> None:
        """One line for people."""
        self.progress.console.print(f"[bold]{self.name}[/] {text}", highlight=False)

    def write(self, step: int, kind: str, **figures: Any) -> None:
        """One line of `log.jsonl`: kind is train, held_out or start."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **figures}) + "\n")
        if self.board is not None:
            for key, value in figures.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(f"{kind}/{key}", value, step)

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
        if self.board is None:
            return
        from matplotlib.image import imread

        for path in sorted(folder.glob("*.png")):
            self.board.add_image(path.stem, imread(path)[..., :3], step, dataformats="HWC")

    def close(self) -> None:
        self.progress.stop()
        if self.board is not None:
            self.board.close()


def _board(folder: Path, first: int) -> Any:
    """A TensorBoard writer; None where TensorBoard is not installed (log.jsonl has the same figures)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first)

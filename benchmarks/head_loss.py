"""The loss of a head with thousands of classes: ours, plain logits, and torch's own chunked one, beside each other.

    python -m benchmarks.head_loss                     the heads of the language models on a CPU
    python -m benchmarks.head_loss --device cuda --dtype bfloat16

Forward and backward of one head, in turn, medians of the seconds that the process was running (on a GPU: of the time between
two events). Memory is the most that a loss takes beside its inputs and gradients: on a CPU of a process of its own.
`F.linear_cross_entropy` is measured where this torch has it (2.13). Its sum cannot tell the rows that `head_loss` counts
codes by, its "none" can and multiplies once more on the way back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.calling import mistakes_in_one_line, positive_int
from benchmarks.output import Parser, show, table
from duotok.lm.heads import head_loss

SHAPES = {"compact": (1024, 48, 32_771), "small": (1024, 256, 32_771)}
"""Rows, width, classes."""
Loss = Callable[[Tensor, nn.Linear, Tensor], Tensor]


def plain(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """All logits at once."""
    return F.cross_entropy(head(hidden).float(), targets, reduction="sum")


def ours(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return head_loss(hidden, head, targets, head.out_features - 3).nats


def torch_chunks(reduction: str) -> Loss:
    """torch's; "none" gives the rows as well, as ours does."""

    def loss(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
        options = torch.nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(
            hidden, head.weight, targets, linear_bias=head.bias, reduction=reduction, options=options
        ).sum()

    return loss


def losses() -> dict[str, Loss]:
    """By name; torch's where it is there."""
    found: dict[str, Loss] = {"ours": ours, "all logits": plain}
    if hasattr(F, "linear_cross_entropy"):
        found |= {"torch, sum": torch_chunks("sum"), "torch, rows": torch_chunks("none")}
    return found


def inputs(shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> tuple[Tensor, nn.Linear, Tensor]:
    rows, width, classes = shape
    torch.manual_seed(0)
    head = nn.Linear(width, classes, device=device, dtype=dtype)
    hidden = torch.randn(rows, width, device=device, dtype=dtype, requires_grad=True)
    return hidden, head, torch.randint(classes - 3, (rows,), device=device)


def step(loss: Loss, given: tuple[Tensor, nn.Linear, Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    hidden, head, targets = given
    hidden.grad = head.weight.grad = head.bias.grad = None
    if hidden.is_cuda:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        loss(hidden, head, targets).backward()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    began = time.process_time()
    loss(hidden, head, targets).backward()
    return time.process_time() - began


def memory(name: str, shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> float:
    """MiB beside inputs and gradients."""
    given = inputs(shape, device, dtype)
    hidden, head, _ = given
    own = sum(t.nbytes for t in (hidden, head.weight, head.bias))
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(losses()[name], given)
        return (torch.cuda.max_memory_allocated() - before - own) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forget what the process once took at most (Linux)
    before = _kib("VmRSS")
    step(losses()[name], given)
    return (_kib("VmHWM") - before) / 2**10 - own / 2**20


def _kib(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def measure(device: str, dtype: torch.dtype, repeats: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for title, shape in SHAPES.items():
        given = inputs(shape, device, dtype)
        times: dict[str, list[float]] = {name: [] for name in losses()}
        for loss in losses().values():
            step(loss, given)
        for _ in range(repeats):
            for name, loss in losses().items():
                times[name].append(step(loss, given))
        del given
        for name, seconds in times.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, times["ours"], strict=True))
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                most = alone.apply(memory, (name, shape, device, dtype))
            found.append({
                "head": title, "loss": name, "milliseconds": round(1e3 * statistics.median(seconds), 1),
                "times ours": round(ratio, 2), "MiB": round(most),
            })  # fmt: skip
    return found


@mistakes_in_one_line
def main() -> int:
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options.add_argument("--threads", type=positive_int, default=1)
    options.add_argument("--repeats", type=positive_int, default=9)
    options.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = measure(chosen.device, getattr(torch, chosen.dtype), chosen.repeats)
    device = torch.cuda.get_device_name() if chosen.device.startswith("cuda") else "cpu"
    conditions = {"torch": torch.__version__, "device": device, "dtype": chosen.dtype, "threads": chosen.threads}
    show(
        {"conditions": conditions, "rows": rows},
        [table(list(rows[0]), [list(row.values()) for row in rows])],
        chosen.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long attention takes forwards and backwards on this CPU: in float32, in bfloat16, and as trainings have it.

    python -m benchmarks.attention
    python -m benchmarks.attention --repeat 10 --json

Under autocast trainings attend in float32 where heads are small (`duotok.nn.attention.softmax_attention`), since torch's kernel for CPUs
goes backwards slowly there in half precision. Shapes of the mini bundle in training, and of the paper's size. Milliseconds of processor
time, least of several in turn.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from datetime import date

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.calling import mistakes_in_one_line, positive_int
from benchmarks.output import show, table
from duotok.nn.attention import softmax_attention

SHAPES = {  # items, heads, queries, keys, head_dim
    "renderer, a chunk of queries": (8, 11, 128, 256, 32),
    "tokenizer, 20 s": (8, 8, 500, 500, 40),
    "paper, 30 s": (2, 16, 750, 750, 64),
    "separator, along time": (112, 6, 192, 192, 16),
    "separator, along bands": (768, 6, 28, 28, 16),
}
WAYS = ("float32", "bfloat16", "ours under autocast")


def seconds(way: str, shape: tuple[int, int, int, int, int]) -> float:
    """Processor time of one pass forwards and backwards."""
    items, heads, queries, keys, dim = shape
    dtype = torch.float32 if way == "float32" else torch.bfloat16
    q, k, v = (torch.randn(items, heads, n, dim, dtype=dtype, requires_grad=True) for n in (queries, keys, keys))
    ours = way == WAYS[2]
    before = time.process_time()
    with torch.autocast("cpu", torch.bfloat16) if ours else nullcontext():
        y: Tensor = softmax_attention(q, k, v) if ours else F.scaled_dot_product_attention(q, k, v)
    y.backward(torch.ones_like(y))
    return time.process_time() - before


def measure(repeat: int) -> list[dict[str, float | str]]:
    """One row for each shape; the ways take turns."""
    rows: list[dict[str, float | str]] = []
    for name, shape in SHAPES.items():
        rounds = [{way: seconds(way, shape) for way in WAYS} for _ in range(repeat + 1)][1:]
        rows.append({"where": name, **{way: 1000 * min(taken[way] for taken in rounds) for way in WAYS}})
    return rows


@mistakes_in_one_line
def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeat", type=positive_int, default=5, help="rounds, after one that does not count")
    arguments.add_argument("--threads", type=positive_int, default=1, help="CPU threads of torch")
    arguments.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.repeat)
    told = {"date": date.today().isoformat(), "torch": torch.__version__, "threads": options.threads}
    cells = [[row["where"], *(round(float(row[way])) for way in WAYS)] for row in rows]
    show({"conditions": told, "rows": rows}, [table(["ms", *WAYS], cells)], options.json)


if __name__ == "__main__":
    main()

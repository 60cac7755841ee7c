"""How benchmarks print: a markdown table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

import duotok
from benchmarks.calling import positive_int
from duotok.codec.duotok import DuoTok
from duotok.devices import check_device
from duotok.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Looks at --device before anything long begins. Raises ConfigError for one that is not there."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options = super().parse_args(args, namespace)
        device = options.device
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"--device {device}: torch {torch.__version__} sees no GPU; use --device cpu")
        # A device that torch surely has is left alone: what touches a GPU here would count in what is measured there.
        if device not in ("cpu", "cuda"):
            check_device(device, "--device ")
        return options


def parser(about: str) -> Parser:
    """The options that all benchmarks share."""
    result = Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--audio", type=Path, default=Path("../shared/audio"), help="folder with INDEX.tsv")
    result.add_argument("--model", default="mini", help="a bundle: its folder, its name, or owner/name on the hub")
    result.add_argument("--device", default="cpu")
    result.add_argument("--threads", type=positive_int, default=2, help="CPU threads of torch")
    result.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return result


def conditions(model: DuoTok, threads: int) -> dict[str, Any]:
    """What somebody needs to know to measure the same."""
    return {
        "date": date.today().isoformat(),
        "duotok": duotok.__version__,
        "model": model.model_id,
        "model_hash": model.model_hash,
        "torch": torch.__version__,
        "device": str(model.device),
        "threads": threads,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; floats with two decimals, None as a dash."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" for _ in head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cell(v) for v in row) + " |" for row in rows)])


def show(result: dict[str, Any], tables: Sequence[str], as_json: bool) -> None:
    """Print the JSON, or the tables and the conditions."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    print("\n\n".join(tables))
    print("\n" + ", ".join(f"{key} {value}" for key, value in result["conditions"].items()))


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is there; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def deviation(values: Sequence[float | None]) -> float | None:
    """Standard deviation of what is there (over their number); None when nothing is."""
    known = [value for value in values if value is not None]
    return statistics.pstdev(known) if known else None

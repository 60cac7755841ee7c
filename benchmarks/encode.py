"""How fast encoders are: ours at the paper's size, and EnCodec, DAC, Mimi and X-Codec at their published sizes.

    python -m benchmarks.encode                                     new weights, one thread, all in one interleaved run
    python -m benchmarks.encode --rivals --repeat 1 --profile       ours alone, with the table of where the time goes
    python -m benchmarks.encode --device cuda                       not tried here

Ours encodes both tracks of a song at once, each of the others one track or mix. In turn, `--repeat` times, each encodes
the same seconds of noise between two measurements of the rate of large fp32 matrix products; figures are medians over the
turns, in seconds that the process was running, so other work on the machine counts little. share: counted operations of
matrix products, convolutions and attention a second, over that rate; in bf16 and int8 it can pass 1. "at 66 GFLOP/s": times
real time on a machine whose products run at that rate, as if everything scaled with it. Windows are as long as the sound.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.frontends import PAPER
from benchmarks.output import parser, show, table
from duotok.audio.features import LogMel
from duotok.codec.families import FAMILIES
from duotok.errors import DuoTokError
from duotok.model.config import TokenizerConfig
from duotok.model.int8 import int8_encoder
from duotok.model.tokenizer import Tokenizer
from duotok.tracks import TRACKS
from duotok.training.cost.counting import CPU_ATTENTION
from duotok.training.cost.estimate import matmul_rate

REFERENCE = 66e9  # operations a second
ANALYSIS_RATE = 24_000

PUBLISHED: dict[str, tuple[str, str, dict[str, Any], int]] = {
    # name: family, class of the configuration, what is not its default, codebooks
    "EnCodec 24 kHz, 6 kbit/s": ("encodec", "EncodecConfig", {}, 8),
    "DAC 44.1 kHz": ("dac", "DacConfig", {"sampling_rate": 44_100}, 9),
    "Mimi 24 kHz, 8 codebooks": ("mimi", "MimiConfig", {}, 8),
    "X-Codec 16 kHz, 4 kbit/s": ("xcodec", "XcodecConfig", {}, 8),
}
UNCOUNTED = ("encodec",)  # its LSTM


class Encoder:
    """A name, what encodes some seconds, and its counted operations; parameters are those of the whole model."""

    def __init__(self, name: str, run: Callable[[], Any], streams: int, parameters: int, counts: bool = True) -> None:
        self.name, self.streams, self.parameters = name, streams, parameters
        self.run = torch.inference_mode()(run)
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counted:
            run()  # in inference mode the counter breaks normalised weights
        self.flops = counted.get_total_flops() if counts else None


def ours(device: torch.device, seconds: float, fronts: list[str], precisions: list[str]) -> list[Encoder]:
    """The paper preset's encoder: the default front end in each precision, the others in fp32."""
    found = []
    default = TokenizerConfig.preset("paper").downsampling
    noise = 0.1 * torch.randn(len(TRACKS), round(seconds * 25) * 960, device=device)
    mel = LogMel().to(device)
    tracks = torch.arange(len(TRACKS), device=device)
    for front in fronts:
        torch.manual_seed(0)
        config = TokenizerConfig.preset(
            "paper", downsampling=front, conv_channels=PAPER[front], upper_blocks=0, text_head=False, mask_head=False
        )
        tokenizer = Tokenizer(config).eval().to(device)
        size = sum(p.numel() for p in tokenizer.parameters())
        counted = 0
        for precision in precisions if front == default else ["fp32"]:
            encoder = int8_encoder(tokenizer) if precision == "int8" else tokenizer

            def run(encoder: Tokenizer = encoder, half: bool = precision == "bf16") -> Tensor:
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    return encoder.encode(mel(noise), tracks)

            made = Encoder(f"ours, {front}, {precision}", run, len(TRACKS), size)
            counted = counted or int(made.flops or 0)
            made.flops = counted  # of the same products, whatever they run in
            found.append(made)
    return found


def rival(name: str, device: torch.device, seconds: float) -> Encoder:
    """One of the others with new weights."""
    import transformers

    family_name, config_name, changes, codebooks = PUBLISHED[name]
    family = FAMILIES[family_name]
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**changes)
    model = getattr(transformers, family.model_class)(config).eval().to(device)
    shape = family.shape(config, name)
    frames = round(seconds * shape.sample_rate / shape.hop)
    sound = 0.1 * torch.randn(1, shape.channels, frames * shape.hop, device=device)
    size = sum(p.numel() for p in model.parameters())
    return Encoder(name, lambda: family.encode(model, sound, codebooks), 1, size, family_name not in UNCOUNTED)


def measure(encoders: list[Encoder], device: torch.device, seconds: float, repeat: int) -> list[dict[str, Any]]:
    """All of them in turn, each between two measurements of the rate of products."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def rate() -> float:
        return matmul_rate(device, torch.float32, 0.3, clock)

    taken: dict[str, list[tuple[float, float]]] = {encoder.name: [] for encoder in encoders}
    for turn in range(repeat):
        before = rate()
        for encoder in encoders:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = clock()
            encoder.run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent = clock() - began
            after = rate()
            taken[encoder.name].append((spent, (before + after) / 2))
            before = after
            print(f"turn {turn + 1}, {encoder.name}: {seconds / spent:.1f} x real time", file=sys.stderr)
    rows = []
    for encoder in encoders:
        own = taken[encoder.name]
        speed = statistics.median(seconds / spent for spent, _ in own)
        rows.append(
            {
                "encoder": encoder.name, "streams": encoder.streams, "parameters": encoder.parameters,
                "flops_a_second": None if encoder.flops is None else encoder.flops / seconds,
                "times_real_time": speed,
                "at_reference": statistics.median(seconds / spent * REFERENCE / rate for spent, rate in own),
                "share": None if encoder.flops is None
                else statistics.median(encoder.flops / spent / rate for spent, rate in own),
                "matmul_rate": statistics.median(rate for _, rate in own),
            }
        )  # fmt: skip
    for row in rows:
        row["ratio"] = row["at_reference"] / rows[0]["at_reference"]
    return rows


def profile(encoder: Encoder, rows: int) -> str:
    """Where the time of one run goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    with torch_profile(activities=[ProfilerActivity.CPU]) as seen:
        encoder.run()
    found = sorted(seen.key_averages(), key=lambda entry: -entry.self_cpu_time_total)
    total = sum(entry.self_cpu_time_total for entry in found)
    cells = [[entry.key[:60], entry.count, entry.self_cpu_time_total / total] for entry in found[:rows]]
    return f"{encoder.name}:\n" + table(["operation", "calls", "share"], cells)


@mistakes_in_one_line
def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.set_defaults(threads=1)
    options_of.add_argument("--seconds", type=positive_number, default=20.0, help="of sound, our windows are 20 s long")
    options_of.add_argument("--repeat", type=positive_int, default=3)
    options_of.add_argument(
        "--fronts", nargs="+", choices=list(PAPER), help="front ends (default: the preset's, conv2d)"
    )
    options_of.add_argument("--precisions", nargs="+", choices=("fp32", "bf16", "int8"), default=None)
    options_of.add_argument("--rivals", nargs="*", choices=list(PUBLISHED), default=list(PUBLISHED))
    options_of.add_argument("--profile", action="store_true", help="where the time of our first encoder goes")
    options = options_of.parse_args()
    if options.seconds < 1:
        raise DuoTokError(f"--seconds {options.seconds:g}: give 1 or more")
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    default = TokenizerConfig.preset("paper").downsampling
    fronts = options.fronts or [default, "conv2d"]
    precisions = options.precisions or ["fp32", "bf16", *(["int8"] if device.type == "cpu" else [])]
    warnings.filterwarnings("ignore")
    encoders = ours(device, options.seconds, fronts, precisions)
    for name in options.rivals:
        encoders.append(rival(name, device, options.seconds))
        gc.collect()
    rows = measure(encoders, device, options.seconds, options.repeat)
    profiled = profile(encoders[0], 16) if options.profile else None
    head = [
        "encoder",
        "streams",
        "parameters, M",
        "GFLOP a second of sound",
        "share of the fp32 products",
        "x real time",
        "at 66 GFLOP/s",
        "against the first",
    ]
    cells = [
        [
            row["encoder"], row["streams"], row["parameters"] / 1e6,
            None if row["flops_a_second"] is None else row["flops_a_second"] / 1e9,
            None if row["share"] is None else f"{100 * row['share']:.0f} %", row["times_real_time"], row["at_reference"],
            row["ratio"],
        ]
        for row in rows
    ]  # fmt: skip
    conditions = {
        "date": date.today().isoformat(), "torch": torch.__version__, "device": options.device, "threads": options.threads,
        "cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2), "seconds": options.seconds,
        "repeat": options.repeat, "products, GFLOP/s": round(statistics.median(r["matmul_rate"] for r in rows) / 1e9, 1),
    }  # fmt: skip
    tables = [table(head, cells), *([profiled] if profiled else [])]
    show({"conditions": conditions, "encoders": rows}, tables, options.json)


if __name__ == "__main__":
    main()

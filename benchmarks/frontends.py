"""Front ends of the tokenizer: what each costs at the paper's size, and what it learns at mini size in equal time.

    python -m benchmarks.frontends                                 counts only
    python -m benchmarks.frontends --work WORK --out FOLDER        trains stages 1 and 2 with each; resumable
    python -m benchmarks.frontends --work WORK --out FOLDER --seconds 300 200 --seeds 0 1 2

WORK: made by `duotok data prepare`. Each front end gets the same seconds of steps in each stage (of this process, so that
other work on the machine does not count), the same batches in the same order, the mini configs, no masks and no words;
the learning rate follows the share of the seconds. At mini size the channels are such that the old front end takes the
share of stage 1's operations that it takes at the paper's. Held out: accuracy at masked frames (stage 1), L1 of the mel
head (stage 2), without noise.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_number
from benchmarks.output import mean, parser, show, table
from duotok.config import config_folder, load_config
from duotok.errors import DuoTokError
from duotok.files import write_bytes
from duotok.model.config import TokenizerConfig
from duotok.model.frontend import Downsampling
from duotok.model.transformer import Blocks
from duotok.shards.store import ShardStore
from duotok.training.cost.counting import CPU_ATTENTION
from duotok.training.cost.estimate import Trial
from duotok.training.processes import join
from duotok.training.stage import Stage, means_over
from duotok.training.stages.crop_stage import ENCODER
from duotok.training.stages.registry import config_class
from duotok.training.stages.stage1 import Stage1
from duotok.training.stages.stage2 import Stage2

PAPER = {"conv2d": 512, "pyramid": 512, "separable": 512, "conv1d": 1024}
"""`conv_channels` at the paper's width of 1024."""
MINI = {"conv2d": 48, "pyramid": 48, "separable": 48, "conv1d": 96}
"""The same at the mini's width of 192."""
TRIED = tuple(PAPER)
HELD_OUT_BATCHES = 12
WARMUP, FLOOR = 0.1, 0.1  # shares of the seconds, of the learning rate


def operations(config: TokenizerConfig) -> dict[str, float]:
    """Floating-point operations of a second of one track (a multiply-add is two): front end, lower blocks, all blocks."""
    seconds = 20
    found = []
    with FakeTensorMode():  # shapes without data
        front = Downsampling(config.n_mels, config.width, config.conv_channels, config.downsampling)
        block = Blocks(1, config.width, config.heads, config.ffn, activation=config.activation)
        mel, hidden = torch.empty(1, 100 * seconds, config.n_mels), torch.empty(1, 25 * seconds, config.width)
        for module, x in ((front, mel), (block, hidden)):
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counted, torch.no_grad():
                module(x)
            found.append(counted.get_total_flops() / seconds)
    return {
        "front": found[0], "lower": found[1] * config.lower_blocks,
        "blocks": found[1] * (config.lower_blocks + config.upper_blocks), "parameters": sum(p.numel() for p in front.parameters()),
    }  # fmt: skip


def costs(preset: str, channels: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each front end at a preset's size."""
    rows = []
    for kind, wide in channels.items():
        found = operations(TokenizerConfig.preset(preset, downsampling=kind, conv_channels=wide))
        rows.append({"kind": kind, "channels": wide, **found, "encoder": found["front"] + found["lower"]})
    return rows


def rate(peak: float, share: float) -> float:
    """Linear warm-up, then half a cosine."""
    if share < WARMUP:
        return peak * max(0.01, share / WARMUP)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARMUP) / (1 - WARMUP)))))


def trained(stage: Stage, seconds: float) -> dict[str, float]:
    """Steps until so many seconds of this process are spent on them; held-out means."""
    trial = Trial(stage, stage.config, join(stage.config), time.process_time)
    stage.start()
    items, spent, step = range(stage.config.batch_size), 0.0, 0
    while spent < seconds:
        batch = {**stage.batch(step, items), "seeds": stage.seeds(step, items)}
        began = time.process_time()
        trial._backward([batch], step)
        trial.accelerator.clip_grad_norm_(trial.parameters, stage.config.clip)
        for group in trial.plain.param_groups:
            group["lr"] = rate(stage.config.lr, spent / seconds)
        trial.optimizer.step()
        spent += time.process_time() - began
        step += 1
    for module in stage.modules.values():
        module.eval()
    with torch.no_grad():
        held_out = means_over(stage, stage.held_out_crops.batch, HELD_OUT_BATCHES)  # type: ignore[attr-defined]
    return {"steps": step, **held_out}


def learned(kind: str, seed: int, store: ShardStore, configs: Path, seconds: list[float]) -> dict[str, Any]:
    """Stage 1, then stage 2 from it."""
    model = [f"model.downsampling={kind}", f"model.conv_channels={MINI[kind]}"]
    common = [*model, f"seed={seed}", "device=cpu", "threads=1", "model.mask_head=false", "model.text_head=false"]
    config1 = load_config(config_class("stage1"), config_folder(configs) / "stage1.yaml", common)
    config2 = load_config(config_class("stage2"), config_folder(configs) / "stage2.yaml", [*common, "mask_seconds=0"])
    stage1 = Stage1(config1, store)  # type: ignore[arg-type]
    result: dict[str, Any] = {"kind": kind, "seed": seed, "stage1": trained(stage1, seconds[0])}
    stage2 = Stage2(config2, store, None)  # type: ignore[arg-type]
    for part in ENCODER:
        getattr(stage2.tokenizer, part).load_state_dict(getattr(stage1.tokenizer, part).state_dict())
    return result | {"stage2": trained(stage2, seconds[1])}


def runs_of(options: Any) -> list[dict[str, Any]]:
    """Every run that is asked for; those whose result lies in --out are not made again."""
    from duotok.shards.features import derive_features

    if not (options.work / "shards").is_dir():
        raise DuoTokError(
            f"{options.work}: no shards there; make them with `duotok data prepare --work {options.work}`"
        )
    store = ShardStore(options.work / "shards", options.work / "derived")
    derive_features(store)
    options.out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in options.seeds:
        for kind in options.kinds:
            name = f"{kind}-{seed}-{options.seconds[0]:g}-{options.seconds[1]:g}.json"
            path = options.out / name
            if not path.is_file():
                result = learned(kind, seed, store, options.configs, options.seconds)
                write_bytes(path, json.dumps(result, indent=1).encode())
            found.append(json.loads(path.read_text(encoding="utf-8")))
            print(f"{kind}, seed {seed}: done", file=sys.stderr)
    return found


def learned_table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds, and each seed's figure behind."""
    rows = []
    for kind in dict.fromkeys(run["kind"] for run in runs):
        own = [run for run in runs if run["kind"] == kind]

        def cell(stage: str, figure: str, own: list[dict[str, Any]] = own) -> str:
            values = [run[stage][figure] for run in own]
            each = f" ({', '.join(f'{v:.4f}' for v in values)})" if len(values) > 1 else ""
            return f"{mean(values):.4f}{each}"

        steps = [f"{mean([run[stage]['steps'] for run in own]):.0f}" for stage in ("stage1", "stage2")]
        rows.append(
            [
                kind,
                MINI[kind],
                steps[0],
                cell("stage1", "accuracy"),
                cell("stage1", "loss"),
                steps[1],
                cell("stage2", "mel"),
            ]
        )
    head = ["front end", "channels", "steps, stage 1", "masked accuracy", "loss", "steps, stage 2", "mel L1"]
    return table(head, rows)


@mistakes_in_one_line
def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.set_defaults(threads=1)
    options_of.add_argument("--work", type=Path, help="train on the shards there")
    options_of.add_argument("--out", type=Path, default=Path("runs/frontends"), help="folder of results")
    options_of.add_argument(
        "--configs", type=Path, default=Path("mini"), help="the mini's recipes, or a folder like them"
    )
    options_of.add_argument("--kinds", nargs="+", choices=TRIED, default=list(TRIED))
    options_of.add_argument(
        "--seconds", nargs=2, type=positive_number, default=[150.0, 100.0], help="of steps in stages 1 and 2"
    )
    options_of.add_argument("--seeds", nargs="+", type=int_from_0, default=[0])
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    paper, mini = costs("paper", PAPER), costs("mini", MINI)
    runs = [] if options.work is None else runs_of(options)
    head = [
        "front end",
        "channels",
        "parameters, M",
        "GFLOP/s of a track",
        "with 12 lower blocks",
        "share of the old",
        "mini: share of stage 1",
    ]
    cells = []
    for row, small in zip(paper, mini, strict=True):
        share = 100 * small["front"] / (small["front"] + small["blocks"])
        cells.append(
            [
                row["kind"], row["channels"], row["parameters"] / 1e6, row["front"] / 1e9, row["encoder"] / 1e9,
                f"{100 * row['front'] / paper[0]['front']:.1f} %", f"{share:.0f} %",
            ]
        )  # fmt: skip
    tables = [table(head, cells)]
    if runs:
        tables.append(learned_table(runs))
    conditions = {
        "date": date.today().isoformat(), "torch": torch.__version__, "threads": options.threads, "cpus": os.cpu_count(),
        "seconds": options.seconds, "seeds": options.seeds,
    }  # fmt: skip
    show({"conditions": conditions, "paper": paper, "mini": mini, "runs": runs}, tables, options.json)


if __name__ == "__main__":
    main()

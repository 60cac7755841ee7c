"""What a GPU does against what the CPU does: tokens, sound, and a step of every stage. Under a minute on a large one.

    python -m benchmarks.gpu -o gpu.json                           clips that it makes itself
    python -m benchmarks.gpu -o gpu.json --clips music/            one clip of each of up to ten files
    python -m benchmarks.gpu -o gpu.json --device cpu              the same path without a GPU (compares the CPU with itself)

Tokens: share of equal ones, stems given, in short windows so that several make a batch. TF32 is off but where it says so.
Sound: decoded from the same tokens with the same seed, as signal over difference. Stages: the smallest model of each on
noise, the same draws on both devices: loss and gradients of one step against the CPU's in fp32, and against those of one
process under DDP. "needed" is what a row is held to; the exit code is 1 when one falls short. The paper's shapes:
`python -m benchmarks.training --device cuda`.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import parser, show, table
from duotok.audio.finding import find_audio
from duotok.audio.io import read
from duotok.cli.files import check_writable
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.codec.hub import find_bundle
from duotok.errors import DuoTokError, MissingExtraError
from duotok.files import write_bytes
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.random import ItemRandom
from duotok.tokens import DualTokens, WindowPlan
from duotok.tracks import TRACKS
from duotok.training.stage import Batch, Stage, StageConfig

PLAN = WindowPlan(100, 20)  # 4 s, so that a short clip already has several
BATCHES = (2, 3, 8)
EQUAL_TOKENS = 0.99  # of fp32 on two devices
SIGNAL_TO_DIFFERENCE = 40.0  # dB, of decoding on two devices
FP32_GAP = 1e-3  # relative, of losses and gradients
HALF_GAP = 0.1
LARGEST = 10  # clips
DECODED = 4  # of them: on a CPU it takes the longest

TINY: dict[str, Any] = {
    "conv_channels": 16, "width": 32, "heads": 2, "lower_blocks": 1, "upper_blocks": 1, "ffn": 64, "codebook_size": 256,
    "head_hidden": 16, "mask_channels": 16, "mask_hidden": 8, "vocabulary": 28,
}  # fmt: skip
TOKENIZER = {"model": TINY, "crops": {"frames": 50}}
SOUND = {"crop_seconds": 0.4, "held_out_seconds": 1.0}
Step = tuple[float, Tensor, bool]
"""Loss and all gradients of a first step; whether a second one moved the weights and left them finite."""

OWN: dict[str, dict[str, Any]] = {
    "stage1": {**TOKENIZER, "bestrq": {"codebook_size": 64}},
    "stage2": TOKENIZER,
    "stage3": TOKENIZER,
    "stage4": {
        "crop_frames": 32,
        "dit": {"condition_dim": 16, "condition_width": 8, "width": 32, "heads": 2, "blocks": 2, "time_dim": 16},
    },
    "autoencoder": SOUND,
    "separator": SOUND,
}


@dataclass(frozen=True)
class Row:
    """One comparison. needed: the least (`most`: the most) that passes, None where it is only told; error: what it died of."""

    what: str
    against: str
    values: dict[str, float]
    needed: float | None = None
    most: bool = False
    error: str = ""

    @property
    def passes(self) -> bool:
        if self.error or self.needed is None:
            return not self.error
        worst = max(self.values.values()) if self.most else min(self.values.values())
        return math.isfinite(worst) and (worst <= self.needed if self.most else worst >= self.needed)

    @property
    def cells(self) -> list[Any]:
        found = self.error or ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        needed = "-" if self.needed is None else f"{'<=' if self.most else '>='} {self.needed:g}"
        return [self.what, self.against, found, needed, "yes" if self.passes else "NO"]


# -- sound ---------------------------------------------------------------------------------------------------------------


def made_clip(seed: int, seconds: float) -> Tensor:
    """A tune of overtones with vibrato, beats of noise and changes of level: `[2, samples]`."""
    draw = torch.Generator().manual_seed(seed)
    time_ = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    steps = torch.randint(0, 25, (int(3 * seconds) + 1,), generator=draw)[(3 * time_).long()]
    pitch = 110 * 2 ** (steps / 12) * (1 + 0.01 * torch.sin(2 * math.pi * 5.5 * time_))
    phase = 2 * math.pi * torch.cumsum(pitch.double() / SAMPLE_RATE, 0)
    tune = sum(torch.sin(k * phase).float() / k**1.5 for k in range(1, 12))
    level = 0.6 + 0.4 * torch.sin(2 * math.pi * 0.7 * time_ + seed)
    noise = torch.randn(2, len(time_), generator=draw) * torch.exp(-30 * (2 * time_ % 1))
    return 0.15 * level * tune + 0.1 * noise


def clips_of(folder: Path | None, seconds: float, number: int = LARGEST) -> dict[str, Tensor]:
    """Clips `[2, samples]` by name: the middle of each of the first files of a folder, or made ones."""
    if folder is None:
        return {f"made {seed}": made_clip(seed, seconds) for seed in range(number)}
    if not folder.is_dir():
        raise DuoTokError(f"{folder}: no such folder; name one with audio files, or leave --clips out")
    n = round(seconds * SAMPLE_RATE)
    found: dict[str, Tensor] = {}
    for path in find_audio(folder):
        sound = read(path, SAMPLE_RATE, 2)
        if sound.shape[1] >= n:
            first = (sound.shape[1] - n) // 2
            found[path.name] = sound[:, first : first + n]
        if len(found) == number:
            break
    if not found:
        raise DuoTokError(f"{folder}: no audio file of {seconds:g} s and more; name another folder, or fewer --seconds")
    return found


def signal_over_difference(true: Tensor, found: Tensor) -> float:
    """dB."""
    difference = (true - found).double().square().sum().clamp_min(1e-30)
    return float(10 * torch.log10(true.double().square().sum() / difference))


# -- tokens and sound -----------------------------------------------------------------------------------------------------


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products and convolutions of float32 may be rounded to TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def equal(a: list[DualTokens], b: list[DualTokens]) -> dict[str, float]:
    """Share of equal tokens of each track, over all clips."""
    return {
        track: float(torch.cat([x.track(track) == y.track(track) for x, y in zip(a, b, strict=True)]).double().mean())
        for track in TRACKS
    }


def encodings(model: str, device: str, clips: list[Tensor]) -> tuple[list[Row], list[DualTokens], dict[str, float]]:
    """Rows on tokens, the CPU's tokens, and seconds that a pass over all clips took. Clip i's band is clip i + 1."""
    pairs = list(zip(clips, clips[1:] + clips[:1], strict=True))
    took: dict[str, float] = {}

    def tokens(name: str, codec: DuoTok, batch_size: int = 1) -> list[DualTokens]:
        codec.encode(vocals=pairs[0][0], accompaniment=pairs[0][1], plan=PLAN, batch_size=batch_size)  # loads, warms up
        began = time.perf_counter()
        found = [codec.encode(vocals=v, accompaniment=a, plan=PLAN, batch_size=batch_size) for v, a in pairs]
        took[name] = time.perf_counter() - began
        return found

    cpu = DuoTok.from_pretrained(model, "cpu")
    full, half = (DuoTok.from_pretrained(model, device, precision) for precision in ("fp32", "bf16"))
    true = tokens("cpu fp32", cpu)
    base = tokens(f"{device} fp32", full)
    rows = [
        Row(f"{device} fp32", "cpu fp32", equal(true, base), EQUAL_TOKENS),
        Row(f"{device} fp32, again", f"{device} fp32", equal(base, tokens("again", full)), 1.0),
    ]
    for size in BATCHES:
        found = tokens(f"{device} fp32, {size} windows at once", full, size)
        rows.append(Row(f"{device} fp32, {size} windows at once", "1 window", equal(base, found), EQUAL_TOKENS))
    with tf32(True):
        rows.append(Row(f"{device} TF32", f"{device} fp32", equal(base, tokens(f"{device} TF32", full))))
    rounded = tokens(f"{device} bf16", half)
    rows.append(Row(f"{device} bf16", f"{device} fp32", equal(base, rounded)))
    for size in BATCHES:
        found = tokens(f"{device} bf16, {size} windows at once", half, size)
        rows.append(Row(f"{device} bf16, {size} windows at once", "bf16, 1 window", equal(rounded, found)))
    if cpu.separator is not None:
        mixes = [v + a for v, a in pairs[:3]]
        separated = [[codec.encode(mix, plan=PLAN) for mix in mixes] for codec in (cpu, full)]
        rows.append(Row(f"{device} fp32, separated", "cpu fp32, separated", equal(*separated)))
    return rows, true, took


def paper_encodings(device: str, seconds: float) -> list[Row]:
    """The paper's encoder, new weights, on noise: what rounding does to tokens of 12 blocks of 1024."""
    config = TokenizerConfig.preset("paper", upper_blocks=1, text_head=False, mask_head=False)
    torch.manual_seed(0)
    tokenizer = Tokenizer(config).eval().to(device)
    mel = torch.randn(2 * 8, int(25 * seconds) * 4, config.n_mels).to(device)
    tracks = torch.arange(len(mel), device=device) % 2
    with torch.inference_mode():
        tokenizer.fit_quantizer(tokenizer.lower(mel[0::2]), "vocals")
        tokenizer.fit_quantizer(tokenizer.lower(mel[1::2]), "accompaniment")

        def codes(size: int, half: bool) -> Tensor:
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=half):
                parts = zip(mel.split(2 * size), tracks.split(2 * size), strict=True)
                return torch.cat([tokenizer.encode(m, t) for m, t in parts])

        base, rounded = codes(1, False), codes(1, True)

        def row(what: str, against: str, a: Tensor, b: Tensor) -> Row:
            shares = {track: float((a[i::2] == b[i::2]).double().mean()) for i, track in enumerate(TRACKS)}
            return Row(f"paper size, {what}", against, shares)

        return [
            row("fp32, 8 windows at once", "1 window", base, codes(8, False)),
            row("bf16", "fp32", base, rounded),
            *(row(f"bf16, {n} windows at once", "bf16, 1 window", rounded, codes(n, True)) for n in BATCHES),
        ]


def decodings(model: str, device: str, tokens: list[DualTokens]) -> tuple[list[Row], dict[str, float]]:
    """Rows on sound of the first clips, and seconds that decoding took."""
    tokens = tokens[:DECODED]
    codecs = {name: DuoTok.from_pretrained(model, name) for name in ("cpu", device)}
    if not codecs["cpu"].config.renders:
        return [], {}
    sounds: dict[str, list[Tensor]] = {}
    took: dict[str, float] = {}
    for name, codec in codecs.items():
        codec.decode(tokens[0])
        began = time.perf_counter()
        sounds[name] = [codec.decode(one).cpu() for one in tokens]
        took[f"{name} decodes"] = time.perf_counter() - began
    ratios = [signal_over_difference(a, b) for a, b in zip(sounds["cpu"], sounds[device], strict=True)]
    values = {"least dB": min(ratios), "median dB": sorted(ratios)[len(ratios) // 2]}
    return [Row(f"{device} fp32, sound", "cpu fp32", values, SIGNAL_TO_DIFFERENCE)], took


# -- a step of every stage ------------------------------------------------------------------------------------------------


class SameDraws(ItemRandom):
    """An item's draws from the CPU's generator on any device, so that devices can be compared."""

    def __init__(self, seeds: Tensor, target: torch.device) -> None:
        super().__init__(seeds, "cpu")
        self.target = target

    def normal(self, rows: int, *shape: int, lengths: Tensor | None = None) -> Tensor:
        return super().normal(rows, *shape, lengths=lengths).to(self.target)

    def uniform(self, rows: int, *shape: int, lengths: Tensor | None = None) -> Tensor:
        return super().uniform(rows, *shape, lengths=lengths).to(self.target)

    def integers(self, high: Tensor) -> Tensor:
        return super().integers(high.cpu()).to(self.target)


def tiny(name: str, device: str, precision: str) -> StageConfig:
    from duotok.training.stages.registry import config_class

    common = {"steps": 10, "batch_size": 4, "lr": 1e-3, "warmup": 0, "device": device, "precision": precision}
    return config_class(name).model_validate({**common, **OWN.get(name, {})})


def one_step(name: str, device: str, precision: str) -> Step:
    """A step of the smallest model of a stage."""
    from duotok.training.cost.estimate import Trial
    from duotok.training.cost.synthetic import sketch
    from duotok.training.processes import join

    config = tiny(name, device, precision)
    torch.manual_seed(0)
    stage: Stage = sketch(name, config)

    def draws(batch: Batch) -> ItemRandom:
        return SameDraws(batch["seeds"], stage.device)

    stage.draws = draws  # type: ignore[method-assign]
    trial = Trial(stage, config, join(config))
    if stage.device.type != device.split(":")[0]:
        raise DuoTokError(f"{name} was asked to train on {device} and is on {stage.device}")
    items = range(config.batch_size)
    batch = {**stage.batch(0, items), "seeds": stage.seeds(0, items)}
    loss = float(trial._backward([batch], 0)["loss"])
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trial.parameters]
    flat = torch.cat([g.detach().float().cpu().flatten() for g in gradients])
    before = [p.detach().clone() for p in trial.parameters]
    trial.step(batch, 1)
    moved = any(not torch.equal(p, old) for p, old in zip(trial.parameters, before, strict=True))
    finite = all(bool(torch.isfinite(p).all()) for p in trial.parameters)
    return loss, flat, moved and finite


def gap(true: Step, found: Step) -> dict[str, float]:
    """Relative differences of loss and gradients; infinite when a step left the weights as they were, or not finite."""
    if not found[2]:
        return {"loss": math.inf, "gradients": math.inf}
    return {
        "loss": abs(found[0] - true[0]) / max(abs(true[0]), 1e-9),
        "gradients": float((found[1] - true[1]).norm() / true[1].norm().clamp_min(1e-12)),
    }


@contextmanager
def single_process_group() -> Iterator[None]:
    """As `torchrun --nproc-per-node 1` starts a process; accelerate then uses DDP."""
    from accelerate.state import AcceleratorState, PartialState

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    added = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in added}
    AcceleratorState._reset_state(True)
    os.environ.update(added)
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        PartialState._reset_state()
        AcceleratorState._reset_state(True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def stages(device: str, names: list[str]) -> list[Row]:
    """Steps on the device against the CPU's, in half precision, and under DDP."""
    from duotok.training.processes import fast_half

    rows: list[Row] = []
    plain: dict[str, Step] = {}

    def compare(what: str, against: str, most: float, true: Step | None, step: Callable[[], Step]) -> Step | None:
        """One row; an error of torch is a row too, so that the others are still seen."""
        try:
            found = step()
        except (RuntimeError, NotImplementedError, ValueError) as error:
            rows.append(
                Row(what, against, {}, most, most=True, error=" ".join(str(error).split())[:300] or repr(error))
            )
            return None
        if true is not None:
            rows.append(Row(what, against, gap(true, found), most, most=True))
        return found

    for name in names:
        true = compare(name, "-", 0.0, None, partial(one_step, name, "cpu", "fp32"))
        if true is None:
            continue
        found = compare(f"{name}, {device} fp32", "cpu fp32", FP32_GAP, true, partial(one_step, name, device, "fp32"))
        if found is not None:
            plain[name] = found
        if found is not None and (device != "cpu" or fast_half()):
            half = partial(one_step, name, device, "bf16")
            compare(f"{name}, {device} bf16", f"{device} fp32", HALF_GAP, found, half)
    with single_process_group():
        for name, true in plain.items():
            step = partial(one_step, name, device, "fp32")
            compare(f"{name}, {device}, DDP of one process", f"{device} fp32", FP32_GAP, true, step)
    return rows


def timed(took: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; its seconds go into `took`."""
    began = time.perf_counter()
    result = work()
    took[name] = time.perf_counter() - began
    return result


def is_result(path: Path) -> bool:
    """Whether a file is what an earlier run wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"rows", "conditions"} <= found.keys()


@mistakes_in_one_line
def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.set_defaults(device="cuda", threads=min(8, os.cpu_count() or 1))
    options_of.add_argument("-o", "--out", type=Path, help="write everything as JSON there")
    options_of.add_argument("--clips", type=Path, help="folder of audio files (default: made clips)")
    options_of.add_argument("--seconds", type=positive_number, default=12.0, help="of a clip")
    options_of.add_argument("--number", type=positive_int, default=LARGEST, help="of clips at most")
    options_of.add_argument("--stages", nargs="*", choices=list(OWN), default=list(OWN))
    options_of.add_argument(
        "--no-paper", action="store_true", help="leave out the encoder of the paper's size (default on a CPU)"
    )
    options_of.add_argument("--force", action="store_true", help="replace what --out names, whatever it is")
    options = options_of.parse_args()
    if options.out is not None and options.out.exists() and not options.force and not is_result(options.out):
        options_of.error(f"{options.out}: is there and is no result of this benchmark; name another file, or --force")
    torch.set_num_threads(options.threads)
    device = options.device
    if options.out is not None:
        check_writable(options.out)
    find_bundle(options.model)  # before minutes of clips are made
    began = time.perf_counter()
    part_seconds: dict[str, float] = {}
    with tf32(False):
        clips = clips_of(options.clips, options.seconds, options.number)
        rows, tokens, took = timed(
            part_seconds, "encode", lambda: encodings(options.model, device, list(clips.values()))
        )
        sound, more = timed(part_seconds, "decode", lambda: decodings(options.model, device, tokens))
        rows += sound
        if device != "cpu" and not options.no_paper:
            rows += timed(part_seconds, "paper", lambda: paper_encodings(device, 20.0))
        try:
            rows += timed(part_seconds, "stages", lambda: stages(device, options.stages))
        except MissingExtraError as error:
            print(f"stages left out: {error}", file=sys.stderr)
    speeds = {name: options.seconds * len(clips) / seconds for name, seconds in took.items()}
    speeds |= {name: options.seconds * min(DECODED, len(clips)) / seconds for name, seconds in more.items()}
    conditions = {
        "date": date.today().isoformat(), "torch": torch.__version__, "model": options.model,
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu", "threads": options.threads,
        "clips": len(clips), "clip_seconds": options.seconds, "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    result = {
        "conditions": conditions,
        "rows": [{**asdict(row), "passes": row.passes} for row in rows],
        "seconds": part_seconds,
        "times_real_time": speeds,
        "clips": list(clips),
    }
    if options.out is not None:
        write_bytes(options.out, json.dumps(result, indent=1).encode())
    tables = [
        table(["what", "against", "found", "needed", "passes"], [row.cells for row in rows]),
        table(["both tracks, separation apart", "x real time"], [[name, value] for name, value in speeds.items()]),
    ]
    show(result, tables, options.json)
    if not all(row.passes for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

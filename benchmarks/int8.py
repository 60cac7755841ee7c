"""The 8-bit encoder: how many tokens stay, and how fast its linear layers are beside other libraries' 8-bit ones.

    python -m benchmarks.int8                                made clips, and the layers of a block of the paper's size
    python -m benchmarks.int8 --clips FOLDER --seconds 20    one clip of each of up to ten files
    python -m benchmarks.int8 --clips FOLDER --stems         pairs NAME.vocals.* and NAME.accompaniment.* as they are

Tokens are compared with those of fp32, stems given; without --stems a clip's band is the next clip. Sounding frames: within
40 dB of the track's loudest. Layers: the four of one block (width 1024) on both tracks of 20 s, in turn, medians of the
seconds that the process was running. torchao and onnxruntime (with onnx) are compared where they are installed; DuoTok
itself needs neither.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_int, positive_number
from benchmarks.gpu import clips_of
from benchmarks.output import parser, show, table
from duotok.audio.finding import find_audio
from duotok.audio.io import read
from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.codec.duotok import PRECISIONS, DuoTok
from duotok.errors import DuoTokError
from duotok.model.int8 import Int8Linear
from duotok.tracks import TRACKS

ROWS = 2 * 500
SHAPES = {"qkv": (1024, 3072), "out": (1024, 1024), "up": (1024, 4096), "down": (4096, 1024)}
AUDIBLE_DB = -40.0

Layer = Callable[[Tensor], Any]


def pairs_of(folder: Path, seconds: float, number: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The middle of songs whose stems lie in a folder as NAME.vocals.* and NAME.accompaniment.*."""
    files = {path.stem: path for path in find_audio(folder)} if folder.is_dir() else {}
    n = round(seconds * SAMPLE_RATE)
    found = {}
    for stem in sorted(files):
        name = stem.removesuffix(".vocals")
        if name == stem or f"{name}.accompaniment" not in files or len(found) == number:
            continue
        sounds = [read(files[f"{name}.{track}"], SAMPLE_RATE, 2) for track in TRACKS]
        first = max(0, (sounds[0].shape[1] - n) // 2)
        found[name] = (sounds[0][:, first : first + n], sounds[1][:, first : first + n])
    if not found:
        raise DuoTokError(f"{folder}: no NAME.vocals.* with a NAME.accompaniment.* beside it; leave --stems out")
    return found


def sounding(sound: Tensor) -> Tensor:
    """Frames within AUDIBLE_DB of the loudest: bool `[frames]`."""
    frames = -(-sound.shape[1] // FRAME_SAMPLES)
    padded = torch.nn.functional.pad(sound, (0, frames * FRAME_SAMPLES - sound.shape[1]))
    power = padded.reshape(len(sound), frames, FRAME_SAMPLES).square().mean((0, 2))
    return power > power.max() * 10 ** (AUDIBLE_DB / 10)


def shares(model: str, pairs: dict[str, tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """Share of tokens equal to fp32's, of all frames and of sounding ones, for each clip, track and precision."""
    codecs = {name: DuoTok.from_pretrained(model, precision=name) for name in PRECISIONS}
    rows = []
    for clip, (vocals, band) in pairs.items():
        tokens = {name: codec.encode(vocals=vocals, accompaniment=band) for name, codec in codecs.items()}
        for track, sound in zip(TRACKS, (vocals, band), strict=True):
            heard = sounding(sound)
            for name in PRECISIONS[1:]:
                same = tokens[name].track(track) == tokens["fp32"].track(track)
                rows.append(
                    {
                        "clip": clip, "track": track, "precision": name, "frames": len(same), "equal": int(same.sum()),
                        "sounding": int(heard.sum()), "sounding_equal": int((same & heard).sum()),
                    }
                )  # fmt: skip
    return rows


def share_table(rows: list[dict[str, Any]]) -> str:
    """Over all clips."""
    cells = []
    for name in PRECISIONS[1:]:
        for track in TRACKS:
            own = [row for row in rows if row["precision"] == name and row["track"] == track]
            sums = {key: sum(row[key] for row in own) for key in ("frames", "equal", "sounding", "sounding_equal")}
            cells.append(
                [name, track, len(own), f"{100 * sums['equal'] / sums['frames']:.2f} % of {sums['frames']}",
                 f"{100 * sums['sounding_equal'] / max(1, sums['sounding']):.2f} % of {sums['sounding']}"]
            )  # fmt: skip
    return table(["precision", "track", "clips", "tokens as in fp32", "of sounding frames"], cells)


def torch_dynamic(linear: nn.Linear) -> Layer:
    """torch.ao's dynamic quantization, one scale for the whole input."""
    from torch.ao.quantization import quantize_dynamic

    held = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    try:
        layer: Layer = quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)
    finally:
        torch.backends.quantized.engine = held
    return layer


def torchao(linear: nn.Linear) -> Layer:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = nn.Sequential(nn.Linear(linear.in_features, linear.out_features)).eval()
    model[0].load_state_dict(linear.state_dict())
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def onnx_runtime(linear: nn.Linear) -> Layer:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weight, bias = linear.weight.detach().T.contiguous().numpy(), linear.bias.detach().numpy()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Add", ["y", "b"], ["z"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
        for name, size in (("x", linear.in_features), ("z", linear.out_features))
    ]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph(nodes, "linear", ends[:1], ends[1:], weights)
    with tempfile.TemporaryDirectory() as folder:
        whole, small = f"{folder}/whole.onnx", f"{folder}/small.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), whole)
        quantize_dynamic(whole, small, per_channel=True, weight_type=QuantType.QInt8)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(small, settings, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> np.ndarray:
        found: np.ndarray = session.run(None, {"x": x.numpy()})[0]
        return found

    return run


def bf16(linear: nn.Linear) -> Layer:
    half = nn.Linear(linear.in_features, linear.out_features, dtype=torch.bfloat16)
    half.load_state_dict(linear.state_dict())
    return lambda x: half(x.bfloat16()).float()


LIBRARIES: dict[str, Callable[[nn.Linear], Layer]] = {
    "fp32": lambda linear: linear, "bf16": bf16, "int8, ours (oneDNN, a scale for each row)": Int8Linear,
    "int8, torch.ao dynamic (oneDNN)": torch_dynamic, "int8, torchao (eager)": torchao, "int8, ONNX Runtime": onnx_runtime,
}  # fmt: skip


def speeds(repeat: int) -> list[dict[str, Any]]:
    """Seconds of a block's linear layers and their error, by library; what is not installed has a reason instead."""
    torch.manual_seed(0)
    layers = {name: nn.Linear(*shape) for name, shape in SHAPES.items()}
    inputs = {name: torch.randn(ROWS, shape[0]) for name, shape in SHAPES.items()}
    rows: list[dict[str, Any]] = []
    made: dict[str, dict[str, Layer]] = {}
    with torch.inference_mode():
        true = {name: layers[name](x) for name, x in inputs.items()}
    for library, build in LIBRARIES.items():
        try:
            own = {name: build(layer) for name, layer in layers.items()}
            with torch.inference_mode():
                gaps = [
                    (torch.as_tensor(own[name](x)) - true[name]).norm() / true[name].norm()
                    for name, x in inputs.items()
                ]
            made[library] = own
            rows.append({"library": library, "error": float(torch.stack(gaps).mean()), "seconds": []})
        except (ImportError, AttributeError, RuntimeError, NotImplementedError) as problem:
            reason = " ".join(str(problem).split())[:80]
            rows.append({"library": library, "missing": reason})
    with torch.inference_mode():
        for _ in range(repeat):
            for row in rows:
                if "missing" in row:
                    continue
                began = time.process_time()
                for name, x in inputs.items():
                    made[row["library"]][name](x)
                row["seconds"].append(time.process_time() - began)
    for row in rows:
        if "missing" not in row:
            row["seconds"] = statistics.median(row["seconds"])
            row["against_fp32"] = rows[0]["seconds"] / row["seconds"]
    return rows


@mistakes_in_one_line
def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.set_defaults(threads=1)
    options_of.add_argument("--clips", type=Path, help="folder of audio files (default: made clips)")
    options_of.add_argument("--stems", action="store_true", help="the folder holds both stems of each song")
    options_of.add_argument("--seconds", type=positive_number, default=12.0, help="of a clip")
    options_of.add_argument("--number", type=positive_int, default=10, help="of clips at most")
    options_of.add_argument("--repeat", type=int_from_0, default=5, help="turns of the layers; 0 leaves them out")
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if options.stems:
        pairs = pairs_of(options.clips or Path("."), options.seconds, options.number)
    else:
        clips = clips_of(options.clips, options.seconds, options.number)
        bands = [*list(clips.values())[1:], *list(clips.values())[:1]]
        pairs = {name: (clip, band) for (name, clip), band in zip(clips.items(), bands, strict=True)}
    rows = shares(options.model, pairs)
    tables = [share_table(rows)]
    layers = speeds(options.repeat) if options.repeat else []
    if layers:
        cells = [
            [row["library"], f"not compared: {row['missing']}", None]
            if "missing" in row
            else [row["library"], f"{row['against_fp32']:.1f} x fp32", f"{100 * row['error']:.2f} %"]
            for row in layers
        ]
        tables.append(table(["linear layers of a block", "speed", "relative error"], cells))
    conditions = {
        "date": date.today().isoformat(), "torch": torch.__version__, "model": options.model, "threads": options.threads,
        "cpus": os.cpu_count(), "cpu": torch.backends.cpu.get_cpu_capability(), "clips": len(pairs),
        "clip_seconds": options.seconds,
    }  # fmt: skip
    show({"conditions": conditions, "tokens": rows, "layers": layers}, tables, options.json)


if __name__ == "__main__":
    main()

"""How close decoded sound is to what went in, with true stems in, on recordings that no training saw.

Sounds are brought to -14 LUFS before they are compared. Seven-scale mel distance at 24 kHz (lower is closer; mean over clips and
standard deviation), chroma correlation (higher: the same notes) and, for vocals, STOI and the share of voiced frames whose
pitch is within 50 cents (higher is better), of
  tokens       encoded and decoded again with the settings given
  ceiling      autoencoder only: true latents to sound; what perfect tokens and a perfect renderer would reach
  Opus         6 kbit/s mono, VBR, 20 ms, aligned, on the very same clips in the same run

A stem that is silent most of the time flatters every codec, so two figures are given: over whole clips, and over the
sounding parts alone (0.1 s above -50 dBFS and 0.3 s around, cut from target and estimate alike).

    python -m benchmarks.fidelity                                   held-out recordings of ../shared/audio
    python -m benchmarks.fidelity --pairs FOLDER                    any NAME.vocals.* + NAME.accompaniment.*
    python -m benchmarks.fidelity --steps 8 16 32 --sampler ddim dpmpp-2m      compare settings
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track as progress

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, number_from_0, positive_int
from benchmarks.clips import GROUPS, HEADLINE, Clip, held_out, judged, pairs, sounding_samples
from benchmarks.output import conditions, deviation, mean, parser, show, table
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError, MetricError, MissingExtraError
from duotok.evaluation.fidelity import mel_distance, stoi
from duotok.evaluation.music import chroma_correlation, f0_agreement
from duotok.evaluation.opus import opus
from duotok.renderer.samplers import SAMPLERS
from duotok.tracks import TRACKS

CODECS = ("tokens", "opus", "ceiling")
FIGURES = ("mel", "mel_sounding", "stoi", "chroma", "f0")
Setting = tuple[int | None, str | None, float | None]


def label(setting: Setting, model: DuoTok) -> str:
    """`16 x dpmpp-2m, temperature 1`."""
    codec = model.config.codec
    steps, sampler, temperature = setting
    warmth = codec.temperature if temperature is None else temperature
    return f"{steps or codec.steps} x {sampler or codec.sampler}, temperature {warmth:g}"


def _figures(estimate: torch.Tensor, target: torch.Tensor, heard: torch.Tensor, voice: bool) -> dict[str, float | None]:
    """mel: over the whole clip; mel_sounding: without the silent stretches of the target, cut from both; stoi."""
    estimate = estimate[:, : target.shape[1]]
    figures: dict[str, float | None] = {
        "mel": mel_distance(estimate, target, SAMPLE_RATE),
        "mel_sounding": mel_distance(estimate[:, heard], target[:, heard], SAMPLE_RATE),
        "chroma": chroma_correlation(estimate, target, SAMPLE_RATE),
        "f0": None,
        "stoi": None,
    }
    if voice:
        figures["f0"] = f0_agreement(estimate, target, SAMPLE_RATE)
        with suppress(MissingExtraError, MetricError):
            figures["stoi"] = stoi(estimate, target, SAMPLE_RATE)
    return figures


@torch.inference_mode()
def measure(clip: Clip, model: DuoTok, settings: list[Setting], opus_bits: int) -> list[dict[str, Any]]:
    """One row for each judged track of a clip."""
    sounds = clip.sounds()
    tracks = judged(clip, sounds)
    if not tracks:
        return []
    tokens = model.encode(vocals=sounds["vocals"], accompaniment=sounds["accompaniment"])
    gain = 10 ** (tokens.gain_db / 20)
    rows = []
    for track in tracks:
        target = sounds[track].mean(0, keepdim=True)
        voice = track == "vocals"
        coded = opus(target, opus_bits)
        latents = model.autoencoder.encode((target * gain)[None].to(model.device))
        ceiling = model.autoencoder.decode(latents)[0, :, : target.shape[1]].cpu() / gain
        heard = sounding_samples(target)
        row: dict[str, Any] = {
            "clip": clip.name,
            "group": clip.group,
            "track": track,
            "seconds": target.shape[1] / SAMPLE_RATE,
            "sounding_seconds": float(heard.sum()) / SAMPLE_RATE,
            "opus_kbps": coded.kbps,
            "opus": _figures(coded.audio, target, heard, voice),
            "ceiling": _figures(ceiling, target, heard, voice),
            "tokens": {},
        }
        for setting in settings:
            steps, sampler, temperature = setting
            decoded = model.decode(tokens, track, steps=steps, sampler=sampler, temperature=temperature)
            row["tokens"][label(setting, model)] = _figures(decoded, target, heard, voice)
        rows.append(row)
    return rows


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over clips for each group, track and setting; dual and validation together are the headline."""
    groups: dict[str, tuple[str, ...]] = {g: (g,) for g in dict.fromkeys(row["group"] for row in rows)}
    if set(HEADLINE) <= groups.keys():
        groups = {" + ".join(HEADLINE): HEADLINE, **groups}
    result = []
    for (name, members), track in product(groups.items(), TRACKS):
        chosen = [row for row in rows if row["group"] in members and row["track"] == track]
        for setting in chosen[0]["tokens"] if chosen else ():
            ours = [row["tokens"][setting] for row in chosen]
            others = {name: [row[name] for row in chosen] for name in ("opus", "ceiling")}
            entry: dict[str, Any] = {
                "group": name,
                "track": track,
                "setting": setting,
                "clips": len(chosen),
                "seconds": sum(row["seconds"] for row in chosen),
                "opus_kbps": mean([row["opus_kbps"] for row in chosen]),
            }
            for codec, figures in {"tokens": ours, **others}.items():
                entry[codec] = {key: mean([f[key] for f in figures]) for key in FIGURES}
                entry[codec]["mel_deviation"] = deviation([f["mel"] for f in figures])
            for key in ("mel", "mel_sounding"):
                entry[f"closer_{key}"] = sum(f[key] < g[key] for f, g in zip(ours, others["opus"], strict=True))
            result.append(entry)
    return result


def _overview(means: list[dict[str, Any]]) -> str:
    head = ["recordings", "track", "decoded", "mel: tokens", "Opus", "ceiling", "closer than Opus",
            "sounding parts: tokens", "Opus", "ceiling", "closer than Opus",
            "STOI: tokens", "Opus", "ceiling", "chroma: tokens", "Opus", "ceiling", "f0 within 50 cents: tokens", "Opus", "ceiling",
            "Opus kbit/s"]  # fmt: skip
    lines = []
    for m in means:
        line = [m["group"], m["track"], m["setting"]]
        spread = [f"{m[codec]['mel']:.3g} ± {m[codec]['mel_deviation']:.2g}" for codec in CODECS]
        line += [*spread, f"{m['closer_mel']} of {m['clips']}"]
        line += [*(m[codec]["mel_sounding"] for codec in CODECS), f"{m['closer_mel_sounding']} of {m['clips']}"]
        rest = (m[codec][key] for key in ("stoi", "chroma", "f0") for codec in CODECS)
        lines.append([*line, *rest, m["opus_kbps"]])
    return table(head, lines)


def _every_clip(rows: list[dict[str, Any]]) -> str:
    head = ["clip", "track", "decoded", "mel: tokens", "Opus", "ceiling", "sounding parts: tokens", "Opus", "ceiling",
            "STOI: tokens", "Opus", "ceiling", "chroma: tokens", "Opus", "ceiling", "f0 within 50 cents: tokens", "Opus", "ceiling",
            "Opus kbit/s", "seconds", "sounding"]  # fmt: skip
    lines = []
    for row in rows:
        for setting, ours in row["tokens"].items():
            figures = (ours, row["opus"], row["ceiling"])
            cells = [f[key] for key in FIGURES for f in figures]
            rest = [row["opus_kbps"], row["seconds"], row["sounding_seconds"]]
            lines.append([row["clip"], row["track"], setting, *cells, *rest])
    return table(head, lines)


@mistakes_in_one_line
def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--pairs", type=Path, help="a folder of stem pairs instead of the held-out recordings")
    arguments.add_argument(
        "--on", choices=("tuning", "test"), default="test", help="which held-out recordings (default: %(default)s)"
    )
    arguments.add_argument("--groups", nargs="+", choices=GROUPS, help="only these of the held-out recordings")
    arguments.add_argument("--limit", type=positive_int, help="only the first N clips of each group")
    arguments.add_argument("--steps", type=positive_int, nargs="+", default=[None], help="default: the bundle's")
    arguments.add_argument("--sampler", nargs="+", choices=list(SAMPLERS), default=[None], help="default: the bundle's")
    arguments.add_argument("--temperature", type=number_from_0, nargs="+", default=[None], help="default: the bundle's")
    arguments.add_argument("--opus-bits", type=positive_int, default=6000)
    arguments.add_argument("--clips", action="store_true", help="a table with every clip as well")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model = DuoTok.from_pretrained(options.model, options.device)
    settings: list[Setting] = list(product(options.steps, options.sampler, options.temperature))
    clips = pairs(options.pairs) if options.pairs else held_out(options.audio, options.on)
    if options.groups and not options.pairs:
        clips = [clip for clip in clips if clip.group in options.groups]
    if options.limit:
        kept = {g: [c for c in clips if c.group == g][: options.limit] for g in dict.fromkeys(c.group for c in clips)}
        clips = [clip for group in kept.values() for clip in group]
    rows = []
    for clip in progress(clips, description="fidelity", console=Console(stderr=True)):
        rows += measure(clip, model, settings, options.opus_bits)
    if not rows:
        among = f" among {' '.join(options.groups)} of {options.on}" if options.groups and not options.pairs else ""
        raise DuoTokError(
            f"{options.pairs or options.audio}: no clip{among} with a track that sounds; name other recordings"
        )
    means = summaries(rows)
    result = {"conditions": conditions(model, options.threads), "means": means, "clips": rows}
    tables = [_overview(means)]
    if options.clips:
        tables.append(_every_clip(rows))
    show(result, tables, options.json)


if __name__ == "__main__":
    main()

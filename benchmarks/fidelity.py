"""How close decoded sound is to what went in, with true stems in, on recordings that no training saw.

Seven-scale mel distance at 24 kHz (lower is closer) and, for vocals, STOI (higher is better), of
  tokens       encoded and decoded again with the settings given
  ceiling      autoencoder only: true latents to sound; what perfect tokens and a perfect renderer would reach
  Opus         6 kbit/s mono, VBR, 20 ms, aligned, on the very same clips in the same run

    python -m benchmarks.fidelity                                   held-out recordings of ../shared/audio
    python -m benchmarks.fidelity --pairs FOLDER                    any NAME.vocals.* + NAME.accompaniment.*
    python -m benchmarks.fidelity --steps 8 16 32 --sampler ddim dpmpp-2m      compare settings
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track as progress

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.clips import HEADLINE, Clip, held_out, judged, pairs
from benchmarks.output import conditions, mean, parser, show, table
from duotok.codec import DuoTok
from duotok.errors import MissingExtraError
from duotok.evaluation.fidelity import mel_distance, stoi
from duotok.evaluation.opus import opus
from duotok.tokens import SAMPLE_RATE, TRACKS

Setting = tuple[int | None, str | None, float | None]


def label(setting: Setting, model: DuoTok) -> str:
    """`16 x dpmpp-2m, temperature 1`."""
    codec = model.config.codec
    steps, sampler, temperature = setting
    warmth = codec.temperature if temperature is None else temperature
    return f"{steps or codec.steps} x {sampler or codec.sampler}, temperature {warmth:g}"


def _stoi(estimate: torch.Tensor, target: torch.Tensor) -> float | None:
    try:
        return stoi(estimate, target, SAMPLE_RATE)
    except MissingExtraError:
        return None


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
        row: dict[str, Any] = {
            "clip": clip.name,
            "group": clip.group,
            "track": track,
            "seconds": target.shape[1] / SAMPLE_RATE,
            "opus": mel_distance(coded.audio, target, SAMPLE_RATE),
            "opus_kbps": coded.kbps,
            "opus_stoi": _stoi(coded.audio, target) if voice else None,
            "ceiling": mel_distance(ceiling, target, SAMPLE_RATE),
            "ceiling_stoi": _stoi(ceiling, target) if voice else None,
            "tokens": {},
            "tokens_stoi": {},
        }
        for setting in settings:
            steps, sampler, temperature = setting
            decoded = model.decode(tokens, track, steps=steps, sampler=sampler, temperature=temperature)
            row["tokens"][label(setting, model)] = mel_distance(decoded, target, SAMPLE_RATE)
            if voice:
                row["tokens_stoi"][label(setting, model)] = _stoi(decoded, target)
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
            result.append(
                {
                    "group": name,
                    "track": track,
                    "setting": setting,
                    "clips": len(chosen),
                    "seconds": sum(row["seconds"] for row in chosen),
                    "tokens": mean(ours),
                    "opus": mean([row["opus"] for row in chosen]),
                    "closer_than_opus": sum(mine < row["opus"] for mine, row in zip(ours, chosen, strict=True)),
                    "ceiling": mean([row["ceiling"] for row in chosen]),
                    "tokens_stoi": mean([row["tokens_stoi"].get(setting) for row in chosen]),
                    "opus_stoi": mean([row["opus_stoi"] for row in chosen]),
                    "ceiling_stoi": mean([row["ceiling_stoi"] for row in chosen]),
                    "opus_kbps": mean([row["opus_kbps"] for row in chosen]),
                }
            )
    return result


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--pairs", type=Path, help="a folder of stem pairs instead of the held-out recordings")
    arguments.add_argument("--groups", nargs="+", help="only these: dual validation instrumental chant")
    arguments.add_argument("--limit", type=int, help="only the first N clips of each group")
    arguments.add_argument("--steps", type=int, nargs="+", default=[None], help="default: the bundle's")
    arguments.add_argument("--sampler", nargs="+", default=[None], help="default: the bundle's")
    arguments.add_argument("--temperature", type=float, nargs="+", default=[None], help="default: the bundle's")
    arguments.add_argument("--opus-bits", type=int, default=6000)
    arguments.add_argument("--clips", action="store_true", help="a table with every clip as well")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model = DuoTok.from_pretrained(options.model, options.device)
    settings: list[Setting] = list(product(options.steps, options.sampler, options.temperature))
    clips = pairs(options.pairs) if options.pairs else held_out(options.audio)
    if options.groups:
        clips = [clip for clip in clips if clip.group in options.groups]
    if options.limit:
        kept = {g: [c for c in clips if c.group == g][: options.limit] for g in dict.fromkeys(c.group for c in clips)}
        clips = [clip for group in kept.values() for clip in group]
    rows = []
    for clip in progress(clips, description="fidelity", console=Console(stderr=True)):
        rows += measure(clip, model, settings, options.opus_bits)
    means = summaries(rows)
    result = {"conditions": conditions(model, options.threads), "means": means, "clips": rows}
    head = ["recordings", "track", "clips", "decoded", "mel: tokens", "mel: Opus", "closer than Opus", "mel: ceiling",
            "STOI: tokens", "STOI: Opus", "STOI: ceiling", "Opus kbit/s"]  # fmt: skip
    tables = [
        table(
            head,
            [
                [
                    m["group"],
                    m["track"],
                    m["clips"],
                    m["setting"],
                    m["tokens"],
                    m["opus"],
                    f"{m['closer_than_opus']} of {m['clips']}",
                    m["ceiling"],
                    m["tokens_stoi"],
                    m["opus_stoi"],
                    m["ceiling_stoi"],
                    m["opus_kbps"],
                ]
                for m in means
            ],
        )  # fmt: skip
    ]
    if options.clips:
        names = [label(setting, model) for setting in settings]
        every = [
            [r["clip"], r["track"], *(r["tokens"][n] for n in names), r["opus"], r["ceiling"],
             *(r["tokens_stoi"].get(n) for n in names), r["opus_stoi"], r["opus_kbps"]]
            for r in rows
        ]  # fmt: skip
        tables.append(
            table(
                ["clip", "track", *(f"mel: {n}" for n in names), "mel: Opus", "mel: ceiling",
                 *(f"STOI: {n}" for n in names), "STOI: Opus", "Opus kbit/s"],
                every,
            )
        )  # fmt: skip
    show(result, tables, options.json)


if __name__ == "__main__":
    main()

"""A comparison as one table for people (markdown), one for programs (JSON), and pictures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from duotok.comparison.figures import cnbpt_bars, codebook_use, context_curves, corruption_curves
from duotok.comparison.metrics import bit_rate
from duotok.comparison.plan import ComparisonConfig
from duotok.comparison.study import Result
from duotok.evaluation.intervals import Interval, Intervals
from duotok.files import sha256, write_bytes
from duotok.lm.streams import CodecIdentity
from duotok.lm.unigram import Unigram
from duotok.seals import read_json, seal

SHOWN = ("acc1", "acc10", "acc50")
TABLE = "table.json"


def outputs(config: ComparisonConfig, folder: Path) -> list[Path]:
    """The files that `write` makes of a comparison in `folder`."""
    names = ["table.md", TABLE, "codebooks.png", *(f"cnbpt-{protocol}.png" for protocol in config.protocols)]
    if config.corruption is not None:
        names += [f"corruption-{protocol}.png" for protocol in config.protocols if protocol != "parallel"]
    if config.context is not None:
        names.append(f"context-{config.context.protocol}.png")
    return [folder / name for name in names]


def made_before(folder: Path) -> Callable[[Path], bool]:
    """A function that tells whether a file of `folder` is as an earlier `write` left it, by the hashes in table.json."""
    try:
        table = read_json((folder / TABLE).read_text(encoding="utf-8"))
        hashes = dict(table["files"]) if {"codecs", "values"} <= table.keys() else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        hashes = {}

    def as_written(path: Path) -> bool:
        if path.name == TABLE:
            return bool(hashes)
        # null: that run was stopped while the file was being written
        return path.is_file() and path.name in hashes and hashes[path.name] in (None, sha256(path))

    return as_written


def write(result: Result, folder: Path) -> list[Path]:
    """Write table.md, table.json and the pictures into `folder`; returns their paths. Raises OSError.

    Existing files are replaced: ask `made_before` first.
    """
    files: dict[str, bytes] = {
        "table.md": as_markdown(result).encode(),
        "codebooks.png": codebook_use(result.books),
    }
    for protocol, values in result.values.items():
        bars = {name: {s: figures[f"{s}.cnbpt"] for s in _groups(figures)} for name, figures in values.items()}
        files[f"cnbpt-{protocol}.png"] = cnbpt_bars(bars)
    files |= {
        f"corruption-{protocol}.png": corruption_curves(costs)
        for protocol, costs in result.costs.items()
        if any(costs.values())
    }
    files |= {f"context-{protocol}.png": context_curves(curves) for protocol, curves in result.contexts.items()}
    _write_table(result, folder, dict.fromkeys(files))
    for name, data in files.items():
        write_bytes(folder / name, data)
    _write_table(result, folder, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    return [folder / name for name in (*files, TABLE)]


def _write_table(result: Result, folder: Path, files: Mapping[str, str | None]) -> None:
    text = json.dumps(seal({**as_json(result), "files": files}), indent=1, allow_nan=False)
    write_bytes(folder / TABLE, text.encode())


def _streams(figures: Intervals) -> list[str]:
    return [name.removesuffix(".cnbps") for name in figures if name.endswith(".cnbps") and name != "total.cnbps"]


def _groups(figures: Intervals) -> list[str]:
    streams = _streams(figures)
    return streams if len(streams) == 1 else [*streams, "average"]


def as_markdown(result: Result) -> str:
    """The tables: one for each protocol, then corruption, context and codebooks where there are any."""
    config = result.config
    interval = config.intervals
    lines = [
        "# Comparison of tokenizers", "",
        f"Held constant: {', '.join(f'{key} {_plain(value)}' for key, value in config.lm.items()) or 'all defaults'}; "
        f"checkpoint {config.checkpoint}; seeds {', '.join(map(str, config.seeds))}. Scored: split {config.split}, "
        f"{result.songs} {interval.over}, {result.hours:.2f} hours, the same moments for all. In brackets "
        f"{100 * interval.level:g}% intervals over {interval.over}{' and seeds' if len(config.seeds) > 1 else ''}.", "",
    ]  # fmt: skip
    for protocol, values in result.values.items():
        lines += [f"## {protocol}", "", *_values(result, protocol), ""]
        if result.differences[protocol]:
            lines += _differences(result, protocol)
        if len(values) > 1:
            lines.append("")
        if result.groups[protocol]:
            lines += _groups_of_songs(result, protocol)
    for protocol, costs in result.costs.items():
        rows = [
            [name, *(_percent(cost.percent) for cost in tokenizer_costs)] for name, tokenizer_costs in costs.items()
        ]
        header = ["tokenizer", *(str(cost.corruption) for cost in next(iter(costs.values())))]
        lines += [
            f"## Corrupted source, {protocol}", "", "Change of the target's cnBPT in percent.", "",
            *_table(header, rows), "",
        ]  # fmt: skip
    for protocol, curves in result.contexts.items():
        rows = [[name, *(str(point.cnbpt) for point in points)] for name, points in curves.items()]
        header = ["tokenizer", *(f"{point.seconds:g} s" for point in next(iter(curves.values())))]
        lines += [f"## Context, {protocol}", "", "cnBPT of the same tokens.", "", *_table(header, rows), ""]
    lines += ["## Codebooks", "", *_codebooks(result), ""]
    if several := [name for name, files in config.tokenizers.items() if not isinstance(files, str)]:
        lines += [
            f"Trained once for each seed: {', '.join(several)}. Their intervals are over songs and trainings; codebooks are those "
            "of the first.", "",
        ]  # fmt: skip
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return " ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, dict) else str(value)


def _values(result: Result, protocol: str) -> list[str]:
    rows = []
    for name, figures in result.values[protocol].items():
        codec = result.codecs[name]
        for stream in _groups(figures):
            total = "total" if stream == "average" else stream
            rows.append([
                name, _size(codec, stream), stream, *(f"{figures[f'{stream}.{k}'].value:.3f}" for k in SHOWN),
                f"{figures[f'{stream}.bpt'].value:.3f}", str(figures[f"{stream}.cnbpt"]), _defined(figures[f"{stream}.enbpt"]),
                f"{figures[f'{stream}.ppl1024'].value:.2f}", f"{figures[f'{total}.cnbps'].value:.1f}",
            ])  # fmt: skip
    header = ["tokenizer", "rate, codebooks, kbps", "stream", "Acc@1", "Acc@10", "Acc@50", "BPT", "cnBPT", "enBPT"]
    return _table([*header, "PPL@1024", "cnBPS"], rows)


def _size(codec: CodecIdentity, stream: str) -> str:
    """`25 Hz, 32768, 0.38`; for the average the rate and the kbps of all streams."""
    chosen = [s for s in codec.streams if stream in ("average", s.name)]
    kbps = sum(bit_rate(codec.frame_rate, s.codebook_sizes) for s in chosen) / 1000
    sizes = " + ".join(_product(s.codebook_sizes) for s in chosen)
    return f"{codec.frame_rate:g} Hz, {sizes}, {kbps:.2f}"


def _product(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return str(sizes[0])
    return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " + ".join(map(str, sizes))


def _differences(result: Result, protocol: str) -> list[str]:
    reference = result.config.compared_with
    rows = []
    for name, differences in result.differences[protocol].items():
        groups = _groups(result.values[protocol][name])
        # Of a codec of the mix and one of both tracks the averages are what can be compared.
        for group in [group for group in groups if f"{group}.cnbpt" in differences] or ["average"]:
            gap, entropy = differences[f"{group}.cnbpt"], differences[f"{group}.enbpt"]
            rows.append([name, group, f"{gap:+}", _defined(entropy, "+"), _verdict(gap)])
    pairs = "songs and seeds" if result.config.intervals.paired_seeds else "songs"
    title = f"Against {reference}, paired over {pairs}; below 0 is easier to predict."
    return [title, "", *_table(["tokenizer", "stream", "cnBPT", "enBPT", "by cnBPT"], rows)]


def _groups_of_songs(result: Result, protocol: str) -> list[str]:
    """cnBPT (of the average, which is that of an only stream) for each group of songs, and what it differs from the reference by."""
    groups = result.groups[protocol]
    rows, key = [], "average.cnbpt"
    for name in result.values[protocol]:
        row = [name]
        for group in groups.values():
            gap = group.differences.get(name, {}).get(key)
            row += [str(group.values[name][key]), "-" if gap is None else f"{gap:+}"]
        rows.append(row)
    header = ["tokenizer"]
    for name, group in groups.items():
        header += [f"{name}: cnBPT of {group.songs} songs", f"against {result.config.compared_with}"]
    return ["By groups of songs, mean over streams.", "", *_table(header, rows), ""]


def _verdict(gap: Interval) -> str:
    if not gap.excludes_zero:
        return "no difference shown"
    return "easier" if gap.value < 0 else "harder"


def _defined(interval: Interval, spec: str = "") -> str:
    return "-" if math.isnan(interval.value) else format(interval, spec)


def _percent(interval: Interval) -> str:
    return f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def _codebooks(result: Result) -> list[str]:
    rows, too_few = [], False
    for name, stream, codebook, counted, learned in _books(result):
        uniform, uniform_entropy = counted.uniform()
        too_few |= uniform_entropy < 0.98
        rows.append([
            name, f"{stream}.{codebook}", f"{counted.size:,}", f"{counted.tokens:,}",
            f"{counted.utilization:.4f} ({uniform:.4f})", f"{counted.normalized():.4f} ({uniform_entropy:.4f})",
            f"{counted.normalized(miller_madow=True):.4f}",
            f"{counted.bits_by_frequency(learned) / math.log2(counted.size):.4f}",
        ])  # fmt: skip
    header = ["tokenizer", "codebook", "size", "tokens", "utilization", "H_norm", "H_norm, Miller-Madow"]
    header.append("cnBPT by frequency")
    lines = [
        "On the scored songs; in parentheses what ideal, uniform codes would show in as many tokens. By frequency: cnBPT of a "
        "model without memory, which knows how often each code comes in the training songs (and half a time more).", "",
    ]  # fmt: skip
    lines += _table(header, rows)
    if too_few:
        lines += [
            "", "Too few tokens for some codebooks: their entropy comes out too low, so enBPT comes out too high. "
            "Compare those tokenizers by cnBPT.",
        ]  # fmt: skip
    return lines


def _books(result: Result) -> Iterator[tuple[str, str, int, Unigram, Unigram]]:
    """Tokenizer, stream, codebook, its counts in the scored and in the training songs."""
    for name, streams in result.books.items():
        for stream, counted in streams.items():
            for codebook, one in enumerate(counted):
                yield name, stream, codebook, one, result.learned[name][stream][codebook]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in rows)]


def as_json(result: Result) -> dict[str, Any]:
    """Every figure as [value, low, high]; null where it is not defined. Unigram entropies (enbpt) are those of all songs, also
    in groups."""
    return {
        "config": result.config.model_dump(mode="json"),
        "songs": result.songs,
        "hours": result.hours,
        "reference": result.config.compared_with,
        "codecs": {name: codec.as_json() for name, codec in result.codecs.items()},
        "values": {p: {n: _listed(figures) for n, figures in tokenizers.items()} for p, tokenizers in result.values.items()},
        "differences": {p: {n: _listed(figures) for n, figures in tokenizers.items()} for p, tokenizers in result.differences.items()},
        "groups": {
            p: {
                g: {
                    "songs": group.songs,
                    "values": {n: _listed(figures) for n, figures in group.values.items()},
                    "differences": {n: _listed(figures) for n, figures in group.differences.items()},
                }
                for g, group in groups.items()
            }
            for p, groups in result.groups.items()
        },
        "corruption": {
            p: {n: {str(c.corruption): _triple(c.percent) for c in costs} for n, costs in tokenizers.items()}
            for p, tokenizers in result.costs.items()
        },
        "context": {
            p: {
                n: [{"seconds": x.seconds, "cnbpt": _triple(x.cnbpt), "gain": _triple(x.gain)} for x in points]
                for n, points in tokenizers.items()
            }
            for p, tokenizers in result.contexts.items()
        },
        "codebooks": [
            {
                "tokenizer": name, "stream": stream, "codebook": codebook, "size": one.size, "tokens": one.tokens,
                "utilization": one.utilization, "entropy": one.entropy(), "normalized_entropy": one.normalized(),
                "normalized_entropy_miller_madow": one.normalized(miller_madow=True),
                "uniform": list(one.uniform()), "cnbpt_by_frequency": one.bits_by_frequency(learned) / math.log2(one.size),
            }
            for name, stream, codebook, one, learned in _books(result)
        ],
    }  # fmt: skip


def _listed(figures: Intervals) -> dict[str, list[float | None]]:
    return {name: _triple(interval) for name, interval in figures.items()}


def _triple(interval: Interval) -> list[float | None]:
    return [None if math.isnan(x) else x for x in (interval.value, interval.low, interval.high)]

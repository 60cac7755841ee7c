"""Tokens of many small tokenizers, quickly: the ladder of docs/effects.md trains two dozen and compares them.

    python -m benchmarks.effects tokens RUNS --data WORK -o TOKENS.parquet
    python -m benchmarks.effects table RESULTS TOKENS
    python -m benchmarks.effects curves RESULTS -o curves.png

`tokens`: RUNS holds a run of stage 3. Its codes are computed from the log-mel that WORK keeps beside its shards, which is derived once for
all tokenizers, in plain windows as the stage was trained on them; `duotok pack` decodes and analyses the sound again for each.
TOKENS.json beside it has the error of the mel that the tokens give for the songs of the test split (Table 9),
song by song, and how many of the codes are used.
`table`: Table 9 beside Table 10, as Markdown, of RESULTS of `duotok eval lm` and the JSON files in the folder TOKENS.
`curves`: cnBPT of validation songs against the tokens that the language models have seen, so far: do the ranks still change?
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track as progress
from torch import Tensor

from benchmarks.calling import mistakes_in_one_line, positive_int
from duotok.clock import FRAME_RATE, MEL_PER_FRAME, SAMPLE_RATE
from duotok.codec.contract import Stream
from duotok.comparison.figures import COLOURS, plain
from duotok.errors import DuoTokError
from duotok.evaluation.intervals import Resampling, draws, intervals
from duotok.files import sha256, write_bytes
from duotok.lm.corpus import write_tokens
from duotok.lm.pack import SongStretch, stretches
from duotok.lm.song import TokenizedSong
from duotok.lm.start import principal
from duotok.lm.streams import CodecIdentity
from duotok.model.tokenizer import Tokenizer
from duotok.seals import read_json, seal, unsealed
from duotok.shards.features import derive_features, made_by
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.checkpoint import best
from duotok.training.stages.loading import load_tokenizer

BATCH = 16


class Encoder:
    """Codes of a track of a stretch, and the mel that they give."""

    def __init__(self, tokenizer: Tokenizer, store: ShardStore, window: int, half: bool = False) -> None:
        self.tokenizer, self.store, self.window, self.half = tokenizer, store, window, half
        self.used = {track: np.zeros(tokenizer.config.codebook_size, np.int64) for track in TRACKS}
        self.errors: dict[str, dict[str, float]] = {track: {} for track in TRACKS}

    @torch.inference_mode()
    def __call__(self, stretch: SongStretch, track: str) -> np.ndarray:
        """int32 `[1, frames]`; for the test split the mel error of the stretch is kept too."""
        rows = [np.asarray(self.store.rows(index, track, "mel"), np.float32) for index in stretch.segments]
        mel = torch.from_numpy(np.concatenate(rows)).reshape(stretch.frames * MEL_PER_FRAME, -1)
        codes, error, count = [], 0.0, 0
        tracks = torch.tensor(TRACKS.index(track))
        for windows, lengths in self._windows(mel):
            route = tracks.expand(len(windows))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                drawn = self.tokenizer.encode(windows, route, lengths)
            codes += [row[:length] for row, length in zip(drawn, lengths.tolist(), strict=True)]
            if stretch.split == "test":
                guesses = self.tokenizer.reconstruct(drawn.clamp_min(0), route, lengths)["mel"]
                for guess, true, length in zip(guesses, windows, lengths.tolist(), strict=True):
                    stop = length * MEL_PER_FRAME
                    error += float((guess[:stop] - true[:stop]).abs().mean(1).sum())
                    count += stop
        if count:
            self.errors[track][stretch.id] = error / count
        joined = torch.cat(codes).numpy().astype(np.int32)[None]
        self.used[track] += np.bincount(joined[0], minlength=len(self.used[track]))
        return joined

    def _windows(self, mel: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `[n, rows, bins]` of windows, and their lengths in token frames."""
        pieces = torch.split(mel, self.window * MEL_PER_FRAME)
        for low in range(0, len(pieces), BATCH):
            chosen = pieces[low : low + BATCH]
            lengths = torch.tensor([len(piece) // MEL_PER_FRAME for piece in chosen])
            yield torch.nn.utils.rnn.pad_sequence(list(chosen), batch_first=True), lengths


def pack(runs: Path, work: Path, output: Path, window: int, workers: int = 1, half: bool = False) -> dict[str, object]:
    """Tokens of all songs with both tracks, and the summary that goes to the JSON file beside them. half: blocks in bfloat16."""
    store = ShardStore(work / "shards", work / "derived")
    to_pack = stretches(store)
    needed = sorted({index for stretch in to_pack for index in stretch.segments})
    missing = [i for i in needed if not all(store.has(i, track, "mel", made_by()) for track in TRACKS)]
    derive_features(store, TRACKS, select=missing, workers=workers)
    checkpoint = best(runs / "stage3")
    tokenizer = load_tokenizer(checkpoint)
    weights = sha256(checkpoint / "tokenizer.safetensors")
    size = tokenizer.config.codebook_size
    encoder = Encoder(tokenizer, store, window, half)

    def songs() -> Iterator[TokenizedSong]:
        for s in progress(to_pack, f"encoding for {output.name}"):
            codes = {track: encoder(s, track) for track in TRACKS}
            yield TokenizedSong(s.id, s.split, codes, s.identity, s.recording, s.start_frame)

    every = torch.arange(size)[None]
    vectors = {f"{track}.0": principal(tokenizer.code_vectors(every, track)[0]) for track in TRACKS}
    streams = tuple(Stream(track, (size,)) for track in TRACKS)
    identity = CodecIdentity(str(runs.name), f"{weights}:{window}" + ":bf16" * half, FRAME_RATE, SAMPLE_RATE, streams)
    count = write_tokens(output, identity, songs(), source=f"benchmarks.effects {runs}", vectors=vectors)
    summary = {
        "runs": str(runs), "checkpoint": checkpoint.name, "tokenizer": weights, "window": window, "songs": count,
        "precision": "bf16" if half else "fp32",
        "codes used": {track: int((used > 0).sum()) for track, used in encoder.used.items()},
        "mel error": encoder.errors,
    }  # fmt: skip
    write_bytes(output.with_suffix(".json"), (json.dumps(seal(summary), indent=1) + "\n").encode())
    return summary


def table(results: Path, tokens: Path) -> str:
    """Markdown: mel error of each arm and track, its cnBPT and what that differs by from the reference, the cost of a wrong source.

    In brackets 95 % intervals over the test songs and the trainings. Raises OSError, KeyError for other files.
    """
    study = read_json((results / "table.json").read_text("utf-8"))
    reference, names = study["reference"], list(study["codecs"])
    errors = {
        name: [
            unsealed(read_json((tokens / place).with_suffix(".json").read_text("utf-8")))["mel error"]
            for place in ([files] if isinstance(files, str) else files)
        ]
        for name, files in study["config"]["tokenizers"].items()
        if all(
            (tokens / place).with_suffix(".json").is_file() for place in ([files] if isinstance(files, str) else files)
        )
    }
    directed = [protocol for protocol in study["corruption"] if study["corruption"][protocol]]
    head = ["arm", *(f"mel error, {track}" for track in TRACKS)]
    for protocol in study["values"]:
        stream = _stream(protocol)
        head += [f"cnBPT {stream}, {protocol}", f"against {reference}"]
    corruptions = list(next(iter(study["corruption"][directed[0]].values()))) if directed else []
    head += [f"{protocol}: {corruption}, %" for protocol in directed for corruption in corruptions]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in names:
        cells = [name]
        cells += [mean_error([one[track] for one in errors[name]]) if name in errors else "-" for track in TRACKS]
        for protocol, values in study["values"].items():
            key = f"{_stream(protocol)}.cnbpt"
            other = study["differences"][protocol].get(name)
            cells += [_told(values[name][key]), "-" if other is None else _told(other[key], "+")]
        cells += [_told(study["corruption"][p][name][c], "+", 1) for p in directed for c in corruptions]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _stream(protocol: str) -> str:
    return "average" if protocol == "parallel" else protocol.split("-")[-1]


def _told(triple: Sequence[float | None], sign: str = "", digits: int = 3) -> str:
    value, low, high = (float("nan") if x is None else x for x in triple)
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def mean_error(trainings: Sequence[dict[str, float]]) -> str:
    """Mean over songs and trainings with its interval; every training has the same songs."""
    songs = sorted(trainings[0])
    values = np.array([[one[song] for song in songs] for one in trainings])  # [trainings, songs]
    resampling = Resampling()
    drawn = np.einsum("rs,rt,ts->r", draws(len(songs), resampling, 0), draws(len(trainings), resampling, 1), values)
    return str(intervals({"mel": drawn}, len(songs), resampling)["mel"])


def curves(results: Path, output: Path) -> None:
    """A panel for each protocol, a line for each arm: mean over its runs so far, the band from the lowest to the highest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for path in sorted(results.glob("runs/*/*/seed-*/log.jsonl")):
        arm, protocol = path.parts[-4:-2]
        lm = json.loads((path.parent / "config.json").read_text("utf-8"))
        frames = lm["batch_size"] * lm["seconds"] * FRAME_RATE  # of each track, a step
        points = found.setdefault(protocol, {}).setdefault(arm, {})
        for line in map(json.loads, path.read_text("utf-8").splitlines()):
            if line["kind"] == "held_out":
                points.setdefault(round(line["step"] * frames), []).append(line["cnbpt"])
    if not found:
        raise DuoTokError(f"{results}: no run of `duotok eval lm` in it")
    figure = Figure(figsize=(6 * len(found), 4), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    names = sorted({arm for arms in found.values() for arm in arms})
    for axis, (protocol, arms) in zip(axes, sorted(found.items()), strict=True):
        plain(axis)
        for arm, points in sorted(arms.items()):
            x = sorted(points)
            colour = COLOURS[names.index(arm) % len(COLOURS)]
            axis.plot(x, [float(np.mean(points[n])) for n in x], "o-", color=colour, markersize=3, label=arm)
            axis.fill_between(x, [min(points[n]) for n in x], [max(points[n]) for n in x], color=colour, alpha=0.15)
        axis.set_title(protocol, fontsize=10)
        axis.set_xlabel("frames seen")
        axis.set_ylabel("cnBPT of validation songs")
    shown = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), frameon=False, fontsize=8, loc="outside right upper")
    figure.savefig(output, metadata={"Software": None})


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("tokens", help="tokens of one tokenizer")
    one.add_argument("runs", type=Path, help="folder of a run of stage 3")
    one.add_argument("--data", type=Path, required=True, help="folder of `duotok data`")
    one.add_argument("-o", "--output", type=Path, required=True, help="Parquet file")
    one.add_argument("--window", type=positive_int, default=256, help="token frames that are encoded at once")
    one.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the encoder's blocks; bf16 is faster on some CPUs",
    )
    one.add_argument("--workers", type=positive_int, default=2, help="processes that derive features")
    one.add_argument("--threads", type=positive_int, default=1, help="of torch; more only lose on small models")
    both = kinds.add_parser("table", help="Table 9 beside Table 10")
    both.add_argument("results", type=Path, help="folder of `duotok eval lm`")
    both.add_argument("tokens", type=Path, help="folder of the tokens")
    lines = kinds.add_parser("curves", help="cnBPT against tokens seen")
    lines.add_argument("results", type=Path, help="folder of `duotok eval lm`")
    lines.add_argument("-o", "--output", type=Path, required=True, help="PNG")
    options = parser.parse_args()
    try:
        if options.kind == "curves":
            curves(options.results, options.output)
        elif options.kind == "table":
            print(table(options.results, options.tokens))
        else:
            torch.set_num_threads(options.threads)
            half = options.precision == "bf16"
            summary = pack(options.runs, options.data, options.output, options.window, options.workers, half)
            print(json.dumps({key: value for key, value in summary.items() if key != "mel error"}))
    except (ValueError, KeyError) as error:
        sys.exit(f"error: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

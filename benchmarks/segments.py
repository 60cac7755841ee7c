"""How well segments keep words whole, and voice activity agrees with the times of the words, on a prepared WORK.

    python -m benchmarks.segments --work WORK

For each corpus, over the recordings that have words with times:

    words        how many there are, and the share that lies whole within a segment
    cuts         boundaries of segments within the time of the lyrics; share of them inside a line, inside a word
    word time    share of the time of the words that voice activity covers, from the level of the vocals alone; and when
                 the times of the words calibrate it (what the segments are made with)
    elsewhere    share of the time more than a second away from any line that counts as voice, both ways: backing voices
                 that the lyrics do not have, and what a separator leaves of the band

The last two need a vocals stem.

    python -m benchmarks.segments --speed 1000

Seconds of one core for the step over so many recordings of four minutes, every other with 60 lines of six words.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.calling import mistakes_in_one_line, positive_int
from duotok.clock import FRAME_RATE, FRAME_SAMPLES
from duotok.data import catalog
from duotok.data.activity import from_runs, voice_activity
from duotok.data.jobs import atomic_write
from duotok.data.scan import read_scan, scan_files
from duotok.data.segmenting import TABLE, read_lyrics, segment_all
from duotok.data.segments import SegmentConfig
from duotok.data.sentences import sentences_of
from duotok.lyrics.types import LyricLine, Lyrics, SungWord
from duotok.records import CorpusError, Recording, Segment, read_table, write_table


def mask(pairs: list[tuple[int, int]], frames: int, margin: int = 0) -> np.ndarray:
    stretches = np.array(pairs, np.int64).reshape(-1, 2) + np.array([-margin, margin])
    return from_runs(stretches, frames)


def measure(work: Path) -> dict[str, dict[str, list[float]]]:
    """Corpus -> figure -> values to be summed: pairs of (what was found, out of what)."""
    segments: dict[str, list[Segment]] = defaultdict(list)
    for segment in read_table(work / TABLE, Segment):
        segments[segment.recording].append(segment)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))

    def add(corpus: str, name: str, part: float, whole: float) -> None:
        found[corpus][name][0] += part
        found[corpus][name][1] += whole

    for recording in catalog.read(work):
        try:
            scan, levels = read_scan(work, recording.id)
        except CorpusError:
            continue
        frames = levels.shape[1]
        lines, _ = sentences_of(read_lyrics(work, recording.id), frames)
        words = [word for line in lines for word in line.words]
        if not words or not segments[recording.id]:
            continue
        held = sum(len(segment.words) for segment in segments[recording.id])
        add(recording.corpus, "words", held, len(words))
        ends = {s.start_frame for s in segments[recording.id]} | {
            s.start_frame + s.frames for s in segments[recording.id]
        }
        inside = [end for end in ends if lines[0].first < end < max(line.stop for line in lines)]
        add(recording.corpus, "in a line", sum(any(s.first < e < s.stop for s in lines) for e in inside), len(inside))
        add(recording.corpus, "in a word", sum(any(w.first < e < w.stop for w in words) for e in inside), len(inside))
        if "vocals" not in scan["stems"]:
            continue
        rows = dict(zip(scan["stems"], levels, strict=True))
        sung = mask([(word.first, word.stop) for word in words], frames)
        away = ~mask([(line.first, line.stop) for line in lines], frames, round(FRAME_RATE))
        config = SegmentConfig().activity
        for name, known in (("", None), (" calibrated", sung)):
            voiced = voice_activity(rows["vocals"], config, rows.get("accompaniment"), known)
            add(recording.corpus, "word time" + name, float(voiced[sung].sum()), float(sung.sum()))
            add(recording.corpus, "elsewhere" + name, float(voiced[away].sum()), float(away.sum()))
    return found


def speed(count: int) -> float:
    """CPU seconds of the whole step on scans made of noise."""
    rng = np.random.default_rng(0)
    frames, items = 6000, []
    stems = ["accompaniment", "vocals"]
    found = {"samples": frames * FRAME_SAMPLES, "loudness": -20.0, "stems": stems}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for n in range(count):
            name = f"noise/{n}"
            items.append(
                Recording(name, "noise", "song", "train", str(n), {"vocals": f"v{n}", "accompaniment": f"a{n}"})
            )
            voice = np.where(np.repeat(rng.random(60) < 0.6, 100), -20.0, -100.0)
            rows = np.stack([np.full(frames, -20.0), voice]) + rng.normal(0, 4, (2, frames))
            at = np.arange(60) * 4.0
            words = [[SungWord("word", float(t + k / 2), float(t + k / 2 + 0.5)) for k in range(6)] for t in at]
            lines = [LyricLine("word " * 6, line[0].start, line[-1].end, tuple(line)) for line in words]
            text, levels = scan_files(work / "scan", name)
            with atomic_write(text) as file:
                file.write(json.dumps({**found, "sha256": {s: f"{s} {n}" for s in stems}}).encode())
            np.save(levels, rows.astype(np.float16), allow_pickle=False)
            if n % 2:
                with atomic_write(work / "lyrics" / f"{name}.json") as file:
                    file.write(json.dumps(Lyrics(tuple(lines)).as_json()).encode())
        write_table(work / catalog.TABLE, items, Recording)
        start = time.process_time()
        segment_all(work)
        return time.process_time() - start


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--speed", type=positive_int, metavar="RECORDINGS")
    options = parser.parse_args()
    if not (options.work or options.speed):
        parser.error("name a --work, or how many recordings with --speed")
    if options.speed:
        print(f"{options.speed} recordings: {speed(options.speed):.1f} s of one core")
    for corpus, figures in (measure(options.work) if options.work else {}).items():
        print(corpus)
        for name, (part, whole) in figures.items():
            unit = "s" if name.startswith(("word time", "elsewhere")) else ""
            scale = FRAME_RATE if unit else 1.0
            share = f"{part / whole:7.1%}" if whole else "      -"
            print(f"  {name:<22}{share} of {whole / scale:,.0f} {unit}")


if __name__ == "__main__":
    main()

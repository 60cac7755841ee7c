"""Parts of bass and harmony instruments: patterns over the chords of a score."""

from __future__ import annotations

from duotok.songs.score import Bar, Note, Score
from duotok.songs.singer import Rng
from duotok.songs.theory import Chord


def bass(rng: Rng, score: Score) -> list[Note]:
    """The bass line; empty where the style has no bass."""
    name = str(rng.choice(score.style.bass))
    if name == "none":
        return []
    low = int(rng.integers(26, 34))
    short = float(rng.uniform(0.6, 1.0))
    syncopated = sorted({0.0, *(float(b) for b in rng.choice(2 * score.beats, size=score.beats, replace=False) / 2)})
    notes: list[Note] = []
    late_entry = rng.random() < 0.3
    for bar in score.bars:
        if bar.section == "intro" and late_entry:
            continue
        beats = _bass_beats(name, score, syncopated)
        for i, (beat, length) in enumerate(beats):
            chord = score.chord_at(bar, beat)
            root = low + (chord.root - low) % 12
            pitch = root
            if name == "fifths" and i % 2:
                pitch = root + (7 if root + 7 < low + 17 else -5)
            elif name == "octaves" and i % 2:
                pitch = root + 12
            elif name in ("syncopated", "tumbao") and i and rng.random() < 0.35:
                pitch = root + int(rng.choice([7, 12, chord.intervals[1]]))
            elif name == "walking" and i:
                pitch = _walk(rng, score, bar, beat, chord, notes[-1].pitch, low, i == len(beats) - 1)
            start = score.at(bar, beat)
            end = start + (score.at(bar, min(beat + length, score.beats - 1e-6)) - start) * short
            if end - start > 0.04:
                loud = (0.75 + 0.25 * (beat % 1 == 0)) * (0.7 + 0.3 * bar.energy)
                notes.append(Note(start, end, pitch, float(loud * (1 + rng.normal(0, 0.05)))))
    if notes:
        final = score.bars[-1].chords[-1].root
        notes.append(Note(score.ending, score.seconds, low + (final - low) % 12, 0.8))
    return notes


def _bass_beats(name: str, score: Score, syncopated: list[float]) -> list[tuple[float, float]]:
    n = score.beats
    if name in ("roots", "walking"):
        return [(float(b), 1.0) for b in range(n)]
    if name == "long":
        return [(0.0, float(n))]
    if name == "fifths":
        half = n / 2 if n != 3 else 2.0
        return [(0.0, half), (half, n - half)]
    if name in ("eighths", "octaves"):
        return [(b / 2, 0.5) for b in range(2 * n)]
    if name == "offbeat":
        return [(b + 0.5, 0.5) for b in range(n)]
    if name == "pulse":
        return [(b / 4, 0.25) for b in range(4 * n) if b % 4 or n > 3]
    if name == "tumbao":
        return [(0.0, 1.5), (1.5, 1.5), (3.0, 1.0)] if n == 4 else [(0.0, float(n))]
    ends = [*syncopated[1:], float(n)]
    return [(a, min(b - a, 1.0)) for a, b in zip(syncopated, ends, strict=True)]


def _walk(rng: Rng, score: Score, bar: Bar, beat: float, chord: Chord, previous: int, low: int, last: bool) -> int:
    if last and bar.index + 1 < len(score.bars):  # lead into the next root by a half step
        goal = low + (score.bars[bar.index + 1].chords[0].root - low) % 12
        return goal + int(rng.choice([-1, 1]))
    near = [p for p in range(previous - 4, previous + 5) if p != previous and low - 3 <= p <= low + 17]
    good = (
        [p for p in near if p % 12 in chord.pitch_classes]
        if beat % 2 == 0
        else [p for p in near if p % 12 in score.scale]
    )
    return int(rng.choice(good or near))


def comp(rng: Rng, score: Score, pattern: str) -> list[Note]:
    """Chords in a pattern: block, strum, pad, arpeggio, fingers, pulse, offbeat, comp, power, chug."""
    around = int(rng.integers(54, 69)) if pattern not in ("power", "chug") else int(rng.integers(42, 50))
    size = int(rng.integers(3, 5)) if pattern not in ("power", "chug") else 3
    step = float(rng.choice([0.25, 0.5])) if score.beat > 0.4 else 0.5
    order = str(rng.choice(["up", "down", "updown", "random"]))
    rhythm = sorted(
        {0.0, *(float(b) for b in rng.choice(2 * score.beats, size=max(2, score.beats - 1), replace=False) / 2)}
    )
    from_section = "verse" if rng.random() < 0.2 else ""
    only_chorus = rng.random() < 0.1 and any(b.section == "chorus" for b in score.bars)
    notes: list[Note] = []
    for bar in score.bars:
        if (only_chorus and bar.section != "chorus") or (from_section and bar.section == "intro"):
            continue
        count = len(bar.chords)
        for c, chord in enumerate(bar.chords):
            first, length = c * score.beats / count, score.beats / count
            pitches = chord.voicing(around, size)
            if pattern in ("power", "chug"):
                root = around + (chord.root - around) % 12
                pitches = [root, root + 7, root + 12][: size if pattern == "power" else 2]
            loud = 0.55 + 0.4 * bar.energy
            notes += _figure(rng, score, bar, pattern, pitches, first, length, step, order, rhythm, loud)
    if notes:
        for pitch in score.bars[-1].chords[-1].voicing(around, size):
            notes.append(Note(score.ending, score.seconds, pitch, 0.7))
    return notes


def _figure(rng: Rng, score: Score, bar: Bar, pattern: str, pitches: list[int], first: float, length: float,
            step: float, order: str, rhythm: list[float], loud: float) -> list[Note]:  # fmt: skip
    def span(beat: float, beats: float) -> tuple[float, float]:
        start = score.at(bar, beat)
        return start, start + beats * score.beat

    notes: list[Note] = []
    if pattern in ("block", "pad", "power"):
        times = [(first, length)]
        if pattern == "block" and length >= 2:
            times = (
                [(first + b, 1.0) for b in range(int(length))]
                if step == 0.25
                else [(first, 2.0), (first + 2, length - 2)]
            )
        if pattern == "power":
            times = [(first + b / 2, 0.5) for b in range(int(2 * length))] if loud > 0.8 else times
        for beat, beats in times:
            if beats > 0:
                start, end = span(beat, beats * (0.98 if pattern == "pad" else 0.9))
                notes += [Note(start, end, p, loud * (1 + rng.normal(0, 0.05))) for p in pitches]
    elif pattern == "strum":
        for i in range(int(2 * length)):
            beat = first + i / 2
            if i % 2 == 0 or rng.random() < 0.6:
                start, end = span(beat, 0.5 if i % 2 else 1.0)
                strings = pitches if i % 4 != 3 else pitches[::-1]
                weak = 1.0 if i % 4 == 0 else 0.7
                notes += [Note(start + 0.012 * j, end, p, loud * weak) for j, p in enumerate(strings)]
    elif pattern in ("arpeggio", "fingers"):
        tones = pitches if pattern == "arpeggio" else [pitches[0] - 12, *pitches]
        sequence = {"up": tones, "down": tones[::-1], "updown": tones + tones[-2:0:-1], "random": tones}[order]
        for i in range(int(length / step)):
            pitch = sequence[i % len(sequence)] if order != "random" else int(rng.choice(sequence))
            start, end = span(first + i * step, step * (1.0 if pattern == "arpeggio" else 2.0))
            notes.append(Note(start, end, pitch, loud * (1.0 if i % 4 == 0 else 0.8)))
    else:
        places = {
            "pulse": [b * step for b in range(int(length / step))],
            "chug": [b / 4 for b in range(int(4 * length)) if b % 4 != 3 or rng.random() < 0.5],
            "offbeat": [b + 0.5 for b in range(int(length))],
        }.get(pattern, [b for b in rhythm if b < length])
        for beat in places:
            sound = {"comp": 0.45, "chug": 0.2}.get(pattern, min(step, 0.4))
            start, end = span(first + beat, sound)
            notes += [Note(start, end, p, loud * (1 + rng.normal(0, 0.06))) for p in pitches]
    return notes


def lead(rng: Rng, score: Score) -> list[Note]:
    """A lead line: fills where nobody sings, and chord tones elsewhere."""
    notes: list[Note] = []
    scale = [p for p in range(60, 85) if p % 12 in score.scale]
    now = scale[len(scale) // 2]
    busy = float(rng.uniform(0.2, 0.7))
    motif = [float(x) for x in rng.choice([0.5, 0.5, 1.0, 1.5], size=6)]
    under_vocals = float(rng.choice([0.0, 0.3]))
    for bar in score.bars:
        share = busy if not bar.vocals else under_vocals * busy
        if rng.random() > share + 0.4 * (not bar.vocals):
            continue
        beat = 0.0
        i = 0
        while beat < score.beats:
            length = min(motif[i % len(motif)], score.beats - beat)
            if rng.random() < 0.8:
                chord = score.chord_at(bar, beat)
                near = [p for p in scale if abs(p - now) <= 5 and (beat % 1 or p % 12 in chord.pitch_classes)] or scale
                now = int(rng.choice(near))
                start = score.at(bar, beat)
                notes.append(Note(start, start + length * score.beat * 0.92, now, 0.6 + 0.3 * bar.energy))
            beat += length
            i += 1
    return notes

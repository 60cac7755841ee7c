"""Drum parts: patterns on a grid of sixteenths, fills, accents, small mistakes."""

from __future__ import annotations

from duotok.songs.score import Bar, Score
from duotok.songs.singer import Rng

# pattern -> piece -> sixteenths of a 4/4 bar; other meters take the first `4 * beats` places
PATTERNS: dict[str, dict[str, tuple[float, ...]]] = {
    "backbeat": {"kick": (0, 8, 10), "snare": (4, 12), "hat": (0, 2, 4, 6, 8, 10, 12, 14)},
    "drive": {"kick": (0, 2, 8, 10), "snare": (4, 12), "ride": (0, 2, 4, 6, 8, 10, 12, 14)},
    "double": {"kick": tuple(range(16)), "snare": (4, 12), "ride": (0, 4, 8, 12)},
    "half": {"kick": (0, 6), "snare": (8,), "hat": (0, 2, 4, 6, 8, 10, 12, 14)},
    "four": {"kick": (0, 4, 8, 12), "clap": (4, 12), "open": (2, 6, 10, 14), "hat": (0, 4, 8, 12)},
    "sixteen": {"kick": (0, 3, 8, 11), "snare": (4, 12), "hat": tuple(range(16))},
    "break": {"kick": (0, 2, 10, 11), "snare": (4, 7, 9, 12, 15), "hat": (0, 2, 4, 6, 8, 10, 12, 14)},
    "boom": {"kick": (0, 7, 10), "snare": (4, 12), "hat": (0, 2, 4, 6, 8, 10, 12, 14)},
    "trap": {"kick": (0, 6, 10), "clap": (8,), "hat": (0, 1, 2, 4, 6, 7, 8, 10, 12, 13, 13.5, 14)},
    "brush": {"snare": (0, 4, 6, 8, 12, 14), "kick": (0, 8), "hat": (4, 12)},
    "shaker": {"shaker": tuple(range(0, 16, 2)), "kick": (0, 8), "rim": (4, 12)},
    "stomp": {"kick": (0, 8), "clap": (4, 12), "tamb": (4, 12)},
    "swing": {"ride": (0, 4, 6, 8, 12, 14), "hat": (4, 12), "kick": (0, 8), "snare": (6,)},
    "bossa": {"rim": (0, 6, 10, 12), "kick": (0, 6, 8, 14), "shaker": tuple(range(0, 16, 2))},
    "clave": {"rim": (0, 3, 6, 10, 12), "kick": (0, 6, 8, 14), "cowbell": (0, 4, 8, 12), "shaker": tuple(range(16))},
    "onedrop": {"kick": (8,), "rim": (8,), "hat": (2, 6, 10, 14)},
    "train": {"snare": tuple(range(16)), "kick": (0, 8)},
}
LEVELS = {"kick": 1.0, "snare": 0.8, "clap": 0.6, "hat": 0.28, "open": 0.3, "ride": 0.3, "crash": 0.5, "tom": 0.7,
          "lowtom": 0.75, "rim": 0.45, "shaker": 0.25, "tamb": 0.3, "cowbell": 0.25}  # fmt: skip

Hit = tuple[float, str, float, int]  # seconds, piece, level, take


def play(rng: Rng, score: Score) -> list[Hit]:
    """All hits of the song."""
    name = str(rng.choice(score.style.drums))
    if name == "none":
        return []
    base = {piece: list(places) for piece, places in PATTERNS[name].items()}
    if rng.random() < 0.5 and "kick" in base:  # vary the kick pattern a little
        base["kick"] = sorted({*base["kick"], int(rng.integers(16))})
    loose = float(rng.choice([0.0, rng.uniform(0.002, 0.012)]))
    ghost = float(rng.choice([0.0, rng.uniform(0.1, 0.4)]))
    steps = score.beats * 4 if score.beats != 6 else 12
    unit = score.beats / steps
    silent_verse = rng.random() < 0.12
    hits: list[Hit] = []
    for bar in score.bars:
        if (bar.section == "intro" and rng.random() < 0.3) or (bar.section == "verse" and silent_verse):
            continue
        fill = bar.last_of_section and rng.random() < 0.5
        if bar.index and score.bars[bar.index - 1].last_of_section and rng.random() < 0.5:
            hits.append((bar.start, "crash", LEVELS["crash"] * bar.energy, 0))
        for piece, places in base.items():
            if bar.energy < 0.5 and piece in ("clap", "open", "crash", "cowbell") and rng.random() < 0.7:
                continue
            for place in places:
                if place >= steps or (fill and place >= 0.75 * steps and piece != "kick"):
                    continue
                accent = 1.0 if place % 4 == 0 else 0.72 if place % 2 == 0 else 0.5
                if piece in ("kick", "snare", "clap"):
                    accent = max(accent, 0.85)
                if name == "train" and piece == "snare":
                    accent = 1.0 if place % 8 == 4 else 0.35
                hits.append(_hit(rng, score, bar, place * unit, piece, accent, loose))
        if ghost and "snare" in base:
            for place in range(1, steps, 2):
                if rng.random() < ghost * 0.4:
                    hits.append(_hit(rng, score, bar, place * unit, "snare", 0.2, loose))
        if fill:
            for place in range(int(0.75 * steps), steps):
                if rng.random() < 0.8:
                    piece = str(rng.choice(["snare", "tom", "lowtom"]))
                    hits.append(_hit(rng, score, bar, place * unit, piece, 0.8, loose))
    if rng.random() < 0.7:
        hits.append((score.ending, "crash", 0.5, 1))
        hits.append((score.ending, "kick", 1.0, 0))
    return hits


def _hit(rng: Rng, score: Score, bar: Bar, beat: float, piece: str, accent: float, loose: float) -> Hit:
    level = LEVELS[piece] * accent * (0.6 + 0.4 * bar.energy) * 10 ** (rng.normal(0, 1.0) / 20)
    return (max(0.0, score.at(bar, beat) + rng.normal(0, loose)), piece, float(level), int(rng.integers(2)))

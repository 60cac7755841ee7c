"""Song texts from DuoTok's own small grammars, one for each language, so that no line is copied from a song."""

from __future__ import annotations

import functools
import re
from importlib import resources

from duotok.songs.singer import Rng

LANGUAGES = ("en", "es", "it", "de", "fr", "pt", "zh", "ja", "la", "sw")
SHARES = (0.62, 0.08, 0.05, 0.05, 0.05, 0.05, 0.05, 0.03, 0.01, 0.01)


@functools.cache
def grammar(language: str) -> dict[str, tuple[str, ...]]:
    """The words of each kind, and under "line" and "hook" the patterns."""
    text = resources.files("duotok.songs").joinpath("data").joinpath(f"{language}.txt").read_text("utf-8")
    kinds: dict[str, list[str]] = {}
    for row in text.splitlines():
        kind, _, rest = row.partition(":")
        if rest and not row.startswith("#"):
            kinds.setdefault(kind.strip(), []).extend([rest.strip()] if kind in ("line", "hook") else rest.split())
    return {kind: tuple(words) for kind, words in kinds.items()}


def guess_syllables(word: str) -> int:
    """An estimate of the number of syllables for choosing lines; the singer's phones give the true number."""
    if re.search(r"[\u3040-\u9fff]", word):
        return len(re.sub(r"[ゃゅょ]", "", word))
    groups = len(re.findall(r"[aeiouyáéíóúàèìòùâêôãõäöüœæ]+", word.lower()))
    return max(1, groups - (word.endswith("e") and groups > 1 and not word.endswith("le")))


def line(rng: Rng, language: str, low: int, high: int, kind: str = "line") -> list[str]:
    """A line of about `low` to `high` syllables; the nearest of a few draws."""
    words = grammar(language)
    best: list[str] = []
    best_miss = 10**6
    for _ in range(8):
        pattern = str(rng.choice(words[kind]))
        text = re.sub(r"\{(\w+)\}", lambda m: str(rng.choice(words[m[1]])), pattern).split()
        if language == "en":
            following = [*text[1:], ""]
            text = ["an" if w == "a" and n[:1] in "aeiou" and n else w for w, n in zip(text, following, strict=True)]
        count = sum(guess_syllables(w) for w in text)
        miss = max(low - count, count - high, 0)
        if miss < best_miss:
            best, best_miss = text, miss
        if miss == 0:
            break
    return best


def vocalise(rng: Rng, language: str, count: int) -> list[str]:
    """A line of `count` meaningless syllables: la la la."""
    syllables = grammar(language)["syl"]
    chosen = [str(s) for s in rng.choice(syllables, size=2)]
    pattern = rng.random(4) < 0.7
    return [chosen[0] if pattern[i % 4] else chosen[1] for i in range(count)]

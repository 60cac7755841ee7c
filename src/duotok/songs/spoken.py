"""Analysis of spoken words: WORLD spectral envelope, voicing and syllables."""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotok.errors import MissingExtraError
from duotok.songs.espeak import INSTALL, speak

FRAME = 0.005  # seconds between analysis frames
LOWEST = 68.0  # hertz; CheapTrick treats lower voices as unvoiced and resolves their single pulses
VOWELS = frozenset("aeiouyæɐɑɒɔəɚɛɜɝɪʊʌøœɨʉɯɤɵɶɘɞäöü")
BUZZING = frozenset("zʒvðʑʐɣʁ")  # voiced, but mostly noise at the top


@dataclass(frozen=True)
class Syllable:
    """Phones and frame positions (of the analysis) of one syllable: onset, vowel, coda."""

    phones: tuple[str, ...]
    start: float
    vowel: float
    vowel_end: float
    end: float


@dataclass(frozen=True)
class SpokenWord:
    """A word's log envelope [frames, bins] up to `rate / 2`, voicing [frames], noise share [frames], syllables."""

    envelope: NDArray[np.float32]
    voiced: NDArray[np.bool_]
    noise: NDArray[np.float32]
    rate: int
    syllables: tuple[Syllable, ...]


def is_vowel(ipa: str) -> bool:
    """Whether the phone can carry a note: its first letter, stress and length marks apart, is a vowel."""
    letters = [c for c in unicodedata.normalize("NFD", ipa) if unicodedata.category(c) in ("Ll", "Lo")]
    return bool(letters) and (
        letters[0] in VOWELS or (letters[0] in "jw" and len(letters) > 1 and letters[1] in VOWELS)
    )


def world() -> Any:
    """The pyworld module. Raises MissingExtraError where it is not installed."""
    try:
        import pyworld
    except ImportError as error:
        raise MissingExtraError(f"singing needs pyworld, which is not installed: {INSTALL}") from error
    return pyworld


def split(phones: list[tuple[float, str]], end: float) -> list[Syllable]:
    """Phones (start, ipa) into syllables, one for each vowel; consonants between vowels go to the later one, where
    there are several the first stays behind. A word without a vowel is one syllable."""
    bounds = [start for start, _ in phones] + [max(end, phones[-1][0] + 1)]
    vowels = [i for i, (_, ipa) in enumerate(phones) if is_vowel(ipa)] or [len(phones) // 2]
    # espeak writes some diphthongs as two vowels; one without a consonant between and short is the same nucleus
    nuclei = [v for n, v in enumerate(vowels) if n == 0 or v - vowels[n - 1] > 1 or bounds[v + 1] - bounds[v] > 16]
    syllables = []
    first = 0
    for n, vowel in enumerate(nuclei):
        if n + 1 == len(nuclei):
            last = len(phones)
        else:
            between = nuclei[n + 1] - vowel - 1
            last = vowel + 1 + (between // 2 if between > 1 else 0)
        names = tuple(ipa for _, ipa in phones[first:last])
        syllables.append(Syllable(names, bounds[first], bounds[vowel], bounds[vowel + 1], bounds[last]))
        first = last
    return syllables


@functools.lru_cache(maxsize=600)
def analyse(voice: str, text: str, rate: int, pitch: int) -> SpokenWord:
    """Speak a word and analyse it. Cached, since songs repeat words."""
    pw = world()
    for higher in (0, 20, 40):
        spoken = speak(voice, text, rate, min(pitch + higher, 99))
        samples = np.concatenate([spoken.samples, np.zeros(int(0.03 * spoken.rate))])
        f0, times = pw.dio(samples, spoken.rate, f0_floor=45, f0_ceil=500, frame_period=FRAME * 1000)
        if np.mean(f0 > 0) < 0.3:  # DIO does not find the fundamental of some voices
            f0, times = pw.harvest(samples, spoken.rate, f0_floor=45, f0_ceil=500, frame_period=FRAME * 1000)
        f0 = pw.stonemask(samples, f0, times, spoken.rate)
        if np.any(f0) and np.median(f0[f0 > 0]) > LOWEST:
            break
    power = pw.cheaptrick(samples, f0, times, spoken.rate)
    frames = len(f0)
    end = min(spoken.end / FRAME, frames - 2)
    phones = [(start / FRAME, ipa) for start, ipa in spoken.phones if start / FRAME < end]
    if not phones:
        phones = [(0.0, "ə")]
    voiced = f0 > 0
    noise = np.where(voiced, 0.0, 1.0)
    bounds = [int(start) for start, _ in phones] + [int(end)]
    for (_, ipa), a, b in zip(phones, bounds, bounds[1:], strict=False):
        if is_vowel(ipa):
            voiced[a + 1 : b] = True
            noise[a + 1 : b] = 0.0
        elif any(c in BUZZING for c in ipa):
            noise[a:b] = np.maximum(noise[a:b], 0.7)
    envelope = np.log(power + 1e-12).astype(np.float32)
    return SpokenWord(envelope, voiced, noise.astype(np.float32), spoken.rate, tuple(split(phones, end)))

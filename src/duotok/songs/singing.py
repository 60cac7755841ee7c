"""Singing: the envelopes of spoken words, laid on notes, warped to a singer, given the score's pitch by WORLD."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from duotok.songs.singer import BEND_AT, COLOUR_AT, UPPER_AT, Rng, Singer
from duotok.songs.spoken import FRAME, SpokenWord, Syllable, analyse, world

SPEECH_RATE = 150  # words a minute: slow enough for clean vowels, fast enough for short consonants
LONGEST_CODA = 0.2  # seconds; espeak waits long before a last t
SILENT = -27.0  # log power of silence in an envelope


@dataclass(frozen=True)
class SungNote:
    """One note of a melody: times in seconds, pitch in MIDI, the syllable it carries (of a word), strength 0..1.

    `fresh` is False where a syllable goes on over a further note (a melisma); `breath` marks a phrase's first note.
    """

    start: float
    end: float
    pitch: float
    word: str
    syllable: int
    strength: float
    fresh: bool
    breath: bool


@dataclass(frozen=True)
class Placed:
    """Times of a syllable: onset (first consonant), vowel and end, in seconds."""

    onset: float
    vowel: float
    end: float
    phones: tuple[str, ...]


def words_of(singer: Singer, text: str) -> SpokenWord:
    return analyse(singer.espeak, text, SPEECH_RATE, singer.pitch)


def place(notes: list[SungNote], singer: Singer) -> list[Placed]:
    """Lay the syllables on the notes: vowels begin on the note, onset consonants before it, codas before its end."""
    syllables: list[Syllable] = [words_of(singer, n.word).syllables[n.syllable] for n in notes]
    onsets = []
    for i, (note, syllable) in enumerate(zip(notes, syllables, strict=True)):
        before = notes[i - 1].end if i else 0.0
        room = max(0.0, note.start - before) + (0.4 * (before - notes[i - 1].start) if i else 0.0)
        length = (syllable.vowel - syllable.start) * FRAME if note.fresh else 0.0
        onsets.append(note.start - min(length, room, 0.22))
    placed = []
    for i, (note, syllable) in enumerate(zip(notes, syllables, strict=True)):
        end = min(note.end, onsets[i + 1]) if i + 1 < len(notes) else note.end
        placed.append(Placed(onsets[i], note.start, max(end, note.start + 0.03), syllable.phones))
    return placed


def sing(notes: list[SungNote], singer: Singer, seconds: float, rate: int, rng: Rng) -> NDArray[np.float32]:
    """Render the notes: mono [samples] at `rate`, `seconds` long, level not normalised."""
    pw = world()
    size = int(2 ** np.ceil(np.log2(3 * rate / 71.0 + 1)))
    bins = size // 2 + 1
    frames = int(np.ceil(seconds / FRAME)) + 1
    envelope = np.full((frames, bins), SILENT, np.float32)
    gain = np.zeros(frames, np.float64)
    noise = np.ones(frames, np.float64)
    voiced = np.zeros(frames, bool)
    places = place(notes, singer)
    warped: dict[str, NDArray[np.float32]] = {}
    for i, (note, at) in enumerate(zip(notes, places, strict=True)):
        word = words_of(singer, note.word)
        syllable = word.syllables[note.syllable]
        if note.word not in warped:
            warped[note.word] = warp(word, singer, rate, size)
        last = i + 1 == len(notes) or notes[i + 1].fresh
        a, b = round(at.onset / FRAME), min(round(at.end / FRAME), frames)
        if b - a < 2 or a < 0:
            continue
        source = _sources(syllable, at, a, b, note.fresh, last)
        low = np.floor(source).astype(int)
        low = np.clip(low, 0, len(word.noise) - 2)
        part = (source - low)[:, None].astype(np.float32)
        envelope[a:b] = (1 - part) * warped[note.word][low] + part * warped[note.word][low + 1]
        nearest = np.clip(np.round(source).astype(int), 0, len(word.noise) - 1)
        noise[a:b] = word.noise[nearest]
        voiced[a:b] = word.voiced[nearest]
        gain[a:b] = _loudness(note, at, a, b, singer, i + 1 < len(notes) and notes[i + 1].start - note.end < 0.06)
    _inhale(notes, places, singer, rng, envelope, gain)
    f0 = _pitch(notes, places, singer, frames, rng)
    # neighbouring words are separate utterances: smooth the transitions between their envelopes
    envelope = uniform_filter1d(envelope, 3, axis=0)
    gain = gaussian_filter1d(gain, 1.2)
    hertz = np.linspace(0, rate / 2, bins)
    breath = _breathiness(noise, singer, hertz)
    loud = 20 * np.log10(np.maximum(gain, 1e-4))
    # louder singing is brighter: half a decibel an octave for each two decibels
    octaves = np.log2(np.maximum(hertz, 1000) / 1000)
    brightness = (0.12 * np.clip(loud, -20, 6))[:, None] * octaves[None]
    decibels = loud[:, None] + brightness
    power = np.exp(envelope + decibels * (np.log(10) / 10)) + 1e-14
    pitch = np.where(voiced & (gain > 1e-3), f0, 0.0)
    samples = pw.synthesize(pitch, np.ascontiguousarray(power), np.ascontiguousarray(breath), rate, FRAME * 1000)
    count = round(seconds * rate)
    result = np.zeros(count, np.float32)
    result[: min(count, len(samples))] = samples[:count]
    return result


def _inhale(
    notes: list[SungNote],
    places: list[Placed],
    singer: Singer,
    rng: Rng,
    envelope: NDArray[np.float32],
    gain: NDArray[np.float64],
) -> None:
    """Breaths before phrases where there is time for one, written into the envelope and gain in place."""
    if not notes or not singer.inhale:
        return
    hertz = np.linspace(0, 1, envelope.shape[1]) * 24000 / singer.formants
    shape = -30.0 * (hertz / 9000) ** 2 - 18 * np.exp(-hertz / 500)
    for centre, width in ((1500, 500), (2900, 700), (5200, 1500)):
        shape = shape + 9 * np.exp(-(((hertz - centre) / width) ** 2))
    reference = float(np.percentile(envelope[gain > 0.3].max(axis=1), 70)) if np.any(gain > 0.3) else 0.0
    for i, (note, at) in enumerate(zip(notes, places, strict=True)):
        free = at.onset - (places[i - 1].end if i else 0.0)
        if not note.breath or free < 0.4 or rng.random() > singer.inhale:
            continue
        length = float(rng.uniform(0.18, min(0.5, free - 0.15)))
        b = round((at.onset - float(rng.uniform(0.02, 0.1))) / FRAME)
        a = b - round(length / FRAME)
        if a < 0:
            continue
        level = shape - float(rng.uniform(38, 54))
        envelope[a:b] = (reference + level * np.log(10) / 10).astype(np.float32)[None]
        gain[a:b] = np.sin(np.pi * np.linspace(0.02, 0.98, b - a) ** 1.5)


def _sources(syllable: Syllable, at: Placed, a: int, b: int, fresh: bool, last: bool) -> NDArray[np.float64]:
    """For every frame a..b of the song the (fractional) frame of the spoken word that it uses."""
    vowel = max(a, round(at.vowel / FRAME))
    coda = min(syllable.end - syllable.vowel_end, LONGEST_CODA / FRAME) if last else 0.0
    coda_frames = int(min(coda, 0.45 * max(b - vowel, 1)))
    parts = []
    if vowel > a:
        parts.append(np.linspace(syllable.start, syllable.vowel, vowel - a, endpoint=False))
    vowel_frames = b - coda_frames - vowel
    if vowel_frames > 0:
        # hold the first half of a diphthong and move to the second half late, as singers do
        u = (np.arange(vowel_frames) + 0.5) / vowel_frames
        moved = np.where(u < 0.7, 0.12 + 0.3 * u / 0.7, 0.42 + (0.9 - 0.42) * (u - 0.7) / 0.3)
        if not last:
            moved = 0.12 + 0.3 * u
        if not fresh:
            moved = np.maximum(moved, 0.42) if last else np.full_like(u, 0.42)
        # a note shorter than the spoken vowel follows it as spoken
        length = syllable.vowel_end - syllable.vowel
        parts.append(syllable.vowel + length * (moved if vowel_frames > length else u))
    if coda_frames:
        parts.append(np.linspace(syllable.vowel_end, syllable.end, coda_frames, endpoint=False))
    joined = np.concatenate(parts) if parts else np.full(b - a, syllable.vowel)
    return np.resize(joined, b - a)


def _loudness(note: SungNote, at: Placed, a: int, b: int, singer: Singer, joined: bool) -> NDArray[np.float64]:
    seconds = np.arange(b - a) * FRAME
    level = 10 ** ((note.strength - 1.0) * singer.dynamics / 20)
    attack = np.clip((seconds + FRAME) / (0.015 if note.fresh else 0.005), 0, 1)
    remaining = (b - a) * FRAME - seconds
    release = np.clip(remaining / (0.02 if joined else 0.06), 0, 1)
    floor = 0.75 * singer.legato if joined else 0.0
    swell = 1.0 - 0.25 * np.clip(seconds / max(at.end - at.onset, 0.1), 0, 1)
    if note.fresh:
        return np.asarray(level * swell * np.maximum(attack, floor * 0.5) * np.maximum(release, floor))
    return np.asarray(level * swell * np.maximum(release, floor))


def _pitch(notes: list[SungNote], places: list[Placed], singer: Singer, frames: int, rng: Rng) -> NDArray[np.float64]:
    """The fundamental in hertz for every frame: glides, scoops, vibrato, slow drift."""
    semitones = np.full(frames, notes[0].pitch if notes else 60.0)
    for i, (note, at) in enumerate(zip(notes, places, strict=True)):
        a, b = max(0, round(at.onset / FRAME)), min(round(at.end / FRAME), frames)
        if b <= a:
            continue
        time = np.arange(a, b) * FRAME
        since = np.maximum(time - at.vowel, 0)
        curve = np.full(b - a, float(note.pitch))
        if i and not note.breath:
            previous = notes[i - 1].pitch
            # the pitch glides during the consonant and has nearly arrived when the vowel begins; faster on short notes
            slide = min(singer.glide, 0.12 * (note.end - note.start))
            curve += (previous - note.pitch) * 0.35 * np.exp(-np.maximum(time - at.vowel, -0.02) / slide)
        elif singer.scoop:
            curve -= singer.scoop * np.exp(-since / min(0.04, 0.15 * (note.end - note.start)))
        grown = np.clip((since - singer.vibrato_delay) / 0.3, 0, 1)
        turn = 2 * np.pi * singer.vibrato_rate * since + rng.uniform(-0.3, 0.3)
        curve += singer.vibrato_depth * grown * np.sin(turn)
        semitones[a:b] = curve
    wander = gaussian_filter1d(rng.standard_normal(frames), 40) * np.sqrt(40 * 2 * np.sqrt(np.pi))
    flutter = gaussian_filter1d(rng.standard_normal(frames), 3) * np.sqrt(3 * 2 * np.sqrt(np.pi))
    semitones = gaussian_filter1d(semitones, 1.5) + singer.drift * wander + 0.02 * flutter
    if singer.growl:
        rough = rng.standard_normal(frames)
        semitones += 0.35 * singer.growl * rough * (gaussian_filter1d(rng.random(frames), 60) > 0.5)
    return np.asarray(440.0 * 2 ** ((semitones - 69) / 12))


def _breathiness(noise: NDArray[np.float64], singer: Singer, hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Aperiodicity [frames, bins]: rises with frequency, more so in breathy voices; all noise in consonants."""
    knee = 9000 * (1 - 0.85 * singer.breath)
    voice = 0.004 + 0.25 * singer.breath**2 + (0.98 - 0.25 * singer.breath**2) / (1 + np.exp(-(hertz - knee) / 1400))
    buzz = 0.05 + 0.95 / (1 + np.exp(-(hertz - 2200) / 500))
    share = noise[:, None]
    return np.clip((1 - share) * voice[None] + share * np.maximum(voice, buzz)[None], 1e-3, 1 - 1e-9)


def warp(word: SpokenWord, singer: Singer, rate: int, size: int) -> NDArray[np.float32]:
    """The word's log envelope [frames, size / 2 + 1] at `rate`: formants moved, coloured, continued above 11 kHz."""
    hertz = np.linspace(0, rate / 2, size // 2 + 1)
    source = hertz / (singer.formants * np.interp(hertz, BEND_AT, singer.bend))
    source = np.maximum.accumulate(source)
    top = 0.46 * word.rate  # just below espeak's Nyquist frequency its filter attenuates the envelope
    old_bins = word.envelope.shape[1]
    position = np.minimum(source, top) / (word.rate / 2) * (old_bins - 1)
    low = np.minimum(position.astype(int), old_bins - 2)
    part = (position - low).astype(np.float32)
    moved = (1 - part) * word.envelope[:, low] + part * word.envelope[:, low + 1]
    above = np.maximum(source - top, 0) / 1000
    decibels = np.interp(hertz, COLOUR_AT, singer.colour) + singer.tilt * np.log2(np.maximum(hertz, 1000) / 1000)
    decibels += singer.ring[1] * np.exp(-(((hertz - singer.ring[0]) / 450) ** 2))
    to_log = np.log(10) / 10
    coloured = moved + (decibels * to_log).astype(np.float32)[None]
    noisy = word.noise[:, None]
    fading = np.where(noisy > 0.5, singer.hiss - singer.air * above[None], -4.0 * above[None])
    coloured += (fading * to_log).astype(np.float32)
    # espeak's vowels end near 4 kHz; sung ones have further formants with an even slope
    sheen = _sheen(hertz, singer)
    middle = coloured[:, (hertz > 500) & (hertz < 2500)].mean(axis=1, keepdims=True)
    upper = middle + np.asarray(sheen * to_log, np.float32)[None]
    upper -= np.asarray(50 * to_log * np.clip((2500 - hertz) / 1000, 0, None), np.float32)[None]
    return np.asarray(np.where(noisy < 0.5, np.logaddexp(coloured, upper), coloured), np.float32)


def _sheen(hertz: NDArray[np.float64], singer: Singer) -> NDArray[np.float64]:
    """The least level in dB of voiced sound above 2 kHz against its middle: a slope with formants on it."""
    level, fall = singer.sheen
    x = hertz / singer.formants
    ripple = sum(
        gain * np.exp(-(((x - centre) / (0.09 * centre)) ** 2))
        for centre, gain in zip(UPPER_AT, singer.upper, strict=True)
    )
    air = np.maximum(hertz - 11000, 0) / 1000
    return np.asarray(level - fall * np.log2(np.maximum(hertz, 500) / 4000) + ripple - air)

"""What each rater hears, and in which order: drawn from the test's seed and the rater's number, the same at every reload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from duotok.files import short_hash
from duotok.listening.plan import REFERENCE, Clip, ListeningTest, Sound

DRAWS = 20


@dataclass(frozen=True)
class Trial:
    """One page. sounds: what is rated, in the order of its labels; reference: what is heard openly beside it (MUSHRA)."""

    clip: Clip
    sounds: tuple[Sound, ...]
    reference: Sound | None = None


def trials(test: ListeningTest, rater: int) -> tuple[Trial, ...]:
    """The pages of rater number `rater` (from 1).

    Clips: all, or `clips_per_rater` of a drawn row of them, where each rater goes on where the one before stopped, so that
    every clip is heard equally often. MOS: a page for each sound; of 20 drawn orders, that with the fewest neighbours of the
    same clip. MUSHRA: a page for each clip, its sounds in a drawn order. Hashes instead of a generator of random numbers: the
    order stays the same under every version of every library.
    """
    plan = test.plan
    clips = _clips(test, rater)
    of = {clip.id: [sound for sound in plan.sounds if sound.clip == clip.id] for clip in clips}

    def drawn(names: Sequence[str], what: str) -> list[str]:
        return sorted(names, key=lambda name: short_hash(f"{plan.seed}/{rater}/{what}/{name}", 32))

    if plan.method == "mushra":
        pages = []
        for name in drawn([clip.id for clip in clips], "clips"):
            order = drawn([sound.id for sound in of[name]], "labels")
            reference = next(sound for sound in of[name] if sound.system == REFERENCE)
            pages.append(Trial(test.clips[name], tuple(test.sounds[sound] for sound in order), reference))
        return tuple(pages)
    sounds = [sound.id for clip in clips for sound in of[clip.id]]
    orders = [drawn(sounds, f"order {draw}") for draw in range(DRAWS)]
    best = min(orders, key=lambda order: _repeats(test, order))
    return tuple(Trial(test.clips[test.sounds[name].clip], (test.sounds[name],)) for name in best)


def _clips(test: ListeningTest, rater: int) -> list[Clip]:
    plan = test.plan
    row = sorted(plan.clips, key=lambda clip: short_hash(f"{plan.seed}/row/{clip.id}", 32))
    count = min(plan.clips_per_rater or len(row), len(row))
    first = (rater - 1) * count
    return [row[(first + step) % len(row)] for step in range(count)]


def _repeats(test: ListeningTest, order: Sequence[str]) -> int:
    clips = [test.sounds[name].clip for name in order]
    return sum(one == other for one, other in pairwise(clips))

"""What the ratings of a test say: means of every system and track with intervals, differences, counts of scores, screening."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from duotok.errors import DuoTokError
from duotok.listening.intervals import Mean, Score, difference, mean
from duotok.listening.order import trials
from duotok.listening.plan import ListeningTest
from duotok.listening.ratings import Rating
from duotok.listening.scale import RANGES
from duotok.listening.screening import Rule, screen

ALL = "all tracks"


@dataclass(frozen=True)
class Table:
    """means: track -> condition -> mean (a condition nobody rated is missing); differences: track -> condition -> its paired
    difference to `against`."""

    raters: int
    ratings: int
    means: dict[str, dict[str, Mean]]
    differences: dict[str, dict[str, Mean]]


@dataclass(frozen=True)
class Analysis:
    """screened: of the raters that count; everyone: of all. excluded: rater number -> reason; complete: raters who rated all of
    theirs; counts: condition -> score -> how often, of the raters that count; scores: every single one."""

    test: ListeningTest
    rule: Rule
    against: str
    screened: Table
    everyone: Table
    excluded: dict[int, str]
    complete: int
    counts: dict[str, Counter[int]]
    scores: tuple[Score, ...] = field(repr=False)
    changed: int = 0

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks of the test, and all of them together where there are several."""
        tracks = self.test.tracks
        return (*tracks, ALL) if len(tracks) > 1 else tracks


def analyse(test: ListeningTest, ratings: Sequence[Rating], rule: Rule = Rule()) -> Analysis:
    """The figures of all ratings so far. Differences are to the first system of the test.

    Raises DuoTokError for a rating of a sound that the test has not.
    """
    clips, sounds = test.clips, test.sounds
    scores = []
    for rating in ratings:
        sound = sounds.get(rating.sound)
        if sound is None:
            raise DuoTokError(
                f"{test.folder}: a rating of '{rating.sound}', which is no sound of this test; restore its ratings"
            )
        scores.append(Score(rating.rater, clips[sound.clip].song, sound.clip, sound.system, rating.score))
    excluded = screen(scores, test.plan.method, test.plan.anchors, rule)
    kept = [score for score in scores if score.rater not in excluded]
    against = test.plan.systems[0]
    counts = {name: Counter(int(s.value) for s in kept if s.system == name) for name in test.conditions}
    return Analysis(
        test, rule, against, _table(test, kept, against), _table(test, scores, against), excluded, _complete(test, ratings),
        counts, tuple(scores), sum(rating.changes for rating in ratings),
    )  # fmt: skip


def _table(test: ListeningTest, scores: Sequence[Score], against: str) -> Table:
    least, most = RANGES[test.plan.method]
    tracks = test.tracks
    groups = {track: [s for s in scores if test.clips[s.clip].track == track] for track in tracks}
    if len(tracks) > 1:
        groups[ALL] = list(scores)
    means: dict[str, dict[str, Mean]] = {}
    differences: dict[str, dict[str, Mean]] = {}
    for track, found in groups.items():
        of = {name: [s for s in found if s.system == name] for name in test.conditions}
        means[track] = {name: mean(values, least, most) for name, values in of.items() if values}
        pairs = {name: difference(values, of[against]) for name, values in of.items() if name != against}
        differences[track] = {name: pair for name, pair in pairs.items() if pair is not None}
    return Table(len({s.rater for s in scores}), len(scores), means, differences)


def _complete(test: ListeningTest, ratings: Sequence[Rating]) -> int:
    """How many raters have rated all that they were to hear."""
    rated: dict[int, set[str]] = {}
    for rating in ratings:
        rated.setdefault(rating.rater, set()).add(rating.sound)
    return sum(
        all(sound.id in found for trial in trials(test, rater) for sound in trial.sounds)
        for rater, found in rated.items()
    )

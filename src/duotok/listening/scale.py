"""The scales: five grades for single clips (MOS), 0 to 100 beside an open reference (MUSHRA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Method = Literal["mos", "mushra"]


@dataclass(frozen=True)
class Grade:
    """A grade, its word, and what it means to a listener."""

    value: int
    word: str
    meaning: str


GRADES = (
    Grade(5, "Excellent", "I hear no difference from a natural recording."),
    Grade(4, "Good", "There are small flaws; I notice them, and they do not disturb me."),
    Grade(3, "Fair", "The flaws are plain and take some of the pleasure; I can still listen to it."),
    Grade(2, "Poor", "Flaws or breaks push themselves forward; it is unpleasant to hear."),
    Grade(1, "Bad", "I hear heavy flaws or noise more than anything else."),
)
"""The paper's five grades (Appendix B.4) in our own words, best first. The words are those of ITU-T P.800."""

RANGES: dict[Method, tuple[int, int]] = {"mos": (1, 5), "mushra": (0, 100)}
"""The lowest and the highest score: whole numbers."""

WORDS = tuple(grade.word for grade in GRADES)


def word_of(score: int) -> str:
    """The word of a MUSHRA score: five equal parts of the scale (ITU-R BS.1534-3, 5.2)."""
    return WORDS[4 - min(4, score // 20)]

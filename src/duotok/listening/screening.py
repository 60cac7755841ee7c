"""Which raters count: those who hear that the original is good and that the low-passed original is worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from duotok.listening.intervals import Score
from duotok.listening.plan import REFERENCE
from duotok.listening.scale import Method


@dataclass(frozen=True)
class Rule:
    """The thresholds. MOS: least mean of the hidden reference, and least gap from it down to the mean of the lowest anchor.

    MUSHRA (ITU-R BS.1534-3, 4.1.2): scores of the reference under 90 (`mushra`) in at most 15 % of the clips, and of the mid anchor over
    90 (`anchor`).
    """

    reference: float = 3.5
    gap: float = 1.0
    mushra: float = 90.0
    anchor: float = 90.0
    share: float = 0.15

    def text(self, method: Method) -> str:
        """The rule in one sentence."""
        if method == "mos":
            return (
                f"A rater counts whose mean score is at least {self.reference:g} for the hidden reference, and at least "
                f"{self.gap:g} lower for the lowest low-pass anchor."
            )
        return (
            f"A rater counts who scores the hidden reference under {self.mushra:g} in at most {self.share:.0%} of the clips, "
            f"and the highest low-pass anchor over {self.anchor:g} in at most {self.share:.0%} (ITU-R BS.1534-3)."
        )


def screen(
    scores: Iterable[Score], method: Method, anchors: Mapping[str, float], rule: Rule = Rule()
) -> dict[int, str]:
    """The raters that are excluded, each with the reason. anchors: name -> Hz; the lowest one screens, for MUSHRA the highest.

    A rater who has not rated both a reference and an anchor cannot be judged and is excluded; without any anchor in the test the
    reference alone judges.
    """
    ordered = sorted(anchors, key=lambda name: anchors[name])
    anchor = ordered[-1 if method == "mushra" else 0] if ordered else None
    of: dict[int, dict[str, list[float]]] = {}
    for score in scores:
        of.setdefault(score.rater, {}).setdefault(score.system, []).append(score.value)
    reasons = {rater: _reason(given, anchor, method, rule) for rater, given in sorted(of.items())}
    return {rater: reason for rater, reason in reasons.items() if reason}


def _reason(given: Mapping[str, list[float]], anchor: str | None, method: Method, rule: Rule) -> str:
    reference = given.get(REFERENCE, [])
    low = given.get(anchor, []) if anchor else []
    if not reference:
        return "rated no hidden reference"
    if anchor and not low:
        return "rated no anchor"
    if method == "mushra":
        under = float(np.mean([value < rule.mushra for value in reference]))
        over = float(np.mean([value > rule.anchor for value in low])) if low else 0.0
        if under > rule.share:
            return f"hidden reference under {rule.mushra:g} in {under:.0%} of the clips"
        return f"{anchor} over {rule.anchor:g} in {over:.0%} of the clips" if over > rule.share else ""
    mean = float(np.mean(reference))
    if mean < rule.reference:
        return f"hidden reference {mean:.2f} on average, under {rule.reference:g}"
    if low and mean - float(np.mean(low)) < rule.gap:
        return f"{anchor} {float(np.mean(low)):.2f} on average, less than {rule.gap:g} below the hidden reference ({mean:.2f})"
    return ""

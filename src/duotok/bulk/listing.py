"""What a listing of songs came by and did not take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from duotok.audio.finding import SHOWN
from duotok.audio.marks import WRITTEN


@dataclass
class Listing:
    """What `songs` came by and did not take: kind -> how many."""

    left_out: Counter[str] = field(default_factory=Counter)
    written: list[str] = field(default_factory=list)
    """The first sounds that DuoTok wrote. They are named, as a song could have such a mark."""
    broken: list[str] = field(default_factory=list)
    """Sources that could be listed in part only, each in a line."""
    notes: list[str] = field(default_factory=list)
    """What stands in the sources and does not fit what somebody may want of them, each in a line; nothing of it is a failure."""

    def leave_out_written(self, root: str, paths: Collection[str]) -> None:
        """paths: below `root`."""
        self.left_out += Counter({WRITTEN: len(paths)})
        self.written += [os.path.join(root, path) for path in sorted(paths)[: SHOWN - len(self.written)]]

    def summary(self) -> str:
        """What was left out, the commonest kinds only; "" where nothing was."""
        others = Counter({kind: count for kind, count in self.left_out.items() if kind != WRITTEN})
        kinds = [f"{count} {kind}" for kind, count in others.most_common(SHOWN)]
        kinds += ["..."] if len(others) > SHOWN else []
        if count := self.left_out[WRITTEN]:
            kinds.insert(
                0, f"{count} {WRITTEN} ({', '.join(self.written)}{', ...' if count > len(self.written) else ''})"
            )
        return ", ".join(kinds)

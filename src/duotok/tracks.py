"""The names of tracks and stems, and which are the sum of which."""

from __future__ import annotations

TRACKS = ("vocals", "accompaniment")
"""What has a token stream of its own."""
STEMS = ("vocals", "drums", "bass", "other")
"""What separators part a mix into, in the order in which they are summed."""
ACCOMPANIMENT_STEMS = STEMS[1:]
"""The stems whose sum is the accompaniment."""

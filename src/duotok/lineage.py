"""Where weights come from: the stage and step that made them, their hashes, and what that stage was made from in turn.

A checkpoint keeps the origins of the runs that its stage was made from, a bundle the origin of each of its parts.
"""

from __future__ import annotations

from pydantic import Field

from duotok.config import Config


class Origin(Config):
    """A checkpoint as its weights were read.

    sha256: hash of each weight file that was read, by its name. parents: the origins of the runs that the stage was made
    from, by the config key that named them (`start_from`, `tokenizer_from`, ...); None: not known, since the checkpoint was
    written before lineage was recorded.
    """

    stage: str
    step: int = Field(ge=0)
    sha256: dict[str, str]
    parents: dict[str, Origin] | None = None

    def same_weights(self, other: Origin) -> bool:
        """Whether both were read from equal files; files that only one of them read do not count."""
        both = self.sha256.keys() & other.sha256.keys()
        return bool(both) and all(self.sha256[name] == other.sha256[name] for name in both)

    def __str__(self) -> str:
        """For people: `stage3 at step 5,000 (sha256 0123456789ab)`."""
        digits = ", ".join(value[:12] for value in self.sha256.values())
        return f"{self.stage} at step {self.step:,} (sha256 {digits})"

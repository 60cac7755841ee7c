"""What is known of a tokenizer that runs in an environment of its own, beside what is published of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from duotok.codec.entry import EACH_TRACK, Entry

ADAPTERS = Path(__file__).parent / "runners" / "adapters"


@dataclass(frozen=True)
class Known:
    """adapter: the file that asks it, in `runners/adapters`. rates: its sample rates; hops: samples per frame that it may have; both
    empty where nothing was published, as of one's own: what it says of itself counts then, its adapter's bytes are a part of the
    hash, and it may have any options. environment: the lines that make its environment. checkout: whether its code is a repository
    and no package. options: of its settings, as YAML to be changed; more: names of options that are rarely given; pickle: whether
    its published weights are one; weights: where they lie after its `get`.
    """

    entry: Entry
    adapter: Path
    rates: tuple[int, ...]
    hops: tuple[float, ...]
    environment: str
    checkout: bool = True
    options: str = ""
    more: tuple[str, ...] = ()
    pickle: bool = True
    weights: str = "PATH"

    def frame_rates(self, sample_rate: int) -> tuple[float, ...]:
        return tuple(sample_rate / hop for hop in self.hops)

    @property
    def option_names(self) -> tuple[str, ...]:
        """The options that its adapter reads."""
        named = [part.partition(":")[0].strip() for part in self.options.split(",")]
        return (*filter(None, named), *self.more)


def own(name: str, adapter: Path) -> Known:
    """A tokenizer of the user's own, asked by a file of theirs (docs/codecs.md)."""
    entry = Entry(
        name=name, what="a tokenizer of your own", sample_rate=0, channels=0, frame_rate=0.0, codebooks=64, codebook_size=0,
        streams=EACH_TRACK, code_licence="", weights_licence="", needs="its own environment", get=(), use="", windows="as its adapter says",
        verified="", cite="",
    )  # fmt: skip
    return Known(entry, adapter, (), (), "install there what it needs", checkout=False)

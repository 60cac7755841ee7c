"""Every tokenizer that has an adapter, and whether it can be used on this machine."""

from __future__ import annotations

import importlib.util

from duotok.clock import FRAME_RATE, SAMPLE_RATE
from duotok.codec.entry import Entry
from duotok.codec.external.registry import EXTERNAL
from duotok.codec.external.settings import template
from duotok.codec.families import FAMILIES
from duotok.config import edit_distance
from duotok.errors import ConfigError

DUOTOK = Entry(
    name="duotok",
    what="DuoTok's own bundles; `mini` comes with the package: a codebook for each track",
    sample_rate=SAMPLE_RATE,
    channels=2,
    frame_rate=float(FRAME_RATE),
    codebooks=1,
    codebook_size=32_768,
    streams="both tracks, a codebook of its own each; takes a mix apart itself",
    code_licence="Apache-2.0",
    weights_licence="as the model card of the bundle says (`duotok info mini`)",
    needs="nothing",
    get=("it is there",),
    use="--model mini",
    windows="windows of 20 s, of which 2 s at every inner edge are context (`duotok info`): a code sees its window; one gain for the whole "
    "song, so that a louder song has the same codes",
    verified="all of it, by the tests",
    cite="Lin et al., DUO-TOK: Dual-Track Semantic Music Tokenizer for Vocal-Accompaniment Generation, 2025, arXiv:2511.20224",
)
ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        DUOTOK,
        *(entry for family in FAMILIES.values() for entry in family.entries),
        *(known.entry for known in EXTERNAL.values()),
    )
}


def entry_of(name: str) -> Entry:
    """The entry of a tokenizer. Raises ConfigError for an unknown name, with the nearest known one."""
    if name not in ENTRIES:
        near = min(ENTRIES, key=lambda known: edit_distance(name.lower(), known))
        raise ConfigError(f"codec '{name}' is not known; did you mean {near}? `duotok codecs list` has all")
    return ENTRIES[name]


def usable(name: str) -> str:
    """ "yes", or what is missing here."""
    if name in EXTERNAL:
        return "with a settings file"
    if name == DUOTOK.name:
        return "yes"
    return "with its weights" if importlib.util.find_spec("transformers") else "no: pip install 'duotok[lm]'"


def how_to(name: str) -> list[str]:
    """The lines that install a tokenizer and use it, in order."""
    entry = entry_of(name)
    lines = list(entry.get)
    if name in EXTERNAL:
        known = EXTERNAL[name]
        file = entry.use.partition("external:")[2].split()[0]
        repositories = [line for line in lines if line.startswith("git clone ")]  # an environment may be made from one
        others = [line for line in lines if line not in repositories]
        lines = [*repositories, *known.environment.split(" && "), *others, f"a file {file}:"]
        filled = template(name, known.checkout, known.options, known.pickle, known.weights)
        lines += [f"    {line}" for line in filled.splitlines()]
    return lines

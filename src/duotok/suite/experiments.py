"""Instruments that need more than one song at a time: they train probes or decoders, or want tags or true stems (`EXPERIMENTS`).

`duotok eval all` and the command of each run the same plan, in the same store: a cell that one has measured is done for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from duotok.config import Config, parse
from duotok.errors import ConfigError
from duotok.evaluation.results import Cell, Inputs, Measure
from duotok.evaluation.systems import SystemConfig
from duotok.suite.costs import Todo
from duotok.suite.leakage import experiment as leakage
from duotok.suite.matched import conduct as matched
from duotok.suite.matched.work import instrument as matched_instrument
from duotok.suite.runner import Found, Runner, write_gap
from duotok.suite.songs import SongSet
from duotok.suite.tagging import conduct as tagging
from duotok.suite.tagging.table import INSTRUMENT as TAGGING
from duotok.suite.tagging.table import measures as tagging_measures

EXPERIMENTS: dict[str, type[Config]] = {
    TAGGING: tagging.TaggingSettings,
    matched.INSTRUMENT: matched.MatchedSettings,
    leakage.INSTRUMENT: leakage.LeakageSettings,
}
"""Name -> its settings in suite.yaml, which are those of its command."""


class Plan(Protocol):
    """An experiment, opened."""

    def todo(self, retry: bool = False, force: bool = False) -> list[Todo]: ...

    def conduct(self, runner: Runner) -> Found: ...


@dataclass(frozen=True)
class Asked:
    """An experiment that was asked for, with its settings."""

    name: str
    settings: Config

    def open(self, systems: Sequence[SystemConfig], store: Path, songs: SongSet) -> Plan:
        """songs: of the suite, used where the settings name no data. Raises DuoTokError, with the remedy, where it cannot be made of
        these data."""
        settings = self.settings
        if isinstance(settings, tagging.TaggingSettings):
            if not settings.data:
                settings = settings.model_copy(update=_tags_of(songs))
            return tagging.plan(settings, systems, store)
        if isinstance(settings, matched.MatchedSettings):
            return matched.plan(settings, systems, store, songs)
        assert isinstance(settings, leakage.LeakageSettings)
        return leakage.plan(settings, systems, store, songs)

    def instruments(self) -> list[tuple[str, list[Measure]]]:
        """Names of its cells, and what each measures of a tokenizer."""
        if isinstance(self.settings, tagging.TaggingSettings):
            return [(f"{self.name}.{p}", list(tagging_measures(("tokens",), p))) for p in self.settings.probes]
        return [(self.name, list(matched_instrument().measures) if self.name == matched.INSTRUMENT else [leakage.GAP])]

    def gaps(self, names: Sequence[tuple[str, str]], store: Path, songs: SongSet, reason: str) -> list[Cell]:
        """Cells that say why nothing could be measured, of (tokenizer, its hash); what was measured before stays."""
        config = self.settings.model_dump(mode="json")
        return [
            write_gap(store, Inputs(name, instrument, digest, songs.hash, config), measures, reason)
            for instrument, measures in self.instruments()
            for name, digest in names
        ]


def ask(name: str, fields: dict[str, Any]) -> Asked:
    """Raises ConfigError for settings that there are not."""
    asked = Asked(name, parse(EXPERIMENTS[name], fields, f"instrument '{name}'"))
    if isinstance(asked.settings, tagging.TaggingSettings):
        for probe in asked.settings.probes:
            asked.settings.of(probe)  # unknown ones are told at once
    return asked


def _tags_of(songs: SongSet) -> dict[str, Any]:
    """Where the suite's songs have tags of their own. Raises ConfigError where they have none."""
    folder = Path(songs.config.folder)
    if not (any(folder.glob("*/song.json")) or (folder / "song.json").is_file()):
        raise ConfigError(
            f"the songs of {folder.name} have no tags; give `data:` for tagging: songs=FOLDER of what `duotok songs` made, pseudo=FOLDER "
            "of real recordings with a tagger's pseudo-labels, or magnatagatune=FOLDER"
        )
    return {"data": f"songs={folder}", "limit": songs.config.limit or 0}

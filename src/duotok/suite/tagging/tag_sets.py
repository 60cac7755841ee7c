"""Songs with tags for the tagging probe: MagnaTagATune, the song generator's true tags, and a tagger's pseudo-labels.

    magnatagatune=ROOT   the 50 most frequent tags of 25,863 clips (paper, 4.3). The split is of artists: in MARBLE's split by
                         folder, which the public evaluation code shares, 56 of 230 artists are on both sides
    songs=ROOT           what `duotok songs` made: tags, key, mode, metre, kit and bass are known, not judged
    pseudo=ROOT          real recordings of a tree with INDEX.tsv, with what a public tagger (musicnn, 50 tags of MagnaTagATune)
                         says of them: no truth. Solo voice and speech are left out: it is weak on them

No identity (an artist; a generated song; a source of recordings) is in two splits.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from duotok.corpora.base import REGISTRY, Corpus, read_rows
from duotok.errors import ConfigError
from duotok.files import short_hash
from duotok.records import SPLITS, CorpusError, Recording, Split
from duotok.suite.splits import SHARES, balanced
from duotok.tracks import TRACKS

TOP = 50
MARBLE_SHARES: dict[Split, float] = {"train": 12 / 16, "validation": 1 / 16, "test": 3 / 16}
"""Folders 0 to b, c, and d to f."""
PREDICTIONS = "metadata/tagger/musicnn_mtat_predictions.tsv"
MtatSplit = Literal["artist", "marble"]


@dataclass(frozen=True)
class TagSet:
    """name: for tables, and says where the tags are from; truth: whether they are known or judged by people, not by a model."""

    name: str
    truth: bool
    tags: tuple[str, ...]
    recordings: tuple[Recording, ...]

    def of(self, split: Split) -> tuple[Recording, ...]:
        return tuple(item for item in self.recordings if item.split == split)

    def labels(self, recordings: Sequence[Recording]) -> NDArray[np.bool_]:
        """`[recordings, tags]`."""
        return np.array([[tag in item.tags for tag in self.tags] for item in recordings], dtype=bool)

    def check(self) -> None:
        """Raises ConfigError when an identity is in two splits, or a split has no recording."""
        places: dict[str, set[str]] = {}
        for item in self.recordings:
            places.setdefault(item.identity, set()).add(item.split)
        cut = sorted(identity for identity, splits in places.items() if len(splits) > 1)
        if cut:
            raise ConfigError(
                f"{self.name}: '{cut[0]}' is in two splits ({' and '.join(sorted(places[cut[0]]))}); split by identity"
            )
        for split in SPLITS:
            if not self.of(split):
                raise ConfigError(f"{self.name}: no recording in the {split} split; give more recordings")


def open_tag_set(where: str, split: MtatSplit = "artist", threshold: float = 0.25, limit: int = 0) -> TagSet:
    """KIND=FOLDER. split: of MagnaTagATune; threshold: the probability from which a pseudo-label counts; limit: only so many
    recordings (0: all), generated songs by name, others by a hash of it, so that all sources are among them.

    Raises ConfigError for an unknown kind, CorpusError for a folder or metadata that cannot be used.
    """
    kind, equals, folder = where.partition("=")
    if not equals or kind not in TAG_SETS:
        raise ConfigError(f"data '{where}': write KIND=FOLDER, KIND one of {', '.join(TAG_SETS)}")
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold {threshold:g}: a probability between 0 and 1")
    root = Path(folder).expanduser()
    if kind == "magnatagatune":
        found = magnatagatune(root, split, limit)
    else:
        found = generated(root, limit) if kind == "songs" else pseudo(root, threshold, limit)
    found.check()
    return found


# -- MagnaTagATune -----------------------------------------------------------------------------------------------------


def magnatagatune(root: Path, split: MtatSplit = "artist", limit: int = 0) -> TagSet:
    """The 50 most frequent tags of all clips; clips with none of them stay (MARBLE's choice)."""
    if not (root / "annotations_final.csv").is_file() and not all(
        (root / f"{part}_gt_mtt.tsv").is_file() for part in ("train", "val", "test")
    ):
        raise CorpusError(
            f"{root}: no annotations_final.csv, which has the tags of all clips; `duotok data describe magnatagatune`"
        )
    items = _drawn(list(_corpus("magnatagatune", root, split=split).recordings()), limit)
    tags = most_frequent((item.tags for item in items), TOP)
    by = "by artist" if split == "artist" else "by folder (MARBLE's; artists are on both sides)"
    if split == "artist":
        items = list(balanced_recordings(items, MARBLE_SHARES))
    else:  # identity is the album, and the split is known to cut artists
        items = [replace(item, identity=f"{item.split}/{item.identity}") for item in items]
    return TagSet(f"MagnaTagATune top-{len(tags)}, split {by}", True, tags, tuple(items))


def most_frequent(tag_lists: Iterable[Sequence[str]], count: int) -> tuple[str, ...]:
    """The `count` most frequent tags, those of equal count by name."""
    counted = Counter(tag for tags in tag_lists for tag in dict.fromkeys(tags))
    return tuple(sorted(counted, key=lambda tag: (-counted[tag], tag))[:count])


# -- generated songs ---------------------------------------------------------------------------------------------------


def generated(root: Path, limit: int = 0) -> TagSet:
    """What the generator drew; tags that fewer than three songs carry are left out."""
    items = [
        replace(item, tags=true_tags(Path(item.audio["accompaniment"]).with_name("song.json")))
        for item in sorted(_corpus("songs", root).recordings(), key=lambda item: item.id)[: limit or None]
    ]
    counted = Counter(tag for item in items for tag in item.tags)
    tags = tuple(sorted(tag for tag, count in counted.items() if 3 <= count < len(items)))
    if not tags:
        raise CorpusError(f"{root}: {len(items)} songs, and no tag is on three of them; make more with `duotok songs`")
    return TagSet("generated songs, true tags", True, tags, balanced_recordings(items))


def true_tags(path: Path) -> tuple[str, ...]:
    """Tags of a song.json with the kind before the value: style, pace, mode, key, metre, language, voice, instruments."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        details, (tonic, _, mode) = facts["details"], facts["key"].partition(" ")
        sounds = [str(sound) for sound in details.get("sounds", [])]
        style, pace, *others = [str(tag) for tag in facts["tags"]]
        voices = [tag for tag in others if tag.endswith(" vocal")] or ["instrumental"]
        found = [
            f"style: {style}", f"pace: {pace}", f"mode: {mode}", f"tonic: {tonic}", f"metre: {details['meter']}",
            f"voice: {voices[0].removesuffix(' vocal')}", *(f"sound: {sound}" for sound in sounds),
        ]  # fmt: skip
        found += [f"language: {facts['language']}"] if facts["words"] else []
        found += [f"{part}: {details[part]}" for part in ("kit", "bass", "register") if part in details]
        found += ["drums"] if "drums" in others else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(
            f"{path}: not the facts of a generated song ({type(error).__name__}); make the song again"
        ) from None
    return tuple(dict.fromkeys(found))


# -- pseudo-labels -----------------------------------------------------------------------------------------------------


def pseudo(root: Path, threshold: float = 0.25, limit: int = 0) -> TagSet:
    """Recordings of INDEX.tsv that the tagger's table names; identity is the source that they were published in."""
    path = root / PREDICTIONS
    columns: dict[str, dict[str, str]] = {}
    for row in read_rows(path, ("path",), "\t"):
        columns[_name_of(row["path"])] = row
    names = tuple(name for name in next(iter(columns.values()), {}) if name != "path")
    items = []
    for item in _corpus("index", root, validation="0", held_out="").recordings():
        source = item.source.split(";")[0].split(" (")[0]
        found = next((columns[name] for name in _names_in(source) if name in columns), None)
        if found is None or item.kind in ("voice", "speech", "sound"):
            continue
        tags = tuple(name for name in names if _number(found[name], path) >= threshold)
        items.append(replace(item, tags=tags, identity=source.partition(":")[0]))
    items = _drawn(items, limit)
    if not items:
        raise CorpusError(f"{path}: names no recording of {root / 'INDEX.tsv'}; take both from one place")
    counted = Counter(tag for item in items for tag in item.tags)
    tags = tuple(name for name in names if counted[name] >= 3)
    if not tags:
        raise CorpusError(f"{path}: no tag reaches {threshold:g} on three recordings; lower the threshold")
    return TagSet(f"pseudo-labels of musicnn (at least {threshold:g})", False, tags, balanced_recordings(items))


def _name_of(path: str) -> str:
    """`owner+repository/File name.mp3` as a key of letters and digits."""
    repository, _, name = path.partition("/")
    return f"{repository}/{_plain(name.rsplit('.', 1)[0])}"


def _names_in(source: str) -> list[str]:
    """Keys that a source `owner/repository:folder/NAME/audio.mp3` may have: by its file, and by the folder of it."""
    repository, _, path = source.partition(":")
    parts = path.split("/")
    names = [parts[-1].rsplit(".", 1)[0], *(parts[-2:-1])]
    return [f"{repository.replace('/', '+')}/{_plain(name)}" for name in names]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise CorpusError(f"{path}: '{text}' is no probability; another version of the table?") from None


def _drawn(items: list[Recording], limit: int) -> list[Recording]:
    """So many of them (0: all), by a hash of their names, in the order that they had."""
    if not limit or limit >= len(items):
        return items
    chosen = {item.id for item in sorted(items, key=lambda item: short_hash(item.id))[:limit]}
    return [item for item in items if item.id in chosen]


def balanced_recordings(items: Sequence[Recording], shares: Mapping[Split, float] = SHARES) -> tuple[Recording, ...]:
    """Recordings with splits of about these shares that cut no identity."""
    split_of = balanced({item.id: item.identity for item in items}, shares)
    return tuple(replace(item, split=split_of[item.id]) for item in items)


def sources(item: Recording) -> list[Path]:
    """The files of a recording's mix: one file, or both stems, whose sum it is."""
    for names in (("mix",), TRACKS, TRACKS[:1], TRACKS[1:]):
        if all(name in item.audio for name in names):
            return [Path(item.audio[name]) for name in names]
    raise CorpusError(f"{item.id}: neither a mix nor stems ({', '.join(item.audio)}); leave it out")


def _corpus(name: str, root: Path, **options: str) -> Corpus:
    return REGISTRY[name](root, **options)


TAG_SETS: dict[str, Callable[..., TagSet]] = {"magnatagatune": magnatagatune, "songs": generated, "pseudo": pseudo}

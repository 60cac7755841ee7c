"""The base of the corpus adapters, which read the published folders and metadata of a corpus and yield recordings."""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib
import inspect
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from duotok.corpora.licences import LICENCE_CLASSES, LicenceClass, licence_class
from duotok.records import SPLITS, CorpusError, Kind, Recording, Split

__all__ = [
    "LICENCE_CLASSES", "NAMES", "REGISTRY", "Corpus", "CorpusError", "CorpusInfo", "LicenceClass", "Option", "common_options",
    "get",
    "licence_class", "lyrics_excerpt", "lyrics_part", "official_split", "read_rows", "safe_name", "settle", "split_by_identity",
    "whole",
]  # fmt: skip

# One file each: `corpora/NAME.py` holds the class whose `info.name` is NAME. It is imported on first use.
NAMES = (
    "libritts", "fsd50k", "fma", "disco10m", "muchin", "mtg_jamendo", "musdb18hq", "magnatagatune", "openscore_lieder",
    "folder", "index", "songs",
)  # fmt: skip


@dataclass(frozen=True)
class CorpusInfo:
    """What a user must know about a corpus.

    hours, gigabytes: as published, None where it depends; put: which files to put where, several lines; stages: the numbers
    of the paper's stages (C.1) it is for; metadata: the files it reads besides the audio, relative to its folder.
    """

    name: str
    title: str
    what: str
    hours: float | None
    gigabytes: float | None
    licence: str
    url: str
    put: str
    stages: tuple[int, ...]
    metadata: tuple[str, ...] = ()
    citation: str = ""


@dataclass(frozen=True)
class Option:
    """A setting of an adapter, as text on the command line; choices: the allowed values, () for any."""

    default: str
    what: str
    choices: tuple[str, ...] = ()


def common_options() -> dict[str, Option]:
    """The options that every corpus has."""
    return dict(_COMMON)


_COMMON: dict[str, Option] = {
    "seed": Option("0", "seed of the split by identity, where the corpus has no official one"),
    "validation": Option("0.05", "share of the identities that go to validation"),
    "test": Option("0.05", "share of the identities that go to test"),
}


class Corpus(ABC):
    """One corpus on disk. Subclasses define `info`, `options` and `recordings`.

    name: the first part of its recordings' ids, by default `info.name`; two folders of one kind need two names.
    Raises CorpusError for a root that is not a folder, and for an unknown option.
    """

    info: ClassVar[CorpusInfo]
    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, root: Path | str, *, name: str | None = None, **options: str | float | Sequence[str]) -> None:
        self.root = Path(root).expanduser().absolute()
        self.name = self.info.name if name is None else name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise CorpusError(f"corpus name '{self.name}': use letters, digits, _ and - only")
        if not self.root.is_dir():
            state = "is a file" if self.root.exists() else "no such folder"
            raise CorpusError(f"{self.root}: {state}; `duotok data describe {self.info.name}` says what to put where")
        available = {**_COMMON, **self.options}
        self._options: dict[str, str | Sequence[str]] = {}
        for key, value in options.items():
            if key not in available:
                raise CorpusError(
                    f"{self.name}: no option '{key}'{_nearest(key, available)}; it has {', '.join(available)}"
                )
            self._options[key] = str(value) if isinstance(value, int | float) else value
            if available[key].choices and value not in available[key].choices:
                raise CorpusError(f"{self.name}: {key}={value}; it can be {', '.join(available[key].choices)}")
        self.problems: dict[str, str] = {}
        """Recording id -> why `recordings` left it out."""
        self._shares = self.number("validation"), self.number("test")
        if min(self._shares) < 0 or sum(self._shares) > 1:
            raise CorpusError(f"{self.name}: validation and test are shares, together at most 1, not {self._shares}")

    @abstractmethod
    def recordings(self) -> Iterator[Recording]:
        """Every recording that the metadata lists, in a stable order, whether or not its audio file exists.

        Raises CorpusError when a folder or metadata file is missing or of another version.
        """

    def option(self, name: str) -> str:
        """The value of an option, or its default."""
        value = self._options.get(name, {**_COMMON, **self.options}[name].default)
        return value if isinstance(value, str) else ",".join(value)

    def option_list(self, name: str) -> tuple[str, ...]:
        """An option that holds several values: text with commas, or from Python any sequence of texts."""
        value = self._options.get(name)
        if value is None or isinstance(value, str):
            return tuple(part.strip() for part in self.option(name).split(",") if part.strip())
        return tuple(value)

    def number(self, name: str) -> float:
        """An option that is a number. Raises CorpusError."""
        try:
            return float(self.option(name))
        except ValueError:
            raise CorpusError(f"{self.name}: {name}={self.option(name)} is no number") from None

    def id(self, *parts: str) -> str:
        """`NAME/part/part`: path-safe; different parts give different ids (see `safe_name`)."""
        return "/".join((self.name, *(safe_name(piece) for part in parts for piece in part.split("/"))))

    def split(self, identity: str) -> Split:
        """The split of an identity by hash, for corpora without an official one."""
        return split_by_identity(identity, int(self.number("seed")), *self._shares)

    def base(self, folder: str, *markers: str) -> Path:
        """The folder that holds one of `markers`: the root itself, or `folder` in it (where the archive was unpacked)."""
        for place in (self.root, self.root / folder):
            if any((place / marker).exists() for marker in markers):
                return place
        raise CorpusError(
            f"{self.root}: no {' or '.join(markers)} here or in {folder}/; is this {self.info.title}? "
            f"`duotok data describe {self.info.name}` says what to put where"
        )

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not inspect.isabstract(cls) and "info" in cls.__dict__:
            _classes[cls.info.name] = cls


_classes: dict[str, type[Corpus]] = {}


class _Registry(Mapping[str, type[Corpus]]):
    """Name -> class, imported on first use; also holds classes that a user's own module defines."""

    def __getitem__(self, name: str) -> type[Corpus]:
        if name not in _classes and name in NAMES:
            importlib.import_module(f"duotok.corpora.{name}")
        return _classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*NAMES, *(name for name in _classes if name not in NAMES)))

    def __len__(self) -> int:
        return len(list(iter(self)))


REGISTRY: Mapping[str, type[Corpus]] = _Registry()


def _nearest(name: str, names: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, 1, 0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def get(name: str) -> type[Corpus]:
    """The adapter of that name. Raises CorpusError with the nearest name."""
    if name not in list(REGISTRY):
        near = _nearest(name, dict.fromkeys(REGISTRY, None)) or ";"
        raise CorpusError(f"no corpus '{name}'{near} known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def split_by_identity(identity: str, seed: int = 0, validation: float = 0.05, test: float = 0.05) -> Split:
    """The split of an artist, speaker or song: a pure function of its name and the seed, about these shares of the identities."""
    place = int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def safe_name(text: str) -> str:
    """`text` with [A-Za-z0-9_-] only. A changed name gets six digits of its hash, so that different names stay different.

    Dots are replaced as well, because WebDataset splits the names in its tars at dots.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_")[:120]
    if plain == text:
        return text
    return f"{plain or 'x'}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"


def settle(recordings: Sequence[Recording]) -> list[Recording]:
    """Make each identity lie in one split where an official split does not ensure it: FSD50K has some uploaders in two.

    The paper follows official splits, so the recordings of such an identity become identities of their own.
    """
    splits: dict[str, set[Split]] = {}
    for recording in recordings:
        splits.setdefault(recording.identity, set()).add(recording.split)
    return [
        replace(recording, identity=recording.id) if len(splits[recording.identity]) > 1 else recording
        for recording in recordings
    ]


def read_rows(
    path: Path, columns: Sequence[str], delimiter: str = ",", quoting: bool = True
) -> Iterator[dict[str, str]]:
    """The rows of a table with a header, as column -> text; `columns` are required, others allowed.

    Raises CorpusError: missing file, missing column (named), not UTF-8, a row with too few or too many cells.
    """
    csv.field_size_limit(1 << 26)  # FMA has cells over the default 128 KiB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(
                file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE, strict=quoting
            )
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise CorpusError(
                    f"{path}: no column '{missing[0]}' (it has {', '.join(reader.fieldnames or ()) or 'nothing'}); "
                    "another version of the metadata?"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise CorpusError(f"{path}: line {reader.line_num} has another number of cells than the header")
                yield row
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file; is the corpus complete and where it was?") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}; take the published file") from None
    except csv.Error as error:
        raise CorpusError(f"{path}: line {reader.line_num}: {error}; take the published file") from None


def whole(kind: Kind, path: Path | str) -> dict[str, str]:
    """`Recording.audio` of a recording that is one file, under the stem that fits its kind, so that it is not separated."""
    stems = {"instrumental": "accompaniment", "voice": "vocals", "speech": "vocals"}
    return {stems.get(kind, "mix"): str(path)}


def lyrics_excerpt(path: Path | str, start: float, stop: float) -> str:
    """`Recording.lyrics` of an excerpt: a lyrics file with times of the whole song, and the seconds of the excerpt.

    Written as a media fragment, `song.txt#t=117,147`; `lyrics_part` reads it back.
    """
    return f"{path}#t={start:g},{stop:g}"


def lyrics_part(lyrics: str) -> tuple[Path, float, float | None]:
    """File, first and last second of `Recording.lyrics`, for `read_lyrics(file, start=first, seconds=last - first)`.

    An ordinary path has first second 0 and no last.
    """
    match = re.fullmatch(r"(.+)#t=([0-9.]+),([0-9.]+)", lyrics)
    return (Path(match[1]), float(match[2]), float(match[3])) if match else (Path(lyrics), 0.0, None)


def official_split(text: str, path: Path) -> Split:
    """`training`, `train`, `dev`, `valid`, `val`, `validation`, `test`, `eval` -> a split. Raises CorpusError for other words."""
    names = {"training": "train", "dev": "validation", "valid": "validation", "val": "validation", "eval": "test"}
    word = names.get(text.strip().lower(), text.strip().lower())
    for split in SPLITS:
        if word == split:
            return split
    raise CorpusError(f"{path}: split '{text}' is none of train, validation, test; another version of the metadata?")

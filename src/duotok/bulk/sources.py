"""The songs of folders, lists, tars and URLs of all three, one by one in a fixed order, in little memory.

A song's id is its source's name and its path below it without the ending (`music/band/song`), or what a list says. Files
whose names say that they are tracks of a song (`duotok.corpora.stem_names`) are its given stems.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from duotok.audio.finding import AUDIO_SUFFIXES
from duotok.audio.marks import mark_of
from duotok.bulk.listing import Listing
from duotok.bulk.lists import COLUMNS, LISTS, ROLES, rows_of
from duotok.bulk.places import Place, described, ending_of, fingerprint, is_remote, opened, opened_file, stated
from duotok.corpora.base import split_by_identity
from duotok.corpora.folder import TITLE_WORDS
from duotok.corpora.stem_names import TRACKS as STEM_WORDS
from duotok.corpora.stem_names import Stems, parse_stem_name
from duotok.errors import ConfigError
from duotok.records import SPLITS, CorpusError, Split
from duotok.shards.ranges import patiently
from duotok.tracks import TRACKS

SHOWN = 5
"""Wrong rows of a list that are named one by one."""
IdentityOf = Literal["song", "folder"]
IDENTITIES: tuple[IdentityOf, ...] = ("song", "folder")


@dataclass(frozen=True)
class SongEntry:
    """A song to tokenize. sources: its files by role (mix, vocals, accompaniment); marks: their fingerprints, "" where not known
    without asking; identity: what no split may cut; problem: why it cannot be done, known from its listing alone.
    """

    id: str
    split: Split
    identity: str
    sources: dict[str, Place]
    marks: dict[str, str]
    problem: str = ""


Known = Callable[[str], bool]
"""Whether the store knows the id of a song."""


@dataclass(frozen=True)
class Splitting:
    """split: of all songs, None as the sources say; identity: what no split may cut where the sources do not say: each song, or all
    that lies in one folder."""

    split: Split | None = None
    identity: IdentityOf = "song"

    def identity_of(self, id: str) -> str:
        """Of a song of which the sources do not tell it."""
        return id.rpartition("/")[0] or id if self.identity == "folder" else id


def songs(
    sources: Iterable[str],
    listing: Listing,
    splitting: Splitting | None = None,
    known: Known = lambda id: False,
) -> Iterator[SongEntry]:
    """All songs of the sources in the order of the sources and of their names.

    A source is FOLDER, LIST, TAR, a sound file, or a URL of one; NAME=SOURCE gives its ids another beginning. splitting: the split of
    all of them; otherwise the first folder of that name says it, or the list, or a hash of the song's identity. known: songs of a local
    folder that the store knows are not read to see whether DuoTok wrote them. Raises CorpusError for a source that is not there.
    """
    for text in sources:
        name, uri = _named(text)
        yield from _source(name, uri, listing, splitting or Splitting(), known)


def _named(text: str) -> tuple[str, str]:
    """The name before `=`, or the last part of the source, without the ending of a file."""
    name, equals, uri = text.partition("=")
    if equals and name and "/" not in name and not os.path.exists(text):
        return name, uri
    last = (
        PurePosixPath(text.split("://", 1)[-1].rstrip("/")).name
        if is_remote(text)
        else Path(os.path.abspath(text)).name
    )
    stem, ending = os.path.splitext(last)
    known = ending.lower() in (*LISTS, ".tar", *AUDIO_SUFFIXES)
    return (stem if known and not os.path.isdir(text) else last) or "root", text


def _source(name: str, uri: str, listing: Listing, splitting: Splitting, known: Known) -> Iterator[SongEntry]:
    ending = ending_of(uri)
    try:
        if is_remote(uri):
            system, path = opened(uri)
            info = patiently(lambda: system.info(path))
            folder, mark = info["type"] == "directory", described(info)
        else:
            state = os.stat(uri)
            folder, mark = os.path.isdir(uri), stated(state)
    except OSError as error:
        raise CorpusError(f"{uri}: cannot be listed ({_reason(error)}); check the name and your access") from None
    if folder:
        yield from _tree(name, uri, listing, splitting, known)
    elif ending in LISTS:
        yield from _list(name, uri, ending, listing, splitting)
    elif ending == ".tar":
        yield from _tar(name, uri, mark, listing, splitting)
    else:
        yield _entry(
            name, name, {"mix": Place(uri if is_remote(uri) else os.path.abspath(uri))}, {"mix": mark}, splitting
        )


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:160] or type(error).__name__


def _entry(
    id: str,
    below: str,
    sources: dict[str, Place],
    marks: dict[str, str],
    splitting: Splitting,
    identity: str = "",
    split: Split | None = None,
) -> SongEntry:
    """below: the id below its source; a source or first folder of that name says the split. identity, split: as a list says."""
    folders = [path.split("/", 1)[0] for path in (id, below) if "/" in path]
    first = splitting.split or split or next((name for folder in folders for name in SPLITS if folder == name), None)
    identity = identity or splitting.identity_of(id)
    problem = ""
    if "mix" not in sources and not set(TRACKS) <= sources.keys():
        problem = f"only {' and '.join(sources) or 'no track'} of this song; give the mix as well, or both tracks"
    return SongEntry(id, first or split_by_identity(identity), identity, sources, marks, problem)


# -- folders and tars ----------------------------------------------------------------------------------------------------


Look = Callable[[str], tuple[Place, str]]
"""Path below a source -> where the file is, and its fingerprint."""


_WORD = re.compile("|".join(sorted({word[:4] for word in STEM_WORDS})), re.IGNORECASE)
"""In every name that can be that of a track; most songs need no closer look."""


def _songs_of(sounds: Sequence[str]) -> dict[str, tuple[str, str]]:
    """File -> the song that it belongs to, a path without ending, and which track of it the name says, "" for none.

    The rule of the corpus `folder`: a name that a title may have as well says a track only beside another track of that song.
    """
    names = {below: parse_stem_name(Path(below)) for below in sounds if _WORD.search(below.rsplit("/", 1)[-1])}
    fellows: dict[str, set[str]] = {}
    for name in names.values():
        if name is not None:
            fellows.setdefault(name.song.as_posix(), set()).add(name.track)
    for below in sounds:
        if (base := os.path.splitext(below)[0]) in fellows:
            fellows[base].add("mix")
    result = {}
    for below in sounds:
        base = os.path.splitext(below)[0]
        result[below] = base, ""
        name = names.get(below)
        if name is None or (song := name.song.as_posix()) == ".":
            continue
        beside = fellows[song]
        together = ("vocals" in beside and len(beside) > 1) or (len(beside - {"mix"}) > 1 and bool(beside & {*ROLES}))
        title = len(beside) == 1 and base.rpartition(".")[2].lower() in TITLE_WORDS
        if together or (name.certain and not title):
            result[below] = song, name.track
    return result


def _joined(name: str, paths: Iterable[str], look: Look, listing: Listing, splitting: Splitting) -> Iterator[SongEntry]:
    """Songs of the files of one folder or tar, sorted by name. Keeps nothing of a file but its path."""
    sounds = []
    for below in paths:
        ending = os.path.splitext(below)[1].lower()
        if ending in AUDIO_SUFFIXES:
            sounds.append(below)
        else:
            listing.left_out[ending or "no ending"] += 1
    song_of = _songs_of(sounds)
    sounds.sort(key=lambda below: (os.fsencode(song_of[below][0]), os.fsencode(below)))
    for base, group in itertools.groupby(sounds, key=lambda below: song_of[below][0]):
        tracks: dict[str, str] = {}
        whole = []
        for below in group:
            role = song_of[below][1]
            if role in ROLES and role not in tracks:
                tracks[role] = below
            elif role:
                listing.left_out["further tracks of songs"] += 1
            else:
                whole.append(below)
        if whole and tracks and "mix" not in tracks:
            tracks["mix"] = whole.pop(0)
        parts = [(base, tracks)] if tracks else []
        parts += [(below if tracks or number else base, {"mix": below}) for number, below in enumerate(whole)]
        for key, files in parts:
            found = {role: look(below) for role, below in files.items()}
            sources, marks = ({role: pair[k] for role, pair in found.items()} for k in (0, 1))
            yield _entry(f"{name}/{key}", key, sources, marks, splitting)  # type: ignore[arg-type]


def _tree(name: str, uri: str, listing: Listing, splitting: Splitting, known: Known) -> Iterator[SongEntry]:
    """Folder by folder, each sorted; a hidden file or folder is no song."""
    root = uri.rstrip("/") or "/"
    waiting, remote, stems = [""], is_remote(root), Stems(Path(root))
    while waiting:
        below = waiting.pop()
        try:
            if remote:
                folders, files = _remote_folder(root, below)
            else:
                folders, files = _local_folder(root, below, listing, name, known, stems)
        except OSError as error:
            if not below:
                raise CorpusError(f"{root}: cannot be listed ({_reason(error)}); check your access") from None
            listing.broken.append(f"{root}/{below}: cannot be listed ({_reason(error)})")
            continue
        yield from _joined(name, *files, listing, splitting)
        waiting.extend(sorted(folders, key=os.fsencode, reverse=True))


Files = tuple[list[str], Look]


def _local_folder(
    root: str, below: str, listing: Listing, name: str, known: Known, stems: Stems
) -> tuple[list[str], Files]:
    folders, names = [], []
    prefix = f"{below}/" if below else ""
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(prefix + entry.name)
            elif entry.is_file():
                names.append(prefix + entry.name)
            else:
                listing.left_out["linked folders, or no ordinary files"] += 1
    parts = map(os.path.splitext, names)
    fellows = Counter(base for base, ending in parts if ending.lower() in AUDIO_SUFFIXES)

    def is_known(path: str) -> bool:
        """A song of its own that the store knows: a file need not be read to list that once more."""
        base = os.path.splitext(path)[0]
        return fellows[base] == 1 and not _WORD.search(path.rsplit("/", 1)[-1]) and known(f"{name}/{base}")

    marks = {path: mark for path in names if not is_known(path) and (mark := mark_of(Path(root, path)))}
    made = {path for path, mark in marks.items() if not stems(Path(root, path), mark)}
    listing.leave_out_written(root, made)
    names = [path for path in names if path not in made]
    top = os.path.abspath(root).rstrip("/")

    def look(path: str) -> tuple[Place, str]:
        return Place(f"{top}/{path}"), _mark(f"{top}/{path}")

    return folders, (names, look)


def _remote_folder(root: str, below: str) -> tuple[list[str], Files]:
    system, path = opened(root)
    path = path.rstrip("/")
    entries = patiently(lambda: system.ls(f"{path}/{below}" if below else path, detail=True))
    prefix = f"{below}/" if below else ""
    folders, marks = [], {}
    for info in entries:
        last = str(info["name"]).rstrip("/").rsplit("/", 1)[-1]
        if last.startswith(".") or not last:
            continue
        if info["type"] == "directory":
            folders.append(prefix + last)
        else:
            marks[prefix + last] = described(info)
    return folders, (list(marks), lambda below: (Place(f"{root}/{below}"), marks[below]))


def _tar(name: str, uri: str, mark: str, listing: Listing, splitting: Splitting) -> Iterator[SongEntry]:
    """A WebDataset tar: `KEY.mp3`, or `KEY.vocals.flac` and `KEY.accompaniment.flac`. A tar that is cut gives what is before the cut."""
    members: dict[str, Place] = {}
    where = uri if is_remote(uri) else os.path.abspath(uri)
    try:
        with opened_file(uri) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                below, target = (
                    text.removeprefix("./") for text in (member.name, member.linkname)
                )  # of `tar -C FOLDER .`
                if member.isdir() or below.rsplit("/", 1)[-1].startswith("."):
                    continue
                if member.isfile():
                    members[below] = Place(where, member.name, member.offset_data, member.size)
                elif member.islnk() and target in members:
                    members[below] = members[target]
                else:
                    listing.left_out["links in a tar, or no ordinary files"] += 1
            file.seek(tar.offset)  # of a header that is cut tarfile says nothing
            if file.read(tarfile.BLOCKSIZE) != b"\0" * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("no end of archive")
    except (OSError, ValueError, tarfile.TarError) as error:  # ValueError: a server that gives no parts
        listing.broken.append(
            f"{uri}: cut or damaged ({_reason(error)}); what came before is taken, copy the tar again"
        )

    def look(below: str) -> tuple[Place, str]:
        place = members[below]
        return place, f"{mark} {place.offset} {place.size}" if mark else ""

    yield from _joined(name, list(members), look, listing, splitting)


# -- lists ---------------------------------------------------------------------------------------------------------------


def _list(name: str, uri: str, ending: str, listing: Listing, splitting: Splitting) -> Iterator[SongEntry]:
    """A path or URL a line, or columns `path` (or `mix`), `vocals`, `accompaniment`, `id`, `split`, `identity`; paths are relative
    to the list. A row that is no song is named, and the rest is taken."""
    base = uri.rsplit("/", 1)[0] if is_remote(uri) else os.path.dirname(os.path.abspath(uri))
    wrong = 0
    try:
        rows, unread = rows_of(uri, ending)
        if unread:
            listing.notes.append(
                f"{uri}: column{'s' if unread[1:] else ''} {', '.join(unread)} not read, and not in the store; a list may have "
                f"{', '.join(COLUMNS)}: of anything else keep the list, and join it to the tokens by id"
            )
        for number, row in enumerate(rows):
            try:
                entry = _list_entry(name, base, row, f"{uri}, row {number + 1}", splitting)
            except ConfigError as error:
                wrong += 1
                if wrong <= SHOWN:
                    listing.broken.append(str(error))
                continue
            yield entry
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{uri}: cannot be read as a list ({_reason(error)}); check it") from None
    if wrong > SHOWN:
        listing.broken.append(f"{uri}: {wrong - SHOWN} more rows like these")


def _list_entry(name: str, base: str, row: dict[str, Any], where: str, splitting: Splitting) -> SongEntry:
    texts = {name: "" if value is None else str(value) for name, value in row.items()}  # ids may be numbers, and 0
    given = {role: texts.get(role, "") for role in ROLES}
    given["mix"] = given["mix"] or texts.get("path", "")
    paths = {role: path for role, path in given.items() if path}
    if not paths:
        raise ConfigError(f"{where}: names no file; a list has a column path, or vocals and accompaniment")
    sources = {
        role: Place(path if is_remote(path) or os.path.isabs(path) else f"{base}/{path}")
        for role, path in paths.items()
    }
    first = next(iter(paths.values())).split("://", 1)[-1]
    below = texts.get("id") or os.path.splitext(first)[0].lstrip("/")
    stated_split = texts.get("split", "")
    if stated_split and stated_split not in SPLITS:
        raise ConfigError(f"{where}: split '{stated_split}' is unknown; there are {', '.join(SPLITS)}")
    marks = {role: _mark(place.uri) for role, place in sources.items()}
    id = below if texts.get("id") else f"{name}/{below}"
    return _entry(id, below, sources, marks, splitting, texts.get("identity", ""), stated_split or None)


def _mark(uri: str) -> str:
    """Of a file of a list: a remote one is asked when its turn comes, not before."""
    try:
        return "" if is_remote(uri) else fingerprint(uri)
    except (OSError, ValueError):  # of a name with a null byte
        return ""  # it is named when its turn comes

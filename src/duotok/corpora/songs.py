"""Songs that `duotok songs` made: true stems, words with times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duotok.corpora.base import Corpus, CorpusInfo
from duotok.records import SONG_GENERATOR, CorpusError, Recording

FORMAT = "duotok-song-1"
KEYS = ("seed", "seconds", "language", "tags", "words", "files")
TRACKS = ("vocals", "accompaniment", "drums", "bass", "other")


class Songs(Corpus):
    """Folders song-SEED with song.json, vocals, accompaniment, drums, bass, other and mix."""

    info = CorpusInfo(
        name="songs",
        title="generated songs",
        what="songs made from seeds by `duotok songs`, with true stems, words, notes, chords and beats",
        hours=None,
        gigabytes=None,
        licence="CC0",
        url="",
        put="ROOT is what `duotok songs --out ROOT` wrote:\n"
        "ROOT/song-00000000/song.json, vocals.flac, accompaniment.flac, drums.flac, bass.flac, other.flac, mix.flac",
        stages=(2, 3, 4),
        metadata=("song-*/song.json",),
    )

    def recordings(self) -> Iterator[Recording]:
        """Every finished song; identity is its seed. The mix is not listed, since it is the sum of the stems."""
        files = sorted(self.root.rglob("song.json"))
        if not files:
            raise CorpusError(f"{self.root}: no song.json in it; make songs with `duotok songs --out {self.root}`")
        for file in files:
            facts = _read(file)
            folder, identity = file.parent, f"seed {facts['seed']}"
            name = folder.relative_to(self.root).as_posix() if folder != self.root else folder.name
            sung = bool(facts["words"])
            tracks = [t for t in TRACKS if t in facts.get("tracks", TRACKS) and (sung or t != "vocals")]
            yield Recording(
                id=self.id(name),
                corpus=self.name,
                kind="song" if sung else "instrumental",
                split=self.split(identity),
                identity=identity,
                audio={t: str(_track(folder, t, str(facts["files"]))) for t in tracks},
                seconds=float(facts["seconds"]),
                tags=tuple(str(tag) for tag in facts["tags"]),
                lyrics=str(file) if sung else "",
                language=str(facts["language"]) if sung else "",
                licence=self.info.licence,
                attribution=SONG_GENERATOR,
                source=f"duotok songs --seed {facts['seed']}",
            )


def _track(folder: Path, track: str, format: str) -> Path:
    """`files` is the generator's --format: flac, wav, flac16, wav16 or opus."""
    return folder / f"{track}.{format.removesuffix('16')}"


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorpusError(f"{path}: damaged ({error}); delete its folder and make the song again") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        actual = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise CorpusError(f"{path}: format is {actual!r}, not {FORMAT!r}; make the songs with this version of duotok")
    missing = [key for key in KEYS if key not in facts]
    if missing:
        raise CorpusError(f"{path}: no '{missing[0]}' in it; make the song again with this version of duotok")
    return facts

"""MUSDB18-HQ: 150 songs with their true stems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option, read_rows
from duotok.records import CorpusError, Recording, Split

# `validation_tracks` of the reference implementation, sigsep/sigsep-mus-db configs/mus.yaml.
VALIDATION = frozenset({
    "Actions - One Minute Smile", "Clara Berry And Wooldog - Waltz For My Victims", "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave", "Triviul - Angelsaint", "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants", "Leaf - Summerghost", "Skelpolu - Human Mistakes", "Young Griffo - Pennies",
    "ANiMAL - Rockshow", "James May - On The Line", "Meaxic - Take A Step", "Traffic Experiment - Sirens",
})  # fmt: skip
STEMS = {"mix": "mixture", "vocals": "vocals", "drums": "drums", "bass": "bass", "other": "other"}
_LICENCE = "academic use only (MUSDB18 terms of access)"


class MUSDB18HQ(Corpus):
    """{train,test}/ARTIST - TITLE/{mixture,vocals,drums,bass,other}.wav; accompaniment is drums + bass + other."""

    info = CorpusInfo(
        name="musdb18hq",
        title="MUSDB18-HQ",
        what="150 songs (100 train, of which 14 validation; 50 test), stereo 44.1 kHz, with four true stems",
        hours=10.0,
        gigabytes=22.7,
        licence="academic use only; 46 songs CC BY-NC-SA",
        url="https://zenodo.org/records/3338373",
        put="Ask for access on Zenodo, unpack musdb18hq.zip:\n"
        "ROOT/train/Actions - Devil's Words/mixture.wav, vocals.wav, drums.wav, bass.wav, other.wav\n"
        "ROOT/test/...\n"
        "ROOT/tracklist.csv (optional: genre, source and licence of each song, from github.com/sigsep/website)",
        stages=(2, 3, 4),
        metadata=("tracklist.csv",),
        citation="Rafii et al.: MUSDB18-HQ - an uncompressed version of MUSDB18, 2019, doi:10.5281/zenodo.3338373",
    )
    options: ClassVar[Mapping[str, Option]] = {
        "tracklist": Option("", "where tracklist.csv is; ROOT/tracklist.csv if empty")
    }

    def recordings(self) -> Iterator[Recording]:
        """Every song folder, with the published test set and the reference implementation's validation songs."""
        base = self.base("musdb18hq", "train", "test")
        facts = self._facts(base)
        for part in ("train", "test"):
            folders = sorted(path for path in (base / part).glob("*") if path.is_dir() and path.name[0] != ".")
            if not folders:
                stems = next((base / part).glob("*.stem.mp4"), None)
                remedy = (
                    "these are the compressed stems; this corpus wants MUSDB18-HQ" if stems else "unpack the zip again"
                )
                raise CorpusError(f"{base / part}: no song folders; {remedy}")
            for folder in folders:
                song = folder.name
                split: Split = "test" if part == "test" else "validation" if song in VALIDATION else "train"
                genre, licence = facts.get(song, ("", _LICENCE))
                yield Recording(
                    id=self.id(part, song),
                    corpus=self.name,
                    kind="song",
                    split=split,
                    identity=song,
                    audio={stem: str(folder / f"{file}.wav") for stem, file in STEMS.items()},
                    tags=(genre,) if genre else (),
                    licence=licence,
                    attribution=f"{song} (MUSDB18)",
                    source=self.info.url,
                )

    def _facts(self, base: Path) -> dict[str, tuple[str, str]]:
        chosen = self.option("tracklist")
        path = Path(chosen).expanduser() if chosen else base / "tracklist.csv"
        if not chosen and not path.is_file():
            return {}
        columns = ("Track Name", "Genre", "Source", "License")
        return {row["Track Name"]: (row["Genre"], row["License"] or _LICENCE) for row in read_rows(path, columns)}

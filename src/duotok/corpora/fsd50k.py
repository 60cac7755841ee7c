"""FSD50K: sounds of all kinds from Freesound, each clip under its uploader's own licence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from duotok.corpora.base import Corpus, CorpusInfo, official_split, read_rows, settle, whole
from duotok.records import CorpusError, Recording

_INFO = ("license", "uploader", "title")


class FSD50K(Corpus):
    """FSD50K.ground_truth/{dev,eval}.csv, FSD50K.metadata/{dev,eval}_clips_info_FSD50K.json, FSD50K.{dev,eval}_audio/."""

    info = CorpusInfo(
        name="fsd50k",
        title="FSD50K",
        what="51,197 Freesound clips of 0.3-30 s in 200 AudioSet classes",
        hours=108.3,
        gigabytes=34.0,
        licence="per clip: CC0, CC BY 3.0, CC BY-NC 3.0, Sampling+ (the collection: CC BY 4.0)",
        url="https://zenodo.org/records/4060432",
        put="Unpack the published zips into one folder, ROOT:\n"
        "ROOT/FSD50K.dev_audio/64760.wav, ROOT/FSD50K.eval_audio/...\n"
        "ROOT/FSD50K.ground_truth/dev.csv, eval.csv\n"
        "ROOT/FSD50K.metadata/dev_clips_info_FSD50K.json, eval_clips_info_FSD50K.json",
        stages=(1,),
        metadata=(
            "FSD50K.ground_truth/dev.csv",
            "FSD50K.ground_truth/eval.csv",
            "FSD50K.metadata/dev_clips_info_FSD50K.json",
            "FSD50K.metadata/eval_clips_info_FSD50K.json",
        ),
        citation="Fonseca et al.: FSD50K: An Open Dataset of Human-Labeled Sound Events, IEEE/ACM TASLP 30, 2022",
    )

    def recordings(self) -> Iterator[Recording]:
        """Train and validation follow the column `split` of dev.csv, test is eval.csv; identity is the uploader."""
        base = self.base("FSD50K", "FSD50K.ground_truth")
        yield from settle([*self._part(base, "dev"), *self._part(base, "eval")])

    def _part(self, base: Path, part: str) -> Iterator[Recording]:
        table = base / "FSD50K.ground_truth" / f"{part}.csv"
        path = base / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json"
        clips = _read_clips(path)
        for row in read_rows(table, ("fname", "labels", "mids", *(("split",) if part == "dev" else ()))):
            name = row["fname"]
            clip = clips.get(name)
            if clip is None or any(key not in clip for key in _INFO):
                lacking = "clip" if clip is None else next(key for key in _INFO if key not in clip)
                raise CorpusError(f"{path}: no {lacking} for clip {name} of {table.name}; take both from one release")
            yield Recording(
                id=self.id(part, name),
                corpus=self.name,
                kind="sound",
                split="test" if part == "eval" else official_split(row["split"], table),
                identity=str(clip["uploader"]),
                audio=whole("sound", base / f"FSD50K.{part}_audio" / f"{name}.wav"),
                tags=tuple(label for label in row["labels"].split(",") if label),
                licence=str(clip["license"]),
                attribution=f"{clip['title']} by {clip['uploader']} (Freesound)",
                source=f"https://freesound.org/s/{name}/",
            )


def _read_clips(path: Path) -> dict[str, dict[str, object]]:
    try:
        clips = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file; it tells each clip's licence: unpack FSD50K.metadata.zip") from None
    except ValueError as error:
        raise CorpusError(f"{path}: damaged ({error}); unpack FSD50K.metadata.zip again") from None
    if not isinstance(clips, dict) or not all(isinstance(clip, dict) for clip in clips.values()):
        raise CorpusError(f"{path}: not clip -> title, license, uploader; another version of the metadata?")
    return clips

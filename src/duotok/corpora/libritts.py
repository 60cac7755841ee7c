"""LibriTTS: read English by many speakers; the published subsets are the split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option, whole
from duotok.records import CorpusError, Recording, Split

SUBSETS: dict[str, Split] = {
    "train-clean-100": "train",
    "train-clean-360": "train",
    "train-other-500": "train",
    "dev-clean": "validation",
    "dev-other": "validation",
    "test-clean": "test",
    "test-other": "test",
}
_TEXT = ".normalized.txt"


class LibriTTS(Corpus):
    """Folders SUBSET/SPEAKER/CHAPTER with SPEAKER_CHAPTER_PARAGRAPH_SENTENCE.wav and .normalized.txt; SPEAKERS.txt."""

    info = CorpusInfo(
        name="libritts",
        title="LibriTTS",
        what="585 h of read English, 2,456 speakers, 24 kHz, with the text of every sentence",
        hours=585.0,
        gigabytes=83.0,
        licence="CC BY 4.0",
        url="https://www.openslr.org/60/",
        put="Unpack any of the seven archives (train-clean-100.tar.gz ...) into one folder, ROOT:\n"
        "ROOT/LibriTTS/SPEAKERS.txt\n"
        "ROOT/LibriTTS/train-clean-100/84/121123/84_121123_000007_000001.wav and .normalized.txt",
        stages=(1,),
        metadata=("SPEAKERS.txt", "*/*/*/*.normalized.txt"),
        citation="Zen et al.: LibriTTS: A Corpus Derived from LibriSpeech for Text-to-Speech, Interspeech 2019",
    )
    options: ClassVar[Mapping[str, Option]] = {
        "subsets": Option("", "only these, with commas; all that are there if empty")
    }

    def recordings(self) -> Iterator[Recording]:
        """Every sentence that has a sound or a text file, subset by subset."""
        base = self.base("LibriTTS", "SPEAKERS.txt")
        speakers = read_speakers(base / "SPEAKERS.txt")
        for subset in self._subsets(base):
            for chapter in sorted(path for path in (base / subset).glob("*/*") if path.is_dir()):
                speaker = chapter.parent.name
                sex, name = speakers.get(speaker, ("", f"speaker {speaker}"))
                names = {p.name.removesuffix(_TEXT) for p in chapter.glob(f"*{_TEXT}")} | {
                    p.stem for p in chapter.glob("*.wav")
                }
                for utterance in sorted(names):
                    text = chapter / f"{utterance}{_TEXT}"
                    yield Recording(
                        id=self.id(subset, utterance),
                        corpus=self.name,
                        kind="speech",
                        split=SUBSETS[subset],
                        identity=speaker,
                        audio=whole("speech", chapter / f"{utterance}.wav"),
                        tags=("speech", *({"F": ("female",), "M": ("male",)}.get(sex, ()))),
                        lyrics=str(text) if text.is_file() else "",
                        language="en",
                        licence=self.info.licence,
                        attribution=f"LibriTTS, read by {name} for LibriVox",
                        source=f"{self.info.url} {utterance}",
                    )

    def _subsets(self, base: Path) -> list[str]:
        available = [subset for subset in SUBSETS if (base / subset).is_dir()]
        chosen = self.option_list("subsets")
        for subset in chosen:
            if subset not in available:
                raise CorpusError(
                    f"{base / subset}: no such folder; there is {', '.join(available) or 'no subset at all'}"
                )
        if not available:
            raise CorpusError(f"{base}: none of the folders {', '.join(SUBSETS)}; unpack at least one archive here")
        return [subset for subset in available if not chosen or subset in chosen]


def read_speakers(path: Path) -> dict[str, tuple[str, str]]:
    """SPEAKERS.txt: `14 | F | train-clean-360 | 25.03 | Name`, comments with `;`. Gives speaker -> (sex, name)."""
    speakers = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith(";"):
            continue
        cells = [cell.strip() for cell in line.split("|", 4)]  # one name holds a `|` itself
        if len(cells) != 5:
            raise CorpusError(
                f"{path}: line {number} has {len(cells)} cells of ID|SEX|SUBSET|MINUTES|NAME; take the published file"
            )
        speakers[cells[0]] = (cells[1], cells[4].lstrip("|"))
    return speakers

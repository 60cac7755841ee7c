"""OpenScore Lieder: 1,356 songs for voice and piano as scores with words (CC0), as texts and tunes for the song generator.

No audio: `scores()` instead of `recordings()`. Layout as published (github.com/OpenScore/Lieder): `data/scores.tsv`,
`data/composers.tsv`, and `scores/COMPOSER/SET/SONG/lcID.mscx`; the MusicXML read here (`lcID.mxl`) is what MuseScore makes
of it with the corpus's own `corpus_conversion.json`. Tested with 360 such scores.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from duotok.corpora.base import Corpus, CorpusInfo, read_rows
from duotok.records import CorpusError, Recording

MEMBER_BYTES = 64 << 20
"""A member of an .mxl may unpack to this much; the largest score of the corpus has 2 MB."""

_FILE = re.compile(r"lc(\d+)\.(?:mxl|musicxml)")

# Common short words; the lists overlap as little as possible.
_WORDS: dict[str, frozenset[str]] = {
    name: frozenset(text.split())
    for name, text in {
        "de": "und der die das dem den des ich du er wir mich dich sich mir dir ihr mein dein nicht ist bist war hat ein eine "
        "einen zu zum zur im am auf mit von aus wie wo wenn was so nur nun noch schon doch",
        "en": "the a and of my is are was with thou thee thy you your to for from her his she he they that this when what all "
        "at by be not will shall i me in on as but so",
        "fr": "le la les l un une et je j tu il elle vous nous que qu qui d de du des dans pour sur sous par mon ma mes ton ta "
        "tes est sont ne n pas au aux si plus comme",
        "it": "il lo la i gli che e è non mio mia tuo per con del della nel nella mi ti si io amor di da più se ma",
        "es": "el los las y que mi mis tu con por para como del yo es en una no se",
        "la": "et in est domine deus ave gratia sancta te tibi cum nobis qui quae sunt per",
        "sv": "och jag det är som du mig dig han hon ej min din så den ett på för med till",
        "da": "og jeg det er som du mig dig han hun ej min din så den et på for med til",
    }.items()
}


class OpenScoreLieder(Corpus):
    """Scores with words; `recordings()` is an error."""

    info = CorpusInfo(
        name="openscore_lieder",
        title="OpenScore Lieder",
        what="1,356 scores of songs for voice and piano with their words; no audio",
        hours=None,
        gigabytes=None,
        licence="CC0 1.0",
        url="https://github.com/OpenScore/Lieder",
        put="ROOT/data/scores.tsv, ROOT/data/composers.tsv   the repository as it is\n"
        "ROOT/scores/**/lcID.mxl                         cd data; mscore -j corpus_conversion.json",
        stages=(),
        metadata=("data/scores.tsv", "data/composers.tsv", "scores/**/*.mxl"),
        citation="Gotham, Jonas: The OpenScore Lieder Corpus, Music Encoding Conference 2021",
    )

    def recordings(self) -> Iterator[Recording]:
        raise CorpusError(
            f"{self.name}: scores without audio, nothing for a catalog; read them with its `scores()` from Python"
        )

    def scores(self) -> Iterator[LiederScore]:
        """Every score there is a file for, by id. Raises CorpusError for missing folders, tables and damaged files.

        Name and composer come from the tables, or from the folders for scores that are newer than the tables.
        """
        root = self.base("Lieder", "data")
        composers = {row["path"]: row["name"] for row in _table(root / "data" / "composers.tsv", "path", "name")}
        titles = {row["id"]: row["name"] for row in _table(root / "data" / "scores.tsv", "id", "path", "name")}
        files = {match[1]: path for path in (root / "scores").rglob("*") if (match := _FILE.fullmatch(path.name))}
        if not files:
            raise CorpusError(
                f"{root / 'scores'}: no lcID.mxl; make them: cd {root / 'data'}; mscore -j corpus_conversion.json"
            )
        for number, path in sorted(files.items(), key=lambda item: int(item[0])):
            composer = path.relative_to(root / "scores").parts[0]
            lyrics = words(read_musicxml(path))
            yield LiederScore(
                id=self.id(number),
                path=path,
                composer=composers.get(composer, composer.replace("_", " ")),
                title=titles.get(number, path.parent.name.replace("_", " ")),
                language=language(" ".join(verses[0] for verses in lyrics.values())),
                lyrics=lyrics,
                source=f"https://musescore.com/openscore-lieder-corpus/scores/{number}",
            )


@dataclass(frozen=True)
class LiederScore:
    """A song as notes and words.

    lyrics: voice part -> its verses, each one line; a translation under the notes is a verse as well. language: ISO
    639-1, of the first verse, "" when not clear.
    """

    id: str
    path: Path
    composer: str
    title: str
    language: str
    lyrics: dict[str, tuple[str, ...]]
    source: str
    licence: str = "CC0 1.0"


def _table(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    return read_rows(path, columns, "\t", quoting=False)


def read_musicxml(path: Path) -> ElementTree.Element:
    """The root of a MusicXML file, packed (.mxl) or plain.

    Raises CorpusError: not such a file, a member over 64 MB when unpacked, declarations of XML entities (a few lines of
    them can grow to gigabytes).
    """
    try:
        return _parse(_unpacked(path) if zipfile.is_zipfile(path) else _bounded(path), path)
    except (
        ElementTree.ParseError,
        expat.ExpatError,
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        RuntimeError,
        OSError,
    ) as error:
        raise CorpusError(f"{path}: not a MusicXML score ({error}); convert it again") from None


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return _limited(file.read(MEMBER_BYTES + 1), path)


def _unpacked(path: Path) -> bytes:
    """The score in an .mxl: the first that META-INF/container.xml names."""
    with zipfile.ZipFile(path) as archive:

        def member(name: str) -> bytes:
            with archive.open(name) as file:  # the size that the archive claims is not to be trusted
                return _limited(file.read(MEMBER_BYTES + 1), path)

        root = _parse(member("META-INF/container.xml"), path)
        names = [element.get("full-path", "") for element in root.iter() if element.tag.endswith("rootfile")]
        if not names:
            raise CorpusError(f"{path}: META-INF/container.xml names no score; convert it again")
        return member(names[0])


def _limited(content: bytes, path: Path) -> bytes:
    if len(content) > MEMBER_BYTES:
        raise CorpusError(f"{path}: over {MEMBER_BYTES >> 20} MB when unpacked; not a score of this corpus")
    return content


class _PrologEnd(Exception):
    pass


def _parse(content: bytes, path: Path) -> ElementTree.Element:
    """Parse XML, after a check for entity declarations, which can stand only before the root element."""

    def entity(*_: object) -> NoReturn:
        raise CorpusError(f"{path}: declares XML entities; no score needs them, it is refused")

    def root(*_: object) -> NoReturn:
        raise _PrologEnd

    prolog = expat.ParserCreate()
    prolog.EntityDeclHandler = entity
    prolog.StartElementHandler = root
    with contextlib.suppress(_PrologEnd):
        prolog.Parse(content, True)
    return ElementTree.fromstring(content)


def words(score: ElementTree.Element) -> dict[str, tuple[str, ...]]:
    """Voice part -> verses, from the syllables under its notes. A part is named as in the score, staves and doubles by number."""
    names = {part.get("id"): _name(part.findtext("part-name") or "") for part in score.iter("score-part")}
    verses: dict[str, tuple[str, ...]] = {}
    for part in score.iter("part"):
        for syllables in _staves(part):
            name = names.get(part.get("id"), "") or "Voice"
            namesakes = sum(other.split(" #")[0] == name for other in verses)
            verses[f"{name} #{namesakes + 1}" if namesakes else name] = tuple(
                _join(verse) for _, verse in sorted(syllables.items(), key=lambda item: _verse(item[0]))
            )
    return verses


def _name(text: str) -> str:
    """`Singstimme\\nVoice` -> `Singstimme`."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _verse(number: str) -> tuple[int, str]:
    return (int(number) if number.isdigit() else 0, number)


Syllable = tuple[str, str]


def _staves(part: ElementTree.Element) -> list[dict[str, list[Syllable]]]:
    """For each staff of a part with words: verse -> (text, syllabic) in the order of time.

    Where two voices of a staff sing at once, the first in the file counts.
    """
    staves: dict[str, dict[str, list[Syllable]]] = {}
    for measure in part.iter("measure"):
        here: dict[tuple[str, str], dict[int, Syllable]] = {}
        time = 0
        for element in measure:
            length = int(element.findtext("duration") or 0)
            if element.tag == "backup":
                time -= length
            elif element.tag == "forward":
                time += length
            elif element.tag == "note":
                chord = element.find("chord") is not None
                onset = time - length if chord else time
                for lyric in element.iter("lyric"):
                    place = (element.findtext("staff") or "1", lyric.get("number") or "1")
                    text = _text(lyric)
                    if any(letter.isalnum() for letter in text):
                        here.setdefault(place, {}).setdefault(onset, (text, lyric.findtext("syllabic") or "single"))
                time += 0 if chord else length
        for (staff, number), syllables in here.items():
            verse = staves.setdefault(staff, {}).setdefault(number, [])
            verse.extend(syllable for _, syllable in sorted(syllables.items()))
    return [staves[staff] for staff in sorted(staves)]


def _text(lyric: ElementTree.Element) -> str:
    """The text under one note. Elision marks (private characters of the music font) become spaces; `1.` before a verse goes."""
    text = "".join(element.text or "" for element in lyric if element.tag in ("text", "elision"))
    text = " ".join(re.sub(r"[\ue000-\uf8ff‿]", " ", text).split())
    return re.sub(r"^\d+\.\s*", "", text)


def _join(syllables: list[Syllable]) -> str:
    """Syllables to a line of words; some scores write the hyphen into the text instead of marking the syllable."""
    line = "".join(text if kind in ("begin", "middle") else f"{text} " for text, kind in syllables).strip()
    return re.sub(r"(?<=\w)– ", "-", re.sub(r"(?<=\w)- ", "", line))


def language(text: str) -> str:
    """The language whose common words are most frequent in the text; "" below one word in twelve, or when two are close."""
    tokens = re.findall(r"\w+", text.lower())
    counts = sorted(((sum(word in common for word in tokens), name) for name, common in _WORDS.items()), reverse=True)
    (best, name), (second, _) = counts[0], counts[1]
    return name if best * 12 >= max(len(tokens), 1) and best >= 1.3 * second else ""

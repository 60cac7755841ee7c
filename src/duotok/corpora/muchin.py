"""MuChin: Chinese pop songs with KTV line times, sections, rhymes, and descriptions by amateurs and professionals.

Layout as published (github.com/CarlWangChina/MuChin and MuChin-V2-6066): one folder a song (`s_0001`, or `388928` and
`qq_102053172` in version 2) with the files `meta_info` (lines `name : ...`, `singer: ...`, `genre`, `album`),
`raw_lyric` (LRC), `str_lyric` (sections), `prof_desc_json`, `amat_desc_json` and others, all without a suffix. Version 2
has the audio in the same folder as `ID_src.mp3`; where the audio of the first 1,000 songs comes to lie is not verified
here: `ID_src.*` or `ID.*` is looked for in the song's folder and below `audio/`.
Early copies of version 2 have a description in raw_lyric by mistake; such songs take the lines of str_lyric, without times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from duotok.audio.finding import AUDIO_SUFFIXES, find_audio
from duotok.corpora.base import Corpus, CorpusInfo, Option
from duotok.records import CorpusError, Recording

# Version 2 lists the name of the question (subqidmap.json) among the answers.
_QUESTIONS = {
    "特色感受", "现场版", "文化与地域", "音质", "歌唱和人声", "歌词和主题内容", "情绪感受（歌词和旋律）", "Lo-Fi", "配器与音效",
    "描述", "演唱语言", "速度与节奏", "表现力感受（歌手和伴奏）", "情绪感受（歌词）", "表现力感受（歌手）", "风格或流派", "适用人群",
    "快慢感受", "歌曲用途",
}  # fmt: skip
_NO_ANSWER = {"", "无", "没有", "other"}


class MuChin(Corpus):
    """Identity is the singer; singers who sing together in any song are one identity, so none is in two splits."""

    info = CorpusInfo(
        name="muchin",
        title="MuChin",
        what="1,000 (version 2: 6,066) Chinese songs with lyrics, sections and descriptions",
        hours=None,
        gigabytes=None,
        licence="all rights reserved (the songs belong to their makers); published for research only",
        url="https://github.com/CarlWangChina/MuChin",
        put="ROOT/bm-data/s_0001/meta_info, raw_lyric, ...   `dataset/` of the repository, or the unpacked archive of\n"
        "                                                version 2 (any nesting; a song is a folder with meta_info)\n"
        "ROOT/bm-data/ID/ID_src.mp3                      the audio beside it, or in ROOT/audio/ named ID or ID_src\n"
        "(how the audio of the first 1,000 songs is named: not verified here)",
        stages=(1,),
        metadata=("**/meta_info", "**/raw_lyric", "**/str_lyric", "**/prof_desc_json", "*overlap*.jsonl"),
        citation="Wang, Li, Zhang, Wang, Yu, Luo, Liu, Xi, Zhang: MuChin: A Chinese Colloquial Description Benchmark "
        "for Evaluating Language Models in the Field of Music, IJCAI 2024",
    )
    options: ClassVar[Mapping[str, Option]] = {
        "audio": Option("audio", "folder with audio that is not beside meta_info, below the root or absolute")
    }

    def recordings(self) -> Iterator[Recording]:
        songs = {path.parent.name: path.parent for path in sorted(self.root.rglob("meta_info"))}
        if not songs:
            raise CorpusError(
                f"{self.root}: no song (a folder with meta_info); is this MuChin? see `duotok data describe muchin`"
            )
        elsewhere = self.root / self.option("audio")
        extra = {path.stem: path for path in find_audio(elsewhere)} if elsewhere.is_dir() else {}
        doubles = self._doubles()
        infos = {
            song: read_info(folder / "meta_info") for song, folder in songs.items() if doubles.get(song) not in songs
        }
        groups = together(singers(info["singer"]) for info in infos.values())
        for song, info in infos.items():
            names = singers(info["singer"])
            identity = groups[names[0]] if names else song
            lyrics = lyric_file(songs[song])
            yield Recording(
                id=self.id(song),
                corpus=self.name,
                kind="song",
                split=self.split(identity),
                identity=identity,
                audio={"mix": str(_audio(songs[song], song, extra))},
                tags=tuple(dict.fromkeys((*_genre(info), *read_tags(songs[song] / "prof_desc_json")))),
                lyrics=str(lyrics) if lyrics else "",
                language="zh",
                licence=self.info.licence,
                attribution=f"{info['singer']}: {info['name']}",
                source=self.info.url,
            )

    def _doubles(self) -> dict[str, str]:
        """Song of version 2 -> the same song of version 1, from the published lists; its authors advise to leave it out."""
        doubles = {}
        for path in sorted({*self.root.rglob("*overlap*.jsonl"), *self.root.rglob("*enlarged_matches.jsonl")}):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    row = json.loads(line)
                    doubles[_song(row["query"])] = _song(row["matches"][0]["path"])
                except (ValueError, KeyError, IndexError, TypeError):
                    raise CorpusError(f"{path}: line {number}: no `query` and `matches`; another version?") from None
        return doubles


def _song(name: str) -> str:
    """`fp.v1/s_0225_src.json` -> `s_0225`."""
    return Path(name).stem.removesuffix("_src")


def read_info(path: Path) -> dict[str, str]:
    """meta_info: `key : value` lines. Raises CorpusError without `name` and `singer`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: cannot be read as UTF-8 ({error}); take the published file") from None
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    for field in ("name", "singer"):
        if field not in info:
            raise CorpusError(
                f"{path}: no line '{field}: ...' (it has {', '.join(info)}); another version of the metadata?"
            )
    return info


def singers(text: str) -> list[str]:
    """`薛之谦,毛不易` -> both."""
    return [name for name in (part.strip() for part in re.split(r"[,，、/&;；]", text)) if name]


def together(songs: Iterable[list[str]]) -> dict[str, str]:
    """Singer -> the alphabetically first of all singers who are connected with them by common songs."""
    parent: dict[str, str] = {}

    def top(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in songs:
        for name in names:
            first, second = sorted((top(names[0]), top(name)))
            parent[second] = first
    return {name: top(name) for name in parent}


def lyric_file(folder: Path) -> Path | None:
    """raw_lyric if it is LRC as it should be, else str_lyric, else None."""
    raw, sections = folder / "raw_lyric", folder / "str_lyric"
    if raw.is_file():
        with raw.open(encoding="utf-8", errors="replace") as file:
            if re.match(r"\ufeff?\s*\[", file.read(64)):
                return raw
    return sections if sections.is_file() else None


def read_tags(path: Path) -> list[str]:
    """The words that a professional chose. Raises CorpusError for a file of another form; [] without one."""
    if not path.is_file():
        return []
    try:
        answers: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["ans"]
        words = [word.strip() for answer in answers for tag in answer.get("tags", ()) for word in tag.get("value", ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{path}: not a description as published ({error!r}); another version?") from None
    return [word for word in words if word not in _QUESTIONS | _NO_ANSWER]


def _genre(info: dict[str, str]) -> tuple[str, ...]:
    return () if info.get("genre", "") in _NO_ANSWER else (info["genre"],)


def _audio(folder: Path, song: str, extra: Mapping[str, Path]) -> Path:
    """The song's file; the published name in its folder when there is none."""
    for name in (f"{song}_src", song):
        for path in sorted(folder.glob(f"{name}.*")):
            if path.suffix.lower() in AUDIO_SUFFIXES:
                return path
        if name in extra:
            return extra[name]
    return folder / f"{song}_src.mp3"

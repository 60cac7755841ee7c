"""Corpora B: tiny trees with the published folders and columns, and the true tables in ../shared/audio/metadata."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from duotok.corpora.base import Corpus, get, licence_class
from duotok.corpora.disco10m import video_id
from duotok.corpora.magnatagatune import kind_of
from duotok.corpora.openscore_lieder import MEMBER_BYTES, OpenScoreLieder, language, read_musicxml, words
from duotok.records import CorpusError, Recording, by_identity

METADATA = Path(__file__).parents[3] / "shared" / "audio" / "metadata"
true_tables = pytest.mark.skipif(not METADATA.is_dir(), reason="no ../shared/audio beside the project")


def corpus(name: str, root: Path, **options: Any) -> Corpus:
    return get(name)(root, **options)


def listed(name: str, root: Path, **options: Any) -> dict[str, Recording]:
    found = list(corpus(name, root, **options).recordings())
    assert len({item.id for item in found}) == len(found), "ids are unique"
    assert all(re.fullmatch(r"[A-Za-z0-9._/-]+", item.id) for item in found)
    assert no_identity_in_two_splits(found)
    return {item.id: item for item in found}


def no_identity_in_two_splits(items: Iterable[Recording]) -> bool:
    return all(len({item.split for item in group}) == 1 for group in by_identity(items).values())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


# MTG-Jamendo

JAMENDO_HEAD = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
JAMENDO = {
    "train": "track_0000215\tartist_000014\talbum_000031\t15/215.mp3\t151.4\tgenre---metal\tinstrument---voice\r\n"
    "track_0000216\tartist_000014\talbum_000031\t16/216.mp3\t234.9\tgenre---metal\r\n",
    "validation": "track_0000773\tartist_000104\talbum_000126\t73/773.mp3\t275.3\tgenre---electronic\n",
    "test": "track_0000241\tartist_000005\talbum_000033\t41/241.mp3\t340.1\tgenre---rock\n",
}
LICENCES = """15/215.mp3
Some Song by Somebody from Jamendo: http://www.jamendo.com/track/215
Available under a Creative Commons Attribution-NonCommercial-ShareAlike license: http://creativecommons.org/licenses/by-nc-sa/3.0/

73/773.mp3
Other by Another from Jamendo: http://www.jamendo.com/track/773
Available under a Free Art License: http://artlibre.org/licence/lal/en
"""


def jamendo(root: Path, **tables: str) -> Path:
    for split, rows in {**JAMENDO, **tables}.items():
        write(root / f"data/splits/split-0/autotagging_top50tags-{split}.tsv", JAMENDO_HEAD + rows)
    write(root / "audio_licenses.txt", LICENCES)
    (root / "audio" / "15").mkdir(parents=True)
    return root


def test_jamendo_tables(tmp_path: Path) -> None:
    write(jamendo(tmp_path) / "audio/73/773.low.mp3", "")
    found = listed("mtg_jamendo", tmp_path)
    first = found["mtg_jamendo/track_0000215"]
    assert (first.split, first.kind, first.seconds) == ("train", "song", 151.4)
    assert first.tags == ("genre---metal", "instrument---voice"), "no carriage return stays"
    assert first.audio == {"mix": str(tmp_path / "audio/15/215.mp3")}
    assert first.licence == "CC BY-NC-SA 3.0" and "Somebody" in first.attribution
    small = found["mtg_jamendo/track_0000773"]
    assert (small.split, small.kind) == ("validation", "music")
    assert small.audio["mix"].endswith("73/773.low.mp3"), "the small version where only that is there"
    assert licence_class(small.licence) == "share-alike"
    assert found["mtg_jamendo/track_0000241"].licence == "", "not in the list: unknown, not guessed"


def test_jamendo_split_by_artist(tmp_path: Path) -> None:
    write(jamendo(tmp_path) / "data/autotagging.tsv", JAMENDO_HEAD + "".join(JAMENDO.values()))
    found = listed("mtg_jamendo", tmp_path, subset="autotagging", split="artist", test=1.0, validation=0.0)
    assert {item.split for item in found.values()} == {"test"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "audio/15").rmdir(), r"no 00 or .*is this MTG-Jamendo"),
        (
            lambda root: (root / "data/splits/split-0/autotagging_top50tags-test.tsv").unlink(),
            r"top50tags-test\.tsv: no such table",
        ),
        (
            lambda root: write(
                root / "data/splits/split-0/autotagging_top50tags-train.tsv",
                "TRACK_ID\tARTIST_ID\tPATH\tDURATION\tTAGS\n",
            ),
            r"train\.tsv: no column 'ALBUM_ID'",
        ),
        (
            lambda root: write(
                root / "data/splits/split-0/autotagging_top50tags-test.tsv", JAMENDO_HEAD + JAMENDO["train"]
            ),
            r"artist_000014 is also in train",
        ),
        (
            lambda root: write(
                root / "data/splits/split-0/autotagging_top50tags-train.tsv",
                JAMENDO_HEAD + "track_1\tartist_1\talbum_1\t../../etc/passwd\t1\t\n",
            ),
            r"train\.tsv: line 2: no path",
        ),
        (lambda root: write(root / "audio_licenses.txt", "moved\n"), r"audio_licenses\.txt: no track"),
    ],
)
def test_jamendo_bad_input(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(jamendo(tmp_path))
    with pytest.raises(CorpusError, match=message):
        list(corpus("mtg_jamendo", tmp_path).recordings())


def test_jamendo_cut_gzip(tmp_path: Path) -> None:
    table = jamendo(tmp_path) / "data/splits/split-0/autotagging_top50tags-train.tsv"
    table.with_name(table.name + ".gz").write_bytes(gzip.compress(table.read_bytes())[:-12])
    table.unlink()
    with pytest.raises(CorpusError, match=r"train\.tsv\.gz: damaged"):
        list(corpus("mtg_jamendo", tmp_path).recordings())


@true_tables
def test_jamendo_true_tables(tmp_path: Path) -> None:
    (tmp_path / "split-0").symlink_to(METADATA / "mtg-jamendo" / "split-0")
    (tmp_path / "audio" / "00").mkdir(parents=True)
    found = listed("mtg_jamendo", tmp_path)
    assert len(found) == 54_380  # README of the dataset
    tags = {tag for item in found.values() for tag in item.tags}
    assert tags == set((METADATA / "mtg-jamendo/tags/top50.txt").read_text().split())
    assert {item.split for item in found.values()} == {"train", "validation", "test"}


# MagnaTagATune

CLIP = "american_bach_soloists-j_s__bach_solo_cantatas-01-bwv54__i_aria-30-59.mp3"
TABLE = (
    '"clip_id"\t"no voice"\t"singing"\t"violin"\t"mp3_path"\n'
    f'"2"\t"0"\t"1"\t"1"\t"f/{CLIP}"\n'
    '"14"\t"1"\t"0"\t"0"\t"c/lvx_nova-lvx_nova-01-contact-30-59.mp3"\n'
    '"99"\t"1"\t"1"\t"0"\t"0/lvx_nova-other-02-contact-0-29.mp3"\n'
)


def magnatagatune(root: Path, table: str = TABLE) -> Path:
    write(root / "annotations_final.csv", table)
    write(
        root / "clip_info_final.csv",
        "clip_id\ttrack_number\ttitle\tartist\talbum\turl\tsegmentStart\tsegmentEnd\toriginal_url\tmp3_path\n"
        f"2\t1\tBWV54 - I Aria\tAmerican Bach Soloists\tSolo Cantatas\thttp://x\t30\t59\thttp://x\tf/{CLIP}\n",
    )
    (root / "mp3" / "f").mkdir(parents=True)
    return root


def test_magnatagatune_tables(tmp_path: Path) -> None:
    found = listed("magnatagatune", magnatagatune(tmp_path))
    first = found["magnatagatune/2"]
    assert (first.split, first.kind, first.seconds) == ("test", "song", 29.0)
    assert first.tags == ("singing", "violin")
    assert first.attribution == "American Bach Soloists: BWV54 - I Aria (Solo Cantatas, Magnatune)"
    assert first.audio["mix"] == str(tmp_path / "mp3/f" / CLIP)
    silent = found["magnatagatune/14"]
    assert (silent.split, silent.kind, list(silent.audio)) == ("validation", "instrumental", ["accompaniment"])
    assert found["magnatagatune/99"].split == "train" and found["magnatagatune/99"].kind == "music", "tags disagree"
    assert licence_class(first.licence) == "non-commercial"


def test_magnatagatune_by_artist(tmp_path: Path) -> None:
    found = listed("magnatagatune", magnatagatune(tmp_path), split="artist")
    assert found["magnatagatune/14"].identity == found["magnatagatune/99"].identity == "lvx_nova"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.replace("mp3_path", "path"), r"annotations_final\.csv: no column 'mp3_path'"),
        (TABLE.replace(f"f/{CLIP}", "../../x.mp3"), r"clip '\.\./\.\./x\.mp3'"),
    ],
)
def test_magnatagatune_bad_tables(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(corpus("magnatagatune", magnatagatune(tmp_path, table)).recordings())


def test_kind_of_tags() -> None:
    assert kind_of({"female vocal", "slow"}) == "song"
    assert kind_of({"no vocals"}) == "instrumental"
    assert kind_of({"guitar"}) == "music"


@true_tables
def test_magnatagatune_true_index(tmp_path: Path) -> None:
    for path in (METADATA / "mtt").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "mp3" / "0").mkdir(parents=True)
    found = listed("magnatagatune", tmp_path)
    assert len(found) == 25_863
    for name, split in (("val", "validation"), ("test", "test")):
        rows = (METADATA / f"mtt/{name}_gt_mtt.tsv").read_text().splitlines()
        named = {f"magnatagatune/{row.split(chr(9))[0]}" for row in rows}
        assert named == {item.id for item in found.values() if item.split == split}, "MARBLE's folders = the tables"
    tags = {tag for item in found.values() for tag in item.tags}
    names = (METADATA / "mtt/top50_tags.txt").read_text().split()
    assert tags == {re.sub("[A-Z]", lambda letter: f" {letter[0].lower()}", name) for name in names}, "noVocals, newAge"
    listed("magnatagatune", tmp_path, split="artist")  # here no artist is in two splits


# DISCO-10M

DISCO_ROWS = {
    "video_url_youtube": ["https://www.youtube.com/watch?v=dQw4w9WgXcQ", "https://youtu.be/aaaaaaaaaa_", None],
    "video_title_youtube": ["a", "b", "c"],
    "track_name_spotify": ["First", "Second", "Third"],
    "video_duration_youtube_sec": [212.0, None, 1.0],
    "artist_id_spotify": [["art1", "art2"], ["art1"], []],
    "primary_artist_name_spotify": ["Someone", "Someone", None],
    "audio_embedding_spotify": [[0.5] * 8] * 3,
}


def disco(root: Path, rows: dict[str, Any] | None = None, files: Iterable[str] = ("x/dQw4w9WgXcQ.opus",)) -> Path:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (root / "data").mkdir(parents=True)
    parquet.write_table(pa.table(rows or DISCO_ROWS), root / "data/train-00000-of-00001.parquet")
    (root / "audio").mkdir()
    for name in files:
        write(root / "audio" / name, "")
    return root


def test_disco_has_what_the_user_has(tmp_path: Path) -> None:
    found = listed("disco10m", disco(tmp_path, files=("x/dQw4w9WgXcQ.opus", "aaaaaaaaaa_.mp3", "unknown.mp3")))
    assert {item.attribution for item in found.values()} == {"Someone: First", "Someone: Second"}
    first = found["disco10m/dQw4w9WgXcQ"]
    assert (first.seconds, first.identity, first.kind) == (212.0, "art1", "music")
    assert licence_class(first.licence) == "restricted"


def test_disco_artist_as_text(tmp_path: Path) -> None:
    rows = {**DISCO_ROWS, "artist_id_spotify": ["art9", "art1", None]}
    assert listed("disco10m", disco(tmp_path, rows))["disco10m/dQw4w9WgXcQ"].identity == "art9"


def test_laion_disco(tmp_path: Path) -> None:
    rows = {
        "song_id": ["dQw4w9WgXcQ"], "title": ["First"], "artist_names": [["Someone"]], "artist_ids": [["UC1"]],
        "album_name": ["A"], "album_id": ["b"], "isExplicit": [False], "views": ["1M"], "duration": [212],
    }  # fmt: skip
    found = listed("disco10m", disco(tmp_path, rows))["disco10m/dQw4w9WgXcQ"]
    assert (found.identity, found.seconds, found.attribution) == ("UC1", 212.0, "Someone: First")


def test_disco_bad_input(tmp_path: Path) -> None:
    rows = {name: cells for name, cells in DISCO_ROWS.items() if name != "artist_id_spotify"}
    with pytest.raises(CorpusError, match=r"parquet: no column 'artist_id_spotify'"):
        list(corpus("disco10m", disco(tmp_path / "a", rows)).recordings())
    with pytest.raises(CorpusError, match=r"audio: none of its 1 audio files is named by a video"):
        list(corpus("disco10m", disco(tmp_path / "b", files=("song.mp3",))).recordings())
    root = disco(tmp_path / "c")
    (root / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(CorpusError, match="cannot be read"):
        list(corpus("disco10m", root).recordings())


def test_video_id() -> None:
    for text in ("https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=1", "https://youtu.be/dQw4w9WgXcQ", "dQw4w9WgXcQ"):
        assert video_id(text) == "dQw4w9WgXcQ"
    assert video_id("https://example.org/dQw4w9WgXcQ/dQw4w9WgXcQQQ") == video_id(None) == ""


# MuChin

DESCRIPTION = {"mid": "s_0001", "ans": [{"id": "x", "tags": [{"tid": "y", "value": ["配器与音效", "吉他", "无"]}]}]}


def muchin_song(root: Path, song: str, singer: str, lyrics: str = "[00:17.42]当你走进这欢乐场\n") -> Path:
    folder = root / "bm-data" / song
    write(folder / "meta_info", f"name  : 歌\nsinger: {singer}\ngenre : pop\nalbum : a:b\n")
    write(folder / "raw_lyric", lyrics)
    write(folder / "str_lyric", "(verse1)\n当你走进这欢乐场\n")
    write(folder / "prof_desc_json", json.dumps(DESCRIPTION, ensure_ascii=False))
    return folder


def test_muchin_songs(tmp_path: Path) -> None:
    write(muchin_song(tmp_path, "s_0001", "薛之谦,毛不易") / "s_0001_src.mp3", "")
    muchin_song(tmp_path, "s_0002", "毛不易", lyrics=json.dumps(DESCRIPTION))
    muchin_song(tmp_path, "s_0003", "薛之谦")
    write(tmp_path / "audio/s_0003.wav", "")
    found = listed("muchin", tmp_path)
    first, second, third = found.values()
    assert first.language == "zh" and first.kind == "song" and first.tags == ("pop", "吉他")
    assert first.audio["mix"].endswith("s_0001_src.mp3") and third.audio["mix"].endswith("audio/s_0003.wav")
    assert first.identity == second.identity == third.identity, "a duet ties its singers"
    assert first.lyrics.endswith("s_0001/raw_lyric")
    assert second.lyrics.endswith("s_0002/str_lyric"), "a description in raw_lyric is no lyrics"
    assert licence_class(first.licence) in ("restricted", "non-commercial")


def test_muchin_leaves_out_doubles(tmp_path: Path) -> None:
    muchin_song(tmp_path, "s_0225", "甲")
    for song in ("qq_339135604", "qq_2"):
        muchin_song(tmp_path, song, "甲")
    write(
        tmp_path / "muchin_5790_1000_overlap.jsonl",
        '{"query": "fp.enlarged/qq_339135604_src.json", "matches": [{"score": 0.98, "path": "fp.v1/s_0225_src.json"}]}\n',
    )
    assert set(listed("muchin", tmp_path)) == {"muchin/s_0225", "muchin/qq_2"}


def test_muchin_bad_input(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is this MuChin"):
        list(corpus("muchin", tmp_path).recordings())
    folder = muchin_song(tmp_path, "s_0001", "甲")
    write(folder / "prof_desc_json", "[]")
    with pytest.raises(CorpusError, match="prof_desc_json: not a description"):
        list(corpus("muchin", tmp_path).recordings())
    write(folder / "meta_info", "name: 歌\nartist: 甲\n")
    with pytest.raises(CorpusError, match="meta_info: no line 'singer"):
        list(corpus("muchin", tmp_path).recordings())


# OpenScore Lieder

SCORE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">
<score-partwise version="4.0"><part-list>
<score-part id="P1"><part-name>Singstimme
Voice</part-name></score-part><score-part id="P2"><part-name>Piano</part-name></score-part></part-list>
<part id="P1"><measure number="1">
<note><rest/><duration>2</duration><voice>1</voice></note>
<note><duration>1</duration><voice>1</voice><lyric number="1"><syllabic>begin</syllabic><text>ge</text></lyric></note>
<note><duration>1</duration><voice>1</voice><lyric number="1"><syllabic>end</syllabic>
<text>me</text><elision>\ue551</elision><text>un</text></lyric></note>
<backup><duration>4</duration></backup>
<note><duration>2</duration><voice>2</voice><lyric number="1"><text>1. Ich</text></lyric>
<lyric number="2"><text>Der</text></lyric></note>
</measure></part><part id="P2"><measure number="1"><note><duration>4</duration></note></measure></part></score-partwise>"""


def lieder(root: Path, score: str | bytes = SCORE) -> Path:
    write(root / "data/composers.tsv", "id\tpath\tname\tgender\n1\tLang,_Josephine\tJosephine Lang\tFemale\n")
    write(root / "data/scores.tsv", "id\tpath\tname\tlink\n123\tLang,_Josephine/_/Lied\tLied\t\n")
    packed(root / "scores/Lang,_Josephine/_/Lied/lc123.mxl", score)
    return root


def packed(path: Path, score: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "META-INF/container.xml", '<container><rootfiles><rootfile full-path="score.xml"/></rootfiles></container>'
        )
        archive.writestr("score.xml", score)
    return path


def lieder_of(root: Path) -> OpenScoreLieder:
    found = corpus("openscore_lieder", root)
    assert isinstance(found, OpenScoreLieder)
    return found


def test_lieder_scores(tmp_path: Path) -> None:
    (score,) = lieder_of(lieder(tmp_path)).scores()
    assert (score.id, score.composer, score.title) == ("openscore_lieder/123", "Josephine Lang", "Lied")
    assert score.lyrics == {"Singstimme": ("Ich geme un", "Der")}, "in the order of time, not of voices"
    with pytest.raises(CorpusError, match="scores without audio"):
        lieder_of(tmp_path).recordings()


def test_lieder_refuses_entities_and_bombs(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><score-partwise>&b;</score-partwise>'
    for name, score in (("utf-8", bomb.encode()), ("utf-16", bomb.encode("utf-16"))):
        with pytest.raises(CorpusError, match="declares XML entities"):
            read_musicxml(packed(tmp_path / f"{name}.mxl", score))
    with pytest.raises(CorpusError, match="over 64 MB"):
        read_musicxml(packed(tmp_path / "zeros.mxl", bytes(MEMBER_BYTES + 1)))
    with pytest.raises(CorpusError, match="not a MusicXML score"):
        read_musicxml(packed(tmp_path / "cut.mxl", SCORE[:300]))
    with pytest.raises(CorpusError, match="not a MusicXML score"):
        read_musicxml(write(tmp_path / "text.mxl", "no zip"))
    plain = read_musicxml(write(tmp_path / "plain.musicxml", SCORE))
    assert list(words(plain)) == ["Singstimme"]


def test_lieder_moved(tmp_path: Path) -> None:
    (lieder(tmp_path) / "scores/Lang,_Josephine/_/Lied/lc123.mxl").rename(tmp_path / "lc123.mscx")
    with pytest.raises(CorpusError, match=r"no lcID\.mxl; make them"):
        list(lieder_of(tmp_path).scores())
    write(tmp_path / "data/scores.tsv", "id\tpath\ttitle\n")
    with pytest.raises(CorpusError, match=r"scores\.tsv: no column 'name'"):
        list(lieder_of(tmp_path).scores())


def test_language() -> None:
    assert language("Ich weiss nicht was soll es bedeuten") == "de"
    assert language("Si vous croyez que je vais dire qui j'ose aimer") == "fr"
    assert language("It was a lover and his lass") == "en"
    assert language("Tralala tralala") == ""


@true_tables
def test_lieder_true_scores(tmp_path: Path) -> None:
    with tarfile.open(METADATA / "openscore_lieder/openscore_lieder_360.tar.gz") as archive:
        names = [name for name in archive.getnames() if name.startswith("data/")]
        scores = [name for name in archive.getnames() if name.endswith(".mxl")]
        assert len(scores) == 360
        archive.extractall(tmp_path, [archive.getmember(name) for name in names + scores[::12]], filter="data")
    found = list(lieder_of(tmp_path).scores())
    assert len(found) == len({score.id for score in found}) == len(scores[::12])
    assert all(score.lyrics and score.composer and score.title for score in found)
    assert sum(score.language in ("de", "en", "fr") for score in found) >= 0.9 * len(found)
    text = " ".join(verse for score in found for verses in score.lyrics.values() for verse in verses)
    assert not re.search(r"[\ue000-\uf8ff]", text), "no characters of the music font"


# All

NAMES = ("disco10m", "muchin", "mtg_jamendo", "magnatagatune", "openscore_lieder")


@pytest.mark.parametrize("name", NAMES)
def test_moved_root_and_info(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone: no such folder; `duotok data describe"):
        corpus(name, tmp_path / "gone")
    info = get(name).info
    assert info.name == name and info.put.strip() and info.url.startswith("https://") and info.citation
    with pytest.raises(CorpusError):
        found = corpus(name, tmp_path)
        list(found.scores() if isinstance(found, OpenScoreLieder) else found.recordings())

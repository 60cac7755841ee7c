"""LibriTTS, FSD50K, FMA, MUSDB18-HQ, folders, INDEX.tsv, generated songs: tiny trees with the published names and columns."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.marked_sounds import write_marked_sounds

from duotok.audio.io import write
from duotok.corpora.base import Corpus, get, licence_class, lyrics_part
from duotok.corpora.fma import COLUMNS
from duotok.corpora.musdb18hq import VALIDATION
from duotok.data.catalog import check
from duotok.lyrics.readers import read_lyrics
from duotok.records import CorpusError, Recording, by_identity, read_table, write_table

SHARED = Path(__file__).parents[3] / "shared" / "audio"
needs_shared = pytest.mark.skipif(not (SHARED / "INDEX.tsv").is_file(), reason="no ../shared/audio beside the project")


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(name: str, root: Path, **options: object) -> dict[str, Recording]:
    """What an adapter yields, by id without the corpus name; what all of them must keep is tested here."""
    corpus: Corpus = get(name)(root, **options)  # type: ignore[arg-type]
    found = list(corpus.recordings())
    check(found)
    assert found == list(corpus.recordings())
    assert all(r.id.startswith(f"{name}/") and r.corpus == name and r.attribution and r.source for r in found)
    assert all(len({r.split for r in group}) == 1 for group in by_identity(found).values())
    assert all(Path(p).is_absolute() for r in found for p in r.audio.values())
    assert len({r.id for r in found}) == len(found)
    return {r.id.removeprefix(f"{name}/"): r for r in found}


# LibriTTS

SPEAKERS = """; Some pipe(|) separated metadata about all LibriVox readers, whose work was used
; in the corpus.
;
;ID  |SEX| SUBSET           |MINUTES| NAME
14   | F | train-clean-360  | 25.03 | Kristin LeMoine
60   | M | train-clean-100  | 20.18 | |CBW|Simon
61   | M | test-clean       | 8.08  | Paul-Gabriel Wiener
84   | F | dev-clean        | 8.02  | Christie Nowak
"""


def libritts(root: Path) -> Path:
    base = root / "LibriTTS"
    put(base / "SPEAKERS.txt", SPEAKERS)
    for subset, speaker, chapter in (
        ("train-clean-100", "60", "121082"),
        ("train-clean-360", "14", "208"),
        ("dev-clean", "84", "121123"),
        ("test-clean", "61", "70968"),
    ):
        folder = base / subset / speaker / chapter
        for n in range(3):
            put(folder / f"{speaker}_{chapter}_000007_00000{n}.wav")
            put(folder / f"{speaker}_{chapter}_000007_00000{n}.normalized.txt", "Go.")
            put(folder / f"{speaker}_{chapter}_000007_00000{n}.original.txt", "Go.")
        put(folder / f"{speaker}_{chapter}.trans.tsv")
        put(folder / f"{speaker}_{chapter}.book.tsv")
    return root


def test_libritts(tmp_path: Path) -> None:
    root = libritts(tmp_path)
    found = read("libritts", root)
    assert len(found) == 12
    one = found["dev-clean/84_121123_000007_000001"]
    assert (one.kind, one.split, one.identity, one.language) == ("speech", "validation", "84", "en")
    assert one.audio == {
        "vocals": str(root / "LibriTTS" / "dev-clean" / "84" / "121123" / "84_121123_000007_000001.wav")
    }
    assert Path(one.lyrics).read_text() == "Go."
    assert "Christie Nowak" in one.attribution and "female" in one.tags
    assert "CBW|Simon" in found["train-clean-100/60_121082_000007_000000"].attribution
    assert {r.split for r in found.values()} == {"train", "validation", "test"}
    assert licence_class(one.licence) == "attribution"
    assert read("libritts", root / "LibriTTS") == found, "the root may be LibriTTS itself"
    assert {r.split for r in read("libritts", root, subsets="dev-clean").values()} == {"validation"}


def test_libritts_yields_what_is_half_there(tmp_path: Path) -> None:
    folder = libritts(tmp_path) / "LibriTTS" / "dev-clean" / "84" / "121123"
    (folder / "84_121123_000007_000000.wav").unlink()
    (folder / "84_121123_000007_000001.normalized.txt").unlink()
    found = read("libritts", tmp_path)
    assert not Path(found["dev-clean/84_121123_000007_000000"].audio["vocals"]).exists()
    assert found["dev-clean/84_121123_000007_000001"].lyrics == ""


# FSD50K


def fsd50k(root: Path) -> Path:
    put(
        root / "FSD50K.ground_truth" / "dev.csv",
        "fname,labels,mids,split\n"
        '64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n'
        '16399,"Dog,Animal","/m/0bt9lr,/m/0jbk",train\n'
        '62759,"Rain","/m/06mb1",val\n'
        '62760,"Rain","/m/06mb1",val\n',
    )
    put(
        root / "FSD50K.ground_truth" / "eval.csv",
        'fname,labels,mids\n37199,"Guitar","/m/0342h"\n175151,"Dog","/m/0bt9lr"\n',
    )
    put(root / "FSD50K.ground_truth" / "vocabulary.csv", "0,Accelerating_and_revving_and_vroom,/m/07q2z82\n")

    def clip(uploader: str, licence: str) -> dict[str, object]:
        return {"title": f"by {uploader}", "description": "", "tags": ["x"], "license": licence, "uploader": uploader}

    by, zero = "http://creativecommons.org/licenses/by/3.0/", "http://creativecommons.org/publicdomain/zero/1.0/"
    nc = "http://creativecommons.org/licenses/by-nc/3.0/"
    dev = {"64760": clip("ann", by), "16399": clip("bob", nc), "62759": clip("cat", zero), "62760": clip("bob", by)}
    put(root / "FSD50K.metadata" / "dev_clips_info_FSD50K.json", json.dumps(dev))
    put(
        root / "FSD50K.metadata" / "eval_clips_info_FSD50K.json",
        json.dumps({"37199": clip("dan", by), "175151": clip("ann", zero)}),
    )
    return root


def test_fsd50k(tmp_path: Path) -> None:
    found = read("fsd50k", fsd50k(tmp_path))
    assert {name: r.split for name, r in found.items()} == {
        "dev/64760": "train", "dev/16399": "train", "dev/62759": "validation", "dev/62760": "validation",
        "eval/37199": "test", "eval/175151": "test",
    }  # fmt: skip
    one = found["dev/64760"]
    assert one.kind == "sound" and one.tags == ("Electric_guitar", "Guitar", "Music")
    assert one.audio == {"mix": str(tmp_path / "FSD50K.dev_audio" / "64760.wav")}
    assert found["eval/37199"].audio["mix"].endswith("FSD50K.eval_audio/37199.wav")
    assert licence_class(found["dev/16399"].licence) == "non-commercial"
    assert licence_class(found["dev/62759"].licence) == "public-domain"
    assert found["dev/62759"].identity == "cat"
    # bob and ann have clips on both sides of the official split: it is kept, their clips count one by one.
    assert found["dev/62760"].identity == "fsd50k/dev/62760"


def test_fsd50k_needs_each_clips_licence(tmp_path: Path) -> None:
    root = fsd50k(tmp_path)
    path = root / "FSD50K.metadata" / "dev_clips_info_FSD50K.json"
    clips = json.loads(path.read_text())
    del clips["16399"]["license"]
    path.write_text(json.dumps(clips))
    with pytest.raises(CorpusError, match=r"no license for clip 16399 of dev\.csv"):
        read("fsd50k", root)
    del clips["16399"]
    path.write_text(json.dumps(clips))
    with pytest.raises(CorpusError, match="no clip for clip 16399"):
        read("fsd50k", root)
    path.write_text("{")
    with pytest.raises(CorpusError, match="damaged"):
        read("fsd50k", root)


# FMA

FMA_HEAD = (  # the 52 columns of tracks.csv as published, in their order
    ("album", "comments date_created date_released engineer favorites id information listens producer tags title tracks type"),
    (
        "artist",
        "active_year_begin active_year_end associated_labels bio comments date_created favorites id latitude location "
        "longitude members name related_projects tags website wikipedia_page",
    ),
    ("set", "split subset"),
    (
        "track",
        "bit_rate comments composer date_created date_recorded duration favorites genre_top genres genres_all information "
        "interest language_code license listens lyricist number publisher tags title",
    ),
)  # fmt: skip
NC = "Attribution-NonCommercial-ShareAlike 3.0 International"
FMA_ROWS = (
    ("2", "training", "small", "Food", "168", NC, "[21]", "en", "1", "AWOL"),
    ("3", "training", "medium", "Electric Ave", "237", NC, "[21]", "en", "1", "AWOL"),
    ("5", "validation", "small", "This, World", "206", "Attribution", "[21, 4]", "en", "6", 'Nicky "N" Cook'),
    ("140", "test", "large", "Queen Of The Wires", "12", "CC0 1.0 Universal", "[]", "", "54", "Alec K."),
    ("155123", "training", "large", "Long", "11017", "Orphan Works", "[4]", "", "9", "X"),
)


def fma(root: Path, *sizes: str, drop: str = "") -> Path:
    columns = [f"{group}.{name}" for group, names in FMA_HEAD for name in names.split()]
    columns = [column for column in columns if column != drop]
    lines = ["," + ",".join(c.split(".")[0] for c in columns), "," + ",".join(c.split(".")[1] for c in columns)]
    lines.append("track_id" + "," * len(columns))
    for track, *values in FMA_ROWS:
        cells = dict(zip(COLUMNS, _in_order(values), strict=True)) | {"artist.bio": "<p>two\nlines, and a comma</p>"}
        quoted = ['"' + cells.get(column, "").replace('"', '""') + '"' for column in columns]
        lines.append(",".join([track, *quoted]))
    put(root / "fma_metadata" / "tracks.csv", "\n".join(lines) + "\n")
    put(
        root / "fma_metadata" / "genres.csv",
        "genre_id,#tracks,parent,title,top_level\n4,4126,0,Jazz,4\n21,8389,0,Hip-Hop,21\n",
    )
    for size in sizes:
        put(root / f"fma_{size}" / "checksums")
    return root


def _in_order(values: list[str]) -> list[str]:
    split, subset, title, duration, licence, genres, language, artist, name = values
    return [split, subset, title, duration, licence, genres, language, artist, name]


@pytest.mark.parametrize(("size", "count"), [("small", 2), ("medium", 3), ("large", 5), ("full", 5)])
def test_fma_sizes(tmp_path: Path, size: str, count: int) -> None:
    found = read("fma", fma(tmp_path, size))
    assert len(found) == count
    one = found["000002"]
    assert one.audio == {"mix": str(tmp_path / f"fma_{size}" / "000" / "000002.mp3")}
    assert one.seconds == (168.0 if size == "full" else 30.0)
    assert (one.kind, one.split, one.identity, one.language) == ("music", "train", "1", "en")
    assert one.tags == ("Hip-Hop",) and one.attribution == "AWOL - Food"
    assert licence_class(one.licence) == "non-commercial"
    assert found["000005"].split == "validation" and found["000005"].tags == ("Hip-Hop", "Jazz")
    if count == 5:
        assert found["155123"].audio["mix"].endswith(f"fma_{size}/155/155123.mp3")
        assert found["000140"].seconds == 12.0 and licence_class(found["000140"].licence) == "public-domain"


def test_fma_takes_the_largest_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    root = fma(tmp_path, "small", "large")
    assert "fma_large" in read("fma", root)["000002"].audio["mix"]
    assert "fma_small" in read("fma", root, size="small")["000002"].audio["mix"]
    with pytest.raises(CorpusError, match="fma_full: no such folder; there is fma_small, fma_large"):
        read("fma", root, size="full")


def test_fma_names_the_column_that_another_version_has_not(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"tracks\.csv: no column 'set.subset'"):
        read("fma", fma(tmp_path, "small", drop="set.subset"))
    put(tmp_path / "fma_metadata" / "tracks.csv", "track_id,title,artist\n1,a,b\n")
    with pytest.raises(CorpusError, match=r"no column 'set\.split' under two header rows"):
        read("fma", tmp_path)


# MUSDB18-HQ


def musdb18hq(root: Path) -> Path:
    for part, songs in (
        ("train", ["Actions - Devil's Words", "Music Delta - Rock", *sorted(VALIDATION)]),
        ("test", ["Music Delta - 80s Rock", "AM Contra - Heart Peripheral"]),
    ):
        for song in songs:
            for stem in ("mixture", "vocals", "drums", "bass", "other"):
                put(root / part / song / f"{stem}.wav")
    return root


def test_musdb18hq(tmp_path: Path) -> None:
    found = read("musdb18hq", musdb18hq(tmp_path))
    splits = [r.split for r in found.values()]
    assert (splits.count("train"), splits.count("validation"), splits.count("test")) == (2, 14, 2)
    for r in found.values():
        assert set(r.audio) == {"mix", "vocals", "drums", "bass", "other"} and r.kind == "song"
        assert all(Path(path).is_file() for path in r.audio.values())
        assert licence_class(r.licence) == "non-commercial"
        assert (r.split == "validation") == (r.identity in VALIDATION)


@needs_shared
def test_musdb18hq_with_the_true_tracklist(tmp_path: Path) -> None:
    tracklist = SHARED / "metadata" / "musdb18" / "tracklist.csv"
    found = {r.identity: r for r in read("musdb18hq", musdb18hq(tmp_path), tracklist=tracklist.as_posix()).values()}
    assert found["Actions - Devil's Words"].tags == ("Pop/Rock",)
    assert licence_class(found["Actions - Devil's Words"].licence) == "restricted"
    assert licence_class(found["Music Delta - Rock"].licence) == "non-commercial"
    true = re.findall(r"^- '(.+)'$", (SHARED / "metadata" / "musdb18" / "mus.yaml").read_text(), re.MULTILINE)
    assert set(true) == VALIDATION


def test_musdb18hq_tells_the_compressed_version(tmp_path: Path) -> None:
    put(tmp_path / "train" / "Actions - Devil's Words.stem.mp4")
    put(tmp_path / "test" / "x.stem.mp4")
    with pytest.raises(CorpusError, match=r"compressed stems; this corpus wants MUSDB18-HQ"):
        read("musdb18hq", tmp_path)


# folder


def folder(root: Path) -> Path:
    for n in range(40):
        put(root / f"Artist {n % 4}" / f"{n:02d}. Söng.mp3")
    for file in (
        "夜/歌.flac", "a b.wav", "a_b.wav", "a.b.wav", "same.mp3", "same.ogg", ".hidden/x.wav", "notes.md",
        "Duo.vocals.opus", "Duo.accompaniment.opus", "Duo.drums.opus", "Solo.vocals.wav", "Band.accompaniment.wav",
        "Multi/mixture.wav", "Multi/vocals.wav", "Multi/no_vocals.wav", "Odd/vocals.wav", "Ballad.mix.wav",
    ):  # fmt: skip
        put(root / file)
    put(root / "Duo.lrc", "[00:01.00]la")
    put(root / "Duo.txt", "la")
    put(root / "Multi" / "lyrics.json", "{}")
    put(root / "a b.txt", "words")
    put(root / "work" / "recordings.parquet")
    put(root / "work" / "stems" / "folder" / "x" / "vocals.flac")
    return root


def test_a_title_that_ends_with_the_name_of_a_track_is_a_song(tmp_path: Path) -> None:
    for file in ("All.About.That.Bass.mp3", "Lost.My.Voice.mp3", "Duo.bass.mp3", "Duo.drums.mp3"):
        put(tmp_path / file)
    found = {r.identity: (r.kind, set(r.audio)) for r in read("folder", tmp_path).values()}
    song = ("music", {"mix"})
    duo = ("instrumental", {"bass", "drums"})
    assert found == {"All.About.That.Bass": song, "Lost.My.Voice": song, "Duo": duo}


def test_folder(tmp_path: Path) -> None:
    found = read("folder", folder(tmp_path))
    assert len(found) == 40 + 6 + 6
    by_name = {r.identity: r for r in found.values() if r.identity != "same"}
    assert set(by_name["Duo"].audio) == {"vocals", "accompaniment", "drums"} and by_name["Duo"].kind == "song"
    assert by_name["Duo"].lyrics.endswith("Duo.lrc"), "lyrics with times before lyrics without"
    assert set(by_name["Multi"].audio) == {"mix", "vocals", "accompaniment"}
    assert by_name["Multi"].lyrics.endswith("lyrics.json")
    assert (by_name["Solo"].kind, set(by_name["Solo"].audio)) == ("voice", {"vocals"})
    assert (by_name["Band"].kind, set(by_name["Band"].audio)) == ("instrumental", {"accompaniment"})
    assert by_name["Odd/vocals"].kind == "music", "a lone file of that name is no track"
    assert (by_name["a b"].kind, by_name["a b"].lyrics) == ("music", str(tmp_path / "a b.txt"))
    assert not any("work" in r.id or "hidden" in r.id for r in found.values())
    same = [r for r in found.values() if r.identity == "same"]
    assert [r.id for r in same] == ["folder/same", "folder/same-ogg"] and same[0].split == same[1].split
    assert licence_class(by_name["Duo"].licence) == "unknown"
    assert {r.split for r in found.values()} == {"train", "validation", "test"} or len(found) < 60


def test_lyrics_of_no_song_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt name loses them, and nothing else would say so."""
    for file in (
        "One.mp3",
        "Two.vocals.flac",
        "Two.accompaniment.flac",
        "Three.mp3",
        "Four/vocals.wav",
        "Four/no_vocals.wav",
    ):
        put(tmp_path / file)
    for file in ("One.lrc", "Two.LRC", "Four/lyrics.lrc", "notes.txt"):
        put(tmp_path / file, "[00:01.00]la")
    found = {r.identity: Path(r.lyrics).name for r in read("folder", tmp_path).values()}
    assert found == {"One": "One.lrc", "Two": "Two.LRC", "Three": "", "Four": "lyrics.lrc"} and not caplog.records
    put(tmp_path / "Two.vocals.lrc", "[00:01.00]la")
    put(tmp_path / "Thre.lrc", "[00:01.00]la")
    read("folder", tmp_path)
    told = "lyrics of no song: Thre.lrc, Two.vocals.lrc; the lyrics of SONG.mp3 are SONG.lrc"
    assert told in caplog.text
    # songs that are left out themselves, and told: with a track that is there twice, or written by DuoTok
    for file in ("Six.vocals.flac", "Six.vocals.wav", "Six.accompaniment.flac", "Six.lrc", "Five.lrc"):
        put(tmp_path / file, "[00:01.00]la")
    write(tmp_path / "Five.wav", torch.zeros(2, 4800), 48_000, comment="duotok decoded")
    caplog.clear()
    corpus = get("folder")(tmp_path)
    assert "Six" not in {r.identity for r in corpus.recordings()}
    assert "1 written by DuoTok" in caplog.text and told in caplog.text


STEMS_OF_SEPARATORS = {
    "uvr": ("Song_(Vocals)_htdemucs.wav", "Song_(Instrumental)_htdemucs.wav"),
    "numbered": ("1_Song_(Vocals).flac", "1_Song_(Instrumental).flac"),
    "no_vocals": ("Song_vocals.wav", "Song_no_vocals.wav"),
    "folder": ("Song/vocals.wav", "Song/instrumental.wav"),
    "capitals": ("Song/Vocals.wav", "Song/No Vocals.wav"),
    "dashes": ("Song - Acapella.mp3", "Song - Instrumental.mp3"),
    "brackets": ("Song (Vocals).mp3", "Song (Karaoke).mp3"),
    "dotted": ("Song.Vocals.wav", "Song.Inst.wav"),
}


@pytest.mark.parametrize("style", STEMS_OF_SEPARATORS)
def test_stems_as_separators_name_them_are_one_song(style: str, tmp_path: Path) -> None:
    voice, band = (tmp_path / "albums" / name for name in STEMS_OF_SEPARATORS[style])
    put(voice)
    put(band)
    put(tmp_path / "albums" / "Another.wav")
    found = list(get("folder")(tmp_path).recordings())
    assert [set(r.audio) for r in found if r.kind == "song"] == [{"vocals", "accompaniment"}] and len(found) == 2
    (song,) = (r for r in found if r.kind == "song")
    assert song.audio == {"vocals": str(voice), "accompaniment": str(band)} and "Song" in song.identity
    if "/" not in STEMS_OF_SEPARATORS[style][0]:
        put(tmp_path / "albums" / f"{Path(song.identity).name}.mp3")  # the song itself
        found = list(get("folder")(tmp_path).recordings())
        assert [set(r.audio) for r in found if r.kind == "song"] == [{"mix", "vocals", "accompaniment"}] and len(
            found
        ) == 2


def test_names_that_only_look_like_stems(tmp_path: Path) -> None:
    for name in (
        "Instrumental.mp3",
        "Big Bass.mp3",
        "My Voice.mp3",
        "The Other - Mix.mp3",
        "Tune.mp3",
        "Tune (Instrumental).mp3",
    ):
        put(tmp_path / name)
    found = {Path(r.audio["mix"]).name: r for r in get("folder")(tmp_path).recordings()}
    assert len(found) == 6 and all(set(r.audio) == {"mix"} for r in found.values())
    tune, version = found["Tune.mp3"], found["Tune (Instrumental).mp3"]
    assert tune.identity == version.identity and tune.split == version.split, "a version is not in another split"


def test_sounds_that_duotok_wrote_are_no_songs_but_its_stems_are_stems(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "a.mp3")
    write_marked_sounds(tmp_path)
    found = read("folder", tmp_path)
    assert {name: set(recording.audio) for name, recording in found.items()} == {
        "a": {"mix"}, "b": {"vocals", "accompaniment"}, "d": {"mix"}, "x/e": {"mix"}, "x/d": {"mix", "vocals", "accompaniment"}
    }  # fmt: skip
    assert "left out: 5 written by DuoTok (" in caplog.text


def test_linked_folders_and_names_of_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "else" / "a.wav")
    put(tmp_path / "music" / os.fsdecode(b"caf\xe9.wav"))
    (tmp_path / "music" / "more").symlink_to(tmp_path / "else")
    with caplog.at_level("WARNING"):
        found = list(get("folder")(tmp_path / "music").recordings())
    assert len(found) == 1 and "1 linked folders, symlinks=follow goes into them" in caplog.text
    assert len(list(get("folder")(tmp_path / "music", symlinks="follow").recordings())) == 2
    write_table(tmp_path / "t.parquet", found, Recording)
    (again,) = read_table(tmp_path / "t.parquet", Recording)
    assert again == found[0] and os.fsencode(again.audio["mix"]).endswith(b"caf\xe9.wav")


def test_folder_options(tmp_path: Path) -> None:
    found = read(
        "folder",
        folder(tmp_path),
        kind="instrumental",
        identity="folder",
        licence="CC BY 4.0",
        attribution="me",
        language="sv",
    )
    songs = [r for r in found.values() if r.identity.startswith("Artist")]
    assert len({r.identity for r in songs}) == 4 and len(songs) == 40
    assert all(set(r.audio) == {"accompaniment"} and r.attribution == "me" and r.language == "sv" for r in songs)
    with pytest.raises(CorpusError, match="kind=noise; it can be song, music"):
        read("folder", tmp_path, kind="noise")


def test_folder_refuses_a_track_twice_and_an_empty_tree(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no audio"):
        read("folder", tmp_path)
    put(tmp_path / "s.vocals.wav")
    put(tmp_path / "s.vocals.flac")
    put(tmp_path / "t.wav")
    corpus = get("folder")(tmp_path)
    assert [recording.id for recording in corpus.recordings()] == ["folder/t"]
    (problem,) = corpus.problems.items()
    assert problem[0] == "folder/s" and "vocals is there 2 times" in problem[1] and "s.vocals.flac" in problem[1]


# INDEX.tsv

HEAD = "path\tuse\tkind\tstart\tseconds\tchannels\thas_vocals\tlicence\tattribution\tsource\n"


def index(root: Path) -> Path:
    rows = [
        ("dual/Potassium.vocals.opus", "train", "dual_track", 0, 10, "yes"),
        ("dual/Potassium.accompaniment.opus", "train", "dual_track", 0, 9.5, "no"),
        ("four_stem/Potassium.drums.opus", "train", "four_stem", 0, 10, "no"),
        ("validation/Delta.mix.opus", "evaluation-only", "dual_track_eval", 0, 6, "yes"),
        ("validation/Delta.vocals.opus", "evaluation-only", "dual_track_eval", 0, 6, "yes"),
        ("instrumental/w__drums.opus", "train", "instrumental_stem", 0, 8, "no"),
        ("instrumental/w__horns.opus", "train", "instrumental_stem", 0, 8, "no"),
        ("songs/leak.opus", "train", "song", 0, 8, "yes"),
        ("validation/leak.opus", "evaluation-only", "song", 5, 8, "yes"),
        ("songs/perhaps.opus", "train", "song", 0, 8, "unknown"),
        ("restricted/x__Whole.opus", "evaluation-only", "song", 0, 8, "yes"),
        ("restricted/x__Whole.instrumental.opus", "evaluation-only", "instrumental_version", 4, 8, "no"),
        ("restricted/x__Part.opus", "evaluation-only", "song", 4, 8, "yes"),
        *((f"chant/c{n}.opus", "train", "chant_a_cappella", 0, 8, "yes") for n in range(60)),
    ]
    text = HEAD + "".join(f"{p}\t{u}\t{k}\t{s}\t{d}\t1\t{v}\tCC BY 4.0\tsomebody\tthere\n" for p, u, k, s, d, v in rows)
    put(root / "INDEX.tsv", text)
    for name in ("Whole", "Part"):
        put(
            root / "metadata" / "lyrics" / "ultrastar" / name / "song.txt",
            "#TITLE:x\n#LANGUAGE:Englisch\n#BPM:300\n: 0 4 4 Go\n",
        )
    return root


def test_index(tmp_path: Path) -> None:
    found = read("index", index(tmp_path))
    duo = found["dual/Potassium"]
    assert set(duo.audio) == {"vocals", "accompaniment", "drums"} and duo.kind == "song"
    assert (duo.split, duo.identity, duo.seconds) == ("validation", "Potassium", 9.5)
    assert set(found["validation/Delta"].audio) == {"mix", "vocals"}
    assert found["instrumental/w__drums"].identity == found["instrumental/w__horns"].identity == "w"
    assert set(found["instrumental/w__drums"].audio) == {"accompaniment"}
    assert found["songs/leak"].split == found["validation/leak"].split == "test", "evaluation-only wins"
    assert found["songs/perhaps"].kind == "music"
    chants = [r for name, r in found.items() if name.startswith("chant/")]
    assert {r.kind for r in chants} == {"voice"} and {r.split for r in chants} == {"train", "validation"}
    whole, part = found["restricted/x__Whole"], found["restricted/x__Part"]
    assert whole.lyrics.endswith("ultrastar/Whole/song.txt") and whole.language == part.language == "en"
    assert lyrics_part(part.lyrics) == (tmp_path / "metadata" / "lyrics" / "ultrastar" / "Part" / "song.txt", 4, 12)
    versions = [r for r in found.values() if r.identity == "x__Whole"]
    assert {r.kind for r in versions} == {"song", "instrumental"}


def test_index_held_out_is_an_option(tmp_path: Path) -> None:
    found = read("index", index(tmp_path), held_out=("perhaps",), validation=0)
    assert {r.identity for r in found.values() if r.split == "validation"} == {"perhaps"}
    assert found["dual/Potassium"].split == "train"
    assert (
        read("index", tmp_path, held_out="perhaps, Potassium", validation="0")["dual/Potassium"].split == "validation"
    )
    found = read("index", tmp_path, held_out="perhaps,Potassium", held_out_test="Potassium", validation="0")
    assert found["dual/Potassium"].split == "test"
    assert found["songs/perhaps"].split == "validation"
    with pytest.raises(CorpusError, match="held_out_test 'Potasium' is no song of it"):
        read("index", tmp_path, held_out_test="Potasium")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.opus\tperhaps\tsong", "use 'perhaps' is none of train, evaluation-only"),
        ("a.opus\ttrain\tnoise", "kind 'noise' is none of"),
        ("../a.opus\ttrain\tsong", "leaves the tree"),
        ("songs/leak.opus\ttrain\tsong", "listed twice"),
    ],
)
def test_index_names_bad_rows(tmp_path: Path, row: str, problem: str) -> None:
    with (index(tmp_path) / "INDEX.tsv").open("a") as file:
        file.write(f"{row}\t0\t1\t1\tno\tCC0\tx\ty\n")
    with pytest.raises(CorpusError, match=problem):
        read("index", tmp_path)


@needs_shared
def test_index_of_the_shared_audio() -> None:
    found = read("index", SHARED)
    kinds = {kind: sum(r.kind == kind for r in found.values()) for kind in ("song", "voice", "speech", "instrumental")}
    assert len(found) == 557 and kinds == {"song": 28, "voice": 21, "speech": 199, "instrumental": 152}
    assert sum(len(r.audio) for r in found.values()) == 573, "every row of INDEX.tsv is a track of one recording"
    assert all(Path(path).is_file() for r in found.values() for path in r.audio.values())
    songs = {name: set(r.audio) for name, r in found.items() if name.startswith("dual/")}
    assert songs == {
        "dual/Hydrogen": {"vocals", "accompaniment", "drums"},
        "dual/Lithium": {"vocals", "accompaniment", "drums", "bass"},
        "dual/Potassium": {"vocals", "accompaniment", "drums"},
        "dual/Rubidium": {"vocals", "accompaniment", "drums"},
        "dual/Sodium": {"vocals", "accompaniment", "drums", "bass"},
    }
    assert found["dual/Potassium"].split == "validation"
    for name, r in found.items():
        evaluation = name.startswith(("songs_restricted/", "validation/"))
        assert (r.split == "test") == evaluation, name
        assert evaluation or licence_class(r.licence) in ("public-domain", "attribution", "share-alike"), name
    timed = [r for r in found.values() if r.split == "test" and r.lyrics]
    assert len(timed) == 16  # ten whole songs, six excerpts
    expected = json.loads((SHARED / "validation" / "words.json").read_text())
    for r in timed:
        path, first, last = lyrics_part(r.lyrics)
        assert path.is_file() and r.language in ("en", "fr", "es"), r.id
        lyrics = read_lyrics(path, start=first, seconds=r.seconds)
        assert lyrics.timed and len(lyrics.words) > 40, r.id
        if last is not None:  # the same words were cut for these excerpts once before, by another program
            words = expected[Path(r.audio["mix"]).name]
            starts = [word.start for word in lyrics.words if word.start is not None]
            near = [min(abs(word["start"] - start) for start in starts) for word in words]
            assert len(near) > 40 and sum(d < 0.02 for d in near) > 0.95 * len(near), r.id


# duotok songs


def song_json(seed: int, **changes: object) -> str:
    facts: dict[str, object] = {
        "format": "duotok-song-1", "seed": seed, "rate": 48000, "samples": 192000, "seconds": 4.0, "language": "de",
        "tags": ["ballad"], "words": [{"text": "la", "start": 1.0, "end": 2.0}], "files": "flac16",
    }  # fmt: skip
    return json.dumps(facts | changes)


def songs(root: Path) -> Path:
    for seed in range(30):
        put(root / f"song-{seed:08d}" / "song.json", song_json(seed, **({"words": []} if seed == 7 else {})))
    put(root / "second" / "song-00000003" / "song.json", song_json(3, seconds=8.0))
    put(root / "song-00000040" / "song.json", song_json(40, tracks=["accompaniment", "vocals"]))
    return root


def test_songs(tmp_path: Path) -> None:
    found = read("songs", songs(tmp_path))
    one = found["song-00000000"]
    assert (one.kind, one.seconds, one.language, one.tags) == ("song", 4.0, "de", ("ballad",))
    assert one.audio == {
        stem: str(tmp_path / "song-00000000" / f"{stem}.flac")
        for stem in ("vocals", "accompaniment", "drums", "bass", "other")
    }
    assert [w.text for w in read_lyrics(one.lyrics).words] == ["la"]
    assert set(found["song-00000040"].audio) == {"vocals", "accompaniment"}, "only these were written"
    silent = found["song-00000007"]
    assert silent.kind == "instrumental" and "vocals" not in silent.audio and silent.lyrics == ""
    assert found["song-00000003"].split == found["second/song-00000003"].split, "the same seed at another length"
    assert licence_class(one.licence) == "public-domain"
    assert list(read("songs", tmp_path / "song-00000005")) == ["song-00000005"]


def test_songs_of_another_version_are_named(tmp_path: Path) -> None:
    put(tmp_path / "s" / "song.json", song_json(1, format="duotok-song-9"))
    with pytest.raises(CorpusError, match="format is 'duotok-song-9'"):
        read("songs", tmp_path)
    put(tmp_path / "s" / "song.json", song_json(1).replace('"seconds"', '"sec"'))
    with pytest.raises(CorpusError, match="no 'seconds' in it"):
        read("songs", tmp_path)
    put(tmp_path / "s" / "song.json", "{")
    with pytest.raises(CorpusError, match="damaged"):
        read("songs", tmp_path)


def test_songs_that_duotok_really_made(tmp_path: Path) -> None:
    from duotok.songs import generate

    generate(5, 4.0, rate=16000, vocals=False).save(tmp_path / "song-00000005", "wav16")
    (only,) = read("songs", tmp_path).values()
    assert all(Path(path).is_file() for path in only.audio.values()) and only.seconds == 4.0


# all of them

BUILD: dict[str, Callable[[Path], Path]] = {
    "libritts": libritts, "fsd50k": fsd50k, "fma": lambda root: fma(root, "full"), "musdb18hq": musdb18hq,
    "folder": folder, "index": index, "songs": songs,
}  # fmt: skip


@pytest.mark.parametrize("name", BUILD)
def test_an_empty_or_moved_corpus_is_a_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match=f"no such folder.*describe {name}"):
        read(name, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=str(tmp_path)):
        read(name, tmp_path / "empty")
    root = BUILD[name](tmp_path / "here")
    before = read(name, root)
    shutil.move(root, tmp_path / "there")
    after = read(name, tmp_path / "there")
    assert before.keys() == after.keys()
    assert {n: (r.split, r.identity) for n, r in before.items()} == {n: (r.split, r.identity) for n, r in after.items()}


REQUIRED = {
    "fsd50k": (
        "FSD50K.ground_truth/dev.csv",
        "FSD50K.ground_truth/eval.csv",
        "FSD50K.metadata/dev_clips_info_FSD50K.json",
    ),
    "fma": ("fma_metadata/tracks.csv", "fma_metadata/genres.csv"),
    "index": ("INDEX.tsv",),
    "libritts": ("LibriTTS/SPEAKERS.txt",),
}


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in REQUIRED.items() for file in files])
def test_missing_metadata_is_named(tmp_path: Path, name: str, file: str) -> None:
    root = BUILD[name](tmp_path)
    (root / file).unlink()
    with pytest.raises(CorpusError, match=re.escape(Path(file).name)):
        read(name, root)

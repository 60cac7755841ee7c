"""A source is a folder, a list, a tar, or a URL of one; the same songs in the same order each time."""

from __future__ import annotations

import io
import os
import tarfile
import uuid
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.marked_sounds import write_marked_sounds

from duotok.audio.io import write
from duotok.audio.marks import mark_of
from duotok.bulk import places
from duotok.bulk.listing import Listing
from duotok.bulk.places import Place, fetched
from duotok.bulk.sources import SongEntry, Splitting, songs
from duotok.errors import AudioError
from duotok.records import CorpusError
from duotok.shards import ranges
from duotok.tracks import TRACKS


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def listed(*sources: Any, **how: Any) -> tuple[dict[str, SongEntry], Listing]:
    listing = Listing()
    entries = list(songs([str(source) for source in sources], listing, **how))
    assert len({entry.id for entry in entries}) == len(entries)
    return {entry.id: entry for entry in entries}, listing


def roles(entry: SongEntry) -> dict[str, str]:
    return {role: Path(place.name or place.uri).name for role, place in entry.sources.items()}


NAMES = (
    "b.mp3", "a/x.flac", "a/x-2.wav", "a/x.vocals.wav", "train/p.vocals.wav", "train/p.accompaniment.wav", "q.mp3", "q.wav", "cover.jpg",
    ".hidden.mp3", ".git/y.mp3", "d.vocals.wav", "e.mix.wav", "e.vocals.wav", "e.drums.wav",
)  # fmt: skip


def test_stems_by_the_names_of_separators_are_one_song(tmp_path: Path) -> None:
    names = (
        "S/vocals.wav", "S/no_vocals.wav", "T_vocals.wav", "T_no_vocals.wav", "made/mix.wav", "made/vocals.wav", "made/drums.wav",
        "U.mp3", "U - Instrumental.mp3", "All.About.That.Bass.mp3", "The Voice.mp3", "V - vocals.mp3", "kit/bass.wav", "kit/drums.wav",
    )  # fmt: skip
    music = touch(tmp_path / "music", *names)
    found, listing = listed(music)
    expected = {
        "S": {"accompaniment": "no_vocals.wav", "vocals": "vocals.wav"},
        "T": {"accompaniment": "T_no_vocals.wav", "vocals": "T_vocals.wav"},
        "made": {"mix": "mix.wav", "vocals": "vocals.wav"},
        "kit/bass": {"mix": "bass.wav"}, "kit/drums": {"mix": "drums.wav"},
        **{name: {"mix": f"{name}.mp3"} for name in ("U", "U - Instrumental", "All.About.That.Bass", "The Voice", "V - vocals")},
    }  # fmt: skip
    assert {id.removeprefix("music/"): roles(entry) for id, entry in found.items()} == expected
    assert not any(entry.problem for entry in found.values()) and listing.left_out == {"further tracks of songs": 1}


def test_a_folder_gives_its_songs_with_their_stems(tmp_path: Path) -> None:
    found, listing = listed(touch(tmp_path / "music", *NAMES))
    assert {id: roles(entry) for id, entry in found.items()} == {
        "music/b": {"mix": "b.mp3"},
        "music/d": {"vocals": "d.vocals.wav"},
        "music/e": {"mix": "e.mix.wav", "vocals": "e.vocals.wav"},
        "music/q": {"mix": "q.mp3"},
        "music/q.wav": {"mix": "q.wav"},
        "music/a/x": {"mix": "x.flac", "vocals": "x.vocals.wav"},
        "music/a/x-2": {"mix": "x-2.wav"},
        "music/train/p": {"accompaniment": "p.accompaniment.wav", "vocals": "p.vocals.wav"},
    }
    assert found["music/train/p"].split == "train" and "only vocals" in found["music/d"].problem
    assert listing.left_out == {".jpg": 1, "further tracks of songs": 1}
    assert list(found) == list(listed(tmp_path / "music")[0])  # the order is that of the names


def test_sounds_that_duotok_wrote_are_no_songs_but_its_stems_are_stems(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp3")
    write_marked_sounds(tmp_path)
    found, listing = listed(tmp_path)
    name = tmp_path.name
    assert set(found) == {f"{name}/{song}" for song in ("a", "b", "d", "x/d", "x/e")}
    assert roles(found[f"{name}/a"]).keys() == {"mix"} and roles(found[f"{name}/b"]).keys() == {
        "vocals",
        "accompaniment",
    }
    assert len(roles(found[f"{name}/x/d"])) == 3 and len(roles(found[f"{name}/x/e"])) == 1
    assert listing.left_out == {"written by DuoTok": 5}
    assert listed(tmp_path / "c.wav")[0], "a file that is named is taken"


def test_songs_that_the_store_knows_are_not_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of a million songs that are done asks for their states alone."""
    for name, comment in (("x/a.flac", ""), ("x/b.flac", ""), ("x/b.wav", "duotok 01"), ("new.wav", "duotok 01")):
        write(tmp_path / name, torch.zeros(1, 100), 48_000, comment=comment)
    read: list[str] = []
    monkeypatch.setattr("duotok.bulk.sources.mark_of", lambda path: read.append(path.name) or mark_of(path))
    name = tmp_path.name
    for known, expected in ((set(), 4), ({f"{name}/x/a", f"{name}/x/b"}, 3)):
        read.clear()
        found, listing = listed(tmp_path, known=known.__contains__)
        assert set(found) == {f"{name}/x/a", f"{name}/x/b"} and listing.left_out == {"written by DuoTok": 2}
        assert len(read) == expected and ("a.flac" in read) == (not known)


def test_a_song_with_its_words_beside_it_is_not_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp3", "a.json", "a.lrc", "b.mp3", "b.wav")
    read: list[str] = []
    monkeypatch.setattr("duotok.bulk.sources.mark_of", lambda path: read.append(path.name) or mark_of(path))
    listed(tmp_path, known=lambda id: True)
    assert not {"a.mp3", "a.lrc"} & {*read} and {"b.mp3", "b.wav"} <= {*read}


def test_stems_of_a_song_have_its_folder_as_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `.`, too, which has none."""
    for name in ("vocals.wav", "accompaniment.wav"):
        write(tmp_path / name, torch.zeros(1, 100), 48_000, comment="duotok separated 01")
    monkeypatch.chdir(tmp_path)
    assert [roles(entry) for entry in listed(".")[0].values()] == [{"mix": "accompaniment.wav"}, {"mix": "vocals.wav"}]


def test_a_folder_is_read_once_for_all_stems_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for song in range(5):
        write(tmp_path / f"{song}.wav", torch.zeros(1, 100), 48_000)
        for track in TRACKS:
            write(tmp_path / f"stems/{song}.{track}.wav", torch.zeros(1, 100), 48_000, comment="duotok separated 01")
    seen: Counter[str] = Counter()
    scandir, stat = os.scandir, os.stat
    monkeypatch.setattr("os.scandir", lambda path: seen.update([os.path.basename(path)]) or scandir(path))
    monkeypatch.setattr("os.stat", lambda *a, **k: seen.update(["states"]) or stat(*a, **k))
    found, listing = listed(tmp_path)
    assert len(found) == 5 and listing.left_out == {"written by DuoTok": 10}
    assert seen.pop("states", 0) < 40 and max(seen.values()) == 2, seen


def test_a_url_gives_what_the_folder_gives(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/music"
    system = fsspec.filesystem("memory")
    for name in NAMES:
        system.pipe(f"{url.removeprefix('memory:/')}/{name}", name.encode())
    here, there = listed(touch(tmp_path / "music", *NAMES))[0], listed(url)[0]
    assert list(here) == list(there)
    assert [roles(e) for e in here.values()] == [roles(e) for e in there.values()]
    assert all(mark for entry in there.values() for mark in entry.marks.values())
    mark = there["music/b"].marks["mix"]
    system.pipe(f"{url.removeprefix('memory:/')}/b.mp3", b"other")
    assert listed(url)[0]["music/b"].marks["mix"] != mark


def test_two_colons_in_a_name_are_no_chain_of_addresses(tmp_path: Path) -> None:
    touch(tmp_path / "music", "her :: song.mp3")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("x.mp3", b"zipped")
    for source in (f"a=file://{tmp_path}/music", f"a=file://{tmp_path}/music/her :: song.mp3"):
        for entry in listed(source)[0].values():
            with fetched(entry.sources["mix"], tmp_path) as (copy, _):
                assert copy.read_bytes() == b"her :: song.mp3"
    with fetched(Place(f"zip://x.mp3::file://{tmp_path}/set.zip"), tmp_path) as (copy, _):
        assert copy.read_bytes() == b"zipped"
    with fetched(Place(f"zip://x.mp3::{tmp_path}/set.zip"), tmp_path) as (copy, _):
        assert copy.read_bytes() == b"zipped"


def test_a_fingerprint_changes_with_the_file_even_when_size_and_time_are_put_back(tmp_path: Path) -> None:
    import os

    file = touch(tmp_path / "music", "a.wav") / "a.wav"
    before, state = listed(file)[0]["a"].marks, file.stat()
    file.write_bytes(b"A.wav")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert listed(file)[0]["a"].marks != before


@pytest.mark.parametrize("ending", ["txt", "m3u", "csv", "tsv", "parquet"])
def test_a_list_names_files_relative_to_itself(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "x.mp3", "sub/y.wav")
    path = tmp_path / f"songs.{ending}"
    rows = [{"path": "x.mp3"}, {"path": "sub/y.wav"}]
    if ending in ("csv", "tsv", "parquet"):
        rows = [
            {**row, "vocals": "", "id": id, "split": "test", "identity": "her"}
            for row, id in zip(rows, ("one", "two"), strict=True)
        ]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending in ("csv", "tsv"):
        sep = "," if ending == "csv" else "\t"
        path.write_text("\n".join(sep.join(values) for values in ([*rows[0]], *(row.values() for row in rows))))
    else:
        path.write_text("#EXTM3U\nx.mp3\n\nsub/y.wav\n")
    found = list(listed(path)[0].values())
    assert [entry.sources["mix"].uri for entry in found] == [f"{tmp_path}/x.mp3", f"{tmp_path}/sub/y.wav"]
    if ending in ("csv", "tsv", "parquet"):
        assert [(e.id, e.split, e.identity) for e in found] == [("one", "test", "her"), ("two", "test", "her")]
    else:
        assert [e.id for e in found] == ["songs/x", "songs/sub/y"]


@pytest.mark.parametrize("ending", ["txt", "m3u8", "csv", "tsv"])
def test_a_list_may_begin_with_the_mark_that_spreadsheets_write(tmp_path: Path, ending: str) -> None:
    head = {"txt": "", "m3u8": "#EXTM3U\r\n", "csv": "path,split\r\n", "tsv": "path\tsplit\r\n"}[ending]
    (tmp_path / f"songs.{ending}").write_bytes(b"\xef\xbb\xbf" + f"{head}x.mp3\r\ny.mp3\r\n".encode())
    assert list(listed(tmp_path / f"songs.{ending}")[0]) == ["songs/x", "songs/y"]


def test_ids_and_identities_of_a_list_may_be_numbers(tmp_path: Path) -> None:
    columns = {"path": ["x.mp3", "y.mp3", "z.mp3"], "id": [0, 1, None], "identity": [0, 0, 7]}
    pq.write_table(pa.table(columns), tmp_path / "songs.parquet")
    found, _ = listed(tmp_path / "songs.parquet")
    assert [(id, entry.identity) for id, entry in found.items()] == [("0", "0"), ("1", "0"), ("songs/z", "7")]


def tar_of(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return path


def test_a_tar_gives_its_members_by_their_bytes(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "set.tar", "k1.mp3", "k1.json", "k2.vocals.flac", "k2.accompaniment.flac")
    url = f"memory://{uuid.uuid4().hex}/set.tar"
    fsspec.filesystem("memory").pipe(url.removeprefix("memory:/"), tar.read_bytes())
    for source in (tar, url):
        found, listing = listed(source)
        assert {id: roles(e) for id, e in found.items()} == {
            "set/k1": {"mix": "k1.mp3"}, "set/k2": {"vocals": "k2.vocals.flac", "accompaniment": "k2.accompaniment.flac"},
        }  # fmt: skip
        assert listing.left_out == {".json": 1}
        with fetched(found["set/k1"].sources["mix"], tmp_path) as (copy, digest):
            assert copy.read_bytes() == b"k1.mp3" and copy.suffix == ".mp3" and len(digest) == 64
        assert not copy.exists()


def test_a_tar_of_a_folder_gives_what_the_folder_gives(tmp_path: Path) -> None:
    """`tar -C FOLDER -cf SET.tar .` puts ./ before every name."""
    names = [name for name in NAMES if not name.startswith(".")]
    folder, _ = listed(touch(tmp_path / "music", *names))
    tar, _ = listed(tar_of(tmp_path / "music.tar", *(f"./{name}" for name in names)))
    assert {id: (roles(e), e.split) for id, e in tar.items()} == {id: (roles(e), e.split) for id, e in folder.items()}
    with fetched(tar["music/b"].sources["mix"], tmp_path) as (copy, _):
        assert copy.read_bytes() == b"./b.mp3"


def test_members_of_a_tar_without_a_fingerprint_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Place and size alone had passed for one, so that other songs of the same size were taken for done."""
    tar = tar_of(tmp_path / "set.tar", "k1.mp3")
    url = f"memory://{uuid.uuid4().hex}/set.tar"
    fsspec.filesystem("memory").pipe(url.removeprefix("memory:/"), tar.read_bytes())
    assert listed(url)[0]["set/k1"].marks["mix"].endswith(" 512 6")
    monkeypatch.setattr("duotok.bulk.sources.described", lambda info: "")
    assert listed(url)[0]["set/k1"].marks == {"mix": ""}


def test_of_a_tar_that_is_cut_what_is_before_the_cut_is_taken(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "set.tar", "k1.mp3", "k2.mp3", "k3.mp3")
    tar.write_bytes(tar.read_bytes()[:1500])  # in the middle of the second header
    found, listing = listed(tar)
    assert list(found) == ["set/k1"] and "set.tar: cut" in listing.broken[0]


def test_names_keep_sources_apart_and_may_say_the_split(tmp_path: Path) -> None:
    for place in ("a", "b"):
        touch(tmp_path / place / "music", "x.mp3")
    test, _ = listed(touch(tmp_path / "test", "x.mp3", "train/y.mp3"))
    assert {id: entry.split for id, entry in test.items()} == {"test/x": "test", "test/train/y": "test"}
    assert list(listed(f"one={tmp_path}/a/music", f"two={tmp_path}/b/music", splitting=Splitting("test"))[0]) == [
        "one/x",
        "two/x",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [("path,split\n,\nx.mp3,\n", "names no file"), ("path,split\ny.mp3,most\nx.mp3,\n", "'most' is unknown")],
)
def test_a_row_that_says_nothing_is_named_and_the_rest_is_taken(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "songs.csv").write_text(text)
    found, listing = listed(tmp_path / "songs.csv")
    assert list(found) == ["songs/x"] and len(listing.broken) == 1
    assert "songs.csv, row 1: " in listing.broken[0] and said in listing.broken[0]


def test_many_wrong_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "songs.csv").write_text("path,split\n" + "".join(f"{n}.mp3,dev\n" for n in range(9)) + "x.mp3,\n")
    found, listing = listed(tmp_path / "songs.csv")
    assert list(found) == ["songs/x"] and len(listing.broken) == 6 and "4 more rows" in listing.broken[-1]


def test_links_in_a_tar_are_taken_or_counted(tmp_path: Path) -> None:
    """They had vanished without being counted."""
    touch(tmp_path, "a.wav")
    (tmp_path / "b.wav").hardlink_to(tmp_path / "a.wav")
    (tmp_path / "c.wav").symlink_to("a.wav")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in ("a.wav", "b.wav", "c.wav"):
            tar.add(tmp_path / name, f"./{name}")
    found, listing = listed(tmp_path / "set.tar")
    assert list(found) == ["set/a", "set/b"] and sum(listing.left_out.values()) == 1
    with fetched(found["set/b"].sources["mix"], tmp_path) as (copy, _):
        assert copy.read_bytes() == b"a.wav"


@pytest.mark.parametrize("source", ["/no/such/folder", "memory://nothing/there", "nonsense://x/y"])
def test_a_source_that_is_not_there_is_named(source: str) -> None:
    with pytest.raises(CorpusError, match=source):
        listed(source)


class Flaky:
    """A store that fails so many times before it answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def info(self, path: str) -> dict[str, Any]:
        return {"name": path, "size": 5, "type": "file"}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.failures -= 1
        if self.failures >= 0:
            raise TimeoutError("the bucket is slow")
        return b"sound"[start:end]


def test_a_slow_bucket_is_asked_again_and_named_when_it_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "WAITS", (0.0, 0.0))
    store = Flaky(2)
    monkeypatch.setattr("duotok.bulk.places.opened", lambda uri: (store, "x.mp3"))
    with fetched(Place("s3://bucket/x.mp3"), tmp_path) as (copy, _):
        assert copy.read_bytes() == b"sound"
    store.failures = 3
    with (
        pytest.raises(AudioError, match=r"s3://bucket/x.mp3: cannot be read .*the bucket is slow"),
        fetched(Place("s3://bucket/x.mp3"), tmp_path),
    ):
        pass


def test_the_query_of_a_signed_address_is_no_part_of_its_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Plain(b"x.mp3\ny.mp3\n")
    server.open = lambda path, mode: io.BytesIO(server.data)  # type: ignore[method-assign]
    for module in ("places", "sources"):
        monkeypatch.setattr(f"duotok.bulk.{module}.opened", lambda uri: (server, uri))
    signed = f"?Expires=3600&Signature={'a' * 300}.b"
    with fetched(Place(f"https://host/x.mp3{signed}"), tmp_path) as (copy, _):
        assert copy.suffix == ".mp3"
    found, _ = listed(f"set=https://host/songs.txt{signed}")
    assert list(found) == ["set/x", "set/y"]
    assert Place("s3://bucket/what?.mp3").suffix == ".mp3"


class Plain:
    """A web server that gives no parts of a file, and perhaps not its size."""

    def __init__(self, data: bytes, told: bool = True) -> None:
        self.data, self.size = data, len(data) if told else None

    def info(self, path: str) -> dict[str, Any]:
        return {"name": path, "size": self.size, "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        return self.data

    def open(self, path: str, mode: str) -> Any:
        raise ValueError("no range requests")


@pytest.mark.parametrize("told", [True, False])
def test_a_server_that_gives_no_parts_gives_a_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Each part had been the whole, and a song longer than a part its own repetition."""
    monkeypatch.setattr(places, "BLOCK", 10)
    monkeypatch.setattr(ranges, "WAITS", ())
    server = Plain(b"a whole song, and no more", told)
    for module in ("places", "sources"):
        monkeypatch.setattr(f"duotok.bulk.{module}.opened", lambda uri: (server, "x.mp3"))
    with fetched(Place("http://host/x.mp3"), tmp_path) as (copy, _):
        assert copy.read_bytes() == server.data
    with (
        pytest.raises(AudioError, match=r"x.tar:k.mp3: cannot be read .*25 bytes came for 6"),
        fetched(Place("http://host/x.tar", "k.mp3", 2, 6), tmp_path),
    ):
        pass
    found, listing = listed("http://host/x.tar")
    assert not found and "no range requests" in listing.broken[0]


def web_error(status: int) -> Exception:
    """As fsspec gives them: of any failure of a web server it says that the file is not there."""
    kind = type("ClientResponseError", (Exception,), {"__module__": "aiohttp.client_exceptions", "status": status})
    error = FileNotFoundError("https://host/x.mp3")
    error.__cause__ = kind(f"{status}, message='so it is'")
    return error


@pytest.mark.parametrize(
    ("status", "asked", "said"),
    [
        (503, 3, "cannot be read .*503"),
        (403, 1, "cannot be read .*403"),
        (401, 1, "cannot be read .*401"),
        (404, 1, "is not there"),
    ],
)
def test_what_a_web_server_answers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, asked: int, said: str
) -> None:
    """Every failure had been told as a file that was removed, and none was tried again."""
    monkeypatch.setattr(ranges, "WAITS", (0.0, 0.0))
    server, count = Plain(b"sound"), [0]

    def info(path: str) -> dict[str, Any]:
        count[0] += 1
        raise web_error(status)

    monkeypatch.setattr(server, "info", info)
    monkeypatch.setattr("duotok.bulk.places.opened", lambda uri: (server, "x.mp3"))
    with (
        pytest.raises(AudioError, match=rf"https://host/x.mp3: {said}"),
        fetched(Place("https://host/x.mp3"), tmp_path),
    ):
        pass
    assert count[0] == asked


def test_what_a_list_has_besides_is_named(tmp_path: Path) -> None:
    """A name with a capital letter costs stems, splits and captions: whoever wrote it is told."""
    touch(tmp_path, "a.wav")
    for ending, separator in ((".csv", ","), (".tsv", "\t")):
        rows = [["path", "Split", " vocals", "caption"], ["a.wav", "test", "v.wav", "slow"]]
        (tmp_path / f"l{ending}").write_text("".join(separator.join(row) + "\n" for row in rows))
    pq.write_table(
        pa.table({"path": ["a.wav"], "Split": ["test"], " vocals": ["v.wav"], "caption": ["slow"]}),
        tmp_path / "l.parquet",
    )
    for ending in (".csv", ".tsv", ".parquet"):
        found, listing = listed(tmp_path / f"l{ending}")
        assert len(found) == 1 and not listing.broken
        assert len(listing.notes) == 1 and "columns Split, ' vocals', caption not read" in listing.notes[0]
    (tmp_path / "plain.csv").write_text("path,id\na.wav,a\n")
    (tmp_path / "empty.csv").write_text("")
    assert not listed(tmp_path / "plain.csv")[1].notes and not listed(tmp_path / "empty.csv")[1].notes


def test_no_split_cuts_a_folder_where_folders_are_identities(tmp_path: Path) -> None:
    """One split for all songs of a folder, whether they come from a folder, a tar or a list; what sources say goes before."""
    names = [f"band{b}/s{s}.wav" for b in range(40) for s in range(3)]
    music = touch(tmp_path / "music", *names, "test/t.wav")
    with tarfile.open(tmp_path / "songs.tar", "w") as tar:
        for name in names:
            tar.add(music / name, name)
    (tmp_path / "l.csv").write_text(
        "path,identity\n" + "".join(f"music/{name},\n" for name in names) + "music/test/t.wav,someone\n"
    )
    for source in (music, tmp_path / "songs.tar", tmp_path / "l.csv"):
        splits: dict[str, set[str]] = {}
        found = listed(source, splitting=Splitting(identity="folder"))[0]
        for entry in found.values():
            splits.setdefault(entry.identity, set()).add(entry.split)
        bands = {identity for identity in splits if "band" in identity}
        assert len(bands) == 40 and all(len(splits[band]) == 1 for band in bands)
        assert len(set.union(*(splits[band] for band in bands))) > 1
        alone = [e for e in listed(source)[0].values() if "band" in e.id]
        assert len({e.identity for e in alone}) == len(alone) == 120
    assert found["l/music/test/t"].identity == "someone"
    assert listed(music, splitting=Splitting(identity="folder"))[0]["music/test/t"].split == "test"
    assert {e.split for e in listed(music, splitting=Splitting("validation"))[0].values()} == {"validation"}

"""Derived arrays: the right rows for every segment, made once, by whom it says, whole files or none."""

from __future__ import annotations

import fcntl
import json
import random
import re
import resource
import shutil
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np
import pytest
from tests.shards.shard_maker import make_shards, segment, small_songs

from duotok.files import hold
from duotok.records import CorpusError
from duotok.seals import seal
from duotok.shards.derived import KINDS
from duotok.shards.deriving import derive, derive_many
from duotok.shards.store import ShardStore

SEGMENTS = [
    *small_songs(8),
    segment("band/one", frames=30, kind="instrumental", stems=("accompaniment",), types=("instrumental",)),
    segment("band/two", frames=31, kind="instrumental", stems=("accompaniment",), types=("instrumental",)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), SEGMENTS)


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> ShardStore:
    return ShardStore(folder, tmp_path / "derived")


class Numbered:
    """Rows that tell their segment, track and place; counts its calls."""

    def __init__(self, store: ShardStore, offset: int = 0, width: int = 3) -> None:
        self.store, self.offset, self.width, self.calls = store, offset, width, 0

    def __call__(self, index: int, track: str) -> np.ndarray:
        self.calls += 1
        first = 1000 * index + 500 * (track == "mix") + self.offset
        rows = np.arange(self.store.segments[index].segment.frames, dtype=np.int64)
        return np.repeat(first + rows[:, None], self.width, axis=1)


def check(store: ShardStore, function: Numbered, tracks: tuple[str, ...]) -> None:
    for index in range(len(store)):
        for track in tracks:
            assert store.has(index, track, "codes") == (track in store.tracks(index))
            if track in store.tracks(index):
                rows = store.rows(index, track, "codes")
                assert rows.dtype == np.int32
                assert np.array_equal(rows, function(index, track))
                assert np.array_equal(store.rows(index, track, "codes", 4, 6), rows[4:10])


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_belong_to_their_segments(store: ShardStore, workers: int) -> None:
    function = Numbered(store)
    assert not store.has(0, "mix", "codes")
    derive(store, "codes", function, tracks=("mix", "accompaniment"), made_by="a", workers=workers)
    check(store, function, ("mix", "accompaniment"))
    assert not store.has(0, "vocals", "codes")
    with pytest.raises(CorpusError, match=r"derive vocals\.codes first"):
        store.rows(0, "vocals", "codes")
    with pytest.raises(ValueError, match="rows"):
        store.rows(store.select(needs=("mix",))[0], "mix", "codes", 0, 1000)


def test_nothing_is_made_twice(store: ShardStore) -> None:
    function = Numbered(store)
    derive(store, "codes", function, tracks=("mix",), made_by="a")
    calls = function.calls
    assert calls == 8
    derive(store, "codes", function, tracks=("mix",), made_by="a")
    assert function.calls == calls


def test_what_others_made_is_made_anew(store: ShardStore) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    assert store.rows(store.select(needs=("mix",))[0], "mix", "codes")[0, 0] % 1000 == 500
    derive(store, "codes", Numbered(store, offset=7, width=2), tracks=("mix",), made_by="b")
    check(store, Numbered(store, offset=7, width=2), ("mix",))


def test_a_selection_grows_without_losing_rows(store: ShardStore) -> None:
    function = Numbered(store)
    songs = store.select(corpora=["tiny"])
    derive(store, "codes", function, tracks=("mix",), made_by="a", select=songs[::2])
    assert function.calls == 4
    assert [store.has(i, "mix", "codes") for i in songs] == [True, False] * 4
    derive(store, "codes", function, tracks=("mix",), made_by="a", select=songs[1:2])
    assert function.calls == 5
    derive(store, "codes", function, tracks=("mix",), made_by="a")
    assert function.calls == 8
    check(store, function, ("mix",))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_array_is_not_taken_over_into_a_larger_one(
    workers: int, store: ShardStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    function = Numbered(store)
    songs = store.select(corpora=["tiny"])
    derive(store, "codes", function, tracks=("mix",), made_by="a", select=songs[:1])
    (path,) = (tmp_path / "derived").rglob("mix.codes.npy")
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    again = ShardStore(store.ranges.url, tmp_path / "derived")
    derive(again, "codes", function, tracks=("mix",), made_by="a", workers=workers)
    check(again, function, ("mix",))
    assert again.derived is not None and again.derived.damaged() == []
    if workers == 1:
        assert caplog.messages == [f"{path}: not as it was written; all of it is derived again"]


def test_resumes_after_an_error_and_leaves_no_halves(store: ShardStore, tmp_path: Path) -> None:
    function = Numbered(store)

    def fails(index: int, track: str) -> np.ndarray:
        if function.calls == 5:
            raise RuntimeError("stopped")
        return function(index, track)

    with pytest.raises(RuntimeError, match="stopped"):
        derive(store, "codes", fails, tracks=("accompaniment",), made_by="a")
    files = sorted(path.name for path in (tmp_path / "derived").rglob("*") if path.is_file())
    assert files == ["accompaniment.codes.json", "accompaniment.codes.npy"]
    derive(store, "codes", function, tracks=("accompaniment",), made_by="a")
    assert function.calls == 5 + 6
    check(store, Numbered(store), ("accompaniment",))


def test_several_names_from_one_pass(store: ShardStore) -> None:
    calls = []

    def both(index: int, track: str) -> dict[str, np.ndarray]:
        calls.append((index, track))
        frames = store.segments[index].segment.frames
        return {"codes": np.full(frames, index), "mel": np.full((4 * frames, 2), index + 0.5)}

    derive_many(store, ("codes", "mel"), both, tracks=("mix",), made_by="a")
    assert len(calls) == 8
    song = store.select(corpora=["tiny"])[3]
    assert store.rows(song, "mix", "codes").shape == (store.frames[song],)
    assert store.rows(song, "mix", "mel").dtype == np.float16
    assert (store.rows(song, "mix", "mel") == song + 0.5).all()


def test_wrong_rows_are_refused(store: ShardStore, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="rows for"):
        derive(store, "codes", lambda i, t: np.zeros((3, 1), int), tracks=("mix",), made_by="a")
    with pytest.raises(TypeError):
        derive(store, "codes", lambda i, t: np.zeros((store.frames[i], 1)), tracks=("mix",), made_by="a")
    with pytest.raises(CorpusError, match="'nothing' is unknown; there are pcm"):
        derive(store, "nothing", Numbered(store), tracks=("mix",), made_by="a")
    assert not [path for path in (tmp_path / "derived").rglob("*") if path.is_file()]
    with pytest.raises(CorpusError, match="without a folder"):
        derive(ShardStore(store.ranges.url), "codes", Numbered(store), tracks=("mix",), made_by="a")


@pytest.mark.parametrize("per_frame", [1, 2])
def test_latents_have_one_row_or_two_for_each_frame(per_frame: int, store: ShardStore) -> None:
    def latents(index: int, track: str) -> np.ndarray:
        return np.full((per_frame * int(store.frames[index]), 3), index, np.float16)

    derive(store, "latents", latents, tracks=("mix",), made_by="a")
    for index in store.select(needs=("mix",)):
        assert store.rows_per_frame(index, "mix", "latents") == per_frame
        assert np.array_equal(store.rows(index, "mix", "latents"), latents(index, "mix"))
    with pytest.raises(CorpusError, match=r"derive vocals\.latents first"):
        store.rows_per_frame(0, "vocals", "latents")


def test_three_rows_are_no_latents(store: ShardStore) -> None:
    with pytest.raises(CorpusError, match="rows for"):
        derive(
            store, "latents", lambda i, t: np.zeros((3 * store.frames[i], 1), np.float16), tracks=("mix",), made_by="a"
        )


def test_frames_of_one_array_have_as_many_rows(store: ShardStore) -> None:
    def mixed(index: int, track: str) -> np.ndarray:
        return np.zeros(((1 + index % 2) * int(store.frames[index]), 3), np.float16)

    with pytest.raises(CorpusError, match="rows for"):
        derive(store, "latents", mixed, tracks=("mix",), made_by="a")


def test_no_space_is_an_error_and_leaves_no_halves(store: ShardStore, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # a full disk, as far as write() is concerned
        with pytest.raises(CorpusError, match=r"codes\.npy: not written \(File too large\)"):
            derive(store, "codes", Numbered(store, width=9), tracks=("mix",), made_by="a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in (tmp_path / "derived").rglob("*") if path.is_file()]
    derive(store, "codes", Numbered(store, width=9), tracks=("mix",), made_by="a")
    check(store, Numbered(store, width=9), ("mix",))


def test_other_shards_do_not_get_old_rows(store: ShardStore, tmp_path: Path) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    changed = [SEGMENTS[0].__class__(**{**SEGMENTS[0].__dict__, "gain_db": 9.0}), *SEGMENTS[1:]]
    again = ShardStore(make_shards(tmp_path / "again", changed), tmp_path / "derived")
    stale = [not again.has(i, "mix", "codes") for i in again.select(corpora=["tiny"])]
    assert any(stale) and not all(stale)
    function = Numbered(again)
    derive(again, "codes", function, tracks=("mix",), made_by="a")
    assert function.calls == sum(stale)
    check(again, function, ("mix",))


def test_damage_is_named(store: ShardStore, tmp_path: Path) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    path = next((tmp_path / "derived").rglob("mix.codes.npy"))
    path.write_bytes(path.read_bytes()[:-8])
    again = ShardStore(store.ranges.url, tmp_path / "derived")
    with pytest.raises(CorpusError, match=r"mix\.codes\.npy: cannot be read"):
        [again.has(i, "mix", "codes") for i in range(len(again))]


def test_every_changed_bit_is_found(store: ShardStore, tmp_path: Path) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    again = ShardStore(store.ranges.url, tmp_path / "derived")
    assert again.derived is not None and again.derived.damaged() == []
    path = next((tmp_path / "derived").rglob("mix.codes.npy"))
    draw = random.Random(0)
    for file in (path, path.with_suffix(".json")):
        whole = file.read_bytes()
        for place in [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(60))]:
            data = bytearray(whole)
            data[place] ^= 1 << draw.randrange(8)
            file.write_bytes(data)
            (problem,) = again.derived.damaged() or [f"{place} of {file.name} went unnoticed"]
            assert problem == f"{path}: not as it was written; delete it, and it is derived again"
        file.write_bytes(whole)
    stamp = path.with_suffix(".json")
    stamp.write_text(stamp.read_text().replace('"a"', '"b"'))
    with pytest.raises(CorpusError, match=r"mix\.codes\.json is not as it was written"):
        [ShardStore(store.ranges.url, tmp_path / "derived").has(i, "mix", "codes") for i in range(len(store))]


def test_a_second_process_is_told_to_wait(store: ShardStore, tmp_path: Path) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    path = next((tmp_path / "derived").rglob("mix.codes.npy"))
    with path.with_name(f".{path.name}.partial").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CorpusError, match="another process is making it"):
            derive(store, "codes", Numbered(store), tracks=("mix",), made_by="b")


def test_a_file_that_was_finished_in_the_same_moment_is_left_alone(
    store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened while another process made it, locked when that had just ended: it was emptied under its final name."""
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    path = next((tmp_path / "derived").rglob("mix.codes.npy"))
    before = path.read_bytes()

    def hold_late(file: IO[bytes]) -> bool:
        Path(file.name).write_bytes(before)
        Path(file.name).rename(path)  # the other process
        return hold(file)

    monkeypatch.setattr("duotok.shards.deriving.hold", hold_late)
    with pytest.raises(CorpusError, match="another process is making it"):
        derive(store, "codes", Numbered(store), tracks=("mix",), made_by="b")
    assert path.read_bytes() == before


def test_stored_samples_stand_for_the_flac(store: ShardStore, folder: Path) -> None:
    def pcm(index: int, track: str) -> np.ndarray:
        return (store.audio(index, track, channels=2).T * 32768).round().numpy().astype(np.int16)

    plain = ShardStore(folder)
    derive(store, "pcm", pcm, tracks=("vocals", "accompaniment"), made_by="decoder")
    for index in range(len(store)):
        for track in store.tracks(index):
            for channels in (1, 2):
                assert store.audio(index, track, 3, 5, channels).equal(plain.audio(index, track, 3, 5, channels))


def test_a_changed_bit_is_never_read(store: ShardStore, tmp_path: Path) -> None:
    """Whatever bit of a .npy has changed, a crop is what was derived or an error, also far from what is asked for in the segment."""
    function = Numbered(store)
    derive(store, "codes", function, tracks=("mix",), made_by="a")
    path = next((tmp_path / "derived").rglob("mix.codes.npy"))
    whole, header = path.read_bytes(), path.read_bytes().index(b"\n") + 1
    index = store.derived.index.shards[f"{path.parent.name}.tar"][0]
    rows = function(index, "mix")
    bits = [8 * place + bit for place in range(header) for bit in range(8)]
    bits += [8 * header + bit for bit in random.Random(0).sample(range(32 * rows.size), 60)]
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        again = ShardStore(store.ranges.url, tmp_path / "derived")
        try:
            read = again.rows(index, "mix", "codes", 2, 3)
        except CorpusError as error:
            assert re.search(r"mix\.codes\.npy: .*; delete it", str(error))
            continue
        assert bit < 8 * header and np.array_equal(read, rows[2:5])


def test_what_is_kept_is_not_read_and_one_segment_costs_no_other(
    store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    sums: list[int] = []
    monkeypatch.setattr("duotok.shards.derived.zlib.crc32", lambda rows: sums.append(len(rows)) or crc32(rows))
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    index = int(store.select(needs=("mix",))[0])
    for start in range(5):
        store.rows(index, "mix", "codes", start, 2)
    assert sums == [store.segments[index].segment.frames]


def test_arrays_of_an_earlier_duotok_are_read_as_they_are(store: ShardStore, tmp_path: Path) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")
    for place in (tmp_path / "derived").rglob("mix.codes.json"):
        stamp = json.loads(place.read_text())
        place.write_text(json.dumps(seal({key: value for key, value in stamp.items() if key not in ("crc32", "seal")})))
    check(ShardStore(store.ranges.url, tmp_path / "derived"), Numbered(store), ("mix",))


@pytest.mark.parametrize("maps", [1, 64])
def test_rows_do_not_change_under_who_reads_them(
    maps: int, store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few maps every file is closed and opened again between two reads, and another training may come between."""
    monkeypatch.setattr("duotok.shards.derived.OPEN_MAPS", maps)
    songs = store.select(corpora=["tiny"])
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a", select=songs[:-1])
    before = [store.rows(index, "mix", "codes").copy() for index in songs[:-1]]
    other = ShardStore(store.ranges.url, tmp_path / "derived")
    derive(other, "codes", Numbered(store), tracks=("mix",), made_by="a")
    for index, rows in zip(songs[:-1], before, strict=True):  # another selection grew, which changes no rows
        assert np.array_equal(store.rows(index, "mix", "codes"), rows)
    derive(other, "codes", Numbered(store, offset=7), tracks=("mix",), made_by="b")
    if maps == 1:
        with pytest.raises(
            CorpusError, match=r"mix\.codes\.npy: was replaced by another training; run the same command"
        ):
            [store.rows(index, "mix", "codes") for index in songs[:-1]]
    else:
        for index, rows in zip(songs[:-1], before, strict=True):
            assert np.array_equal(store.rows(index, "mix", "codes"), rows)
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a")  # the same command again
    check(store, Numbered(store), ("mix",))


def test_stamp_says_who_and_what(store: ShardStore, tmp_path: Path) -> None:
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="weights 1234")
    stamp = json.loads(next((tmp_path / "derived").rglob("mix.codes.json")).read_text())
    assert stamp["made_by"] == "weights 1234"
    assert set(KINDS) >= {"pcm", "mel", "chroma", "masks", "latents", "levels", "codes", "hidden"}
    shutil.rmtree(tmp_path / "derived")
    assert not ShardStore(store.ranges.url, tmp_path / "derived").has(0, "mix", "codes")


def test_rows_of_another_context_are_made_anew_and_those_without_one_stay(store: ShardStore, tmp_path: Path) -> None:
    """The context of a row is kept with it, also where the file is written again for others."""
    songs, now = store.select(needs=("mix",)), {}

    def derived(context: dict[int, str] | None, offset: int, select: list[int]) -> None:
        told = None if context is None else lambda index, track: context[index]
        derive(store, "codes", Numbered(store, offset), tracks=("mix",), made_by="a", select=select, context=told)

    def offsets() -> list[int]:
        return [int(store.rows(i, "mix", "codes")[0, 0]) - first[i] for i in songs]

    derived(None, 0, songs[:2])  # by an earlier DuoTok
    first = {i: int(Numbered(store)(i, "mix")[0, 0]) for i in songs}
    now = dict.fromkeys(songs, "then")
    derived(now, 100, songs)
    assert offsets() == [0, 0] + [100] * (len(songs) - 2)
    derived(now, 200, songs)
    assert offsets() == [0, 0] + [100] * (len(songs) - 2)
    derived({**now, songs[0]: "new", songs[2]: "new"}, 300, songs[:-1])
    assert offsets() == [0, 0, 300] + [100] * (len(songs) - 3)
    derived({**now, songs[2]: "new", songs[-1]: "new"}, 400, songs)
    assert offsets() == [0, 0, 300] + [100] * (len(songs) - 4) + [400]


def test_of_a_damaged_array_only_what_is_asked_for_is_made_again(store: ShardStore, tmp_path: Path) -> None:
    """What makes rows need not know other segments, of an earlier and larger choice."""
    songs = set(store.select(corpora=["tiny"]))
    first, *others = next(
        found for indices in store.shards.values() if len(found := sorted(songs & {*indices.tolist()})) > 1
    )
    derive(store, "codes", Numbered(store), tracks=("mix",), made_by="a", select=others)
    (path,) = (tmp_path / "derived").rglob("mix.codes.npy")
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    derive(
        store,
        "codes",
        lambda index, _: Numbered(store)({first: first}[index], "mix"),
        tracks=("mix",),
        made_by="a",
        select=[first],
    )
    assert store.has(first, "mix", "codes") and not any(store.has(index, "mix", "codes") for index in others)

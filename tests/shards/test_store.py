"""Any segment's sound comes back as it was written, from a disk and from a URL; changed shards are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.shards.shard_maker import make_shards, segment, small_songs, sound

from duotok.clock import FRAME_SAMPLES
from duotok.records import CorpusError
from duotok.seals import seal, unsealed
from duotok.shards import ranges
from duotok.shards.index import track_parts
from duotok.shards.store import ShardStore

SEGMENTS = [
    *small_songs(6),
    segment("band/one", frames=30, kind="instrumental", stems=("accompaniment",), types=("instrumental",)),
    segment("band/four", frames=20, stems=("bass", "drums", "other", "vocals")),
    segment("talk/a", frames=22, kind="speech", stems=("vocals",), types=("other",)),
    segment("noise/a", frames=21, kind="sound", stems=("mix",), types=("other",)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), SEGMENTS, channels={"vocals": 1})


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture(scope="module")
def store(folder: Path) -> ShardStore:
    return ShardStore(folder)


def index_of(store: ShardStore, recording: str) -> int:
    return next(i for i, stored in enumerate(store.segments) if stored.segment.recording == recording)


def test_segments_come_back_sorted_by_key(store: ShardStore) -> None:
    assert [stored.segment for stored in store.segments] == sorted(SEGMENTS, key=lambda s: s.key)
    assert store.frames.tolist() == [s.frames for s in sorted(SEGMENTS, key=lambda s: s.key)]
    assert store.segments[-1] == store.segments[len(store) - 1]
    assert [s.segment.key for s in store.segments[2:4]] == sorted(s.key for s in SEGMENTS)[2:4]
    with pytest.raises(IndexError):
        store.segments[len(store)]


def test_sound_is_what_was_stored(store: ShardStore) -> None:
    for index, stored in enumerate(store.segments):
        for stem in stored.segment.stems:
            channels = 1 if stem == "vocals" else 2
            true = sound(stored.segment.key, stem, stored.segment.frames, channels).T.astype(np.float32) / 32768
            assert np.array_equal(store.audio(index, stem).numpy(), true)


def test_part_of_a_segment_is_that_part(store: ShardStore) -> None:
    for index, stored in enumerate(store.segments):
        for track in store.tracks(index):
            whole = store.audio(index, track)
            part = store.audio(index, track, 3, 7)
            assert torch.equal(part, whole[:, 3 * FRAME_SAMPLES : 10 * FRAME_SAMPLES])
            assert torch.equal(store.audio(index, track, 5), whole[:, 5 * FRAME_SAMPLES :])
            assert whole.shape[1] == stored.segment.frames * FRAME_SAMPLES
    with pytest.raises(ValueError, match="frames"):
        store.audio(0, store.tracks(0)[0], 10, 1000)


def test_tracks_that_are_not_stored_are_sums(store: ShardStore) -> None:
    song = index_of(store, "tiny/song0")
    assert set(store.tracks(song)) == {"vocals", "accompaniment", "mix"}
    vocals, accompaniment = store.audio(song, "vocals", channels=2), store.audio(song, "accompaniment")
    assert torch.equal(store.audio(song, "mix"), vocals + accompaniment)
    four = index_of(store, "band/four")
    assert set(store.tracks(four)) == {"vocals", "drums", "bass", "other", "accompaniment", "mix"}
    parts = sum(store.audio(four, stem) for stem in ("drums", "bass", "other"))
    assert torch.allclose(store.audio(four, "accompaniment"), parts)
    assert torch.allclose(store.audio(four, "mix"), parts + store.audio(four, "vocals"))
    assert store.tracks(index_of(store, "band/one")) == ("accompaniment",)
    with pytest.raises(CorpusError, match="no vocals; it has accompaniment"):
        store.audio(index_of(store, "band/one"), "vocals")
    assert track_parts(("vocals", "drums")) == {"vocals": ("vocals",), "drums": ("drums",)}


def test_channels(store: ShardStore) -> None:
    song = index_of(store, "tiny/song0")
    assert store.audio(song, "vocals").shape[0] == 1
    assert store.audio(song, "vocals", channels=2).shape[0] == 2
    stereo, mono = store.audio(song, "accompaniment"), store.audio(song, "accompaniment", channels=1)
    assert torch.allclose(mono[0], stereo.mean(0), atol=1e-7)


def test_select(store: ShardStore) -> None:
    def names(*splits: str, **filters: object) -> set[str]:
        return {store.segments[i].segment.recording for i in store.select(*splits, **filters)}  # type: ignore[arg-type]

    assert len(names()) == len(SEGMENTS)
    assert names("validation") == {"tiny/song5"}
    assert names("train", "validation", corpora=["tiny"]) == {f"tiny/song{i}" for i in range(6)}
    assert names(types=("other",)) == {"talk/a", "noise/a"}
    assert names(types=("instrumental", "other"), kinds=("sound", "instrumental")) == {"noise/a", "band/one"}
    assert names(lyrics=True) == {"tiny/song0", "tiny/song2", "tiny/song4"}
    assert names(needs=("mix",)) == {*(f"tiny/song{i}" for i in range(6)), "band/four", "noise/a"}
    assert names(needs=("drums", "mix")) == {"band/four"}
    assert store.select("test") == []


def test_the_same_from_a_url(folder: Path, store: ShardStore, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/shards-of-test/{path.name}", path.read_bytes())
    remote = ShardStore("memory://shards-of-test", cache=tmp_path / "cache")
    assert list(remote.segments) == list(store.segments)
    for _ in range(2):  # the second time from the cache
        for index in range(len(store)):
            track = store.tracks(index)[-1]
            assert torch.equal(remote.audio(index, track, 2, 9), store.audio(index, track, 2, 9))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) > 5
    before = {path: path.read_bytes() for path in kept}
    for path, data in before.items():  # damaged copies are fetched again
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    verified = ShardStore("memory://shards-of-test", cache=tmp_path / "cache", verify=True)
    for index in range(len(store)):
        track = store.tracks(index)[-1]
        assert torch.equal(verified.audio(index, track, 2, 9), store.audio(index, track, 2, 9))
    assert {path: path.read_bytes() for path in kept} == before
    memory.rm("/shards-of-test", recursive=True)
    assert torch.equal(remote.audio(0, store.tracks(0)[0]), store.audio(0, store.tracks(0)[0]))
    with pytest.raises(CorpusError, match="memory://shards-of-test: no shards there"):
        ShardStore("memory://shards-of-test")


def test_a_store_that_fails_in_passing_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/shaky-shards/{path.name}", path.read_bytes())
    monkeypatch.setattr(ranges, "WAITS", (0.0, 0.0))
    whole, failures = type(memory).cat_file, [2]

    def shaky(self: object, *arguments: object, **named: object) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise RuntimeError("connection lost")
        return bytes(whole(self, *arguments, **named))

    monkeypatch.setattr(type(memory), "cat_file", shaky)
    remote = ShardStore("memory://shaky-shards")
    failures[0] = 2
    remote.audio(0, remote.tracks(0)[0])
    failures[0] = 3
    with pytest.raises(CorpusError, match=r"memory://shaky-shards/.*: cannot be read \(RuntimeError: connection lost"):
        remote.audio(0, remote.tracks(0)[0])
    memory.rm("/shaky-shards", recursive=True)


def test_missing_shard_is_named(copied: Path) -> None:
    (copied / "train-000001.tar").unlink()
    with pytest.raises(CorpusError, match=r"train-000001\.tar: missing"):
        ShardStore(copied)


def test_cut_shard_is_named(copied: Path) -> None:
    path = copied / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    with pytest.raises(CorpusError, match=r"train-000000\.tar: \d+ bytes, \d+ when it was written"):
        ShardStore(copied)


def test_changed_bytes_are_found_on_request(copied: Path) -> None:
    first = ShardStore(copied)
    stored = first.segments[0]
    stem = stored.segment.stems[0]
    path = copied / stored.shard
    data = bytearray(path.read_bytes())
    data[stored.offsets[stem] + stored.sizes[stem] // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=f"{stored.shard}: other bytes"):
        ShardStore(copied).check_hashes()
    with pytest.raises(CorpusError, match=rf"{stored.segment.key}\.{stem}\.flac: other bytes"):
        ShardStore(copied, verify=True).audio(0, stem)
    data[stored.offsets[stem] : stored.offsets[stem] + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=rf"{stored.segment.key}\.{stem}\.flac: no FLAC"):
        ShardStore(copied).audio(0, stem)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_damaged_summary_is_named(sealed: bool, copied: Path) -> None:
    """Whichever byte it is: a name, a size, a hash. One without a seal, of an earlier DuoTok, is known by its names."""
    path = copied / "shards.json"
    summary = unsealed(json.loads(path.read_text()))
    path.write_text(json.dumps(seal(summary) if sealed else summary))
    ShardStore(copied)
    text = path.read_bytes()
    name = next(iter(summary["bytes"])).encode()
    places = [text.index(name), text.rindex(name), *(range(0, text.index(b'"seal"'), 7) if sealed else ())]
    for place in places:
        damaged = bytearray(text)
        damaged[place] ^= 2
        path.write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"(shards\.json|manifest\.parquet): "):
            ShardStore(copied)


def test_unfinished_folder_is_named(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no shards there"):
        ShardStore(tmp_path / "nothing")
    (copied / "shards.json").write_text(json.dumps({"sha256": {"manifest.parquet": "0"}}))
    with pytest.raises(CorpusError, match=r"is not the one of shards\.json"):
        ShardStore(copied)
    (copied / "shards.json").write_text("[]")
    with pytest.raises(CorpusError, match="not a summary"):
        ShardStore(copied)
    (copied / "shards.json").unlink()
    with pytest.raises(CorpusError, match=r"shards\.json: missing"):
        ShardStore(copied)


def test_shards_list_their_segments_in_order(store: ShardStore) -> None:
    seen = []
    for shard, indices in store.shards.items():
        assert [(store.segments[i].shard, store.segments[i].index) for i in indices] == [
            (shard, position) for position in range(len(indices))
        ]
        seen += indices.tolist()
    assert sorted(seen) == list(range(len(store)))


def test_a_library_without_validation(tmp_path: Path) -> None:
    """Told before training, and trained only when that is said: then train stands for validation, in workers too."""
    from types import SimpleNamespace

    from duotok.errors import ConfigError
    from duotok.training.stages.registry import check_validation

    rows = [segment(f"a/{n}", frames=30) for n in range(2)]
    store = ShardStore(make_shards(tmp_path / "shards", rows))
    assert len(store.where("validation")) == 0
    with pytest.raises(
        ConfigError, match=r"no segment for validation; .*folder\.validation=0\.25.*without_validation=true"
    ):
        check_validation(SimpleNamespace(without_validation=False), store)
    check_validation(SimpleNamespace(without_validation=True), store)
    assert store.select("validation") == store.select("train") == [0, 1]
    build, arguments, state = store.__reduce__()
    again = build(*arguments)
    again.__dict__.update(state)
    assert again.select("validation") == [0, 1]


def test_the_manifest_is_read_without_threads_that_outlive_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow.parquet.read_table frees a buffer of Python in a thread of its own: where a command ends at once, with a user's
    mistake, every second process was aborted ("terminate called without an active exception")."""
    make_shards(tmp_path / "shards", small_songs(3))
    monkeypatch.setattr("pyarrow.parquet.read_table", lambda *_, **__: pytest.fail("threads"))
    assert len(ShardStore(tmp_path / "shards")) == 3


def test_each_split_has_a_hash_of_its_shards(copied: Path) -> None:
    store = ShardStore(copied)
    before = store.split_hashes()
    assert before.keys() == {name.rpartition("-")[0] for name in store.summary["sha256"] if name.endswith(".tar")}
    assert before["train"] != before["validation"]
    store.summary["sha256"]["train-000000.tar"] = "another"
    assert {split for split, value in store.split_hashes().items() if value != before[split]} == {"train"}
    store.without_validation = True
    assert store.split_hashes()["validation"] == store.split_hashes()["train"]

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.data.test_jobs import units
from tests.data.test_jobs import work as work_unit
from tests.data.test_scan import put, tone

from duotok.audio.io import read
from duotok.data import catalog, jobs
from duotok.data import sharding as shards
from duotok.data.checking import check_shards
from duotok.data.jobs import JobError, LocalEngine, RayEngine, run_units
from duotok.data.scan import run_scan
from duotok.data.segmenting import segment_all
from duotok.data.segments import SegmentConfig
from duotok.data.sharding import MANIFEST, SUMMARY, cut, pending_shards, plan_shards, run_shards
from duotok.errors import ConfigError
from duotok.pool import context
from duotok.records import CorpusError, Kind, Recording, Segment, read_table, segment_key, write_table
from duotok.shards.store import ShardStore

RATE = 48_000


def segments_of(item: Recording, samples: int, frames: int = 30) -> list[Segment]:
    """Pieces of `frames` token frames to the recording's end; the last one may be filled up."""
    stems = tuple(shards.stem_sources(item.kind, sorted(item.audio)))
    total = -(-samples // 1920)
    return [
        Segment(segment_key(item.id, first), item.id, item.corpus, item.kind, item.split, item.identity, first,
                min(frames, total - first), "unknown", ("other",), stems, gain_db=-1.5, loudness=-20.0,
                words=(("la", 0.1, 0.4),), text="la", tags=("a", "b"), licence="CC0")
        for first in range(0, total, frames)
    ]  # fmt: skip


class Corpus:
    """A tiny corpus: files, recordings, segments; scanned into `work`."""

    def __init__(self, folder: Path, work: Path, count: int = 5) -> None:
        self.recordings: list[Recording] = []
        for n in range(count):
            split = "validation" if n == count - 1 else "train"
            self.add(folder, f"r{n:02d}", split, {"mix": put(folder / f"{n}.flac", tone(2.3, 1 + n % 2, seed=n))})
        self.scan(work)

    def add(self, folder: Path, name: str, split: str, audio: dict[str, str], kind: Kind = "music") -> None:
        self.recordings.append(Recording(f"c/{name}", "c", kind, split, name, audio))  # type: ignore[arg-type]

    def scan(self, work: Path) -> None:
        found = run_scan(self.recordings, work, LocalEngine(1)).done
        self.segments = [s for r in self.recordings if r.id in found for s in segments_of(r, found[r.id]["samples"])]

    def shard(self, work: Path, engine: Any = None, **options: Any) -> jobs.Results:
        options = {"shard_segments": 4, **options}
        return run_shards(self.segments, self.recordings, work, engine or LocalEngine(1), **options)


def test_a_channel_that_is_turned_over_is_turned_back(tmp_path: Path) -> None:
    stereo = tone(2.0)
    soundfile.write(tmp_path / "stereo.wav", stereo, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "turned.wav", stereo * [1, -1], RATE, subtype="FLOAT")
    kept = cut(tmp_path / "turned.wav", 0.0, len(stereo), 5, 20)
    assert np.array_equal(kept, cut(tmp_path / "stereo.wav", 0.0, len(stereo), 5, 20)) and kept.any()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def corpus(tmp_path: Path, work: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", work)


def contents(work: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((work / "shards").iterdir())}


def test_layout(corpus: Corpus, work: Path) -> None:
    corpus.shard(work)
    assert sorted(contents(work)) == [
        MANIFEST,
        SUMMARY,
        *(f"train-{n:06d}.tar" for n in range(2)),
        "validation-000000.tar",
    ]
    store = ShardStore(work / "shards")
    assert sorted(s.segment.key for s in store.segments) == sorted(s.key for s in corpus.segments)
    by_key = {s.key: s for s in corpus.segments}
    for shard, indices in store.shards.items():
        data = (work / "shards" / shard).read_bytes()
        with tarfile.open(work / "shards" / shard) as tar:
            members = tar.getmembers()
        expected = []
        for index in indices.tolist():
            stored = store.segments[index]
            assert stored.segment == by_key[stored.segment.key]
            expected += [f"{stored.segment.key}.{stem}.flac" for stem in stored.segment.stems]
            expected.append(f"{stored.segment.key}.json")
            for stem in stored.segment.stems:
                flac = data[stored.offsets[stem] :][: stored.sizes[stem]]
                assert hashlib.sha256(flac).hexdigest() == stored.sha256[stem]
                info = soundfile.info(io.BytesIO(flac))
                assert (info.frames, info.samplerate, info.subtype) == (stored.segment.frames * 1920, RATE, "PCM_16")
        assert [m.name for m in members] == expected
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    keys = [s.segment.key for i in store.shards["train-000000.tar"].tolist() for s in [store.segments[i]]]
    assert keys == sorted(keys, key=lambda key: hashlib.sha256(f"0:{key}".encode()).hexdigest())


def test_opus_shards_are_small_whole_and_the_same_each_time(corpus: Corpus, work: Path) -> None:
    corpus.shard(work)
    as_flac = ShardStore(work / "shards")
    sounds = [as_flac.audio(i, "mix") for i in range(len(as_flac.segments))]
    corpus.shard(work, audio="opus")
    first = contents(work)
    store = ShardStore(work / "shards", verify=True)
    for index, stored in enumerate(store.segments):
        sound, true = store.audio(index, "mix"), sounds[index]
        assert sound.shape == true.shape  # to the sample
        assert (sound - true).square().mean() < 0.1 * true.square().mean()
        part = store.audio(index, "mix", 2, 3)
        assert (part - sound[:, 2 * 1920 : 5 * 1920]).abs().max() < 1e-4
        with tarfile.open(work / "shards" / stored.shard) as tar:
            assert f"{stored.segment.key}.mix.opus" in tar.getnames()
    assert check_shards(work / "shards", LocalEngine(1)) == []
    for path in (work / "shards").iterdir():
        path.unlink()
    corpus.shard(work, audio="opus")
    assert contents(work) == first
    noise = (np.random.default_rng(0).normal(0, 3000, (48_000, 1))).astype(np.int16)
    assert len(shards.encode_opus(noise, 24_000)) < 0.5 * len(shards.encode_opus(noise, 96_000))
    for wrong in ("mp3", "opus:", "opus:x", "opus:5", "opus:nan", "flac:24"):
        with pytest.raises(ConfigError, match=rf"shards of {wrong}: use flac, opus, or opus:KBPS"):
            corpus.shard(work, audio=wrong)
    corpus.shard(work, audio="opus:16.5")
    summary = json.loads((work / "shards" / SUMMARY).read_text())
    assert summary["bits"] == 16_500 and sum(summary["bytes"].values()) < sum(store.summary["bytes"].values())


def test_summary(corpus: Corpus, work: Path) -> None:
    corpus.shard(work, seed=3)
    summary = json.loads((work / "shards" / SUMMARY).read_text())
    assert summary["version"] == 1 and summary["seed"] == 3 and summary["shard_segments"] == 4
    assert summary["splits"]["train"]["segments"] == sum(s.split == "train" for s in corpus.segments)
    hashes = contents(work)
    assert summary["sha256"] == {name: hashes[name] for name in hashes if name != SUMMARY}
    assert summary["bytes"] == {n: (work / "shards" / n).stat().st_size for n in hashes if n.endswith(".tar")}


@pytest.mark.parametrize("how", ["flac", "opus", "ogg", "mp3", "wav 44100", "flac 22050"])
def test_a_cut_is_what_the_whole_has_there(how: str, tmp_path: Path) -> None:
    """Decoders and the resampler have settled: every cut is the whole recording's sound, to the last bit but one."""
    kind, _, rate = how.partition(" ")
    sound = tone(8, rate=int(rate or RATE))
    formats = {"opus": {"format": "OGG", "subtype": "OPUS"}, "ogg": {"format": "OGG", "subtype": "VORBIS"}}
    path = Path(put(tmp_path / f"x.{kind}", sound, int(rate or RATE), **formats.get(kind, {})))
    whole = (read(path).T.numpy() * 32768).round()
    for first, frames in [(0, 30), (7, 100), (1, 1), (100, 60), (37, 161), (150, 50)]:
        part = cut(path, 0.0, len(whole), first, frames)
        expected = np.zeros((frames * 1920, 2))
        there = whole[first * 1920 :][: frames * 1920]
        expected[: len(there)] = there
        assert np.abs(part - expected).max() <= 1, (first, frames)


def test_a_cut_keeps_to_its_part_of_the_file(tmp_path: Path) -> None:
    path = Path(put(tmp_path / "x.flac", tone(8, 1)))
    whole = soundfile.read(path, dtype="int16", always_2d=True)[0]
    part = cut(path, 2.0, 3 * RATE + 100, 50, 30)  # the recording is 2 s to 5 s of the file, and a little more
    kept = RATE + 100
    np.testing.assert_array_equal(part[:kept], whole[4 * RATE : 4 * RATE + kept])
    assert not part[kept:].any() and len(part) == 30 * 1920


def test_loud_peaks_are_clipped_not_wrapped(tmp_path: Path) -> None:
    sound = np.array([[1.5], [-1.5], [1.0], [-1.0], [0.5]] * 4000, np.float32)
    part = cut(Path(put(tmp_path / "x.wav", sound, subtype="FLOAT")), 0.0, len(sound), 0, 10)
    assert part[:5, 0].tolist() == [32767, -32768, 32767, -32768, 16384]


def test_stems_as_the_kind_wants_them(tmp_path: Path, work: Path) -> None:
    """A lone file of an instrumental is its accompaniment, of a speaker the vocals; a song with stems has no mix."""
    corpus = Corpus(tmp_path, work, count=0)
    files = {
        stem: put(tmp_path / f"{stem}.flac", tone(2, seed=n))
        for n, stem in enumerate(("mix", "vocals", "accompaniment"))
    }
    corpus.add(tmp_path, "song", "train", files, "song")
    corpus.add(tmp_path, "band", "train", {"mix": files["mix"]}, "instrumental")
    corpus.add(tmp_path, "talk", "train", {"mix": files["mix"]}, "speech")
    corpus.scan(work)
    corpus.shard(work)
    found = {s.segment.recording: set(s.offsets) for s in ShardStore(work / "shards").segments}
    assert found == {"c/song": {"vocals", "accompaniment"}, "c/band": {"accompaniment"}, "c/talk": {"vocals"}}
    assert check_shards(work / "shards", LocalEngine(1)) == []


def test_engines_folders_and_repetitions_give_the_same_bytes(corpus: Corpus, work: Path, tmp_path: Path) -> None:
    corpus.shard(work)
    first = contents(work)
    corpus.recordings.reverse()
    corpus.segments.reverse()
    other = tmp_path / "elsewhere" / "work"
    run_scan(corpus.recordings, other, LocalEngine(1))
    corpus.shard(other, LocalEngine(2))
    assert contents(other) == first
    assert corpus.shard(work).kept == len(first) - 2 and contents(work) == first
    corpus.shard(other, seed=1)
    changed = contents(other)
    assert changed.keys() == first.keys() and all(changed[n] != first[n] for n in first if n.startswith("train"))
    corpus.shard(other, seed=0)
    assert contents(other) == first


def test_slow_ray_gives_the_same_bytes(corpus: Corpus, work: Path, tmp_path: Path) -> None:
    """Ray Data on a cluster of this machine: the same scans, failures and shards as the local engine. A unit that kills
    its worker costs itself only."""
    ray = pytest.importorskip("ray")
    corpus.add(tmp_path, "gone", "train", {"mix": str(tmp_path / "gone.flac")})
    corpus.scan(work)
    corpus.shard(work)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        engine = RayEngine()
        found = run_scan(corpus.recordings, tmp_path / "ray", engine)
        assert found.failed == run_scan(corpus.recordings, work, LocalEngine(1)).failed and len(found.failed) == 1
        corpus.shard(tmp_path / "ray", engine)
        deadly = run_units(
            work_unit, units(tmp_path / "log", 4, n1="bad", n2="die"), tmp_path / "l.jsonl", engine, "units"
        )
        assert list(deadly.done) == ["u0", "u3"]
        assert deadly.failed["u1"] == "song 1 is broken" and "SIGKILL" in deadly.failed["u2"]
    finally:
        ray.shutdown()
    assert contents(tmp_path / "ray") == contents(work)


def test_fewer_shards_leave_no_old_ones(corpus: Corpus, work: Path) -> None:
    corpus.shard(work, shard_segments=2)
    corpus.shard(work, shard_segments=50)
    assert sorted(contents(work)) == [MANIFEST, SUMMARY, "train-000000.tar", "validation-000000.tar"]
    assert check_shards(work / "shards", LocalEngine(1)) == []


def test_a_lost_shard_is_written_again(corpus: Corpus, work: Path) -> None:
    corpus.shard(work)
    first = contents(work)
    (work / "shards" / "train-000001.tar").unlink()
    (work / "shards" / "train-000000.tar").write_bytes(b"torn")
    before = pending_shards(corpus.segments, corpus.recordings, work, shard_segments=4)
    assert [unit.id for unit in before.todo] == ["train-000000.tar", "train-000001.tar"]
    corpus.shard(work)
    assert contents(work) == first


def whole_job(work: Path, workers: int) -> None:
    recordings = read_table(work / "recordings.parquet", Recording)
    engine = LocalEngine(workers)
    run_scan(recordings, work, engine)
    run_shards(read_table(work / "segments.parquet", Segment), recordings, work, engine, shard_segments=2)


def in_another_process(work: Path) -> int:
    """The job in a copy of this process, which has all modules already; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            whole_job(work, 1)
            code = 0
        finally:
            os._exit(code)
    return pid


def wait(pid: int, enough: Callable[[], bool]) -> int | None:
    """The exit code; None when `enough` came before the end."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if enough():
            return None
        time.sleep(0.001)


@pytest.fixture
def twice(tmp_path: Path) -> tuple[Path, Path]:
    """Two WORKs with the same catalog and segments; the first has its shards."""
    corpus = Corpus(tmp_path / "corpus", tmp_path / "once", count=12)
    for work in (tmp_path / "once", tmp_path / "often"):
        write_table(work / "recordings.parquet", corpus.recordings, Recording)
        write_table(work / "segments.parquet", corpus.segments, Segment)
    corpus.shard(tmp_path / "once", shard_segments=2)
    return tmp_path / "once", tmp_path / "often"


def same(once: Path, often: Path) -> bool:
    left = list(often.rglob(".*"))
    return contents(often) == contents(once) and scans(often) == scans(once) and not left


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed_again_and_again(often: Path, seed: int, answer: Connection) -> None:
    """Run the job in forks of this process, kill each but the last, and tell the exit code of that one and how many were killed."""
    draw = random.Random(seed)
    kills, patience = 0, 0.01
    while True:
        end = time.monotonic() + draw.uniform(0.2, 1) * patience
        pid = in_another_process(often)
        code = wait(pid, lambda: time.monotonic() > end)  # noqa: B023
        if code is not None:
            answer.send((code, kills))
            return
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        patience *= 1.15  # it must end, on a busy machine too


@needs_fork
def test_killed_at_any_moment(twice: tuple[Path, Path]) -> None:
    """SIGKILL again and again, at moments spread over the job: what is there in the end is what one run writes.

    In a process of its own: this one has threads of other tests, and a fork of it may wait for a lock for ever.
    """
    once, often = twice
    answered, answer = context().Pipe(duplex=False)
    process = context().Process(target=killed_again_and_again, args=(often, 0, answer))
    process.start()
    answer.close()
    code, kills = answered.recv()
    process.join()
    assert code == 0 and kills >= 3
    assert same(once, often)


def test_killed_with_workers(twice: tuple[Path, Path]) -> None:
    """The same with two worker processes: killed while they scan, and while they write shards."""
    once, often = twice

    def units() -> int:
        return sum(path.read_bytes().count(b"\n") for path in (often / "ledger").glob("*.jsonl"))

    for enough in (4, 15):
        job = context().Process(target=whole_job, args=(often, 2))
        job.start()
        while job.exitcode is None and units() < enough:
            time.sleep(0.005)
        assert job.exitcode is None, "it was not killed in the middle"
        job.kill()
        job.join()
    whole_job(often, 1)
    assert same(once, often)


def scans(work: Path) -> dict[str, bytes]:
    return {str(p.relative_to(work)): p.read_bytes() for p in sorted((work / "scan").rglob("*")) if p.is_file()}


def test_two_percent_damaged(tmp_path: Path, work: Path) -> None:
    """Of 100 recordings, two are broken: the other 98 arrive, and the ledger names the two with their reasons."""
    corpus = Corpus(tmp_path, work, count=0)
    for n in range(100):
        path = put(tmp_path / f"{n}.flac", tone(0.4, 1, seed=n))
        corpus.add(tmp_path, f"r{n:03d}", "train", {"mix": path})
    data = Path(corpus.recordings[17].audio["mix"]).read_bytes()
    Path(corpus.recordings[17].audio["mix"]).write_bytes(data[: len(data) // 2])
    Path(corpus.recordings[60].audio["mix"]).write_bytes(b"")
    corpus.scan(work)
    corpus.shard(work, shard_segments=40)
    arrived = {s.segment.recording for s in ShardStore(work / "shards").segments}
    failed = {unit: entry.error for unit, entry in jobs.read_ledger(work / "ledger/scan.jsonl").items() if entry.error}
    assert arrived == {r.id for r in corpus.recordings} - failed.keys()
    assert failed.keys() == {"c/r017", "c/r060"}
    assert "17.flac" in failed["c/r017"] and "60.flac: is empty" in failed["c/r060"]


def test_a_full_disk(corpus: Corpus, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops with one clear line, leaves nothing half-written, and goes on when there is space again."""
    room = 60_000
    write = shards._Hashed.write

    def limited(self: Any, data: bytes) -> int:
        if self.size + len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(shards._Hashed, "write", limited)
        with pytest.raises(JobError, match=r"train-000000\.tar: No space left on device; fix that"):
            corpus.shard(work)
    assert list((work / "shards").iterdir()) == []
    with pytest.raises(CorpusError, match="missing"):
        ShardStore(work / "shards")
    corpus.shard(work)
    assert check_shards(work / "shards", LocalEngine(1)) == []


def test_a_full_disk_in_the_scan(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(JobError, match=r"scan: .*r00\.levels\.npy: No space left on device"):
        run_scan(corpus.recordings, tmp_path / "new", LocalEngine(1))
    assert not [p for p in (tmp_path / "new" / "scan").rglob("*") if p.is_file()]


def test_a_source_that_changed_since_its_scan(corpus: Corpus, work: Path) -> None:
    put(Path(corpus.recordings[0].audio["mix"]), tone(0.5, 1))
    with pytest.raises(JobError, match=r"0\.flac.*scan again"):
        corpus.shard(work)
    assert not (work / "shards" / SUMMARY).exists()
    corpus.scan(work)
    corpus.shard(work)
    assert check_shards(work / "shards", LocalEngine(1)) == []


def test_other_sound_of_the_same_length_since_the_scan(corpus: Corpus, work: Path, tmp_path: Path) -> None:
    put(Path(corpus.recordings[0].audio["mix"]), tone(2.3, 1, seed=9))
    with pytest.raises(JobError, match=r"0\.flac: other bytes .*scan again"):
        corpus.shard(work)
    corpus.scan(work)
    corpus.shard(work)
    first = contents(work)
    # The same bytes at another place are the same source.
    shutil.rmtree(work / "shards")
    moved = (tmp_path / "corpus").rename(tmp_path / "moved")
    corpus.recordings = [
        dataclasses.replace(r, audio={"mix": str(moved / Path(r.audio["mix"]).name)}) for r in corpus.recordings
    ]
    corpus.shard(work)
    assert contents(work) == first


def test_segments_of_the_sound_that_was_there_before(corpus: Corpus, work: Path) -> None:
    """Their gains, words and borders are those of other sound."""
    catalog.write(work, catalog.Catalog(corpus.recordings))

    def shard_anew() -> None:
        run_shards(segment_all(work, SegmentConfig(whole_seconds=1)).segments, corpus.recordings, work, LocalEngine(1))

    shard_anew()
    put(Path(corpus.recordings[0].audio["mix"]), tone(2.3, 1, seed=9))
    run_scan(corpus.recordings, work, LocalEngine(1))
    with pytest.raises(CorpusError, match=r"c/r00: was scanned again.*duotok data segment"):
        run_shards(read_table(work / "segments.parquet", Segment), corpus.recordings, work, LocalEngine(1))
    shard_anew()


def test_plan_errors(corpus: Corpus, work: Path) -> None:
    def plan(segments: Sequence[Segment], **options: Any) -> None:
        plan_shards(segments, corpus.recordings, work, **options)

    one = corpus.segments[0]
    for segments, words in (
        ([one, one], "two segments"),
        ([dataclasses.replace(one, recording="c/other")], "not in the catalog"),
        ([dataclasses.replace(one, stems=("vocals",))], "no vocals"),
        ([dataclasses.replace(one, stems=())], "no stems"),
    ):
        with pytest.raises(CorpusError, match=words):
            plan(segments)
    with pytest.raises(CorpusError, match="shard-segments"):
        plan([one], shard_segments=0)
    with pytest.raises(CorpusError, match="nothing"):
        run_shards([], corpus.recordings, work, LocalEngine(1))


def test_long_keys(tmp_path: Path, work: Path) -> None:
    corpus = Corpus(tmp_path, work, count=0)
    corpus.add(tmp_path, "n" * 180, "train", {"mix": put(tmp_path / "x.flac", tone(1))})
    corpus.scan(work)
    corpus.shard(work)
    assert check_shards(work / "shards", LocalEngine(1)) == []


def test_webdataset_reads_them(corpus: Corpus, work: Path) -> None:
    wds = pytest.importorskip("webdataset")
    corpus.shard(work)
    tars = sorted(str(path) for path in (work / "shards").glob("*.tar"))
    samples = list(wds.WebDataset(tars, shardshuffle=False))
    by_key = {s.key: s for s in corpus.segments}
    assert sorted(sample["__key__"] for sample in samples) == sorted(by_key)
    for sample in samples:
        segment = by_key[sample["__key__"]]
        assert json.loads(sample["json"])["frames"] == segment.frames
        assert soundfile.info(io.BytesIO(sample["mix.flac"])).frames == segment.frames * 1920


def test_read_through_fsspec(corpus: Corpus, work: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    corpus.shard(work)
    memory = fsspec.filesystem("memory")
    memory.put(str(work / "shards") + "/", "/shards-test/", recursive=True)
    here, there = ShardStore(work / "shards"), ShardStore("memory://shards-test")
    for index in range(len(here)):
        assert (here.audio(index, "mix") == there.audio(index, "mix")).all()
    assert check_shards("memory://shards-test", LocalEngine(1)) == []


@pytest.mark.parametrize("what", ["flac", "json", "header", "cut", "longer"])
def test_check_finds_what_is_wrong(what: str, corpus: Corpus, work: Path) -> None:
    corpus.shard(work)
    path = work / "shards" / "train-000000.tar"
    data = bytearray(path.read_bytes())
    store = ShardStore(work / "shards")
    stored = store.segments[int(store.shards[path.name][1])]
    place = {"flac": stored.offsets["mix"] + 1000, "header": stored.offsets["mix"] - 500,
             "json": stored.offsets["mix"] + stored.sizes["mix"] + 1200}  # fmt: skip
    if what in place:
        data[place[what]] ^= 0x10
    path.write_bytes(data[:-5000] if what == "cut" else data + b"x" * 512 if what == "longer" else data)
    if what in ("cut", "longer"):
        with pytest.raises(CorpusError, match=r"train-000000\.tar"):
            check_shards(work / "shards", LocalEngine(1))
        return
    problems = check_shards(work / "shards", LocalEngine(2 if what == "flac" else 1))
    assert problems and all("train-000000.tar" in problem for problem in problems)
    assert any("shards.json" in problem for problem in problems)
    if what == "flac":
        assert any(stored.segment.key in problem for problem in problems)


def test_check_needs_finished_shards(corpus: Corpus, work: Path) -> None:
    corpus.shard(work)
    (work / "shards" / SUMMARY).unlink()
    with pytest.raises(CorpusError, match=SUMMARY):
        check_shards(work / "shards", LocalEngine(1))


def test_a_table_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Every bit: pages have checksums, the rows a hash; what is left means nothing for the rows."""
    corpus = Corpus(tmp_path / "corpus", tmp_path / "work", count=4)
    for items, cls in ((corpus.recordings, Recording), (corpus.segments, Segment)):
        path, draw = tmp_path / f"{cls.__name__}.parquet", random.Random(0)
        write_table(path, items, cls)
        whole = path.read_bytes()
        assert read_table(path, cls) == items
        refused = 0
        for place in [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(200))]:
            data = bytearray(whole)
            data[place] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            try:
                assert read_table(path, cls) == items
            except CorpusError:
                refused += 1
        assert refused > 100

"""The same songs give the same store: whatever the batches, the workers and the kills; and it is what `DuoTok.encode` gives."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import signal
import tarfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from tests.bulk.conftest import Run, files, put
from tests.tiny import tiny_bundle

from duotok.bulk import engines, preparing, token_shards
from duotok.bulk import folder as token_folder
from duotok.bulk import run as token_run
from duotok.bulk.engines import Job, LocalPipeline, Model, Result, Times
from duotok.bulk.ledger import Ledger
from duotok.bulk.pipelines import pipeline
from duotok.bulk.places import Place
from duotok.bulk.plan import Plan
from duotok.bulk.ray_engine import RayPipeline
from duotok.bulk.settings import Settings, Watch
from duotok.bulk.tokenizing import preview, tokenize
from duotok.codec.duotok import DuoTok
from duotok.data.engines import Worker
from duotok.errors import AudioError, ConfigError, DuoTokError, TokenFileError
from duotok.lm.token_store import TokenStore


def rows(store: Path) -> dict[str, dict[str, Any]]:
    """Id -> row, of all ledgers."""
    return {row["id"]: row for path in (store / "ledger").iterdir() for row in Ledger.read(path).rows.values()}


def test_a_store_has_what_encode_gives(music: Path, tmp_path: Path, model: DuoTok, run: Run) -> None:
    summary = run(music, tmp_path / "store", verify=4)
    assert (summary.encoded, summary.failed, len(summary.verified)) == (4, 0, 4) and all(
        one.equal for one in summary.verified
    )
    store = TokenStore(tmp_path / "store")
    assert {split: count for split, (count, _) in store.counts.items()} == {"train": 3, "validation": 1}
    assert [shard.name for shard in store.shards] == [
        "train-000000.parquet",
        "train-000001.parquet",
        "validation-000000.parquet",
    ]
    for split in store.counts:
        for song in store.songs(split):
            base = music.parent / song.id
            stems = {t: base.with_name(f"{base.name}.{t}.wav") for t in ("vocals", "accompaniment")}
            alone = (
                model.encode(**stems) if song.id.endswith("/p") else model.encode(base.with_name(base.name + ".wav"))
            )
            assert all((alone[t].numpy() == song.tokens[t]).all() for t in alone)
            row = rows(tmp_path / "store")[song.id]
            assert (row["n_samples"], row["gain_db"], row["song"]) == (alone.n_samples, alone.gain_db, song.sha256)
            assert row["sha256"] == {
                role: source.sha256 for role, source in alone.sources.items() if role != "separator"
            }


def test_songs_in_one_batch_give_the_same_bytes(music: Path, tmp_path: Path, run: Run) -> None:
    for number in range(3, 6):  # several of one length, and one of no length
        put(music / f"train/s{number}.wav", 1.0, seed=number)
    (music / "train/broken.wav").write_bytes(b"RIFF of nothing")
    run(music, tmp_path / "one", batch_size=1)
    summary = run(music, tmp_path / "many", batch_size=4)
    assert (summary.encoded, summary.failed) == (7, 1)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    said = json.loads((tmp_path / "one/failures.jsonl").read_text())
    assert said["id"] == "music/train/broken" and str(music / "train/broken.wav") in said["error"]


class Killed(BaseException):
    """What a kill is to the code that it hits."""


def test_a_kill_at_any_step_loses_nothing(
    music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(music, tmp_path / "whole")
    left = [0]

    def counted(real: Any) -> Any:
        def step(*given: Any, **how: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return real(*given, **how)

        return step

    for module, names in ((token_folder, "write_bytes remove"), (token_shards, "write_tokens write_bytes remove")):
        for name in names.split():
            monkeypatch.setattr(module, name, counted(getattr(module, name)))
    monkeypatch.setattr(Ledger, "append", counted(Ledger.append))
    monkeypatch.setattr(Ledger, "settle", counted(Ledger.settle))
    kills = 0
    while True:  # each run is killed one step later than the last, until one gets through
        left[0] = kills + 1
        try:
            run(music, tmp_path / "killed")
        except Killed:
            kills += 1
            journals = (
                [path for path in (tmp_path / "killed/ledger").glob("*.jsonl")]
                if (tmp_path / "killed/ledger").exists()
                else []
            )
            if journals:  # and a line is cut short
                with max(journals, key=lambda path: path.stat().st_mtime_ns).open("ab") as file:
                    file.write(b'{"place": 0, "id": "mu')
            continue
        break
    assert kills > 5
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_kill_between_a_shard_and_its_ledger_costs_no_song_of_it(
    music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All songs of a shard that was written anew had been encoded again, because its size was not the ledger's."""
    store = tmp_path / "store"
    run(music, store, split="train", shard_songs=10)
    put(music / "train/s0.wav", 0.9, seed=9)

    def killed(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Ledger, "settle", killed)
        run(music, store)
    summary = run(music, store)
    assert (summary.encoded, summary.kept, summary.damaged) == (0, 4, 0)
    run(music, tmp_path / "whole", split="train", shard_songs=10)
    assert files(store) == files(tmp_path / "whole")


def test_a_process_that_is_killed_takes_no_song_with_it(
    music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(music, tmp_path / "whole")
    real, killed = Worker.run, []

    def killing(self: Worker, payload: dict[str, Any]) -> Any:
        if not killed and "songs" in payload:
            if self._process is None:
                self._start()
            process = self._process
            assert process is not None and process.pid is not None
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        return real(self, payload)

    monkeypatch.setattr(Worker, "run", killing)
    apart = LocalPipeline(Model(str(bundle), model.model_hash, batch_size=2), ["cpu"], apart=True)
    summary = run(music, tmp_path / "killed", pipeline=lambda scratch: apart)
    assert killed and summary.encoded == 4
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert 0 < apart.times.model < apart.times.encoding


def test_only_what_has_changed_is_encoded_again(music: Path, tmp_path: Path, run: Run) -> None:
    store = tmp_path / "store"
    run(music, store)
    before = rows(store)
    os.utime(music / "train/s0.wav")  # the same bytes
    put(music / "train/s1.wav", 2.0, seed=50)
    put(music / "train/p.accompaniment.wav", 0.7, seed=51)
    (music / "train/s2.vocals.wav").write_bytes((music / "validation/s2.wav").read_bytes())
    summary = run(music, store)
    after = rows(store)
    assert (summary.encoded, summary.kept, summary.failed) == (2, 2, 1)  # vocals without a song
    assert {id for id in before if before[id]["song"] != after[id]["song"]} == {"music/train/s1", "music/train/p"}
    assert before["music/train/s0"]["marks"] != after["music/train/s0"]["marks"]
    assert run(music, store).kept == 4 and rows(store) == after
    put(music / "train/s0.vocals.wav", 0.5, seed=99)  # a given stem
    assert run(music, store).encoded == 1 and rows(store)["music/train/s0"]["song"] != after["music/train/s0"]["song"]


@pytest.mark.parametrize("kill", [False, True])
def test_an_identity_that_is_corrected_is_taken_over(
    music: Path, tmp_path: Path, run: Run, kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, listing = tmp_path / "store", tmp_path / "l.csv"
    rows_of = "path,identity,split\nmusic/train/s0.wav,{},train\nmusic/train/s1.wav,other,train\n"
    listing.write_text(rows_of.format("wrong"))
    run(listing, store)
    before = rows(store)
    listing.write_text(rows_of.format("right"))
    if kill:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Ledger, "settle", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
            run(listing, store)  # the shard is written, its ledger is not
    summary = run(listing, store)
    assert (summary.encoded, summary.kept, summary.damaged) == (0, 2, 0)
    found = {song.id: song for song in TokenStore(store).songs("train")}
    assert {id: song.identity for id, song in found.items()} == {
        "l/music/train/s0": "right",
        "l/music/train/s1": "other",
    }
    after = rows(store)
    assert all(row["song"] == found[id].song.sha256 for id, row in after.items())
    assert {id for id in after if after[id]["song"] != before[id]["song"]} == {"l/music/train/s0"}
    fresh = tmp_path / "fresh/store"
    run(listing, fresh)
    assert files(fresh) == files(store)


def test_a_song_whose_split_has_changed_is_named(music: Path, tmp_path: Path, run: Run) -> None:
    store = tmp_path / "store"
    assert not run(music, store).listing.broken
    mixed = run(music, store, split="test").listing.broken
    assert [line.split(": ")[1].split(" ")[0] for line in mixed] == ["train", "validation"]
    assert "s2" in mixed[1] and "s2" not in mixed[0]
    summary = run(music, store, split="validation")
    assert summary.kept == 4 and len(summary.listing.broken) == 1
    assert (
        "music/train/s1: train in the store" in summary.listing.broken[0]
        and "validation in the sources" in summary.listing.broken[0]
    )


def test_songs_in_another_order_than_their_shards_need_few_open_files(
    music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus that was copied, under a list in another order, had opened the journal of every shard: too many files."""
    monkeypatch.setattr(token_run, "OPEN_LEDGERS", 2)
    names = [put(music / f"t{number}.wav", 0.1, number).name for number in range(12)]
    order = [*names[::2], *names[1::2]]
    for path, listed in ((tmp_path / "one.csv", names), (tmp_path / "two.csv", order)):
        path.write_text("id,path,split\n" + "".join(f"{name},music/{name},train\n" for name in listed))
    run(tmp_path / "one.csv", tmp_path / "store")
    before = files(tmp_path / "store")
    for name in names:
        os.utime(music / name)
    seen: dict[int, Ledger] = {}
    most, append = 0, Ledger.append

    def counted(self: Ledger, row: dict[str, Any]) -> None:
        nonlocal most
        append(self, row)
        seen[id(self)] = self
        most = max(most, sum(ledger._file is not None for ledger in seen.values()))

    monkeypatch.setattr(Ledger, "append", counted)
    assert run(tmp_path / "two.csv", tmp_path / "store").kept == 12
    assert most == 3  # the one that is written, before another is closed
    after = files(tmp_path / "store")
    assert {name for name in after if after[name] != before[name]} <= {name for name in after if "ledger" in name}


def test_new_songs_come_into_new_shards(music: Path, tmp_path: Path, run: Run) -> None:
    store = tmp_path / "store"
    run(music, store)
    before = files(store)
    put(music / "train/a.wav")
    assert run([music, f"other={music / 'validation'}"], store, split="train").encoded == 2
    after = files(store)
    assert all(after[name] == before[name] for name in before if name.endswith("parquet") and "-" in name)
    assert TokenStore(store).counts["train"][0] == 5  # a song keeps its split


def test_failures_stay_until_they_are_tried_again(music: Path, tmp_path: Path, run: Run) -> None:
    bad, store, worked = music / "train/bad.wav", tmp_path / "store", []
    bad.write_bytes(b"no sound")
    watch = Watch(ended=lambda id, result: worked.append((id, "error" in result)))
    assert run(music, store, watch=watch).failed == 1 and len(worked) == 5
    assert run(music, store).failed == 1 and run(music, store, retry=True).failed == 1
    put(bad)
    summary = run(music, store)  # a changed file is tried without being asked
    assert (summary.encoded, summary.kept, summary.failed) == (1, 4, 0)
    assert (store / "failures.jsonl").read_text() == ""


def test_a_run_that_ends_early_leaves_no_thread_that_computes(
    music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, or a full disk, had ended in "terminate called without an active exception", code 134 and no other."""
    real, working = engines.encode_group, threading.Event()

    def long(payload: dict[str, Any]) -> dict[str, Any]:
        while working.is_set():
            time.sleep(0.01)
        working.set()
        return real(payload)

    def interrupt(id: str, result: Result) -> None:
        working.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "encode_group", long)
    before = threading.enumerate()
    with pytest.raises(KeyboardInterrupt):
        run(music, tmp_path / "store", watch=Watch(ended=interrupt))
    assert set(threading.enumerate()) <= set(before)
    monkeypatch.undo()
    assert run(music, tmp_path / "store").encoded == 3


class Slow:
    """A pipeline that lets something happen before the first song."""

    times = Times()

    def __init__(self, inner: Any, before: Any) -> None:
        self.inner, self.before = inner, before

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        self.before()
        yield from self.inner.run(jobs)


def test_a_song_that_is_removed_while_it_runs_fails_alone(
    music: Path, tmp_path: Path, run: Run, bundle: Path, model: DuoTok
) -> None:
    inner = LocalPipeline(Model(str(bundle), model.model_hash), ["cpu"])
    summary = run(music, tmp_path / "store", pipeline=lambda scratch: Slow(inner, (music / "train/s1.wav").unlink))
    assert (summary.encoded, summary.failed) == (3, 1)
    assert "train/s1.wav: is not there" in (tmp_path / "store/failures.jsonl").read_text()


@pytest.mark.parametrize("apart", [False, True])
def test_a_song_that_is_done_stays_while_its_file_cannot_be_reached(
    music: Path, tmp_path: Path, run: Run, bundle: Path, model: DuoTok, apart: bool
) -> None:
    """A list of a disk that is not mounted had emptied the store."""
    store, songs = tmp_path / "store", tmp_path / "songs.txt"
    songs.write_text("music/train/s0.wav\nmusic/train/s1.wav\n")
    run(songs, store, split="train")
    before = files(store)
    music.rename(tmp_path / "unmounted")

    def engine(scratch: Path) -> LocalPipeline:
        return LocalPipeline(Model(str(bundle), model.model_hash), ["cpu"], apart=apart)

    summary = run(songs, store, split="train", pipeline=engine)
    assert (summary.failed, summary.store["songs"], summary.store["failed"]) == (2, 2, 0)
    after = files(store)
    said = after.pop("failures.jsonl").decode().splitlines()
    assert [json.loads(line)["id"] for line in said] == ["songs/music/train/s0", "songs/music/train/s1"]
    assert "s0.wav: is not there" in said[0] and "its tokens stay" in said[0]
    assert after == {name: data for name, data in before.items() if name != "failures.jsonl"}
    (tmp_path / "unmounted").rename(music)
    assert run(songs, store, split="train").kept == 2 and files(store) == before


def test_what_fails_leaves_nothing_on_the_scratch_disk(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Songs that are broken at their end had filled it."""
    late, changed = music / "late.wav", music / "train/s1.wav"
    sound = np.zeros((48_000 * 12, 2), np.float32)
    sound[-1] = np.nan
    soundfile.write(late, sound, 48_000, subtype="FLOAT")

    def prepared(path: Path) -> dict[str, Any]:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        payload = {"sources": {"mix": Place(str(path))}, "marks": {}, "highpass": 10.0, "separates": True}
        return preparing.prepare(payload | {"scratch": str(scratch)})

    with pytest.raises(AudioError, match=r"late.wav: samples that are no sound"):
        prepared(late)
    keep = preparing._keep_mix
    monkeypatch.setattr(preparing, "_keep_mix", lambda *given: (os.utime(changed), keep(*given))[1])
    with pytest.raises(AudioError, match=r"s1.wav: was changed while it was read"):
        prepared(changed)

    def full(*given: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(preparing, "_keep_mix", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/scratch'"):  # no fault of the song
        prepared(changed)
    assert not list((tmp_path / "scratch").iterdir())


def test_a_store_is_one_models_and_one_runs(music: Path, tmp_path: Path, run: Run, bundle: Path) -> None:
    store = tmp_path / "store"

    def second() -> None:
        with pytest.raises(DuoTokError, match="another run is at work"):
            run(music, store)

    run(
        music,
        store,
        pipeline=lambda scratch: Slow(
            LocalPipeline(Model(str(bundle), DuoTok.from_pretrained(bundle).model_hash), ["cpu"]), second
        ),
    )
    other = DuoTok.from_pretrained(tiny_bundle(tmp_path / "other", seed=1))
    with pytest.raises(DuoTokError, match="a store of tokens of tiny"):
        tokenize([str(music)], store, other, lambda scratch: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(DuoTokError, match="made with precision fp32"):
        tokenize([str(music)], store, DuoTok.from_pretrained(bundle, precision="bf16"), lambda scratch: None)  # type: ignore[arg-type, return-value]
    token_folder.check_same(
        store, dataclasses.replace(TokenStore(store).identity, name="renamed"), {}
    )  # a name is not what tokens mean
    with pytest.raises(DuoTokError, match="is no store of tokens"):
        run(music, music)


def test_a_shard_that_is_lost_or_damaged_is_made_again(music: Path, tmp_path: Path, run: Run) -> None:
    store = tmp_path / "store"
    run(music, store)
    before = files(store)
    (store / "train-000000.parquet").unlink()
    assert run(music, store).encoded == 2 and files(store) == before
    broken = bytearray(before["train-000000.parquet"])
    broken[400:420] = b"\0" * 20
    (store / "train-000000.parquet").write_bytes(broken)
    put(music / "train/s0.wav", seed=9)  # the shard is opened only when it is to be written
    summary = run(music, store)
    assert summary.damaged == 1 and run(music, store).encoded == 1
    TokenStore(store).check()


def flip_a_code(shard: Path) -> None:
    """One bit in the last page of codes. (Elsewhere are headers and statistics, which nobody reads.)"""
    column = pyarrow.parquet.ParquetFile(shard).metadata.row_group(0).column(7)
    assert column.path_in_schema.startswith("vocals.0")
    first = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(shard.read_bytes())
    data[first + column.total_compressed_size - 3] ^= 1
    shard.write_bytes(data)


def test_damage_is_told_with_a_remedy_that_works(music: Path, tmp_path: Path, run: Run) -> None:
    store = tmp_path / "store"
    run(music, store)
    before = files(store)
    flip_a_code(store / "train-000000.parquet")
    assert run(music, store).kept == 4
    opened = TokenStore(store)
    for read in (opened.check, lambda: [song.tokens for song in opened.songs("train")]):
        with pytest.raises(TokenFileError, match=r"train-000000.parquet: .*; remove the file and run duotok tokenize"):
            read()
    (store / "train-000000.parquet").unlink()
    assert run(music, store).encoded == 2 and files(store) == before


def test_verify_finds_songs_by_their_place_and_reads_their_shards_alone(
    music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A song that is listed with another split now is compared too, and no shard is read for those that were not drawn."""
    store = tmp_path / "store"
    run(music, store)
    summary = run(music, store, split="test", verify=4)
    assert len(summary.verified) == 4 and all(one.equal for one in summary.verified)
    read: list[str] = []
    real = token_shards.TokenCorpus
    monkeypatch.setattr(token_shards, "TokenCorpus", lambda path: (read.append(path.name), real(path))[1])
    assert len(run(music, store, verify=1).verified) == len(read) == 1
    flip_a_code(store / read[0])
    assert "is damaged; remove the file" in run(music, store, verify=1).verified[0].error


def test_a_store_that_changes_under_its_reader_is_refused(music: Path, tmp_path: Path, run: Run) -> None:
    """Songs had come under the numbers and lengths of others."""
    run(music, tmp_path / "store", split="train", shard_songs=10)
    before = TokenStore(tmp_path / "store").songs("train")
    (music / "train/p.vocals.wav").write_bytes(b"broken")
    run(music, tmp_path / "store")
    with pytest.raises(
        TokenFileError, match=r"train-000000.parquet: is not as large as in the manifest; open the store again"
    ):
        print(before[0].id)
    after = TokenStore(tmp_path / "store").songs("train")
    assert [song.frames for song in after] == [song.tokens["vocals"].shape[1] for song in after]


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-9], None])
def test_code_vectors_that_were_damaged_are_written_again(music: Path, tmp_path: Path, run: Run, damage: Any) -> None:
    """The next manifest had taken them for what they are."""
    store = tmp_path / "store"
    run(music, store)
    before = files(store)
    (store / "vectors.safetensors").unlink()
    if damage:
        (store / "vectors.safetensors").write_bytes(damage(before["vectors.safetensors"]))
    assert run(music, store).kept == 4 and files(store) == before


def test_a_shard_goes_on_in_another_file_when_it_grows_too_large(
    music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(music, tmp_path / "one", shard_songs=10)
    real = token_shards.write_shard
    monkeypatch.setattr("duotok.bulk.run.write_shard", lambda *given: real(*given, most=20))
    run(music, tmp_path / "many", shard_songs=10)
    one, many = TokenStore(tmp_path / "one"), TokenStore(tmp_path / "many")
    assert len(one.of("train")) == 1 and [s.name for s in many.of("train")][1:] == [
        "train-000000.1.parquet",
        "train-000000.2.parquet",
    ]
    assert [s.song.sha256 for s in one.songs("train")] == [s.song.sha256 for s in many.songs("train")]


def test_a_bucket_is_a_source_and_its_files_are_asked_for_once(
    music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"/{uuid.uuid4().hex}"
    system = fsspec.filesystem("memory")
    for path in music.rglob("*.wav"):
        system.pipe(f"{root}/music/{path.relative_to(music)}", path.read_bytes())
    run(music, tmp_path / "here")
    run(f"memory:/{root}/music", tmp_path / "there")
    assert [s.sha256 for s in TokenStore(tmp_path / "here").shards] == [
        s.sha256 for s in TokenStore(tmp_path / "there").shards
    ]
    listing = tmp_path / "music.txt"
    listing.write_text(f"memory:/{root}/music/train/s0.wav\nmemory:/{root}/gone.wav\n")
    summary = run(listing, tmp_path / "list")
    assert (summary.encoded, summary.failed) == (1, 1) and "gone.wav: is not there" in (
        tmp_path / "list/failures.jsonl"
    ).read_text()
    monkeypatch.setattr("duotok.bulk.places._copied", None)
    assert run(listing, tmp_path / "list").kept == 1  # the bucket says that it has not changed


def test_a_dry_run_counts_and_writes_nothing(music: Path, tmp_path: Path, run: Run) -> None:
    run(music, tmp_path / "store")
    put(music / "train/new.wav")
    before = files(tmp_path)
    facts = preview([str(music)], tmp_path / "store", Settings())
    assert (facts["listed"], facts["new"], facts["in the store"]) == (5, 1, 4) and files(tmp_path) == before
    assert preview([str(music)], tmp_path / "none", Settings())["new"] == 5


def test_what_workers_are_given_does_not_depend_on_their_folder(
    music: Path, tmp_path: Path, run: Run, bundle: Path, model: DuoTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a Ray cluster run wherever it was started."""
    monkeypatch.chdir(tmp_path)
    given: list[Job] = []

    class Elsewhere(LocalPipeline):
        def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
            for job in jobs:
                given.append(job)
                yield job.number, {"error": "not done"}

    here = Model(os.path.relpath(bundle), model.model_hash)
    run(["music", "music/train/s0.wav"], Path("store"), pipeline=lambda scratch: Elsewhere(here, ["cpu"]))
    assert len(given) == 5 and {job.payload["scratch"] for job in given} == {str(tmp_path / "store/scratch")}
    assert all(
        Path(place[0]).is_file() and place[0][0] == "/" for job in given for place in job.payload["sources"].values()
    )
    there = pipeline("ray", here)
    assert (
        isinstance(there, RayPipeline)
        and Path(there.model.name).is_absolute()
        and Path(there.model.name).samefile(bundle)
    )


def test_a_warning_names_the_song_and_not_the_copy_of_it(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    whole = put(tmp_path / "whole.flac", 2.0).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "cut.flac", "cut.flac")
    run(tmp_path / "set.tar", tmp_path / "store")
    said = [message for message in caplog.messages if "is cut off" in message]
    assert [message.partition(": ")[0] for message in said] == [f"{tmp_path}/set.tar:cut.flac"]


def test_two_songs_of_one_id_are_named(music: Path, tmp_path: Path, run: Run) -> None:
    put(tmp_path / "again/music/train/s0.wav")
    summary = run([music, tmp_path / "again/music"], tmp_path / "store")
    assert summary.listed == 4 and "music/train/s0: two songs of one id" in summary.listing.broken[0]


def test_a_plan_that_may_not_be_read_costs_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything, so the system's answer is played."""
    path = tmp_path / "plan.parquet"
    path.touch()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pyarrow.parquet.read_table", refused)
    with pytest.raises(
        TokenFileError, match=r"plan\.parquet: cannot be read .Permission denied.; check its permissions$"
    ):
        Plan(path, 2)


def test_a_plan_that_was_changed_is_refused(music: Path, tmp_path: Path, run: Run) -> None:
    """It says for ever which song lies where: read wrongly, songs would be lost or doubled."""
    store = tmp_path / "store"
    run(music, store)
    path, before = store / "plan.parquet", files(store)
    whole, draw = path.read_bytes(), random.Random(0)
    first = Plan(path, 2)
    for place in [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(150))]:
        data = bytearray(whole)
        data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            read = Plan(path, 2)
        except TokenFileError as error:
            assert "plan.parquet: damaged" in str(error)
            continue
        for name in ("_keys", "_shards", "_places"):  # a bit that means nothing for the numbers
            assert (getattr(read, name) == getattr(first, name)).all()
    path.write_bytes(whole)
    assert run(music, store).encoded == 0 and files(store) == before


def test_one_name_that_cannot_be_read_costs_no_other(music: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "songs.txt").write_bytes(b"music/train/s0.wav\nb\0.wav\nmusic/train/s1.wav\n")
    summary = run(tmp_path / "songs.txt", tmp_path / "store")
    assert (summary.encoded, summary.failed) == (2, 1)
    assert "cannot be read (embedded null byte)" in (tmp_path / "store/failures.jsonl").read_text()
    for name in (b"bad\xff.wav", b"bad\\udcff.wav"):  # written alike where names are text
        (music / "train" / os.fsdecode(name)).write_bytes((music / "train/s0.wav").read_bytes())
    summary = run(music, tmp_path / "other")
    assert summary.encoded == 5 and "two songs of one id" in summary.listing.broken[0]


def test_files_that_are_gone_cost_no_tokens(music: Path, tmp_path: Path, run: Run) -> None:
    """A song had lost its tokens with one of its stems, and with the end of its tar."""
    store, tar_path = tmp_path / "store", tmp_path / "set.tar"
    with tarfile.open(tar_path, "w") as tar:
        for name in ("s0", "s1"):
            tar.add(music / f"train/{name}.wav", f"{name}.wav")
    run([music, tar_path], store)
    songs = {song.id: song.sha256 for split in TokenStore(store).counts for song in TokenStore(store).songs(split)}
    (music / "train/p.vocals.wav").unlink()
    tar_path.write_bytes(tar_path.read_bytes()[:-40_000])
    said: list[str] = []
    summary = run([music, tar_path], store, watch=Watch(ended=lambda id, result: said.append(result.get("error", ""))))
    assert summary.failed == 2 and any(
        line.startswith("music/train/p: only accompaniment of this song") for line in said
    )
    assert any("set.tar:s1.wav: ends" in line for line in said)
    opened = TokenStore(store)
    assert {song.id: song.sha256 for split in opened.counts for song in opened.songs(split)} == songs


def test_a_source_without_songs_says_why(tmp_path: Path, run: Run) -> None:
    (tmp_path / "set.tar").write_bytes(b"x" * 5000)
    with pytest.raises(DuoTokError, match=r"set.tar: cut or damaged"):
        run(tmp_path / "set.tar", tmp_path / "store")
    put(tmp_path / "far/x.wav")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/link").symlink_to(tmp_path / "far")
    with pytest.raises(DuoTokError, match=r"near: no songs there \(1 linked folders, or no ordinary files left out\)"):
        run(tmp_path / "near", tmp_path / "store")


def test_settings_that_cannot_be_are_refused(music: Path, tmp_path: Path, model: DuoTok) -> None:
    """One had kept two songs of nine, another waited for ever."""
    with pytest.raises(ConfigError, match="shard_songs = 0"):
        Settings(shard_songs=0)
    with pytest.raises(ConfigError, match=r"devices = \[\]"):
        LocalPipeline(Model("x", "x"), [])
    with pytest.raises(ConfigError, match="workers = 0"):
        pipeline("local", Model("x", "x"), workers=0)
    with pytest.raises(ConfigError, match="give a list of sources"):
        tokenize(str(music), tmp_path / "store", model, lambda scratch: None)  # type: ignore[arg-type, return-value]
    assert not (tmp_path / "store").exists()

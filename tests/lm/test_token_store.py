"""A store read back: every song as it was written, in any order, from a folder or a URL, by ranks and workers, and from the middle."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import uuid
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from tests.lm.small import CODEC, MIXED, TINY, song
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from duotok.bulk.encoding import packed
from duotok.bulk.folder import begin, held
from duotok.bulk.ledger import Ledger
from duotok.bulk.token_shards import write_manifest, write_shard
from duotok.cli.main import app
from duotok.errors import ConfigError, TokenFileError
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.cost import estimate_lm
from duotok.lm.exchange import import_tokens
from duotok.lm.song import TokenizedSong
from duotok.lm.stage import LMStage, LMStageConfig
from duotok.lm.token_datasets import StreamState, TokenSongs, TokenStream
from duotok.lm.token_store import TokenStore, open_tokens

SONGS = [song(f"s{n}", 30 + 7 * n, split="train" if n < 13 else "validation", seed=n) for n in range(16)]


def make(folder: Path, songs: list[TokenizedSong] = SONGS, each: int = 3) -> Path:
    """A store of these songs, by the code that `duotok tokenize` writes with."""
    with held(folder):
        begin(folder, CODEC, {}, {})
        ledgers = []
        for split in ("train", "validation"):
            mine = [s for s in songs if s.split == split]
            for number in range(0, len(mine), each):
                ledger = Ledger(folder / f"ledger/{split}-{number // each:06d}.jsonl")
                for place, s in enumerate(mine[number : number + each]):
                    codes = packed(
                        [torch.from_numpy(s.tokens[t][0].astype(np.int64)) for t in ("vocals", "accompaniment")]
                    )
                    facts = {
                        "id": s.id,
                        "split": s.split,
                        "identity": s.identity,
                        "marks": {},
                        "n_samples": s.frames * 1920,
                    }
                    ledger.append({"place": place, **facts, "song": s.sha256, "codes": codes})
                write_shard(folder, ledger.path.stem, ledger, CODEC)
                ledgers.append((split, ledger))
        write_manifest(folder, CODEC, ledgers)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tokens") / "store")


def uploaded(folder: Path) -> str:
    """The URL of a copy."""
    url = f"memory://{uuid.uuid4().hex}"
    for path in folder.iterdir():
        if path.is_file():
            fsspec.filesystem("memory").pipe(f"{url.removeprefix('memory:/')}/{path.name}", path.read_bytes())
    return url


@pytest.fixture(params=["folder", "url", "cached url"])
def store(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> TokenStore:
    if request.param == "folder":
        return TokenStore(folder)
    return TokenStore(uploaded(folder), cache=tmp_path if "cached" in request.param else None)


def test_every_song_is_as_it_was_written(store: TokenStore) -> None:
    for split in ("train", "validation"):
        expected = [s for s in SONGS if s.split == split]
        found = store.songs(split)
        assert len(found) == len(expected) == store.counts[split][0] and found.frames.tolist() == [
            s.frames for s in expected
        ]
        for k in [*range(len(expected))[::-1], -1]:
            assert found[k].sha256 == expected[k].sha256 and found[k].frames == expected[k].frames
        assert [s.id for s in found] == [s.id for s in expected] and [s.id for s in found[1:3]] == [
            s.id for s in expected[1:3]
        ]
    dataset = TokenSongs(store, shortest=50)
    assert len(dataset) == sum(s.frames >= 50 for s in SONGS if s.split == "train")
    first = dataset[0]
    assert first["id"] == "s3" and (first["tokens"]["vocals"].numpy() == SONGS[3].tokens["vocals"]).all()


def test_a_stream_has_every_song_once_and_another_order_each_epoch(store: TokenStore) -> None:
    orders = [[s["id"] for s in TokenStream(store, state=StreamState(epoch))] for epoch in (0, 0, 1)]
    assert sorted(orders[0]) == sorted(s.id for s in SONGS if s.split == "train")
    assert orders[0] == orders[1] != orders[2] and orders[0] != sorted(orders[0])


def test_only_the_songs_that_are_wanted_come(store: TokenStore) -> None:
    """Whole shards without any among them; with `shortest`, by number and as a stream that goes on, and each with its own tokens."""
    wanted = ["s1", "s7", "s8", "s11"]
    dataset = TokenSongs(store, only=wanted.__contains__)
    assert [dataset[k]["id"] for k in range(len(dataset))] == wanted
    assert all(
        (dataset[k]["tokens"]["vocals"].numpy() == SONGS[int(id[1:])].tokens["vocals"]).all()
        for k, id in enumerate(wanted)
    )
    assert len(TokenSongs(store, shortest=SONGS[7].frames, only=wanted.__contains__)) == 3
    stream = TokenStream(store, only=wanted.__contains__, batch_size=2)
    first = [s["id"] for batch in stream.loader() for s in batch]
    later = [s["id"] for batch in stream.at(StreamState(taken=1)).loader() for s in batch]
    assert sorted(first) == sorted(wanted) and later == first[1:] and len(stream) == 4
    with pytest.raises(ConfigError, match=r"0 train songs for 1 processes.*that `only` takes"):
        TokenStream(store, only=lambda id: False)


def test_ranks_share_an_epoch(folder: Path) -> None:
    store = TokenStore(folder)
    parts = [[s["id"] for s in TokenStream(store, rank=rank, world=3)] for rank in range(3)]
    assert {len(part) for part in parts} == {4} and len({id for part in parts for id in part}) == 12
    together = [s["id"] for s in TokenStream(store)]
    assert [id for row in zip(*parts, strict=True) for id in row] == together[:12]


def key(sample: dict[str, object]) -> tuple[object, ...]:
    return (
        sample["id"],
        sample["start"],
        sample["epoch"],
        sample["number"],
        tuple(t.sum() for t in sample["tokens"].values()),
    )  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_at_the_exact_song(folder: Path, workers: int) -> None:
    def loader(state: StreamState) -> DataLoader:
        stream = TokenStream(TokenStore(folder), frames=20, seed=3, batch_size=2, state=state)
        return stream.loader(workers)

    whole = [key(sample) for sample in TokenStream(TokenStore(folder), frames=20, seed=3)]
    assert len({k[1] for k in whole}) > 3
    state, found = StreamState(), []
    for batch in loader(state):
        found += map(key, batch)
        state = state.advanced(len(batch), 13)
        if state.taken == 4:
            break
    state = StreamState(**json.loads(json.dumps(state.state_dict())))
    for batch in loader(state):
        found += map(key, batch)
        state = state.advanced(len(batch), 13)
    assert found == whole and state == StreamState(1, 0)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_outlive_an_epoch_go_on_with_the_next(folder: Path, context: str) -> None:
    """They had their own copy of the state, and gave the first epoch again and again."""
    stream = TokenStream(TokenStore(folder), frames=20, seed=3, batch_size=2)
    loader = DataLoader(
        stream, batch_size=2, num_workers=1, collate_fn=list, persistent_workers=True, multiprocessing_context=context
    )
    state = StreamState()
    for epoch in range(2):
        stream.at(state)
        alone = [key(sample) for sample in TokenStream(TokenStore(folder), frames=20, seed=3, state=state)]
        assert [key(sample) for batch in loader for sample in batch] == alone and alone[0][2] == epoch
        state = state.advanced(len(stream), len(stream))


def test_a_loader_of_another_batch_size_is_refused(folder: Path) -> None:
    stream = TokenStream(TokenStore(folder), batch_size=2)
    with pytest.raises(ConfigError, match="batch_size 3 of the loader, 2 of the stream"):
        stream.loader(batch_size=3)
    batches = [len(batch) for batch in stream.loader(drop_last=False, collate_fn=tuple)]
    assert batches == [2] * 6 + [1]


def test_a_loader_that_drops_songs_is_refused_for_its_epoch_would_not_end(folder: Path) -> None:
    stream = TokenStream(TokenStore(folder), batch_size=2)
    with pytest.raises(
        ConfigError, match=r"drop_last: the epoch would never end.* skip a batch with fewer than 2 samples"
    ):
        stream.loader(drop_last=True)
    state, taken = StreamState(), 0  # what it says instead
    for batch in stream.at(state).loader():
        state = state.advanced(len(batch), len(stream))
        if len(batch) < 2:
            continue
        taken += len(batch)
    assert (state, taken) == (StreamState(1, 0), 12)


def test_songs_that_are_only_added_disturb_nobody_who_reads(tmp_path: Path) -> None:
    """Lengths were read on first use, and were those of the new manifest then; so were a worker's shards."""
    before = [s for s in SONGS if s.split == "validation" or s.id in ("s0", "s1", "s2")]
    place = make(tmp_path / "store", before)
    store = TokenStore(place)
    more = make(tmp_path / "more")
    for path in more.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    worker = pickle.loads(pickle.dumps(store))
    for opened in (store, worker):
        assert [s.id for s in opened.songs("train")] == ["s0", "s1", "s2"] and opened.counts["train"][0] == 3
        assert [s.id for s in TokenSongs(opened, "validation").songs] == ["s13", "s14", "s15"]
        opened.check()
    assert len(TokenStore(place).songs("train")) == 13


def test_what_is_missing_or_not_readable_is_named_with_its_remedy(folder: Path, tmp_path: Path) -> None:
    copy, shard = tmp_path / "copy", TokenStore(folder).shards[0]
    shutil.copytree(folder, copy)
    here, there = TokenStore(copy), TokenStore(uploaded(copy))
    (copy / shard.name).unlink()
    fsspec.filesystem("memory").rm(f"{str(there.path).removeprefix('memory:/')}/{shard.name}")
    for store in (here, there):
        for read in (store.check, lambda store=store: store.group(shard, 0)):
            with pytest.raises(
                TokenFileError, match=rf"{shard.name}.*; run duotok tokenize again, copy it again, or open"
            ):
                read()
    shutil.copy(folder / shard.name, copy)
    os.truncate(copy / shard.name, 100)
    with pytest.raises(TokenFileError, match=rf"{shard.name}: ends .*; remove the file and run duotok tokenize again"):
        here.check()
    (copy / "lengths.npy").unlink()
    with pytest.raises(
        TokenFileError, match=r"lengths.npy: cannot be read \(No such file or directory\); run duotok tokenize"
    ):
        TokenStore(copy)
    with pytest.raises(
        TokenFileError, match=r"bucket/x\.parquet: packed tokens are read from a disk; copy the file here"
    ):
        open_tokens("s3://bucket/x.parquet")
    with pytest.raises(
        TokenFileError, match=r"tokens: this kind of URL cannot be opened .*; install what it needs, or check"
    ):
        TokenStore("nothing://bucket/tokens")
    with pytest.raises(
        TokenFileError, match=r"copy: a store of duotok tokenize, .*; `duotok tokens export .*copy -o EXPORT` and"
    ):
        TokenCorpus(copy)
    with pytest.raises(TokenFileError, match="a folder, and no packed tokens; name a file of duotok pack"):
        TokenCorpus(tmp_path)


def test_a_damaged_copy_in_the_cache_is_fetched_again(folder: Path, tmp_path: Path) -> None:
    """It was called damage of the store. `check` looks at the store, not at copies."""
    url = uploaded(folder)
    store = TokenStore(url, cache=tmp_path)
    shard = store.shards[0]
    songs = [s.sha256 for s in store.group(shard, 0)]
    (copy,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = copy.read_bytes()
    copy.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert [s.sha256 for s in TokenStore(url, cache=tmp_path).group(shard, 0)] == songs and copy.read_bytes() == whole
    place = f"{url.removeprefix('memory:/')}/{shard.name}"
    fsspec.filesystem("memory").pipe(place, bytes([whole[0] ^ 1]) + whole[1:])
    for read in (store.check, lambda: TokenStore(url).group(shard, 0)):
        with pytest.raises(TokenFileError, match=rf"{shard.name}: was changed since it was written; remove the file"):
            read()
    copy.unlink()
    with pytest.raises(
        TokenFileError, match=rf"{shard.name}: other bytes at 0 than the manifest says; remove the file"
    ):
        TokenStore(url, cache=tmp_path).group(shard, 0)


def test_what_may_not_be_read_is_not_called_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything, so the system's answer is played."""
    store = TokenStore(folder)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refused)
    monkeypatch.setattr("duotok.shards.ranges.Ranges._fetch", refused)
    for read in (
        lambda: TokenStore(folder), store.check, lambda: store.group(store.shards[0], 0),
        lambda: open_tokens(folder / store.shards[0].name),
    ):  # fmt: skip
        with pytest.raises(TokenFileError, match=r"cannot be read \(Permission denied\); check its permissions$"):
            read()


def test_other_songs_in_a_shard_of_the_same_size_are_refused(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "store"
    shutil.copytree(folder, again)
    store = TokenStore(again)
    shard = store.of("train")[0]
    songs = [s for s in SONGS if s.split == "train"][: shard.songs]
    write_tokens(again / shard.name, store.identity, [songs[1], songs[0], *songs[2:]])
    size = (again / shard.name).stat().st_size  # as if it were the same by chance
    store.shards = [dataclasses.replace(s, bytes=size) if s == shard else s for s in store.shards]
    assert store.songs("train")[2].id == songs[2].id
    with pytest.raises(TokenFileError, match="has other songs than the manifest"):
        _ = store.songs("train")[0].tokens


def test_a_stream_reads_no_more_than_it_needs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, opened = TokenStore(folder), []
    real = store.shard
    monkeypatch.setattr(store, "shard", lambda shard: opened.append(shard.name) or real(shard))
    stream = TokenStream(store, shards_at_once=1, state=StreamState(0, 12))
    assert not opened and len(list(stream)) == 1 and len(set(opened)) == 1


def test_too_few_songs_and_a_wrong_rank_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="13 train songs for 14"):
        TokenStream(TokenStore(folder), world=14)
    with pytest.raises(ConfigError, match=r"0 train songs for 1 processes, of at least 999 frames; .*lower shortest"):
        TokenStream(TokenStore(folder), shortest=999)
    stream = TokenStream(TokenStore(folder), world=2)
    for taken in (6, 7, -1):
        for given in (stream.at, lambda state: TokenStream(stream.store, world=2, state=state)):
            with pytest.raises(
                ConfigError, match=r"taken=.*: this stream has 6 songs an epoch.*; begin with StreamState\(2\)"
            ):
                given(StreamState(2, taken))
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        TokenStream(TokenStore(folder), rank=2, world=2)
    for wrong in ({"seed": -1}, {"frames": 0}):  # a traceback in the first epoch, and pieces of nothing
        with pytest.raises(ConfigError, match=r"give a seed of 0 or more, and pieces of a frame or more"):
            TokenStream(TokenStore(folder), **wrong)
    with pytest.raises(TokenFileError, match="no songs of split 'test'; it has 13 train, 3 validation"):
        TokenStore(folder).songs("test")


def test_what_is_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("manifest.json", "lengths.npy", "train-000001.parquet"):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(TokenFileError, match=name):
            store = TokenStore(copy)
            _ = store.lengths
            store.check()
    with pytest.raises(TokenFileError, match="store of duotok tokenize"):
        TokenStore(tmp_path)
    with pytest.raises(TokenFileError, match="expected those of mixed"):
        TokenStore(folder, MIXED)


def test_a_store_is_exported_as_a_packed_file_is(folder: Path, tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.parquet", CODEC, SONGS)
    for source, out in ((tmp_path / "tokens.parquet", "file"), (folder, "store"), (uploaded(folder), "bucket")):
        done = CliRunner().invoke(app, ["tokens", "export", str(source), "-o", str(tmp_path / out), "--to", "npy"])
        assert done.exit_code == 0, done.output
    for path in (tmp_path / "file").iterdir():
        if path.name != "layout.json":  # that names the source by its hash
            for other in ("store", "bucket"):
                assert path.read_bytes() == (tmp_path / other / path.name).read_bytes()
    assert import_tokens(tmp_path / "store", tmp_path / "again.parquet") == len(SONGS)


def config_of(data: object, **more: object) -> LMStageConfig:
    values = {"steps": 1, "batch_size": 4, "model": TINY.model_dump(), "data": data, "seconds": 2.0, "shortest": 1.6}
    return LMStageConfig.model_validate({**values, **more})


def stage_of(data: object, **more: object) -> LMStage:
    return LMStage(config_of(data, **more))


def test_a_language_model_fetches_every_shard_of_a_url_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = make(tmp_path / "store", each=1)
    url, fetched = uploaded(place), Counter[str]()
    real = fsspec.filesystem("memory").__class__.cat_file

    def counted(system: object, path: str, *arguments: object, **options: object) -> bytes:
        fetched[path.rsplit("/", 1)[-1]] += 1
        return bytes(real(system, path, *arguments, **options))

    def learned(**more: object) -> Counter[str]:
        fetched.clear()
        caplog.clear()
        stage = stage_of(url, **more)
        for step in range(12):
            stage.batch(step, range(4))
        for _ in range(2):
            stage.held_out()
        return Counter({name: count for name, count in fetched.items() if name.endswith(".parquet")})

    monkeypatch.setattr(fsspec.filesystem("memory").__class__, "cat_file", counted)
    monkeypatch.setattr("duotok.lm.token_store.OPEN_GROUPS", 4)
    assert max(learned().values()) > 1 and "keep them with --set cache=FOLDER" in caplog.text
    cache = tmp_path / "cache"
    first = learned(cache=str(cache))
    assert set(first.values()) == {1} and len(first) > 10 and not caplog.text
    assert not learned(cache=str(cache)), "another run fetched them anew"
    caplog.clear()
    assert stage_of(place) and not caplog.text
    fetched.clear()
    estimate_lm(config_of(url, cache=str(cache)), 0)
    assert fetched and not any(name.endswith(".parquet") for name in fetched), "a dry run has the cache too"


@pytest.mark.parametrize("missing", ["validation", "train"])
@pytest.mark.parametrize("tables", ["random", "codec"])
def test_a_store_without_songs_to_learn_from_is_told_what_helps(tmp_path: Path, missing: str, tables: str) -> None:
    store = make(tmp_path / "store", [s for s in SONGS if s.split != missing])
    words = (
        rf"no songs of split '{missing}' \(it has .*\); add songs .* with duotok tokenize: .*'split'.*--split {missing}"
    )
    with pytest.raises(ConfigError, match=words):
        stage_of(store, tables=tables)


def test_a_language_model_learns_the_same_from_a_store(folder: Path, tmp_path: Path) -> None:
    packed_file = tmp_path / "tokens.parquet"
    write_tokens(packed_file, CODEC, SONGS)
    losses = []
    for data in (packed_file, folder):
        stage = stage_of(data)
        assert len(stage.songs) < 13 and stage.batch(3, range(4))["ids"] == stage_of(data).batch(3, range(4))["ids"]
        losses.append((stage.held_out(), {k: float(v) for k, v in stage.losses(stage.batch(5, range(4)), 5).items()}))
    assert losses[0] == losses[1]
    assert isinstance(open_tokens(folder), TokenStore)


def test_each_split_has_a_hash_of_its_songs_in_a_store_as_in_a_file(tmp_path: Path) -> None:
    more = [*SONGS, song("s16", 90, split="train", seed=16)]
    stores = [TokenStore(make(tmp_path / name, songs)) for name, songs in (("a", SONGS), ("b", SONGS), ("c", more))]
    files = []
    for name, songs in (("a", SONGS), ("b", SONGS), ("c", more)):
        write_tokens(tmp_path / f"{name}.parquet", CODEC, songs)
        files.append(TokenCorpus(tmp_path / f"{name}.parquet"))
    for first, same, other in (stores, files):
        assert first.split_hashes().keys() == {"train", "validation"}
        assert first.split_hashes() == same.split_hashes()
        assert first.split_hashes()["validation"] == other.split_hashes()["validation"] != first.split_hashes()["train"]
        assert first.split_hashes()["train"] != other.split_hashes()["train"]
        assert (
            LMStage(
                LMStageConfig(data=first.path, model=TINY, seconds=2.0, shortest=1.0, steps=1, batch_size=1, lr=1e-3)
            ).songs_hashes
            == first.split_hashes()
        )

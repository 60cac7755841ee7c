"""Packed tokens: what goes in comes out, and nothing else goes in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lm.small import CODEC, MIXED, corpus, song, songs

from duotok.codec.contract import Stream
from duotok.errors import TokenFileError
from duotok.lm import corpus as module
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity
from duotok.seals import seal


def same(a: TokenizedSong, b: TokenizedSong) -> bool:
    facts = all(
        getattr(a, name) == getattr(b, name) for name in ("id", "split", "identity", "recording", "start_frame")
    )
    return (
        facts and a.tokens.keys() == b.tokens.keys() and all(np.array_equal(a.tokens[k], b.tokens[k]) for k in a.tokens)
    )


@pytest.mark.parametrize("codec", [CODEC, MIXED])
def test_round_trip(codec: CodecIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 2)  # several row groups
    given = [*songs(codec, count=9), song("stretch@40", 12, codec, "test", recording="stretch", start_frame=40)]
    packed = TokenCorpus(corpus(tmp_path, codec, given))
    assert packed.identity == codec
    for split in ("train", "validation", "test"):
        wanted = [s for s in given if s.split == split]
        found = packed.songs(split)
        assert len(found) == len(wanted) and all(map(same, found, wanted))
        assert all(codes.dtype == np.int32 for s in found for codes in s.tokens.values())
        assert packed.counts[split] == (len(wanted), sum(s.frames for s in wanted))
    assert packed.songs("test")[0].recording_id == "stretch" and packed.songs("train")[0].recording_id == "train0"
    assert packed.seconds("test") == 12 / codec.frame_rate


def test_songs_of_splits_may_be_mixed(tmp_path: Path) -> None:
    given = [song(f"{i}", 5, split=("train", "test", "train")[i]) for i in range(3)]  # type: ignore[arg-type]
    packed = TokenCorpus(corpus(tmp_path, CODEC, given))
    assert [s.id for s in packed.songs("train")] == ["0", "2"]


def test_equal_songs_give_equal_bytes(tmp_path: Path) -> None:
    one, two = corpus(tmp_path / "one"), corpus(tmp_path / "two")
    assert one.read_bytes() == two.read_bytes() and TokenCorpus(one).hash == TokenCorpus(two).hash


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=9), min_size=1, max_size=5))
def test_any_codes_survive(tmp_path_factory: pytest.TempPathFactory, codes: list[list[int]]) -> None:
    given = [
        TokenizedSong(f"s{i}", "train", {name: np.array([row], np.int32) for name in ("vocals", "accompaniment")})
        for i, row in enumerate(codes)
    ]
    packed = TokenCorpus(corpus(tmp_path_factory.mktemp("any"), CODEC, given))
    assert [s.tokens["vocals"][0].tolist() for s in packed.songs("train")] == codes


def spoiled(**tokens: object) -> TokenizedSong:
    good = song("bad", 4)
    return replace(good, tokens={**good.tokens, **{k: np.array(v) for k, v in tokens.items()}})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoiled(vocals=[[1, 2, 20, 0]]), r"song 'bad': vocals.0 holds token 20, its codebook ends at 19"),
        (spoiled(accompaniment=[[1, -1, 2, 0]]), r"song 'bad': accompaniment.0 holds token -1"),
        (spoiled(vocals=[[1, 2, 3]]), r"song 'bad': frames of its streams: vocals 3, accompaniment 4"),
        (
            spoiled(vocals=[[1, 2, 3, 4]] * 2),
            r"song 'bad': vocals is int64 \[2, 4\]; expected integers \[1, frames\]",
        ),
        (spoiled(vocals=[[0.5, 1, 1, 1]]), r"song 'bad': vocals is float64"),
        (
            spoiled(mix=[[1, 2, 3, 4]]),
            r"song 'bad' has the streams vocals, accompaniment, mix; tiny abababababab gives",
        ),
        (song("bad", 0), r"song 'bad': frames of its streams: vocals 0, accompaniment 0"),
        (song("train0", 4), r"song 'train0' comes twice"),
        (song("bad", 4, split="dev"), r"song 'bad': split 'dev' is unknown"),  # type: ignore[arg-type]
    ],
)
def test_nothing_wrong_gets_in(bad: TokenizedSong, message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match=message):
        corpus(tmp_path, CODEC, [*songs(), bad])
    assert list(tmp_path.iterdir()) == []


def test_wrong_tokens_are_found_when_read(tmp_path: Path) -> None:
    """A corpus that something else has written."""
    larger = replace(CODEC, streams=(Stream("vocals", (40,)), Stream("accompaniment", (40,))))
    path = corpus(tmp_path, larger, [song("s", 60, larger)])
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    metadata = file.metadata.metadata
    claimed = json.dumps(seal(json.loads(metadata[b"duotok"].replace(b"[40]", b"[20]")))).encode()
    kept = {b"duotok": claimed, b"duotok-songs": metadata[b"duotok-songs"]}
    pq.write_table(file.read().replace_schema_metadata(kept), path)
    with pytest.raises(TokenFileError, match="its codebook ends at 19"):
        TokenCorpus(path).songs("train")


def test_another_codec_is_refused(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    assert TokenCorpus(path, CODEC).identity == CODEC
    assert TokenCorpus(path, replace(CODEC, name="renamed")).identity == CODEC  # a bundle with another renderer
    for other in (replace(CODEC, hash="ef" * 32), replace(CODEC, frame_rate=50.0), MIXED):
        with pytest.raises(TokenFileError, match="tokens of tiny abababababab, expected those of"):
            TokenCorpus(path, other)


def test_files_that_are_no_corpus(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    with pytest.raises(TokenFileError, match="no such file; make it with: duotok pack"):
        TokenCorpus(path)
    path.write_bytes(b"hello")
    with pytest.raises(TokenFileError, match="not packed tokens, or damaged"):
        TokenCorpus(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(TokenFileError, match="not packed tokens, or damaged"):
        TokenCorpus(path)
    whole = corpus(tmp_path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TokenFileError, match="not packed tokens, or damaged"):
        TokenCorpus(path)
    with pytest.raises(TokenFileError, match=r"no songs of split 'test'; it has 4 train, 2 validation"):
        TokenCorpus(corpus(tmp_path)).songs("test")
    with pytest.raises(TokenFileError, match="no songs to pack"):
        write_tokens(path, CODEC, [])


def test_identities() -> None:
    assert CodecIdentity.from_json(MIXED.as_json()) == MIXED
    assert MIXED.fingerprint != CODEC.fingerprint
    assert [c.name for c in MIXED.columns] == ["vocals.0", "vocals.1", "accompaniment.0"]
    with pytest.raises(ValueError, match="each with its own name"):
        CodecIdentity("x", "", 25.0, 1, (Stream("a", (2,)), Stream("a", (2,))))
    with pytest.raises(ValueError, match="sizes of at least 2"):
        Stream("a", ())


def read_all(path: Path) -> list[object]:
    packed = TokenCorpus(path)
    packed.check()
    found = [song for split in packed.counts for song in packed.songs(split)]  # type: ignore[arg-type]
    facts = [
        (s.id, s.split, s.identity, s.recording, s.start_frame, [s.tokens[k].tolist() for k in s.tokens]) for s in found
    ]
    return [packed.identity, packed.source, packed.counts, facts, packed.has_vectors]


def test_no_turned_bit_changes_what_is_read(tmp_path: Path) -> None:
    """Any bit of the file: refused in one line, or one that says nothing (who wrote it, statistics)."""
    path = corpus(tmp_path, CODEC, songs(CODEC, count=5))
    data, whole = path.read_bytes(), read_all(path)
    refused = 0
    for i in range(420):
        place = (len(data) - 1) * i // 419
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << (i % 8))]) + data[place + 1 :])
        try:
            assert read_all(path) == whole, f"byte {place}, bit {i % 8}"
        except TokenFileError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 250


@pytest.mark.parametrize("column", ["id", "split", "identity", "recording", "start_frame", "vocals.0"])
def test_a_changed_column_is_noticed(column: str, tmp_path: Path) -> None:
    """Written anew by somebody else, with checksums that fit: the hash of the song does not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = corpus(tmp_path, CODEC, [song("a", 5), song("b", 5)])
    file = pq.ParquetFile(path)
    table, metadata = file.read(), file.metadata.metadata
    values = table[column].to_pylist()
    values[1] = {"start_frame": 3, "split": "test", "vocals.0": [1, 1, 1, 1, 1]}.get(column, "other")
    index = table.schema.get_field_index(column)
    changed = table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    with pq.ParquetWriter(
        path, changed.schema.with_metadata({k: v for k, v in metadata.items() if k[:1] == b"d"})
    ) as writer:
        writer.write_table(changed)
    with pytest.raises(TokenFileError, match=r"song '(b|other)' is damaged"):
        TokenCorpus(path).check()

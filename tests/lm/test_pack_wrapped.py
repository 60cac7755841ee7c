"""`duotok pack` with any codec: the same songs as with DuoTok's own, resumable, and refused by the same rules."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.codec.tiny_codecs import make_codec
from tests.shards.shard_maker import make_shards, segment
from tests.tiny import tiny_bundle
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec import Tokens, TransformersCodec, open_codec
from duotok.codec.duotok import DuoTok
from duotok.codec.token_files import load_tokens, save_tokens
from duotok.comparison.corpora import check_same
from duotok.errors import DuoTokError, TokenFileError
from duotok.lm import pack as module
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.pack import SongStretch, pack_shards
from duotok.lm.streams import codec_identity
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = [segment(f"tiny/song{i}", frames=31 + 6 * i, split="test" if i == 2 else "train") for i in range(3)]
    return make_shards(tmp_path_factory.mktemp("work") / "shards", found)


@pytest.fixture(scope="module")
def dac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """86.13 frames a second, as DAC has at 44.1 kHz."""
    return make_codec(tmp_path_factory.mktemp("dac"), "dac", sampling_rate=11_025, downsampling_ratios=[4, 4, 8])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


def test_tokens_of_an_earlier_version_get_vectors(
    shards: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path, codec = ShardStore(shards), tmp_path / "tokens.parquet", DuoTok.from_pretrained(bundle)
    pack_shards(codec, store, path)
    packed = TokenCorpus(path)
    songs = [song for split in packed.counts for song in packed.songs(split)]
    write_tokens(path, packed.identity, songs, packed.source)  # as it was before there were vectors
    assert TokenCorpus(path).vectors is None
    monkeypatch.setattr(DuoTok, "encode", lambda *_, **__: pytest.fail("encoded again"))
    pack_shards(codec, store, path)
    after = TokenCorpus(path)
    assert after.vectors is not None and packed.vectors is not None
    assert all(np.array_equal(after.vectors[name], packed.vectors[name]) for name in packed.vectors)
    found = [song for split in after.counts for song in after.songs(split)]
    for mine, other in zip(found, songs, strict=True):
        assert mine.id == other.id and all(np.array_equal(mine.tokens[t], other.tokens[t]) for t in TRACKS)


def test_shards_become_the_tokens_of_their_sound(shards: Path, dac: Path, tmp_path: Path) -> None:
    store, path, codec = ShardStore(shards), tmp_path / "dac.parquet", open_codec(f"transformers:{dac}", codebooks=2)
    done = pack_shards(codec, store, path)
    packed = TokenCorpus(path, codec_identity(codec))
    assert (done.songs, done.kept) == (3, 0) and done.frames == sum(n for _, n in packed.counts.values())
    assert [c.name for c in packed.identity.columns] == [f"{track}.{k}" for track in TRACKS for k in (0, 1)]
    (song,) = packed.songs("test")
    index = store.select("test")[0]
    tokens = codec.encode(**{track: store.audio(index, track, channels=2) for track in TRACKS})
    assert all(np.array_equal(song.tokens[track], tokens[track].numpy()) for track in TRACKS)
    assert song.frames == -(-43 * 1920 * 11_025 // 48_000 // 128) and list(tmp_path.iterdir()) == [path]
    vectors = packed.vectors
    assert vectors is not None and {v.shape for v in vectors.values()} == {(16, 3)}  # codebook_dim
    again = pack_shards(codec, store, path)
    assert (again.songs, again.frames, again.kept) == (3, done.frames, 3)
    with pytest.raises(DuoTokError, match="holds other tokens"):
        pack_shards(open_codec(f"transformers:{dac}", codebooks=3), store, path)


@pytest.mark.parametrize("ratios", [[4, 4, 8], [7, 8, 16]])  # more and fewer frames than DuoTok's 25 a second
def test_all_codecs_pack_the_same_songs(
    shards: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratios: list[int]
) -> None:
    store, real = ShardStore(shards), module.stretches
    starts = (0, 7, 1_000_003)

    def moved(*arguments: object) -> list[SongStretch]:
        found = real(*arguments)  # type: ignore[arg-type]
        return [dataclasses.replace(s, start_frame=start) for s, start in zip(found, starts, strict=True)]

    monkeypatch.setattr(module, "stretches", moved)
    folder = make_codec(tmp_path, "dac", sampling_rate=11_025, downsampling_ratios=ratios)
    codecs = {
        "duotok": DuoTok.from_pretrained(bundle),
        "wrapped": open_codec(bundle),
        "dac": open_codec(f"transformers:{folder}"),
        "mimi": open_codec(f"transformers:{make_codec(tmp_path, 'mimi')}", tracks=("mix",)),
    }
    corpora = {}
    for name, codec in codecs.items():
        pack_shards(codec, store, tmp_path / f"{name}.parquet")
        corpora[name] = TokenCorpus(tmp_path / f"{name}.parquet")
    rows = check_same(corpora)
    assert [row.id for row in rows] == ["tiny/song0", "tiny/song1@7", "tiny/song2@1000003"]
    assert corpora["wrapped"].hash == corpora["duotok"].hash
    assert corpora["dac"].source == corpora["duotok"].source


def test_a_stopped_pack_goes_on(shards: Path, dac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path, codec = ShardStore(shards), tmp_path / "dac.parquet", open_codec(f"transformers:{dac}")
    calls, real = [], TransformersCodec.encode

    def dies(self: TransformersCodec, *a: object, **k: object) -> Tokens:
        calls.append(self.codebooks)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformersCodec, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        pack_shards(codec, store, path)
    parts = sorted((tmp_path / "dac.parquet.parts").iterdir())
    assert len(parts) == 2 and {part.suffix for part in parts} == {".safetensors"} and not path.exists()
    parts[0].write_bytes(parts[0].read_bytes()[:-4])  # cut off: encoded again
    done = pack_shards(codec, store, path)
    assert (done.songs, done.kept, len(calls)) == (3, 1, 5)


def test_parts_of_another_codec_are_not_taken(shards: Path, dac: Path, tmp_path: Path) -> None:
    store, codec = ShardStore(shards), open_codec(f"transformers:{dac}")
    (stretch,) = module.stretches(store, ("test",))
    sound = {track: module._sound(store, stretch, track) for track in TRACKS}
    module._encode(tmp_path, codec, stretch, sound, 1)
    assert module._is_encoded(tmp_path, codec, stretch)
    for other in (
        open_codec(f"transformers:{dac}", codebooks=2), open_codec(f"transformers:{dac}", tracks=("mix",)),
    ):  # fmt: skip
        assert not module._is_encoded(tmp_path, other, stretch)
    assert not module._is_encoded(tmp_path, codec, dataclasses.replace(stretch, sound="other"))


def test_the_file_of_tokens(dac: Path, tmp_path: Path) -> None:
    codec, path = open_codec(f"transformers:{dac}"), tmp_path / "a" / "x.safetensors"
    tokens = codec.encode(rate=11_025, vocals=torch.randn(999) * 0.1, accompaniment=torch.zeros(999))
    save_tokens(path, tokens, codec, "me")
    found, header = load_tokens(path)
    assert all(torch.equal(found[track], tokens[track]) for track in TRACKS) and found.n_samples == 999
    assert (header["model_hash"], header["source"]) == (codec.model_hash, "me")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match="damaged"):
        load_tokens(path)
    path.write_text("mine")
    with pytest.raises(TokenFileError, match="no tokens of a codec"):
        load_tokens(path)
    with pytest.raises(TokenFileError, match="cannot be read"):
        load_tokens(tmp_path / "nowhere")


def test_the_command(shards: Path, dac: Path, bundle: Path, tmp_path: Path) -> None:
    run, out = CliRunner(), tmp_path / "dac.parquet"
    model = ["--model", f"transformers:{dac}"]
    done = run.invoke(app, ["pack", str(shards.parent), "-o", str(out), *model, "--codebooks", "2", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["songs"] == 3 and len(TokenCorpus(out).identity.columns) == 4
    done = run.invoke(app, ["pack", str(shards), "-o", str(tmp_path / "mix.parquet"), *model, "--mix", "--json"])
    assert [s.name for s in TokenCorpus(tmp_path / "mix.parquet").identity.streams] == ["mix"], done.output
    for arguments, message in (
        ([str(shards), *model, "--codebooks", "5"], "5 codebooks; it can give 1 to 4"),
        ([str(shards), "--model", str(bundle), "--mix"], "a DuoTok bundle has vocals and accompaniment"),
        ([str(shards), "--model", "transformers:nowhere"], "no such folder"),
        ([str(tmp_path), "--codebooks", "2"], "token files are encoded already"),
    ):  # fmt: skip
        failed = run.invoke(app, ["pack", *arguments, "-o", str(tmp_path / "c.parquet")])
        assert failed.exit_code == 1 and message in failed.output


def test_codes_of_chunks_are_packed_without_their_loudness(shards: Path, tmp_path: Path) -> None:
    """EnCodec as at 48 kHz: the scales stand in the parts, the packed corpus has the codes alone."""
    folder = make_codec(tmp_path, "encodec", normalize=True, chunk_length_s=0.1, overlap=0.01, audio_channels=2)
    store, path, codec = (
        ShardStore(shards),
        tmp_path / "encodec.parquet",
        open_codec(f"transformers:{folder}", codebooks=2),
    )
    pack_shards(codec, store, path)
    (song,) = TokenCorpus(path, codec_identity(codec)).songs("test")
    index = store.select("test")[0]
    tokens = codec.encode(**{track: store.audio(index, track, channels=2) for track in TRACKS})
    assert all(np.array_equal(song.tokens[track], tokens[track].numpy()) for track in TRACKS)
    assert song.frames == codec.n_frames(-(-43 * 1920 // 6))

"""Shards and token files into a corpus: stretches, resuming, splits, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.shards.shard_maker import make_shards, segment
from tests.tiny import tiny_bundle
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError, TokenFileError
from duotok.lm import pack as module
from duotok.lm.corpus import TokenCorpus
from duotok.lm.pack import SongStretch, pack_shards, pack_tokens, stretches
from duotok.lm.streams import codec_identity
from duotok.shards.store import ShardStore
from duotok.tokens import DualTokens
from duotok.tracks import TRACKS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def codec(bundle: Path) -> DuoTok:
    return DuoTok.from_pretrained(bundle)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = [segment(f"tiny/song{i}", frames=30 + 5 * i, split="test" if i == 2 else "train") for i in range(3)]
    found.append(
        segment("tiny/band", frames=30, kind="instrumental", stems=("accompaniment",), types=("instrumental",))
    )
    return make_shards(tmp_path_factory.mktemp("work") / "shards", found)


class Rows:
    """Segments of one recording as a store would list them."""

    segments: Rows

    def __init__(self, rows: list[tuple[str, int, int]]) -> None:
        self.rows, self.segments = rows, self

    def where(self, split: str, needs: object) -> np.ndarray:
        return np.arange(len(self.rows)) if split == "train" else np.arange(0)

    def values(self, indices: np.ndarray, *names: str) -> list[dict[str, object]]:
        rest = {"corpus": "c", "identity": "who", "stems": list(TRACKS), "sha256": dict.fromkeys(TRACKS, "0")}
        return [{"recording": r, "start_frame": s, "frames": n, **rest} for r, s, n in self.rows]


def test_a_gap_begins_a_new_stretch() -> None:
    rows = Rows([("b", 0, 10), ("a", 50, 10), ("a", 0, 20), ("a", 20, 25)])
    found = stretches(rows)  # type: ignore[arg-type]
    assert [(s.id, s.recording, s.start_frame, s.frames, s.segments) for s in found] == [
        ("a", "a", 0, 45, (2, 3)), ("a@50", "a", 50, 10, (1,)), ("b", "b", 0, 10, (0,)),
    ]  # fmt: skip
    assert found[0].identity == "c/who"


def test_shards_become_the_tokens_of_their_sound(shards: Path, codec: DuoTok, tmp_path: Path) -> None:
    store, path = ShardStore(shards), tmp_path / "tokens.parquet"
    done = pack_shards(codec, store, path)
    assert (done.songs, done.frames, done.kept, done.left_out) == (3, 105, 0, 1)
    packed = TokenCorpus(path, codec_identity(codec))
    assert [s.id for s in packed.songs("train")] == ["tiny/song0", "tiny/song1"]
    assert packed.identity.columns[0].size == 64 and packed.identity.frame_rate == 25.0
    own = packed.songs("test")[0]
    index = store.select("test")[0]
    tokens = codec.encode(**{track: store.audio(index, track, channels=2) for track in TRACKS})
    assert all(np.array_equal(own.tokens[track][0], tokens.track(track).numpy()) for track in TRACKS)
    assert own.identity == "tiny/tiny/song2" and list(tmp_path.iterdir()) == [path]
    again = pack_shards(codec, store, path)
    assert (again.songs, again.kept) == (3, 3)


def test_stretches_are_encoded_as_one_sound(shards: Path, codec: DuoTok) -> None:
    store = ShardStore(shards)
    a, b = store.select("train", needs=TRACKS)
    sound = module._sound(store, SongStretch("x", 0, "", "train", TRACKS, (a, b), 65, ""), "vocals")
    assert torch.equal(sound, torch.cat([store.audio(i, "vocals", channels=2) for i in (a, b)], dim=1))


def test_instrumentals_have_silent_vocals(shards: Path, codec: DuoTok, tmp_path: Path) -> None:
    store = ShardStore(shards)
    (band,) = (s for s in stretches(store, ("train",), solo=("train",)) if s.recording == "tiny/band")
    assert band.tracks == ("accompaniment",)
    assert all(s.tracks == TRACKS for s in stretches(store, ("train",), solo=("validation", "test")))
    assert not module._sound(store, band, "vocals").any() and module._sound(store, band, "accompaniment").any()
    done = pack_shards(codec, store, tmp_path / "tokens.parquet", ("train",), solo=("train",))
    assert (done.songs, done.left_out) == (3, 0)


def test_a_stopped_pack_goes_on(shards: Path, codec: DuoTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = ShardStore(shards), tmp_path / "tokens.parquet"
    calls, real = [], DuoTok.encode

    def dies(self: DuoTok, *a: object, **k: object) -> DualTokens:
        calls.append(a)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(DuoTok, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        pack_shards(codec, store, path)
    assert not path.exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_remove_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        pack_shards(codec, store, path)
    assert len(calls) == 4 and path.exists()
    done = pack_shards(codec, store, path)
    assert (done.songs, done.kept, len(calls)) == (3, 3, 4)
    assert list(tmp_path.iterdir()) == [path], "nor do parts stay of a run that was killed when all was packed"


def test_two_runs_into_one_file_do_not_share_their_parts(
    shards: Path, codec: DuoTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path, real, told = ShardStore(shards), tmp_path / "tokens.parquet", DuoTok.encode, []
    folder = files(tmp_path / "tokens")

    def meets_others(self: DuoTok, *a: object, **k: object) -> DualTokens:
        for other in (lambda: pack_shards(codec, store, path), lambda: pack_tokens(folder, path, force=True)):
            with pytest.raises(
                DuoTokError, match=r"tokens.parquet: another run of duotok pack is at work on it; wait"
            ) as caught:
                other()
            told.append(caught)
        return real(self, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(DuoTok, "encode", meets_others)
    assert pack_shards(codec, store, path).songs == 3 and len(told) == 6
    assert sorted(tmp_path.iterdir()) == sorted([folder, path])
    assert pack_shards(codec, store, path).kept == 3


def test_songs_encoded_in_another_precision_are_encoded_again(
    shards: Path, bundle: Path, codec: DuoTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = ShardStore(shards), tmp_path / "tokens.parquet"
    half = DuoTok.from_pretrained(bundle, precision="bf16")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_tokens", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        pack_shards(half, store, path)
    assert pack_shards(codec, store, path).kept == 0
    with pytest.raises(DuoTokError, match="holds other tokens"):
        pack_shards(half, store, path)


def test_a_corrected_identity_comes_in_without_encoding(
    codec: DuoTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was ignored, as the sound was packed already."""
    path = tmp_path / "tokens.parquet"
    for identity in ("mistaken", "right"):
        found = [segment("tiny/song", frames=30, identity=identity)]
        pack_shards(codec, ShardStore(make_shards(tmp_path / identity, found)), path)
        assert TokenCorpus(path).songs("train")[0].identity == f"tiny/{identity}"
        monkeypatch.setattr(DuoTok, "encode", None)


def test_a_damaged_corpus_or_part_is_made_again(shards: Path, codec: DuoTok, tmp_path: Path) -> None:
    """What is there is read before it is believed, and the same corpus comes out again."""
    store, path = ShardStore(shards), tmp_path / "tokens.parquet"
    pack_shards(codec, store, path)
    whole = path.read_bytes()
    place = whole.index(b"PAR1", 1) if b"PAR1" in whole[1:-4] else len(whole) // 8
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(TokenFileError):
        TokenCorpus(path).check()
    again = pack_shards(codec, store, path)
    assert again.kept == 0 and path.read_bytes() == whole


def test_a_damaged_part_is_encoded_again(
    shards: Path, codec: DuoTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = ShardStore(shards), tmp_path / "tokens.parquet"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_tokens", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        pack_shards(codec, store, path)
    parts = sorted((tmp_path / "tokens.parquet.parts").iterdir())
    assert len(parts) == 3
    data = parts[0].read_bytes()
    parts[0].write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    assert pack_shards(codec, store, path).kept == 2
    TokenCorpus(path).check()


def test_something_else_is_not_overwritten(shards: Path, codec: DuoTok, tmp_path: Path) -> None:
    store, path = ShardStore(shards), tmp_path / "tokens.parquet"
    pack_shards(codec, store, path, ("test",))
    with pytest.raises(DuoTokError, match="holds other tokens"):
        pack_shards(codec, store, path)
    assert pack_shards(codec, store, path, force=True).songs == 3
    path.write_text("mine")
    with pytest.raises(DuoTokError, match="is there, and no packed tokens"):
        pack_shards(codec, store, path)
    assert path.read_text() == "mine"
    with pytest.raises(TokenFileError, match="no segment has both vocals and accompaniment"):
        pack_shards(codec, store, tmp_path / "x", ("validation",))


def files(folder: Path, **changes: object) -> Path:
    for i, name in enumerate(("train/one", "test/two", "three", "more/four")):
        known: dict[str, object] = {"model_id": "m", "model_hash": "ab" * 32, "codebook_sizes": (50, 60), **changes}
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        DualTokens.from_codes([i] * (5 + i), [2 * i] * (5 + i), **known).save(folder / f"{name}.duotok")
    return folder


def test_token_files(tmp_path: Path) -> None:
    folder, path = files(tmp_path / "tokens"), tmp_path / "tokens.parquet"
    done = pack_tokens(folder, path)
    assert (done.songs, done.frames) == (4, 5 + 6 + 7 + 8)
    packed = TokenCorpus(path)
    assert "train/one" in [s.id for s in packed.songs("train")] and "test/two" in [s.id for s in packed.songs("test")]
    assert [s.codebook_sizes for s in packed.identity.streams] == [(50,), (60,)]
    assert pack_tokens(folder, path).kept == 4
    assert TokenCorpus(path).counts.keys() <= {"train", "test"}
    pack_tokens(folder, path, "validation", force=True)
    assert TokenCorpus(path).counts == {"validation": (4, 26)}


def test_token_files_whose_names_are_no_utf_8(tmp_path: Path) -> None:
    folder = files(tmp_path / "tokens")
    (folder / "three.duotok").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.duotok"))
    pack_tokens(folder, tmp_path / "tokens.parquet", "train")
    assert "caf\\xe9" in [song.id for song in TokenCorpus(tmp_path / "tokens.parquet").songs("train")]


def test_token_files_bring_the_vectors_of_their_model(bundle: Path, codec: DuoTok, tmp_path: Path) -> None:
    for n in range(3):
        codes = [torch.randint(codec.codebook_sizes[0], (30,)) for _ in TRACKS]
        DualTokens.from_codes(
            *codes, model_id=codec.model_id, model_hash=codec.model_hash, codebook_sizes=codec.codebook_sizes
        ).save(tmp_path / "tokens" / f"{n}.duotok")
    pack_tokens(tmp_path / "tokens", tmp_path / "bare.parquet")
    assert not TokenCorpus(tmp_path / "bare.parquet").has_vectors
    pack = ["pack", str(tmp_path / "tokens"), "-o", str(tmp_path / "x.parquet")]
    done = CliRunner().invoke(app, [*pack, "--model", str(bundle)])
    assert done.exit_code == 0 and "code vectors: packed" in done.stderr
    found, expected = TokenCorpus(tmp_path / "x.parquet").vectors, module.code_vectors(codec)
    assert found is not None and all(np.array_equal(found[name], expected[name]) for name in expected)
    done = CliRunner().invoke(app, [*pack[:-1], str(tmp_path / "y.parquet")])  # mini did not make them
    assert done.exit_code == 0 and "packed without code vectors: mini is not the model" in done.stderr
    assert not TokenCorpus(tmp_path / "y.parquet").has_vectors


def test_token_files_of_one_model_under_two_names(tmp_path: Path) -> None:
    folder = files(tmp_path / "tokens")
    DualTokens.from_codes([1], [1], model_id="n", model_hash="ab" * 32, codebook_sizes=(50, 60)).save(
        folder / "x.duotok"
    )
    count = len(list(folder.rglob("*.duotok")))
    assert pack_tokens(folder, tmp_path / "t.parquet").songs == count


def test_token_files_of_two_models_or_none(tmp_path: Path) -> None:
    folder = files(tmp_path / "tokens")
    DualTokens.from_codes([1], [1], model_id="n", model_hash="cd" * 32, codebook_sizes=(50, 60)).save(
        folder / "x.duotok"
    )
    with pytest.raises(TokenFileError, match=r"x\.duotok: tokens of n cdcdcdcdcdcd, expected those of m abababababab"):
        pack_tokens(folder, tmp_path / "t.parquet")
    with pytest.raises(TokenFileError, match="does not say which model made it"):
        pack_tokens(files(tmp_path / "bare", model_hash=""), tmp_path / "t.parquet")
    with pytest.raises(TokenFileError, match=r"no \.duotok files in this folder"):
        pack_tokens(tmp_path / "nowhere", tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_the_command(shards: Path, bundle: Path, tmp_path: Path) -> None:
    run, out = CliRunner(), tmp_path / "tokens.parquet"
    dry = run.invoke(app, ["pack", str(shards), "-o", str(out), "--model", str(bundle), "--dry-run", "--json"])
    assert json.loads(dry.stdout) == {"would encode": 3, "seconds": 4.2} and not out.exists()
    done = run.invoke(
        app, ["pack", str(shards.parent), "-o", str(out), "--model", str(bundle), "--split", "train", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["songs"] == 2 and TokenCorpus(out).counts["train"][0] == 2
    folder = files(tmp_path / "tokens")
    done = run.invoke(app, ["pack", str(folder), "-o", str(tmp_path / "b.parquet"), "--json"])
    assert json.loads(done.stdout)["frames"] == 26
    for arguments, message in (
        (["nowhere"], "no such folder"), ([str(shards), "--split", "dev"], "--split dev is unknown"),
        ([str(folder), "--split", "train", "--split", "test"], "all of one split"),
        ([str(folder), "--split", "dev", "--dry-run"], "--split dev is unknown"),
        ([str(folder), "--solo", "train"], "leave --codebooks, --mix and --solo out"),
        ([str(bundle), "--dry-run"], "no .duotok files in this folder"),
    ):  # fmt: skip
        failed = run.invoke(app, ["pack", *arguments, "-o", str(tmp_path / "c.parquet")])
        assert failed.exit_code == 1 and message in failed.output

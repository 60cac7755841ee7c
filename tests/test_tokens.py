"""Frame counts, windows, and the token file: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forked import python

from duotok.clock import FRAME_SAMPLES, n_frames
from duotok.errors import TokenFileError
from duotok.tokens import KEY, DualTokens, SourceFile, WindowPlan, from_bytes, load, save, to_bytes


@st.composite
def dual_tokens(draw: st.DrawFn) -> DualTokens:
    samples = draw(st.integers(1, 40 * FRAME_SAMPLES))
    sizes = draw(st.tuples(st.integers(1, 100_000), st.integers(1, 32_768)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    codes = [torch.from_numpy(rng.integers(0, size, n_frames(samples))) for size in sizes]
    context = draw(st.integers(0, 60))
    return DualTokens(
        codes[0],
        codes[1],
        n_samples=samples,
        gain_db=draw(st.floats(-40, 40)),
        model_id=draw(st.text(max_size=20)),
        model_hash=draw(st.text("0123456789abcdef", max_size=64)),
        codebook_sizes=sizes,
        plan=WindowPlan(2 * context + draw(st.integers(1, 1000)), context),
        source=draw(st.text(max_size=30)),
        precision=draw(st.sampled_from(["", "fp32", "bf16", "int8"])),
    )


def example() -> DualTokens:
    return DualTokens.from_codes([1, 2, 3], [4, 5, 32_767], model_id="tiny", model_hash="ab" * 32, source="song.wav")


def test_every_remainder() -> None:
    for remainder in range(FRAME_SAMPLES):
        assert n_frames(7 * FRAME_SAMPLES + remainder) == 7 + (remainder > 0)
    assert n_frames(1) == 1
    with pytest.raises(ValueError):
        n_frames(0)


@given(frames=st.integers(1, 5000), window=st.integers(1, 700), context=st.integers(0, 80))
def test_windows_cover_everything_once(frames: int, window: int, context: int) -> None:
    if window <= 2 * context:
        with pytest.raises(ValueError):
            WindowPlan(window, context)
        return
    plan = WindowPlan(window, context).windows(frames)
    kept = [frame for w in plan for frame in range(w.keep_start, w.keep_stop)]
    assert kept == list(range(frames))
    assert len({w.stop - w.start for w in plan}) == 1
    for w in plan:
        assert 0 <= w.start <= w.keep_start < w.keep_stop <= w.stop <= frames
        assert w.keep_start == 0 or w.keep_start - w.start >= context
        assert w.keep_stop == frames or w.stop - w.keep_stop >= context


@settings(max_examples=60, deadline=None)
@given(tokens=dual_tokens())
def test_round_trip(tokens: DualTokens) -> None:
    data = to_bytes(tokens)
    back = from_bytes(data)
    assert back == tokens
    assert to_bytes(back) == data


def test_file_round_trip(tmp_path: Path) -> None:
    tokens = example()
    tokens.save(tmp_path / "new" / "x.duotok")
    assert DualTokens.load(tmp_path / "new" / "x.duotok") == tokens == load(tmp_path / "new" / "x.duotok")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.duotok"]


def test_names_that_are_no_unicode() -> None:
    tokens = replace(example(), source=b"caf\xe9.wav".decode("utf-8", "surrogateescape"))
    assert from_bytes(to_bytes(tokens)) == tokens


def test_anyone_can_read_it_as_safetensors(tmp_path: Path) -> None:
    save(example(), tmp_path / "x.duotok")
    arrays = safetensors.numpy.load_file(tmp_path / "x.duotok")
    assert arrays["vocals"].dtype == np.uint16 and arrays["accompaniment"].tolist() == [4, 5, 32_767]


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_every_flipped_byte_is_noticed(flip: int) -> None:
    tokens = example()
    data = to_bytes(tokens)
    noticed = 0
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ flip]) + data[index + 1 :]
        try:
            assert from_bytes(changed) == tokens  # a space in the padding may become another
        except TokenFileError as error:
            assert "\n" not in str(error)
            noticed += 1
    assert noticed > 0.95 * len(data)


def test_every_truncation_is_noticed() -> None:
    data = to_bytes(example())
    for length in range(len(data)):
        with pytest.raises(TokenFileError):
            from_bytes(data[:length])
    with pytest.raises(TokenFileError):
        from_bytes(data + b"\0")


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.duotok"
    other = safetensors.numpy.save({"weight": np.zeros(3)}, metadata={"format": "pt"})
    bare = safetensors.numpy.save({"weight": np.zeros(3)})
    for data in (b"", b"RIFF1234WAVE", b"\xff" * 100, other, bare, b"{}" * 50, b"\x02" + b"\0" * 7 + b"[]"):
        path.write_bytes(data)
        with pytest.raises(TokenFileError, match="not a DuoTok token file") as caught:
            load(path)
        assert str(path) in str(caught.value)
    with pytest.raises(TokenFileError, match="No such file"):
        load(tmp_path / "none.duotok")
    with pytest.raises(TokenFileError, match="directory"):
        load(tmp_path)


def test_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duotok.tokens.FORMAT_VERSION", 7)
    data = to_bytes(example())
    monkeypatch.undo()
    with pytest.raises(TokenFileError, match=r"version 7.*update"):
        from_bytes(data)


def test_parts_must_fit() -> None:
    tokens = example()
    for wrong in (
        {"n_samples": 4 * FRAME_SAMPLES},
        {"n_samples": 0},
        {"vocals": torch.tensor([1, 2])},
        {"vocals": torch.tensor([1, 2, 32_768])},
        {"accompaniment": torch.tensor([1, -2, 3])},
        {"accompaniment": torch.tensor([1.0, 2.0, 3.0])},
        {"gain_db": float("nan")},
        {"gain_db": float("inf")},
        {"gain_db": -1000.0},
        {"gain_db": 121.0},
        {"codebook_sizes": (0, 5)},
        {"codebook_sizes": (1 << 40, 5)},
        {"codebook_sizes": (5.5, 5)},
        {"source": "x" * 5000},
        {"origin": "x" * 5000},
        {"precision": "x" * 5000},
        {"sources": {"mix": SourceFile("x" * 5000, "", 1)}},
        {"sources": {"mix": SourceFile("x", "", -1)}},
    ):
        with pytest.raises(ValueError):
            replace(tokens, **wrong)


def forged(without: Sequence[str] = (), **changes: object) -> bytes:
    """A file with other header values, and without some, sealed as if it had been written so."""
    data = to_bytes(example())
    length = int.from_bytes(data[:8], "little")
    arrays = safetensors.numpy.load(data)
    header = {**json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY]), **changes}
    for key in ("sha256", *without):
        del header[key]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    for name in ("vocals", "accompaniment"):
        digest.update(f"\0{name}\0{arrays[name].dtype.str}\0{len(arrays[name])}\0".encode() + arrays[name].tobytes())
    sealed = json.dumps({**header, "sha256": digest.hexdigest()}, sort_keys=True, separators=(",", ":"))
    return bytes(safetensors.numpy.save(arrays, metadata={KEY: sealed}))


def test_the_forger_forges_well() -> None:
    assert from_bytes(forged(gain_db=3.0)).gain_db == 3.0


def test_files_of_earlier_versions_are_read_and_nothing_between_two_versions_is() -> None:
    for version, lacks in ((2, ["precision"]), (1, ["precision", "sources", "origin"])):
        assert from_bytes(forged(lacks, format_version=version)) == example()
        with pytest.raises(TokenFileError, match="damaged"):
            from_bytes(forged(lacks))
        with pytest.raises(TokenFileError, match="damaged"):
            from_bytes(forged(format_version=version))


def test_version_2_is_written_as_it_was() -> None:
    """Sounds carry a hash of it: where it changes, every song that was decoded counts as another one's."""
    written = to_bytes(replace(example(), precision="int8"), version=2)
    assert written == to_bytes(example(), version=2) and from_bytes(written) == example()
    assert hashlib.sha256(written).hexdigest() == "c5224b694168f65eab0354d0b29568391b1b70372e73c6617c6bb1a96fe474d3"


@pytest.mark.parametrize(
    "changes",
    [
        {"gain_db": -1000.0}, {"gain_db": 1e308}, {"gain_db": float("nan")}, {"gain_db": float("-inf")},
        {"n_samples": -1}, {"n_samples": 1 << 62}, {"n_samples": True}, {"sample_rate": 0}, {"frame_rate": 1e9},
        {"codebook_sizes": [1 << 40, 4]}, {"codebook_sizes": ["a", "b"]}, {"codebook_sizes": [[], []]},
        {"codebook_sizes": [2.5, 9.0]}, {"codebook_sizes": []}, {"plan": {"window": 1 << 50, "context": 0}},
        {"plan": {"window": -5, "context": 0}}, {"plan": {"window": 1.5, "context": 0.25}}, {"plan": {}},
        {"plan": {"window": None, "context": 0}}, {"model_id": "x" * 100_000}, {"source": None}, {"model_hash": 7},
        {"origin": 3}, {"sources": {"mix": ["x" * 1000]}}, {"sources": {"m" * 5000: {"bytes": -1, "name": "", "sha256": ""}}},
    ],
)  # fmt: skip
def test_absurd_values_are_refused_in_one_line(changes: dict[str, object]) -> None:
    with pytest.raises(TokenFileError) as caught:
        from_bytes(forged(**changes), "song.duotok")
    assert str(caught.value).startswith("song.duotok: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["[" * 200_000, "NaN", '{"format_version": 1e999}', '{"format_version": Infinity}'])
def test_headers_that_are_no_json_are_refused_in_one_line(text: str) -> None:
    arrays = safetensors.numpy.load(to_bytes(example()))
    with pytest.raises(TokenFileError, match="damaged"):
        from_bytes(bytes(safetensors.numpy.save(arrays, metadata={KEY: text})))


def test_unwritable_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenFileError, match="cannot be written"):
        save(example(), tmp_path / "file" / "x.duotok")
    (tmp_path / "x.duotok").mkdir()
    with pytest.raises(TokenFileError, match="cannot be written"):
        save(example(), tmp_path / "x.duotok")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "x.duotok"]


def test_no_pickle_on_the_load_path(tmp_path: Path) -> None:
    save(example(), tmp_path / "x.duotok")
    code = (
        "import pickle, sys\n"
        "def no(*a, **k): raise SystemExit('pickle was used')\n"
        "from duotok.tokens import load\n"
        "pickle.load = pickle.loads = pickle.Unpickler = no\n"
        f"print(load({str(tmp_path / 'x.duotok')!r}).n_samples)"
    )
    done = python(code)
    assert (done.returncode, done.stdout.decode().strip()) == (0, str(example().n_samples)), done.stderr

"""Tokenizers in environments of their own: the exchange with a stand-in process, and everything that can go wrong in it."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.codec import stand_in
from tests.codec.tiny_codecs import sound

from duotok.codec import StreamTokens, open_codec
from duotok.codec.entry import Entry
from duotok.codec.external import registry
from duotok.codec.external.codec import RUNNER, ExternalCodec
from duotok.codec.external.known import ADAPTERS, Known
from duotok.codec.external.settings import ExternalConfig, read_settings
from duotok.errors import BundleError, ConfigError, DuoTokError
from duotok.evaluation.instrument import Song
from duotok.evaluation.systems import CodecSystem
from duotok.tool_process import ToolError
from duotok.tracks import TRACKS

RATE, HOP = 8000, stand_in.HOP
ENTRY = Entry(
    name="stand-in", what="", sample_rate=RATE, channels=1, frame_rate=RATE / HOP, codebooks=2, codebook_size=256, streams="",
    code_licence="", weights_licence="", needs="", get=("git clone URL",), use="", windows="", verified="", cite="",
)  # fmt: skip
KNOWN = Known(ENTRY, Path(stand_in.__file__), (RATE,), (HOP,), "python3 -m venv ENV", checkout=False)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def config(weights: Path, do: str = "", **changes: Any) -> ExternalConfig:
    options = {"do": do, **changes.pop("options", {})}
    return ExternalConfig(codec="stand-in", python=sys.executable, weights=str(weights), options=options, **changes)


def open_stand_in(weights: Path, do: str = "", known: Known = KNOWN, **changes: Any) -> ExternalCodec:
    tracks = changes.pop("tracks", None)
    return ExternalCodec(config(weights, do, **changes), known, tracks=tracks)


def loads(weights: Path) -> int:
    return len(Path(f"{weights}.loads").read_text().split())


def test_sound_goes_there_and_codes_come_back(weights: Path) -> None:
    """In windows, exact at every remainder; the weights are loaded once."""
    with open_stand_in(weights) as codec:
        assert (codec.model_id, codec.sample_rate, codec.frame_rate) == ("stand-in-2", RATE, RATE / HOP)
        assert [(s.name, s.codebook_sizes) for s in codec.streams] == [(track, (256, 256)) for track in TRACKS]
        a, b = sound(0.3, 1), sound(0.3, 2)
        tokens = codec.encode(rate=RATE, vocals=a, accompaniment=b)
        model = stand_in.StandIn("", {"options": {}})
        assert len(codec.layout.pieces(tokens.n_frames)) > 2
        for track, given in zip(TRACKS, (a, b), strict=True):
            assert np.array_equal(tokens[track].numpy(), model.codes(given.numpy()))
        for n in (1, HOP - 1, HOP, HOP + 1, 100 * HOP + 3):
            given = sound(n / RATE)
            found = codec.encode(rate=RATE, vocals=given, accompaniment=given)
            assert found.n_frames == codec.n_frames(n) == -(-n // HOP)
            assert codec.decode(found).shape == (1, n)
        voice, band, both = (codec.decode(tokens, track) for track in (*TRACKS, "mix"))
        assert torch.allclose(both, voice + band) and not torch.equal(voice, band)
        vectors, tables = codec.embeddings(tokens)["vocals"], codec.codebook_vectors()["vocals"]
        assert vectors.shape == (tokens.n_frames, 3) and [table.shape for table in tables] == [(256, 3)] * 2
        added = torch.stack([table[row] for table, row in zip(tables, tokens["vocals"], strict=True)]).sum(0)
        assert torch.equal(added, vectors)
        assert loads(weights) == 1


def test_what_codes_mean_is_in_the_hash(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"others")
    opened = [
        open_stand_in(weights), open_stand_in(other), open_stand_in(weights, options={"seed": 1}),
    ]  # fmt: skip
    assert len({codec.model_hash for codec in opened}) == 3
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(b"weights")
    assert open_stand_in(moved).model_hash == opened[0].model_hash
    hashes = []
    for name, text in (("a.yaml", "x"), ("b.yaml", "x"), ("c.yaml", "y")):
        (tmp_path / name).write_text(text)
        hashes.append(open_stand_in(weights, options={"config": str(tmp_path / name)}).model_hash)
    assert hashes[0] == hashes[1] != hashes[2]
    (file,) = opened[0].checkpoint
    assert file["file"] == str(weights) and len(file["sha256"]) == 64 and file["bytes"] == 7


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("partly", r"1 weights are not in the checkpoint and would be random \(Model.decoder.bias"),
        ("random", "built but not filled from any checkpoint; its weights would be random"),
        ("needs", r"ModuleNotFoundError: No module named 'encodec'\); python3 -m venv ENV"),
        ("rate", "says 44100 Hz; it has 8000"),
        ("frames", "says 500 frames a second; published are 1000"),
        ("words", "says of itself block = 'many'"),
    ],
)
def test_a_model_that_is_not_the_published_one_is_refused(weights: Path, do: str, message: str) -> None:
    with pytest.raises(DuoTokError, match=message):
        open_stand_in(weights, do)


@pytest.mark.parametrize("asked", [1, 3, 0])
def test_codebooks_that_a_tokenizer_does_not_give_are_refused(weights: Path, asked: int) -> None:
    """Several have a fixed number of them, and would give that, whatever was asked for."""
    with pytest.raises(ConfigError, match=rf"stand-in: {asked} codebooks; it has 2 and gives no others"):
        ExternalCodec(config(weights), KNOWN, codebooks=asked)
    with ExternalCodec(config(weights), KNOWN, codebooks=2) as codec:
        assert codec.codebooks == 2


def test_weights_are_never_random_and_never_an_untrusted_pickle(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.safetensors: no such file of weights; random ones are never used"):
        open_stand_in(tmp_path / "nothing.safetensors")
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(ConfigError, match=r"model.ckpt: may be a pickle, which can run code.*trust_pickle: true"):
        open_stand_in(pickle)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "model.ckpt.loads").exists()
    assert open_stand_in(pickle, trust_pickle=True).checkpoint[0]["file"] == str(pickle)
    with pytest.raises(ConfigError, match=f"sha256 [0-9a-f]{{64}}, not {'0' * 64} as the settings say"):
        open_stand_in(weights, sha256="0" * 64)


def test_crashes_and_hangs_are_told_with_the_last_words_and_the_next_call_starts_anew(weights: Path) -> None:
    a = sound(0.01)
    with open_stand_in(weights, "die") as codec:
        for _ in range(2):
            with pytest.raises(ToolError, match=r"stand-in ended with code 9 \(.*first \| Segmentation fault\)"):
                codec.encode(rate=RATE, vocals=a, accompaniment=a)
        assert loads(weights) == 2
    with (
        open_stand_in(weights, "hang", timeout=0.5) as codec,
        pytest.raises(ToolError, match=r"no answer within 0.5 s \(.*still thinking\); raise `timeout` in its settings"),
    ):
        codec.encode(rate=RATE, vocals=a, accompaniment=a)
    with pytest.raises(ConfigError, match=r"does not start \(stand-in: no answer within 0.5 s"):
        open_stand_in(weights, "slow", start_timeout=0.5)
    with open_stand_in(weights, "fail") as codec:
        for _ in range(2):  # a failed request ends nothing
            with pytest.raises(BundleError, match=r"cannot encode \(RuntimeError: CUDA out of memory\)"):
                codec.encode(rate=RATE, vocals=a, accompaniment=a)
    assert loads(weights) == 5


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look into")
def test_after_an_interrupt_the_next_call_starts_anew(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of Ctrl-C in a notebook: the answer that nobody waited for was taken for the next one's, and so on for ever."""
    given = sound(0.1)
    with open_stand_in(weights) as codec:
        expected = codec.encode(rate=RATE, vocals=given, accompaniment=given)

        def interrupted(*_: Any) -> bytes:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr("duotok.tool_process.os.read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            codec.encode(rate=RATE, vocals=given, accompaniment=given)
        for _ in range(2):
            again = codec.encode(rate=RATE, vocals=given, accompaniment=given)
            assert torch.equal(again["vocals"], expected["vocals"])
        assert loads(weights) == 2


def test_threads_get_their_own_answers(weights: Path) -> None:
    sounds = [sound(0.2, seed) for seed in range(3)]
    with open_stand_in(weights, timeout=5) as codec, ThreadPoolExecutor(3) as pool:
        alone = [codec.encode(rate=RATE, vocals=s, accompaniment=s)["vocals"] for s in sounds]
        found = pool.map(lambda s: codec.encode(rate=RATE, vocals=s, accompaniment=s)["vocals"], sounds * 2)
        assert all(torch.equal(a, b) for a, b in zip(found, alone * 2, strict=True))
    assert loads(weights) == 1


def test_no_process_is_left_when_ours_is_killed(weights: Path) -> None:
    code = (
        "from pathlib import Path; from tests.codec import test_external as t; from tests.codec.tiny_codecs import sound\n"
        f"codec = t.open_stand_in(Path({str(weights)!r}), 'hang'); print(codec._process._process.pid, flush=True)\n"
        "codec.encode(rate=8000, vocals=sound(0.01), accompaniment=sound(0.01))"
    )
    ours = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert ours.stdout is not None
    theirs = Path("/proc") / ours.stdout.readline().strip() / "stat"
    assert theirs.exists()
    ours.kill()
    ours.wait()
    ours.stdout.close()
    for _ in range(200):
        with contextlib.suppress(FileNotFoundError):
            if theirs.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return
    pytest.fail("the tokenizer's process outlived ours")


def test_other_weights_after_a_crash_are_not_taken(weights: Path) -> None:
    a = sound(0.01)
    with open_stand_in(weights, "die") as codec:
        with pytest.raises(ToolError):
            codec.encode(rate=RATE, vocals=a, accompaniment=a)
        weights.write_bytes(b"changed")
        with pytest.raises(BundleError, match="other weights than when the codec was opened"):
            codec.encode(rate=RATE, vocals=a, accompaniment=a)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("short", r"int32 \[2, 9\] of vocals where \[2, 10\] was expected"),
        ("beyond", "of vocals, codebook 0, which ends at 255"),
        ("decodes", "decodes only, no encoder of it was published"),
    ],
)
def test_codes_that_cannot_be(weights: Path, do: str, message: str) -> None:
    a = sound(80 / RATE)
    with open_stand_in(weights, do) as codec, pytest.raises(BundleError, match=message):
        codec.encode(rate=RATE, vocals=a, accompaniment=a)


def test_sound_that_cannot_be(weights: Path) -> None:
    codes = dict.fromkeys(TRACKS, torch.zeros(2, 5, dtype=torch.int64))
    with open_stand_in(weights, "nan") as codec:
        with pytest.raises(BundleError, match=r"\[1, 40\] where sound \[channels, samples\], all finite, was expected"):
            codec.decode(StreamTokens(codes))
        with pytest.raises(BundleError, match="codebook 0: 256 is no code"):
            codec.decode({track: own + 256 for track, own in codes.items()})
        with pytest.raises(ConfigError, match="track 'drums' does not exist"):
            codec.decode(codes, "drums")


def test_tracks_that_are_coded_together(weights: Path) -> None:
    """They decode to the mix and to nothing else."""
    with open_stand_in(weights, options={"joint": True}) as codec:
        a, b = sound(0.05, 1), sound(0.05, 2)
        tokens = codec.encode(rate=RATE, vocals=a, accompaniment=b)
        assert {*tokens} == {*TRACKS} and codec.decode(tokens).shape == a.shape
        with pytest.raises(BundleError, match="makes the mix of both streams"):
            codec.decode(tokens, "vocals")
        stems = {"vocals": sound(1.0, 1, 48_000), "accompaniment": sound(1.0, 2, 48_000)}
        song = Song("song", {**stems, "mix": stems["vocals"] + stems["accompaniment"]})
        found = CodecSystem(codec).reconstruct(song)
        assert {*found} == {"mix"} and found["mix"].shape == (1, RATE), "evaluated by its mix"
    with pytest.raises(ConfigError, match="codes vocals and accompaniment together; leave them out"):
        open_stand_in(weights, options={"joint": True}, tracks=("mix",))


def test_settings(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths may be relative to the file; mistakes are named with the file."""
    monkeypatch.setitem(registry.EXTERNAL, "stand-in", replace(KNOWN, options="config: PATH", more=("seed",)))
    path = tmp_path / "codec.yaml"
    path.write_text(
        f"codec: stand-in\npython: {sys.executable}\nweights: {weights.name}\noptions: {{config: a/b.yaml, seed: 3}}\n"
    )
    found = read_settings(path)
    assert (found.weights, found.options) == (str(weights), {"config": str(tmp_path / "a" / "b.yaml"), "seed": 3})
    codec = open_codec(f"external:{path}", tracks=("mix",))
    assert isinstance(codec, ExternalCodec) and [s.name for s in codec.streams] == ["mix"]
    assert codec.encode(sound(0.01), RATE)["mix"].shape == (2, 10)
    for text, message in (
        ("codec: wavtoknizer\npython: x\nweights: y\n", "codec 'wavtoknizer' is not known; there are wavtokenizer, "),
        (
            "codec: stand-in\npython: nowhere/python\nweights: y\n",
            r"nowhere/python: no such Python; python3 -m venv ENV",
        ),
        ("codec: stand-in\npython: x\nwieghts: y\n", "weights"),
        (
            "codec: stand-in\npython: x\nweights: y\noptions: {sede: 1}\n",
            r"options.sede: stand-in has config, seed; correct or remove it",
        ),
        ("codec: moss\npython: x\nweights: y\noptions: {steps: 1}\n", r"options.steps: moss has channels"),
        ("codec: stand-in\npython: x\nweights: y\nsha256: abc\n", "sha256 'abc' is no sha256"),
        ("codec: stand-in\npython: /bin/echo\nweights: y\n", "no answer of our runner"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            open_codec(f"external:{path}")
    with pytest.raises(ConfigError, match="checkout '' is no folder; get its repository: git clone URL"):
        ExternalCodec(config(weights), replace(KNOWN, checkout=True))


def test_the_runner_and_the_adapters_need_nothing_of_ours() -> None:
    """They run under the Pythons of others: standard library at the top, everything else when it is asked for."""
    allowed = {"__future__", "hashlib", "importlib", "json", "os", "sys", "threading", "time", "typing"}
    for path in (RUNNER, *ADAPTERS.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
        names = {
            name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert names <= allowed, path.name
    assert {known.adapter for known in registry.EXTERNAL.values()} == {*ADAPTERS.glob("[!_]*.py")}

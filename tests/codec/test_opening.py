"""A codec by its name: what opens, what is refused and with which words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.codec.tiny_codecs import make_codec, sound
from tests.tiny import tiny_bundle

from duotok.codec import TransformersCodec, open_codec
from duotok.codec.duotok import DuoTok
from duotok.errors import BundleError, ConfigError, MissingExtraError
from duotok.lm.streams import codec_identity
from duotok.tracks import TRACKS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def dac(tmp_path: Path) -> Path:
    return make_codec(tmp_path, "dac")


def change(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def test_a_bundle_keeps_the_same_contract(bundle: Path) -> None:
    codec, model = open_codec(bundle), DuoTok.from_pretrained(bundle)
    assert codec_identity(codec) == codec_identity(model)
    assert [(s.name, s.codebooks) for s in codec.streams] == [(track, 1) for track in TRACKS]
    a, b = sound(1.01, 1, 48_000, 2), sound(1.01, 2, 48_000, 2)
    tokens, own = codec.encode(vocals=a, accompaniment=b), model.encode(vocals=a, accompaniment=b)
    assert all(torch.equal(tokens[track], own.track(track)[None]) for track in TRACKS) and tokens.keys() == {*TRACKS}
    assert tokens.n_frames == codec.n_frames(a.shape[1]) and tokens.n_samples == a.shape[1]
    assert torch.equal(codec.decode(tokens), model.decode(own))
    assert codec.decode(dict(tokens), "vocals").shape[1] == tokens.n_frames * 1920
    assert all(torch.equal(v, model.embeddings(own)[track]) for track, v in codec.embeddings(tokens).items())


def test_a_folder_opens_with_its_prefix(dac: Path) -> None:
    codec = open_codec(f"transformers:{dac}", codebooks=2, tracks=("mix",))
    assert isinstance(codec, TransformersCodec)
    assert [(s.name, s.codebooks) for s in codec.streams] == [("mix", 2)]
    assert codec_identity(codec).frame_rate == 200.0
    assert codec.encode(sound(0.1), 8000)["mix"].shape == (2, 20)


def test_what_cannot_be_opened(dac: Path, bundle: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, message in (
        (tmp_path / "nowhere", "no such folder"), (empty, "it has no config.json"), (bundle, "a DuoTok bundle; open it without"),
        ("", "no such folder"),
    ):  # fmt: skip
        with pytest.raises(BundleError, match=message):
            open_codec(f"transformers:{name}")
    with pytest.raises(BundleError, match="no such bundle"):
        open_codec("nothing")
    with pytest.raises(
        BundleError, match=r"model_type 'bert' is no codec known here; there are dac, encodec, mimi, xcodec"
    ):
        open_codec(f"transformers:{change(dac, model_type='bert')}")
    with pytest.raises(BundleError, match="'xcodec2' wants torchaudio"):
        open_codec(f"transformers:{change(dac, model_type='xcodec2')}")
    (dac / "config.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        open_codec(f"transformers:{dac}")


def test_pickles_are_never_read(dac: Path) -> None:
    (dac / "model.safetensors").rename(dac / "pytorch_model.bin")
    with pytest.raises(BundleError, match=r"only pytorch_model.bin, a pickle that could run code"):
        open_codec(f"transformers:{dac}")
    (dac / "pytorch_model.bin").unlink()
    with pytest.raises(BundleError, match="no weights at all"):
        open_codec(f"transformers:{dac}")


def test_damaged_or_incomplete_weights(dac: Path) -> None:
    path = dac / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if k != "encoder.conv1.weight"}, path, {"format": "pt"})
    with pytest.raises(
        BundleError, match=r"1 weights of DacModel are missing or of another shape \(encoder.conv1.weight\)"
    ):
        open_codec(f"transformers:{dac}")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match="cannot be loaded as DacModel"):
        open_codec(f"transformers:{dac}")


def test_weights_that_are_no_numbers(dac: Path) -> None:
    """Every sound would have the codes 0."""
    path = dac / "model.safetensors"
    weights = load_file(path)
    weights["encoder.conv1.weight"][0, 0, 0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(BundleError, match=r"dac: 'encoder.conv1.weight' holds NaN or infinite values"):
        open_codec(f"transformers:{dac}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": ["dac"]}, r"model_type '\['dac'\]' is no codec known here"),
        (
            {"sampling_rate": 0},
            "1 channels at 0 Hz in frames of 40 samples, 4 codebooks of 16 codes; no codec has these",
        ),
        ({"sampling_rate": -8000}, "at -8000 Hz"),
        ({"sampling_rate": 1}, "at 1 Hz in frames of 40 samples"),
        ({"n_codebooks": 0}, "0 codebooks of 16 codes"),
    ],
)
def test_configurations_of_no_codec(dac: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        open_codec(f"transformers:{change(dac, **changes)}")


def test_variants_that_keep_no_contract(tmp_path: Path) -> None:
    whole = make_codec(tmp_path, "encodec", normalize=True)
    with pytest.raises(BundleError, match=r"one loudness for the whole sound and no chunks"):
        open_codec(f"transformers:{whole}")
    odd = make_codec(tmp_path / "odd", "encodec", normalize=True, chunk_length_s=0.101, overlap=0.01)
    with pytest.raises(BundleError, match=r"chunks of 808 samples every 799 are no whole frames of 40"):
        open_codec(f"transformers:{odd}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_codebooks": 2**70}, r"n_codebooks = 1180591620717411303424, more than 1024 is no model"),
        ({"encoder_hidden_size": 2**40}, "encoder_hidden_size = 1099511627776, more than 16777216"),
        ({"downsampling_ratios": [2] * 5000}, "downsampling_ratios has 5000 entries"),
        ({"encoder_hidden_size": 4096}, r"asks for [0-9,]+ parameters, the weights beside it hold"),
    ],
)
def test_absurd_configurations_are_refused_before_anything_is_built(
    dac: Path, changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def never(*_: object, **__: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr(transformers.DacModel, "from_pretrained", never)
    with pytest.raises(BundleError, match=message):
        open_codec(f"transformers:{change(dac, **changes)}")


def test_deeply_nested_configurations(dac: Path) -> None:
    for depth, message in ((40, "nested 16 deep"), (200_000, "not valid JSON")):
        (dac / "config.json").write_text('{"model_type": "dac", "a": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(BundleError, match=message):
            open_codec(f"transformers:{dac}")


def test_codebooks_and_tracks_that_there_are_not(dac: Path, bundle: Path, tmp_path: Path) -> None:
    name = f"transformers:{dac}"
    mimi = make_codec(tmp_path, "mimi", num_semantic_quantizers=2)
    for arguments, message in (
        ((name, "cpu", 5), "dac-8khz: 5 codebooks; it can give 1 to 4"), ((name, "cpu", 0), "it can give 1 to 4"),
        ((name, "cpu", 2.0), "dac-8khz: 2.0 codebooks"), ((name, "cpu", True), "dac-8khz: True codebooks"),
        ((f"transformers:{mimi}", "cpu", 1), "it can give 2 to 4"),
        ((name, "cpu", None, ("drums",)), "tracks drums: choose among"), ((name, "cpu", None, ()), "tracks none"),
        ((bundle, "cpu", 2), "a DuoTok bundle has one a track"), ((bundle, "cpu", None, ("mix",)), "leave them out"),
        ((bundle, "cuda:77"), "device 'cuda:77': not usable here"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            open_codec(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cuda:77", "no device"])
def test_devices_that_there_are_not(dac: Path, bundle: Path, device: str) -> None:
    for kind, name in ((DuoTok, bundle), (TransformersCodec, dac)):
        with pytest.raises(ConfigError, match=f"device '{device}': not usable here"):
            kind.from_pretrained(name, device)


def test_without_transformers(dac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'duotok\[lm\]'"):
        open_codec(f"transformers:{dac}")


def test_a_torchaudio_that_breaks_transformers(dac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "transformers", Broken())  # type: ignore[misc]
    with pytest.raises(MissingExtraError, match=r"no usable DacModel \(libcudart.so.13.*uninstall torchaudio"):
        open_codec(f"transformers:{dac}")
    assert transformers


def test_the_room_imports_without_transformers() -> None:
    code = "import sys; sys.modules['transformers'] = None; import duotok.codec; print(duotok.codec.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "open_codec" in done.stdout

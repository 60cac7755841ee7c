"""Bundles: written whole or not at all, read strictly, named by what they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load, save_file
from tests.tiny import song, tiny_bundle, tiny_config
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.bundle import Bundle, CodecConfig, build, facts, seal_bundle, write_bundle
from duotok.codec.duotok import DuoTok
from duotok.codec.hub import find_bundle
from duotok.errors import BundleError, ConfigError
from duotok.renderer.samplers import SAMPLERS, SamplerName
from duotok.seals import seal


def load_file(path: Path) -> dict[str, torch.Tensor]:
    """Into memory: a file that is mapped must not be written over."""
    return load(path.read_bytes())


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_round_trip(model: DuoTok, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "new", card="# A card\n")
    again = DuoTok.from_pretrained(tmp_path / "new")
    assert again.config == model.config and again.model_hash == model.model_hash
    tokens = model.encode(song(1.0))
    assert again.encode(song(1.0)) == tokens
    assert torch.equal(again.decode(tokens), model.decode(tokens))
    assert (tmp_path / "new" / "README.md").read_text() == "# A card\n"
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_half_precision(model: DuoTok, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "half", storage="float16")
    model.save_pretrained(tmp_path / "full")
    sizes = [sum(p.stat().st_size for p in (tmp_path / n).glob("*.safetensors")) for n in ("half", "full")]
    assert sizes[0] < 0.75 * sizes[1]
    half = DuoTok.from_pretrained(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in half.tokenizer.parameters())
    # Saved once more, the values are the same, so the model is.
    half.save_pretrained(tmp_path / "again")
    assert DuoTok.from_pretrained(tmp_path / "again").model_hash == half.model_hash != model.model_hash
    assert load_file(tmp_path / "half" / "autoencoder.safetensors")["mean"].dtype == torch.float32


def test_a_bundle_of_an_earlier_duotok_keeps_its_hash_when_it_is_saved_again(copy: Path, tmp_path: Path) -> None:
    """Keys that DuoTok has got since are not in its config, and so not in its hash."""
    config = json.loads((copy / "config.json").read_text())
    del config["tokenizer"]["bottleneck_norm"], config["codec"]["highpass_hz"]
    (copy / "config.json").write_text(json.dumps(config))
    seal_bundle(copy)
    old = DuoTok.from_pretrained(copy)
    again = DuoTok.from_pretrained(old.save_pretrained(tmp_path / "again"))
    assert again.model_hash == old.model_hash and again.config == old.config
    assert again.sound_hash == old.sound_hash


def test_the_hash_of_what_decodes_is_of_the_config_as_it_was_written(copy: Path) -> None:
    """Else the next key that a renderer gets would make every decoded sound another's."""
    whole = DuoTok.from_pretrained(copy).sound_hash
    config = json.loads((copy / "config.json").read_text())
    del config["dit"]["vocals"]["objective"]
    (copy / "config.json").write_text(json.dumps(config))
    seal_bundle(copy)
    before = DuoTok.from_pretrained(copy)
    assert before.config.dit is not None and before.config.dit.vocals.objective == "v"
    assert before.sound_hash not in ("", whole), "the key came with a later DuoTok"


def test_a_storage_that_does_not_exist_is_refused(model: DuoTok, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="storage 'int4' does not exist; choose float32, float16, int8"):
        model.save_pretrained(tmp_path / "new", storage="int4")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_weights_that_are_no_numbers_do_not_replace_a_bundle(bundle: Path, copy: Path) -> None:
    broken = DuoTok.from_pretrained(bundle)
    with torch.no_grad():
        next(broken.dit("vocals").parameters()).view(-1)[0] = float("nan")
    with pytest.raises(
        BundleError, match=r"bundle not written, '[a-z0-9.]+' of dit.vocals holds NaN or infinite values"
    ):
        broken.save_pretrained(copy)
    opened(copy)


def test_hash_is_of_the_tokenizer_only(copy: Path, model: DuoTok) -> None:
    path = copy / "dit.vocals.safetensors"
    save_file({k: v + 1 for k, v in load_file(path).items()}, path)
    seal_bundle(copy)
    assert DuoTok.from_pretrained(copy).model_hash == model.model_hash
    config = json.loads((copy / "config.json").read_text())
    config["codec"]["loudness"] = -20.0
    (copy / "config.json").write_text(json.dumps(config))
    seal_bundle(copy)
    assert DuoTok.from_pretrained(copy).model_hash != model.model_hash


def test_missing_weights_are_named(copy: Path) -> None:
    for part in ("tokenizer", "autoencoder", "dit.vocals", "dit.accompaniment", "separator"):
        path = copy / f"{part}.safetensors"
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=f"{part}.safetensors: missing.*get the bundle again"):
            DuoTok.from_pretrained(copy)
        path.touch()
        with pytest.raises(BundleError, match="missing"):
            DuoTok.from_pretrained(copy)
        path.write_bytes(data)
    DuoTok.from_pretrained(copy)


def opened(folder: Path) -> object:
    """Everything that a bundle holds, read."""
    bundle = Bundle(folder)
    return [bundle.load(part) for part in bundle.config.parts], bundle.card


def flips(path: Path, count: int) -> Iterator[str]:
    """A file with one bit turned, again and again, spread over all of it; whole again in the end."""
    data = path.read_bytes()
    for i in range(count):
        place, bit = (len(data) - 1) * i // max(1, count - 1), i % 8
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
        yield f"{path.name}, byte {place}, bit {bit}"
    path.write_bytes(data)


def test_no_turned_bit_is_accepted(copy: Path) -> None:
    opened(copy)
    for path in sorted(copy.iterdir()):
        for where in flips(path, 120 if path.suffix == ".json" else 12):
            with pytest.raises(BundleError) as caught:
                opened(copy)
            assert "\n" not in str(caught.value), where
    opened(copy)


def test_a_card_that_is_no_utf_8_is_told(copy: Path) -> None:
    (copy / "README.md").write_bytes("# Musik für Chöre".encode("latin-1"))
    seal_bundle(copy)
    with pytest.raises(BundleError, match=r"README.md: is no UTF-8; save it so, and then: duotok bundle --seal"):
        _ = Bundle(copy).card


def test_what_was_changed_on_purpose_is_sealed_anew(copy: Path) -> None:
    path = copy / "config.json"
    values = json.loads(path.read_text())
    values["codec"]["steps"] = 7
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"not as it was written.*duotok bundle --seal"):
        Bundle(copy)
    done = CliRunner().invoke(app, ["bundle", "--seal", str(copy)])
    assert done.exit_code == 0, done.output
    assert Bundle(copy).config.codec.steps == 7
    assert opened(copy)
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in ("seal", "sha256")}))
    with pytest.raises(BundleError, match=r"without seals.*duotok bundle --seal"):
        Bundle(copy)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("tokenizer", "width", 10**7), ("tokenizer", "lower_blocks", 100_000), ("tokenizer", "codebook_size", 2**40),
        ("tokenizer", "mask_bands", [1] * 10**5), ("codec", "steps", 10**9), ("autoencoder", "n_fft", 2**30),
        ("autoencoder", "encoder_blocks", [10**6, 1]), ("separator", "depth", 10**5), ("codec", "mel_mean", 1e300),
    ],
)  # fmt: skip
def test_a_config_cannot_ask_for_all_memory(part: str, key: str, value: object, copy: Path) -> None:
    path = copy / "config.json"
    values = json.loads(path.read_text())
    values[part][key] = value
    path.write_text(json.dumps(seal(values)))
    with pytest.raises(BundleError, match=rf"{part}\.{key} is over .*, which no bundle has"):
        Bundle(copy)


def test_endless_nesting_is_no_config(copy: Path) -> None:
    for text in ("[" * 200_000, '{"codec": ' * 200_000):
        (copy / "config.json").write_text(text)
        with pytest.raises(BundleError, match="not valid JSON"):
            Bundle(copy)


def test_damaged_weights(copy: Path) -> None:
    path = copy / "tokenizer.safetensors"
    data, state = path.read_bytes(), load_file(path)
    first = sorted(state)[0]
    cases: list[tuple[object, str]] = [
        (data[: len(data) // 2], "damaged weights"),
        (b"\x80\x04pickle", "damaged weights"),
        ({**state, "more": torch.zeros(1)}, "'more' is not known"),
        ({k: v for k, v in state.items() if k != first}, "is missing"),
        ({**state, first: torch.zeros(1, 2, 3, 4)}, r"is \[1, 2, 3, 4\], not"),
        ({**state, first: state[first] * float("nan")}, "NaN"),
        ({**state, first: state[first].half().view(torch.int16)}, "is torch.int16, not torch.float32"),
        ({**state, first: state[first].double()}, "is torch.float64, not torch.float32"),
    ]
    for content, words in cases:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, path)
        for said, use in ((words, seal_bundle), ("not as it was written", opened)):
            with pytest.raises(BundleError, match=said) as caught:
                use(copy)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_config_is_validated(copy: Path) -> None:
    path = copy / "config.json"
    good = json.loads(path.read_text())
    for change, words in [
        ({"tokenizer": {**good["tokenizer"], "widht": 3}}, "unknown key 'tokenizer.widht'; did you mean 'width'"),
        ({"codec": {**good["codec"], "window": 10, "context": 5}}, "window 10"),
        (
            {"codec": {**good["codec"], "sampler": "foo"}},
            "'codec.sampler' = 'foo': Input should be 'ddim', 'dpmpp-2m' or",
        ),
        ({"format_version": 9}, "bundle format 9"),
        ({"format_version": None}, "bundle format None"),
        ({"tokenizer": None}, "not the config of a DuoTok bundle"),
    ]:
        path.write_text(json.dumps(seal({**good, **change})))
        with pytest.raises(BundleError, match=words) as caught:
            Bundle(copy)
        assert "config.json" in str(caught.value) and "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle(copy)


def test_a_bundle_takes_the_samplers_that_there_are() -> None:
    assert get_args(SamplerName) == tuple(SAMPLERS)
    assert [CodecConfig(sampler=name).sampler for name in SAMPLERS] == list(SAMPLERS)


def test_finding(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_bundle(bundle) == bundle
    with pytest.raises(BundleError, match="no such bundle"):
        find_bundle("no-such-name")
    with pytest.raises(BundleError, match=r"it has no config\.json"):
        find_bundle(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        find_bundle("/no/such/place")
    asked: list[str] = []

    def fetch(name: str, **_: object) -> str:
        asked.append(name)
        if name == "someone/else":
            raise OSError("offline\nand more")
        return str(bundle)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert find_bundle("someone/model") == bundle and asked == ["someone/model"]
    with pytest.raises(BundleError, match="not fetched from the hub") as caught:
        find_bundle("someone/else")
    assert "\n" not in str(caught.value)


def test_packaged_name(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duotok.codec.hub.PACKAGED", bundle.parent)
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name that is no bundle is not in the way
    assert find_bundle("tiny") == bundle


def test_writing_is_careful(bundle: Path, tmp_path: Path) -> None:
    config = tiny_config()
    modules = {part: build(config, part) for part in config.parts}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for folder, words in [("mine", "holds other files"), ("file", "is a file"), ("file/x", "cannot be written")]:
        with pytest.raises(BundleError, match=words):
            write_bundle(tmp_path / folder, config, modules)
    with pytest.raises(BundleError, match="autoencoder"):
        write_bundle(tmp_path / "x", config, {"tokenizer": modules["tokenizer"]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"]
    write_bundle(tmp_path / "new", config, modules)
    write_bundle(tmp_path / "new", config, modules)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine", "new"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    config = tiny_config()
    modules = {part: build(config, part) for part in config.parts}
    folder = tmp_path / "other"
    mine = {"config.json": b'{"model_type": "bert"}', "README.md": b"# my model", "model.safetensors": b"my weights"}
    folder.mkdir()
    for name, data in mine.items():
        (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match="holds other files and no bundle"):
        write_bundle(folder, config, modules)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == mine
    write_bundle(folder, config, modules, force=True)
    assert Bundle(folder).config == config and (folder / "model.safetensors").read_bytes() == b"my weights"
    (folder / "lm").mkdir()
    (folder / "lm" / "notes.txt").write_text("kept")
    write_bundle(folder, config, modules)
    assert (folder / "lm" / "notes.txt").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_without_separator(tmp_path: Path) -> None:
    model = DuoTok.from_pretrained(tiny_bundle(tmp_path, separator=None))
    from duotok.errors import AudioError

    with pytest.raises(AudioError, match="no separator; give the stems"):
        model.encode(song(0.5))
    assert model.encode(vocals=song(0.5), accompaniment=song(0.5)).n_frames == 13


def test_facts(bundle: Path) -> None:
    found = facts(Bundle(bundle))
    assert found["name"] == "tiny" and len(found["model_hash"]) == 64
    assert found["parts"]["tokenizer"]["parameters"] > 0
    json.dumps(found)

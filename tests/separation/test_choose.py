"""Separators by name: the bundled one works at once, mistakes are named, and the stamp follows the weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from duotok.errors import ConfigError, MissingExtraError
from duotok.separation.choose import PACKAGED, SEPARATORS, separator_by_name, separator_stamp
from duotok.separation.separator import Separator


def test_the_bundled_one_is_the_codecs_own() -> None:
    from duotok.codec.duotok import DuoTok

    mix = 0.1 * torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    separator = separator_by_name("mini")
    assert isinstance(separator, Separator) and separator.sample_rate == 48_000
    stems = separator.separate(mix)
    assert tuple(stems) == ("vocals", "accompaniment")
    torch.testing.assert_close(stems["vocals"] + stems["accompaniment"], mix, atol=1e-6, rtol=0)
    own = DuoTok.from_pretrained().separator
    assert own is not None
    assert all(torch.equal(own.separate(mix)[stem], audio) for stem, audio in stems.items())


def test_more_stems() -> None:
    stems = separator_by_name("mini", stems=("vocals", "drums", "bass", "other")).separate(torch.zeros(2, 5000))
    assert tuple(stems) == ("vocals", "drums", "bass", "other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demux", "no separator 'demux': use mini, demucs, bs-roformer; did you mean 'demucs'"),
        ("none", "no separator 'none'"),
        ("bs-roformer", "needs weights"),
    ],
)
def test_names_that_do_not_do(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        separator_by_name(name)


def test_missing_extra_weights_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such weights"):
        separator_by_name("bs-roformer", weights=tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="is a pickle"):
        separator_by_name("bs-roformer", weights=tmp_path / "w.ckpt")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        separator_by_name("mini", weights=tmp_path)
    with pytest.raises(ConfigError, match="not usable here"):
        separator_by_name("mini", device="cuda:99")
    monkeypatch.setitem(sys.modules, "demucs.apply", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'duotok\[demucs\]'"):
        separator_by_name("demucs")


def test_a_bundle_without_or_with_another_separator(tmp_path: Path) -> None:
    values = json.loads((PACKAGED / "config.json").read_text())
    for separator, message in ((None, "has no separator"), (values["separator"] | {"sample_rate": 44_100}, "44100 Hz")):
        (tmp_path / "config.json").write_text(json.dumps(values | {"separator": separator}))
        with pytest.raises(ConfigError, match=message):
            separator_by_name("mini", weights=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values))
    state = load_file(PACKAGED / "separator.safetensors")
    state["more"] = torch.zeros(1)
    save_file(state, tmp_path / "separator.safetensors")
    with pytest.raises(ConfigError, match="1 unexpected: more"):
        separator_by_name("mini", weights=tmp_path)


def test_the_stamp_follows_weights_and_names(tmp_path: Path) -> None:
    (tmp_path / "separator.safetensors").write_bytes(b"one")
    one = separator_stamp("mini", weights=tmp_path)
    assert one == separator_stamp("mini", weights=tmp_path) != separator_stamp("mini")
    (tmp_path / "separator.safetensors").write_bytes(b"two")
    assert separator_stamp("mini", weights=tmp_path) != one
    assert separator_stamp("demucs", model="htdemucs") == "demucs:htdemucs" != separator_stamp("demucs", model="x")
    assert separator_stamp("demucs", weights=tmp_path).startswith("demucs:htdemucs:")
    assert all(separator_stamp(name) for name in SEPARATORS)

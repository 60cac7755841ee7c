"""A trained run as a folder to share: the same model, nothing of the machine that trained it, no pickle, no other codec."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lm.small import CODEC, TINY, corpus

from duotok.errors import BundleError, ConfigError, DuoTokError
from duotok.lm import saved as folders
from duotok.lm.generate import generate
from duotok.lm.saved import export_lm, open_lm, seal_lm
from duotok.lm.stage import LMStage, LMStageConfig
from duotok.seals import seal
from duotok.training.engine import train


def trained(place: Path, **changes: object) -> Path:
    values: dict[str, object] = {
        "steps": 2, "batch_size": 2, "lr": 1e-2, "warmup": 1, "model": TINY.model_dump(), "data": corpus(place), "device": "cpu",
        "seconds": 1.2, "shortest": 0.4, "prefix_seconds": 0.2, "save_every": 2, "held_out_every": 2,
    }  # fmt: skip
    train(LMStage(LMStageConfig.model_validate({**values, **changes})), place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("lm"))


def test_a_run_and_its_export_are_the_same_model(run: Path, tmp_path: Path) -> None:
    exported = export_lm(run, tmp_path / "lm")
    one, two = open_lm(run), open_lm(exported)
    assert one.protocol == two.protocol and one.seconds == two.seconds == 1.2
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name])
    first, second = (generate(lm, [1], 2.0)[0].tokens for lm in (one, two))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert open_lm(sorted(run.glob("checkpoint-*"))[-1]).protocol == one.protocol


def test_what_is_in_it(run: Path, tmp_path: Path) -> None:
    exported = export_lm(run, tmp_path / "lm")
    assert sorted(p.name for p in exported.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    text = (exported / "config.json").read_text()
    config = json.loads(text)
    assert config["codec"] == CODEC.as_json() and config["protocol"] == "parallel"
    assert config["training"]["steps"] == config["training"]["step"] == 2
    assert set(config["training"]["held_out"]) == {"loss"}
    assert str(run.parent) not in text and "parquet" not in text
    card = (exported / "README.md").read_text()
    assert CODEC.hash in card and "vocals (20 codes), accompaniment (20 codes)" in card
    assert [p.name for p in tmp_path.iterdir()] == ["lm"]


def test_notes_close_the_card(run: Path, tmp_path: Path) -> None:
    exported = export_lm(run, tmp_path / "lm", notes="## Data\n\nNobody's.\n")
    assert (exported / "README.md").read_text().endswith("```\n\n## Data\n\nNobody's.\n")


def test_the_package_s_own_by_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PACKAGED", tmp_path)
    with pytest.raises(
        ConfigError, match=r"^tiny: no such folder; name the folder of a training run, or an exported language model$"
    ):
        open_lm("tiny")
    exported = export_lm(run, tmp_path / "tiny" / folders.PACKAGED_LM)
    assert open_lm("tiny").source == exported
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert open_lm("tiny").source == exported, "a folder of that name which holds no model"
    with pytest.raises(ConfigError, match=r"^other: no such folder; .*; with the package came tiny$"):
        open_lm("other")
    with pytest.raises(ConfigError, match="no such folder"):
        open_lm("tiny/lm")  # a path, not a name


def test_half_precision(run: Path, tmp_path: Path) -> None:
    exact, half = export_lm(run, tmp_path / "exact"), export_lm(run, tmp_path / "half", storage="float16")
    sizes = [(path / "model.safetensors").stat().st_size for path in (exact, half)]
    assert sizes[1] < 0.7 * sizes[0]
    for name, value in open_lm(half).model.state_dict().items():
        wanted = open_lm(exact).model.state_dict()[name]
        assert value.dtype == wanted.dtype
        torch.testing.assert_close(value, wanted, atol=1e-4, rtol=1e-3)


def test_track_to_track(tmp_path: Path) -> None:
    run = trained(tmp_path, protocol="track_to_track", source="accompaniment", target="vocals")
    one, two = open_lm(run), open_lm(export_lm(run, tmp_path / "lm"))
    assert one.protocol == two.protocol and two.protocol.source == "accompaniment" and two.protocol.prefix == 5
    assert "Makes vocals for given accompaniment" in (tmp_path / "lm" / "README.md").read_text()


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(seal({**json.loads(path.read_text()), **values})))


def test_bad_folders(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; name the folder of a training run"):
        open_lm(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no checkpoint"):
        open_lm(tmp_path)
    cases: list[tuple[dict[str, object], type[DuoTokError], str]] = [
        ({"format_version": 9}, ConfigError, "language model of format 9, this DuoTok reads 1"),
        ({"codec": {**CODEC.as_json(), "hash": "cd" * 32}}, ConfigError, "trained on tokens of another codec"),
        ({"model": {**TINY.model_dump(), "layers": 2}}, BundleError, "weights do not fit"),
        ({"protocol": "backwards"}, ConfigError, "'protocol' = 'backwards'"),
        ({"secnods": 3}, ConfigError, "unknown key 'secnods'; did you mean 'seconds'"),
    ]
    for i, (values, error, message) in enumerate(cases):
        exported = export_lm(run, tmp_path / f"lm{i}")
        change(exported, **values)
        with pytest.raises(error, match=message):
            open_lm(exported)
    (exported / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="not the config of a language model"):
        open_lm(exported)
    (exported / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read, or no JSON"):
        open_lm(exported)
    exported = export_lm(run, tmp_path / "cut")
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BundleError, match="not as it was written"):
        open_lm(exported)
    with pytest.raises(BundleError, match="damaged weights"):
        seal_lm(exported)


def test_no_turned_bit_is_accepted(run: Path, tmp_path: Path) -> None:
    exported = export_lm(run, tmp_path / "lm")
    for path in (exported / "config.json", exported / "model.safetensors"):
        data = path.read_bytes()
        for i in range(60):
            place = (len(data) - 1) * i // 59
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << i % 8)]) + data[place + 1 :])
            with pytest.raises(DuoTokError) as caught:
                open_lm(exported)
            assert "\n" not in str(caught.value)
        path.write_bytes(data)
    config = exported / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"seconds": 7.0}))
    with pytest.raises(ConfigError, match="duotok bundle --seal"):
        open_lm(exported)
    assert open_lm(seal_lm(exported)).seconds == 7.0


def test_nothing_is_overwritten_or_left_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = export_lm(run, tmp_path / "lm")
    with pytest.raises(DuoTokError, match="is already there; name a new folder"):
        export_lm(run, exported)

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "save", full)
    with pytest.raises(DuoTokError, match="cannot be written"):
        export_lm(run, tmp_path / "more")
    assert [p.name for p in tmp_path.iterdir()] == ["lm"]

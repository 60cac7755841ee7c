"""Recipes with the sizes of a bundle."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.tiny import tiny_bundle

from duotok.codec.bundle import Bundle
from duotok.config import config_file, load_config
from duotok.recipes import sized
from duotok.training.stages.registry import config_class

RUNS = {"stage2", "stage3", "stage4.vocals", "stage4.accompaniment", "autoencoder", "adversarial", "adapt"}


def called(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sized", *map(str, words)])
    return sized.main()


def test_configs_have_the_sizes_of_the_bundle_and_the_rates_of_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_bundle(tmp_path)
    assert called(monkeypatch, model, "-o", tmp_path / "configs") == 0
    written = {path.stem: path for path in map(Path, capsys.readouterr().out.split())}
    assert written.keys() >= RUNS
    known = Bundle(model).config
    for run, path in written.items():
        kind = config_class(run.partition(".")[0])
        config, recipe = load_config(kind, path), load_config(kind, config_file(f"gpu/{run.partition('.')[0]}"))
        assert (config.lr, config.batch_size, config.start_from) == (recipe.lr, recipe.batch_size, recipe.start_from)
        if run in ("stage2", "stage3"):
            assert config.model == known.tokenizer
        elif run.startswith("stage4"):
            track = run.partition(".")[2]
            assert config.track == track and config.dit == getattr(known.dit, track)
            assert config.tokenizer_from == recipe.tokenizer_from, "runs are named by who trains"
        elif run != "separator":
            assert config.model == known.autoencoder


def test_what_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in ((("nope",), "nope: no such bundle"), (("mini", "--configs", "nope"), "nope: no such folder")):
        assert called(monkeypatch, *words, "-o", tmp_path / "configs") == 1
        assert capsys.readouterr().err.startswith(f"error: {told}")
    assert not (tmp_path / "configs").exists()
    assert called(monkeypatch, "mini", "-o", "/dev/null/configs") == 1
    assert capsys.readouterr().err.startswith("error: /dev/null/configs: Not a directory; a file is in the way; ")

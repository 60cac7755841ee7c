"""Earlier runs are found where they are named, refused where they do not fit, and remembered by what is made from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.training.test_engine import Toy, config

from duotok.errors import ConfigError
from duotok.lineage import Origin
from duotok.seals import seal
from duotok.training.checkpoint import Untrained, best_so_far, latest, read_state
from duotok.training.earlier_runs import check_same_settings, find_run, latents_of, mismatch, origin_of, same_latents
from duotok.training.engine import Run, train
from duotok.training.leaving import Leaving
from duotok.training.processes import join
from duotok.training.stage import NamedRun
from duotok.training.stages.stage2 import Stage2Config


def origin(stage: str, digest: str, step: int = 7, **parents: Origin) -> Origin:
    name = {"stage3": "tokenizer", "stage4": "ema"}.get(stage.partition(".")[0], "autoencoder")
    return Origin(stage=stage, step=step, sha256={f"{name}.safetensors": digest}, parents=parents)


AUTOENCODER = origin("autoencoder", "a")
ADVERSARIAL = origin("adversarial", "b", start_from=AUTOENCODER)
ADAPT = origin("adapt", "c", start_from=ADVERSARIAL, autoencoder_from=origin("autoencoder", "z"))
TOKENIZER = origin("stage3", "t")
RENDERER = origin("stage4.vocals", "r", tokenizer_from=TOKENIZER, autoencoder_from=AUTOENCODER)


def checkpoint(run: Path, stage: str, values: dict[str, object] | None = None) -> Path:
    """A checkpoint without weights."""
    folder = run / "checkpoint-00000005"
    folder.mkdir(parents=True)
    state = {
        "format": 3, "stage": stage, "step": 5, "processes": 1, "scaler": {}, "config": values or {}, "sha256": {},
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(seal(state)))
    return folder


def test_a_relative_name_is_a_folder_in_runs_and_an_absolute_one_is_taken_as_it_is(tmp_path: Path) -> None:
    runs = tmp_path / "runs"  # which need not exist yet
    for name, folder in (
        ("stage1", runs / "stage1"), ("../base/stage1", tmp_path / "base" / "stage1"), (tmp_path / "x", tmp_path / "x"),
    ):  # fmt: skip
        assert NamedRun("start_from", Path(name), ("stage1",)).folder(runs) == folder
        if not folder.exists():
            checkpoint(folder, "stage1")
        assert find_run(NamedRun("start_from", Path(name), ("stage1",)), runs) == folder


def test_a_missing_run_is_named_with_its_key_and_the_command_that_trains_it(tmp_path: Path) -> None:
    with pytest.raises(Untrained) as caught:
        find_run(NamedRun("renderer_from.vocals", Path("stage4.vocals"), ("stage4.vocals",)), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'stage4.vocals'}: no checkpoint there, and renderer_from.vocals names it")
    assert f"duotok train stage4 -c CONFIG --set track=vocals --data WORK --runs {tmp_path}" in message
    assert "--set renderer_from.vocals=RUN" in message and "\n" not in message
    with pytest.raises(Untrained, match=r"\(duotok train stage1 -c CONFIG --data WORK\)"):
        find_run(NamedRun("start_from", Path("other"), ("stage1",)), tmp_path)


def test_a_run_of_another_stage_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "stage1", "stage1")
    with pytest.raises(
        ConfigError, match=r"stage1: a run of stage1, and start_from takes one of stage2; .*--set start_from=RUN"
    ):
        find_run(NamedRun("start_from", Path("stage1"), ("stage2",)), tmp_path)
    checkpoint(tmp_path / "separator", "separator")
    with pytest.raises(
        ConfigError, match=r"a run of separator, and autoencoder_from takes one of autoencoder or adapt"
    ):
        find_run(NamedRun("autoencoder_from", Path("separator"), ("autoencoder", "adapt")), tmp_path)


def test_settings_that_sizes_do_not_show_must_agree(tmp_path: Path) -> None:
    model = Stage2Config(steps=1, batch_size=1, lr=1).model
    checkpoint(tmp_path / "stage1", "stage1", {"model": {"heads": model.heads // 2}})
    check_same_settings(model, "model", ("width", "rope_base"), tmp_path / "stage1")
    with pytest.raises(ConfigError, match=r"model.heads = 6, but .*stage1 was trained with 3; set model.heads=3"):
        check_same_settings(model, "model", ("width", "heads"), tmp_path / "stage1")


def test_later_autoencoders_have_the_latents_of_the_first() -> None:
    assert latents_of(ADAPT) == latents_of(ADVERSARIAL) == latents_of(AUTOENCODER) == AUTOENCODER
    assert latents_of(origin("adversarial", "b").model_copy(update={"parents": None})) is None
    further = origin("autoencoder", "y").model_copy(update={"parents": {"start_from": AUTOENCODER}})
    assert latents_of(further) == further and not same_latents(ADAPT, further), "its encoder learned on"
    assert same_latents(ADAPT, AUTOENCODER) and not same_latents(ADAPT, origin("autoencoder", "z"))


def test_a_renderer_goes_with_what_it_was_trained_on() -> None:
    for autoencoder in (AUTOENCODER, ADVERSARIAL, ADAPT):
        assert mismatch(RENDERER, TOKENIZER, autoencoder) == ""
    other = origin("stage3", "u", step=9_000)
    assert mismatch(RENDERER, other, ADAPT) == (
        "renders tokens of stage3 at step 7 (sha256 t), not of stage3 at step 9,000 (sha256 u)"
    )
    assert "renders latents of autoencoder" in mismatch(RENDERER, TOKENIZER, origin("autoencoder", "z"))
    unknown = RENDERER.model_copy(update={"parents": None})  # trained before there was lineage
    assert mismatch(unknown, other, origin("autoencoder", "z")) == ""


class Child(Toy):
    """A toy that was made from something."""

    def __init__(self, start: str, tokens: str) -> None:
        super().__init__(config(held_out_every=10, best="mse"))
        self.made_from("start_from", origin("stage2", start))
        self.made_from("tokenizer_from", origin("stage3", tokens))


def test_a_run_that_goes_on_keeps_its_start_and_learns_from_the_others_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(Child("a", "t"), tmp_path, stop_after=10)
    train(Child("a", "t"), tmp_path, stop_after=20)
    assert "goes on with" not in caplog.text
    before = best_so_far(tmp_path)
    assert before and Run(Child("b", "t"), tmp_path, join(config()), None, Leaving()).best == before
    changed = Run(Child("a", "u"), tmp_path, join(config()), None, Leaving())
    assert not changed.best and not best_so_far(tmp_path), "its figures are of other tokens"
    train(Child("b", "u"), tmp_path, stop_after=30)
    assert "was trained with tokenizer_from = stage3 at step 7 (sha256 t), and goes on with stage3" in caplog.text
    parents = origin_of(latest(tmp_path), "net").parents
    assert parents == {"start_from": origin("stage2", "a"), "tokenizer_from": origin("stage3", "u")}


def test_a_run_that_was_begun_without_lineage_goes_on_without(tmp_path: Path) -> None:
    train(Toy(config()), tmp_path, stop_after=10)
    path = latest(tmp_path) / "state.json"
    assert origin_of(path.parent, "net").parents == {}
    old = {name: value for name, value in read_state(path.parent).items() if name != "parents"}
    path.write_text(json.dumps(seal(old)))
    assert origin_of(path.parent, "net").parents is None
    train(Child("a", "t"), tmp_path, stop_after=20)
    assert latest(tmp_path).name.endswith("20") and origin_of(latest(tmp_path), "net").parents is None

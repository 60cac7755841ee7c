"""Stages, adapt and bundles follow the runs that their configs name, and tell what they were made from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from safetensors.torch import load_file
from tests.training.small import (
    AUTOENCODER,
    COMMON,
    TOKENIZER,
    make,
    stage1_config,
    stage3_config,
    stage4_values,
    write,
)
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.bundle import Bundle
from duotok.codec.duotok import DuoTok
from duotok.errors import BundleError, ConfigError
from duotok.files import sha256
from duotok.lineage import Origin
from duotok.seals import seal
from duotok.shards.deriving import derive
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.assemble import assemble
from duotok.training.batches.latent_data import latent_segments
from duotok.training.checkpoint import Untrained, best, read_state
from duotok.training.earlier_runs import origin_of
from duotok.training.engine import train
from duotok.training.stages.adapt import AdaptConfig, Excerpt, find_sources, render_excerpts, rendered_by
from duotok.training.stages.registry import Needs, build_stage
from duotok.training.stages.stage3 import Stage3


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def stage2_values(**changes: object) -> dict[str, object]:
    return {**COMMON, "model": TOKENIZER.model_dump(mode="json"), "mask_seconds": 0, "steps": 2, **changes}


def adapt_values() -> dict[str, object]:
    return {**AUTOENCODER.model_dump(mode="json"), "rendered_seconds": 6.0, "steps": 2}


@pytest.fixture
def elsewhere(needs: Needs, tmp_path: Path) -> Needs:
    """Other RUNS beside those of `needs`, empty, and arrays of its own."""
    derived = tmp_path / "derived"
    shutil.copytree(needs.runs / "derived", derived, ignore=shutil.ignore_patterns("*.masks.*"))
    return Needs(tmp_path / "other", ShardStore(needs.store.ranges.url, derived))


def test_a_stage_starts_from_the_run_that_is_named(needs: Needs, elsewhere: Needs, tmp_path: Path) -> None:
    config = write(tmp_path, "stage2", stage2_values())
    with pytest.raises(ConfigError, match=r"other/stage1: no checkpoint there, and start_from names it"):
        build_stage("stage2", config, [], elsewhere)
    stage = build_stage("stage2", config, [f"start_from={needs.runs / 'stage1'}"], elsewhere)
    file = best(needs.runs / "stage1") / "tokenizer.safetensors"
    weights, mine = load_file(file), stage.tokenizer.state_dict()
    assert all(torch.equal(mine[name], weights[name]) for name in weights if name.startswith("lower_blocks"))
    assert stage.parents == {
        "start_from": Origin(stage="stage1", step=2, sha256={"tokenizer.safetensors": sha256(file)}, parents={})
    }
    train(stage, elsewhere.runs / "stage2")
    state = read_state(best(elsewhere.runs / "stage2"))
    assert state["config"]["start_from"] == str(needs.runs / "stage1")
    assert state["songs"] == elsewhere.store.split_hashes() and "validation" in state["songs"]
    assert Origin.model_validate(state["parents"]["start_from"]) == stage.parents["start_from"]


def test_stage_2_goes_on_from_a_run_of_stage_2(needs: Needs, elsewhere: Needs, tmp_path: Path) -> None:
    """With all that stage 2 trains: from a run of stage 1 it takes the encoder alone."""
    config = write(tmp_path, "stage2", stage2_values(seed=99))
    file = best(needs.runs / "stage2") / "tokenizer.safetensors"
    weights = load_file(file)
    equal = {}
    for start in ("stage1", "stage2"):
        stage = build_stage("stage2", config, [f"start_from={needs.runs / start}"], elsewhere)
        mine = stage.tokenizer.state_dict()
        equal[start] = {
            name: torch.equal(mine[name], weights[name]) for name in weights if not name.startswith("branches")
        }
    assert all(equal["stage2"].values())
    assert not equal["stage1"]["projection_in.linear.weight"] and not equal["stage1"]["output.mel.out.weight"]
    anew = build_stage("stage2", config, [f"start_from={needs.runs / 'stage2'}", "new_bottleneck=true"], elsewhere)
    kept = {name for name, value in anew.tokenizer.state_dict().items() if torch.equal(value, weights[name])}
    assert {name.split(".")[0] for name in equal["stage2"].keys() - kept} == {"projection_in", "projection_out"}


def test_a_teacher_elsewhere_is_named_and_its_masks_are_its_own(needs: Needs, elsewhere: Needs, tmp_path: Path) -> None:
    config = write(tmp_path, "stage2", stage2_values(mask_seconds=4.0))
    train(make("separator", needs.store, tmp_path, steps=3, seed=9), tmp_path / "separator")
    stamps, masks = [], []
    for runs in (needs.runs, tmp_path, tmp_path):
        chosen = [f"start_from={needs.runs / 'stage1'}", f"teacher_from={runs / 'separator'}"]
        stage = build_stage("stage2", config, chosen, elsewhere)
        assert stage.parents["teacher_from"] == origin_of(best(runs / "separator"), "separator")
        path = next(
            path for path in (tmp_path / "derived").rglob("mix.masks.json") if json.loads(path.read_text())["segments"]
        )
        stamps.append(json.loads(path.read_text())["made_by"])
        masks.append(np.load(path.with_suffix(".npy")))
    assert stamps[0] != stamps[1] == stamps[2]
    assert (masks[0] != masks[1]).any() and (masks[1] == masks[2]).all()


@pytest.mark.parametrize(
    ("stage", "key", "name", "message"),
    [
        ("stage2", "start_from", "stage3", "a run of stage3, and start_from takes one of stage1 or stage2"),
        ("stage3", "start_from", "stage1", "a run of stage1, and start_from takes one of stage2"),
        ("stage4", "tokenizer_from", "stage2", "a run of stage2, and tokenizer_from takes one of stage3"),
        (
            "stage4",
            "autoencoder_from",
            "separator",
            "a run of separator, and autoencoder_from takes one of autoencoder",
        ),
        ("stage4", "start_from", "stage3", "a run of stage3, and start_from takes one of stage4.vocals"),
        (
            "adapt",
            "renderer_from.vocals",
            "stage4.accompaniment",
            "and renderer_from.vocals takes one of stage4.vocals",
        ),
        ("adapt", "start_from", "stage3", "a run of stage3, and start_from takes one of autoencoder"),
        ("adversarial", "start_from", "separator", "a run of separator, and start_from takes one of autoencoder"),
    ],
)
def test_a_run_of_another_stage_is_one_line(
    stage: str, key: str, name: str, message: str, renderers: Needs, tmp_path: Path
) -> None:
    values = {
        "stage2": stage2_values(), "stage3": stage3_config().model_dump(mode="json"), "stage4": stage4_values(),
        "adapt": adapt_values(), "adversarial": {**AUTOENCODER.model_dump(mode="json"), "adversary": {}},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message) as caught:
        build_stage(stage, write(tmp_path, stage, values[stage]), [f"{key}={name}"], renderers)
    assert "\n" not in str(caught.value) and f"--set {key}=RUN" in str(caught.value)


def test_other_sizes_than_those_of_the_run_before_are_one_line(renderers: Needs, tmp_path: Path) -> None:
    stage2, stage4 = write(tmp_path, "stage2", stage2_values()), write(tmp_path, "stage4", stage4_values())
    with pytest.raises(ConfigError, match=r"model.heads = 4, but .*stage1 was trained with 2; set model.heads=2"):
        build_stage("stage2", stage2, ["model.heads=4"], renderers)
    with pytest.raises(ConfigError, match=r"dit.condition_dim = 8, but what .*stage3 gives is 16 wide"):
        build_stage("stage4", stage4, ["dit.condition_dim=8"], renderers)
    with pytest.raises(ConfigError, match=r"dit.latent_dim = 32, but what .*autoencoder gives is 64 wide"):
        build_stage("stage4", stage4, ["dit.latent_dim=32"], renderers)
    with pytest.raises(ConfigError, match=r"dit.heads = 1, but .*stage4.accompaniment was trained with 2"):
        build_stage("stage4", stage4, ["dit.heads=1", "start_from=stage4.accompaniment"], renderers)


def test_checkpoints_tell_the_whole_way_back(renderers: Needs) -> None:
    origin = origin_of(best(renderers.runs / "stage4.vocals"), "ema")
    assert origin.stage == "stage4.vocals" and origin.parents is not None
    assert origin.parents.keys() == {"tokenizer_from", "autoencoder_from"}
    way = [origin.parents["tokenizer_from"]]
    while way[-1].parents:
        way.append(way[-1].parents["start_from"])
    assert [one.stage for one in way] == ["stage3", "stage2", "stage1"]
    for one in way:
        file = best(renderers.runs / one.stage) / "tokenizer.safetensors"
        assert one.sha256 == {"tokenizer.safetensors": sha256(file)}


def retrained(needs: Needs, folder: Path) -> Path:
    """RUNS as copies, with another stage 3."""
    runs = folder / "runs"
    shutil.copytree(needs.runs, runs, ignore=shutil.ignore_patterns("derived"))
    shutil.rmtree(runs / "stage3")
    train(Stage3(stage3_config(steps=3, seed=8), needs.store, runs / "stage2"), runs / "stage3")
    return runs


def test_a_bundle_refuses_renderers_of_another_tokenizer(renderers: Needs, data: Path, tmp_path: Path) -> None:
    runs = retrained(renderers, tmp_path)
    command = ("bundle", "--runs", runs, "--data", data, "-o", tmp_path / "out")
    refused = run(*command)
    assert refused.exit_code == 1 and not (tmp_path / "out").exists()
    told = " ".join(refused.stderr.split())
    assert "stage4.vocals: renders tokens of stage3 at step 2 (sha256" in told and "not of stage3 at step 3" in told
    assert "--set tokenizer_from=RUN" in told and "--mismatched" in told
    assert run(*command, "--force").exit_code == 1  # which is about what lies in OUT
    named = run(*command, "--set", f"tokenizer_from={renderers.runs / 'stage3'}")
    assert named.exit_code == 0, named.output
    assert Bundle(tmp_path / "out").config.lineage["tokenizer"].step == 2
    forced = run(*command, "--force", "--mismatched")
    assert forced.exit_code == 0 and Bundle(tmp_path / "out").config.lineage["tokenizer"].step == 3


def test_a_bundle_refuses_renderers_of_other_latents_and_says_what_trains_them(
    renderers: Needs, data: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(renderers.runs, runs, ignore=shutil.ignore_patterns("derived"))
    shutil.rmtree(runs / "autoencoder")
    train(make("autoencoder", renderers.store, runs, steps=3, seed=8), runs / "autoencoder")
    work = shutil.copytree(data, tmp_path / "work")
    for track in TRACKS:
        with pytest.raises(
            BundleError, match=rf"stage4.{track}: renders latents of autoencoder at step 2 .*--set autoencoder_from=RUN"
        ) as refused:
            assemble(runs, renderers.store, tmp_path / "out", "t", "test")
        move, again = re.findall(r"(mv [^;]*); duotok ([^)]*)\)", str(refused.value))[0]
        subprocess.run(move.split(), check=True)
        done = run(*again.replace("--data WORK", f"--data {work}").split())
        assert done.exit_code == 0, done.output
    assemble(runs, renderers.store, tmp_path / "out", "t", "test")


def test_a_bundle_follows_its_renderers_and_shows_its_lineage(renderers: Needs, tmp_path: Path) -> None:
    """In RUNS lie the renderers alone; tokenizer and autoencoder are where their configs say."""
    runs = tmp_path / "runs"
    config = write(tmp_path, "stage4", stage4_values())
    named = [
        f"{key}_from={renderers.runs / name}" for key, name in (("tokenizer", "stage3"), ("autoencoder", "autoencoder"))
    ]
    for track in TRACKS:
        stage = build_stage("stage4", config, [f"track={track}", *named], Needs(runs, renderers.store))
        train(stage, runs / stage.name)
    with pytest.raises(ConfigError, match="separator: no checkpoint there, and separator_from names it"):
        assemble(runs, renderers.store, tmp_path / "out", "t", "test")
    separator = f"separator_from={renderers.runs / 'separator'}"
    made = assemble(runs, renderers.store, tmp_path / "out", "t", "test", overrides=[separator, "steps=5"])
    bundle = Bundle(made)
    assert bundle.config.codec.steps == 5
    assert bundle.config.lineage["autoencoder"] == origin_of(best(renderers.runs / "autoencoder"), "autoencoder")
    assert str(renderers.runs / "stage3") in bundle.card
    facts = json.loads(run("info", made, "--json").stdout)
    assert facts["lineage"].keys() == set(bundle.config.parts) and "lineage" not in facts["config"]
    assert facts["lineage"]["dit.vocals"]["parents"]["tokenizer_from"]["stage"] == "stage3"
    lines = run("info", made).stdout.splitlines()
    start = lines.index("  tokenizer", lines.index("lineage"))
    digest = sha256(best(renderers.runs / "stage3") / "tokenizer.safetensors")[:12]
    assert lines[start + 1].split(maxsplit=1) == ["checkpoint", f"stage3 at step 2 (sha256 {digest})"]
    assert [line.strip() for line in lines[start + 2 : start + 6 : 2]] == ["start from", "start from"]
    assert DuoTok.from_pretrained(made).config.lineage == bundle.config.lineage


def test_the_packaged_bundle_tells_its_lineage_as_far_as_it_is_known() -> None:
    text = run("info", "mini").stdout
    assert "stage4.vocals at step 1,059" in text and "stage2 at step 157" in text
    assert "not known, an earlier DuoTok trained it" in text


def test_adapt_refuses_renderers_of_another_tokenizer(renderers: Needs, tmp_path: Path) -> None:
    runs = retrained(renderers, tmp_path)
    needs = Needs(runs, renderers.store)
    config = write(tmp_path, "adapt", adapt_values())
    with pytest.raises(
        ConfigError, match=r"stage4.vocals: renders tokens of stage3 at step 2 .*--set tokenizer_from=RUN"
    ):
        build_stage("adapt", config, [], needs)
    stage = build_stage("adapt", config, [f"tokenizer_from={renderers.runs / 'stage3'}"], needs)
    stage.start()
    assert stage.parents.keys() == {
        "autoencoder_from", "tokenizer_from", "renderer_from.vocals", "renderer_from.accompaniment", "start_from",
    }  # fmt: skip


def test_adapt_learns_from_arrays_of_the_runs_that_it_names(renderers: Needs, tmp_path: Path) -> None:
    """Also where another run's codes lie in WORK: they are made anew."""
    derived = tmp_path / "derived"
    shutil.copytree(renderers.runs / "derived", derived)
    store = ShardStore(renderers.store.ranges.url, derived)
    before = np.array(latent_segments(store, "train", "vocals")[0].codes())
    runs = retrained(renderers, tmp_path)
    build_stage("stage4", write(tmp_path, "stage4", stage4_values()), ["track=vocals"], Needs(runs, store))
    changed = np.array(latent_segments(store, "train", "vocals")[0].codes())
    build_stage("adapt", write(tmp_path, "adapt", adapt_values()), [], Needs(renderers.runs, store))
    after = np.array(latent_segments(store, "train", "vocals")[0].codes())
    assert (before != changed).any() and (before == after).all()


def test_a_decoder_is_trained_on_with_phases_that_are_fitted_and_adapt_goes_on_so(
    renderers: Needs, tmp_path: Path
) -> None:
    """The sizes are those of the run that it starts from; `griffin_lim` has no weights and is the config's own."""
    runs = tmp_path / "runs"
    shutil.copytree(renderers.runs, runs, ignore=shutil.ignore_patterns("derived", "rendered"))
    needs = Needs(runs, renderers.store)
    own = {**AUTOENCODER.model_dump(mode="json"), "steps": 1, "start_from": "autoencoder", "fit_iterations": 1}
    small = {"windows": [512], "bands": [0.0, 1.0], "channels": 2}
    values = {**own, "adversary": small, "model": {"griffin_lim": 2, "decoder_width": 999}}
    stage = build_stage("adversarial", write(tmp_path, "adversarial", values), [], needs)
    before = AUTOENCODER.model.model_copy(update={"griffin_lim": 2})
    assert stage.autoencoder.config == before
    alone = build_stage("adversarial", write(tmp_path, "alone", {**values, "adversary": None}), [], needs)
    assert alone.modules.keys() == {"autoencoder"}, "without discriminators the decoder learns by itself"
    assert {name.split(".")[0] for name, p in alone.autoencoder.named_parameters() if p.requires_grad} == {
        "from_latent", "unpool", "decode_fine", "to_spectrum",
    }  # fmt: skip
    train(stage, runs / "adversarial")
    adapt = build_stage("adapt", write(tmp_path, "adapt", {**adapt_values(), "fit_iterations": 1}), [], needs)
    assert adapt.autoencoder.config == before
    judged = write(tmp_path, "judged", {**adapt_values(), "adversary": small})
    build_stage("adapt", judged, [], needs)
    for key, value in (
        ("windows", "[256]"),
        ("bands", "[0.0, 0.5]"),
    ):  # their weights would fit, and hear something else
        with pytest.raises(ConfigError, match=rf"adversary\.{key} = .*adversarial was trained with"):
            build_stage("adapt", judged, [f"adversary.{key}={value}"], needs)
    plain = build_stage("adapt", write(tmp_path, "adapt", adapt_values()), ["start_from=autoencoder"], needs)
    assert plain.autoencoder.config == AUTOENCODER.model


def test_latents_are_rendered_anew_when_the_renderer_is_trained_further(renderers: Needs, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(renderers.runs, runs, ignore=shutil.ignore_patterns("derived", "rendered"))
    config = AdaptConfig.model_validate({**adapt_values(), "rendered_seconds": 1.0})
    first = find_sources(config, runs)
    before = render_excerpts(renderers.store, runs, first, config, "train", 1.0)[0]
    stage4 = write(tmp_path, "stage4", {**stage4_values(), "steps": 4, "lr": 0.1})
    train(build_stage("stage4", stage4, ["track=vocals"], Needs(runs, renderers.store)), runs / "stage4.vocals")
    second = find_sources(config, runs)
    assert rendered_by(first, "vocals") != rendered_by(second, "vocals")
    assert rendered_by(first, "accompaniment") == rendered_by(second, "accompaniment")
    after = render_excerpts(renderers.store, runs, second, config, "train", 1.0)[0]
    assert after.segment.key == before.segment.key and (np.array(after.rendered) != np.array(before.rendered)).any()


@pytest.fixture
def rendered(renderers: Needs, tmp_path: Path) -> Callable[[ShardStore], Excerpt]:
    """The first excerpt of a store as adapt renders it, or finds it in RUNS of its own."""
    runs = tmp_path / "runs"
    shutil.copytree(renderers.runs, runs, ignore=shutil.ignore_patterns("derived", "rendered"))
    config = AdaptConfig.model_validate({**adapt_values(), "rendered_seconds": 0.1})
    sources = find_sources(config, runs)
    return lambda store: render_excerpts(store, runs, sources, config, "train", 0.1)[0]


def test_other_sound_of_the_same_name_is_rendered_anew(
    renderers: Needs, rendered: Callable[[ShardStore], Excerpt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = tmp_path / "derived"
    shutil.copytree(renderers.runs / "derived", derived, ignore=shutil.ignore_patterns("*.codes.*"))
    other = ShardStore(renderers.store.ranges.url, derived)
    derive(other, "codes", lambda i, _: np.arange(other.frames[i])[:, None] % 256, tracks=TRACKS, made_by="other sound")
    first, second = rendered(renderers.store), rendered(other)
    assert first.segment.key == second.segment.key
    assert (np.array(first.rendered) != np.array(second.rendered)).any()
    monkeypatch.delattr("duotok.training.stages.adapt.render_latents")  # both were kept
    assert np.array_equal(rendered(renderers.store).rendered, first.rendered)
    assert np.array_equal(rendered(other).rendered, second.rendered)


@pytest.mark.parametrize("damage", ["cut off", "a bit", "another length", "no stamp", "a stamp that is none"])
def test_rendered_latents_that_were_damaged_are_rendered_anew(
    damage: str,
    renderers: Needs,
    rendered: Callable[[ShardStore], Excerpt],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = np.array(rendered(renderers.store).rendered)
    path = next((tmp_path / "runs" / "rendered").glob("vocals-*/train/**/*.npy"))
    data, stamp = bytearray(path.read_bytes()), path.with_suffix(".json")
    if damage == "cut off":
        path.write_bytes(data[:-300])
    elif damage == "a bit":
        data[-4] ^= 1
        path.write_bytes(data)
    elif damage == "another length":
        np.save(path, before[:-2])
        stamp.write_text(json.dumps(seal({"sha256": sha256(path)})))
    elif damage == "no stamp":  # as when the process was killed between the two
        np.save(path, before[:-2])
        stamp.unlink()
    else:
        stamp.write_text("[1]")
    after = rendered(renderers.store)
    assert np.array_equal(after.rendered, before)
    assert caplog.messages == [f"{path}: not as it was written; rendered anew"] * (damage != "no stamp")
    rendered(renderers.store)
    assert len(caplog.messages) == (damage != "no stamp")


def test_a_renderer_of_no_numbers_is_one_line(
    renderers: Needs, rendered: Callable[[ShardStore], Excerpt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "duotok.training.stages.adapt.render_latents",
        lambda dit, vectors, *_, **__: torch.full((2 * len(vectors), 64), 1e6),
    )
    with pytest.raises(ConfigError, match=r"stage4\.vocals: renders latents that are no numbers; move it away") as told:
        rendered(renderers.store)
    assert "\n" not in str(told.value)


def test_a_dry_run_says_which_runs_it_would_start_from(needs: Needs, tmp_path: Path) -> None:
    path = tmp_path / "stage3.yaml"
    path.write_text(yaml.safe_dump(stage3_config().model_dump(mode="json")))
    dry = ("train", "stage3", "-c", path, "--dry-run", "--measure", "0.1")
    here = run(*dry, "--runs", needs.runs)
    assert here.exit_code == 0 and f"start_from: {needs.runs / 'stage2'}, stage2 at step 2" in here.stdout
    lost = run(*dry, "--runs", tmp_path, "--set", "start_from=../away/stage2", "--json")
    assert json.loads(lost.stdout)["earlier_runs"] == {
        "start_from": f"{tmp_path.parent / 'away' / 'stage2'}, not trained yet"
    }
    wrong = run(*dry, "--runs", needs.runs, "--set", "start_from=stage1")
    assert wrong.exit_code == 0 and "start_from takes one of stage2" in wrong.stdout
    path.write_text(yaml.safe_dump(stage1_config().model_dump(mode="json")))
    first = run("train", "stage1", *dry[2:], "--json")
    assert json.loads(first.stdout)["earlier_runs"] == {}


def test_what_does_not_fit_is_told_before_anything_is_derived(needs: Needs, bare_shards: Path, tmp_path: Path) -> None:
    path = write(tmp_path, "stage2", stage2_values())
    work = tmp_path / "work"
    work.mkdir()
    (work / "shards").symlink_to(bare_shards / "shards")
    done = run("train", "stage2", "-c", path, "--data", work, "--runs", needs.runs, "--set", "start_from=stage3")
    assert done.exit_code == 1 and "a run of stage3, and start_from takes one of stage1" in " ".join(
        done.stderr.split()
    )
    assert not (work / "derived").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["dit.condition_dim=8"], "dit.condition_dim = 8, but what"),
        (["dit.heads=1", "start_from=stage4.accompaniment"], "dit.heads = 1, but"),
    ],
)
def test_a_renderer_that_fits_no_run_is_told_before_its_latents_are_made(
    settings: list[str], message: str, renderers: Needs, bare_shards: Path, tmp_path: Path
) -> None:
    """Latents of a large corpus take hours."""
    there = Needs(renderers.runs, ShardStore(bare_shards / "shards", tmp_path / "derived"))
    with pytest.raises(ConfigError, match=message):
        build_stage("stage4", write(tmp_path, "stage4", stage4_values()), settings, there)
    assert not (tmp_path / "derived").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["teacher=bs-roformer"], "teacher_weights"),
        (["teacher=bs-roformer", "teacher_weights=nowhere.safetensors"], "nowhere.safetensors: no such weights"),
        (["teacher_from=stage1"], "a run of stage1, and teacher_from takes one of separator"),
    ],
)
def test_a_teacher_that_is_not_there_is_told_before_features_are_made(
    settings: list[str], message: str, needs: Needs, bare_shards: Path, tmp_path: Path
) -> None:
    there = Needs(needs.runs, ShardStore(bare_shards / "shards", tmp_path / "derived"))
    config = write(tmp_path, "stage2", stage2_values(mask_seconds=4.0))
    with pytest.raises(ConfigError, match=message):
        build_stage("stage2", config, settings, there)
    assert not (tmp_path / "derived").exists()


def test_features_do_not_wait_for_a_teacher_that_is_not_trained(
    needs: Needs, bare_shards: Path, tmp_path: Path
) -> None:
    there = Needs(needs.runs, ShardStore(bare_shards / "shards", tmp_path / "derived"))
    config = write(tmp_path, "stage2", stage2_values(mask_seconds=4.0))
    with pytest.raises(Untrained, match="teacher_from names it"):
        build_stage("stage2", config, ["teacher_from=later"], there)
    assert list((tmp_path / "derived").rglob("mix.mel.npy")), "as `--prepare` promises"


def test_an_autoencoder_of_other_sizes_is_told_before_samples_are_stored(
    needs: Needs, bare_shards: Path, tmp_path: Path
) -> None:
    there = Needs(needs.runs, ShardStore(bare_shards / "shards", tmp_path / "derived"))
    config = write(tmp_path, "autoencoder", AUTOENCODER.model_dump(mode="json"))
    settings = ["start_from=autoencoder", "model.decoder_width=8"]
    with pytest.raises(ConfigError, match=r"model.decoder_width = 8, but .*autoencoder was trained with 16"):
        build_stage("autoencoder", config, settings, there)
    assert not (tmp_path / "derived").exists()
    build_stage("autoencoder", config, ["start_from=autoencoder", "model.griffin_lim=2"], needs)
    with pytest.raises(ConfigError, match=r"model.output = vector, but .*autoencoder was trained with angle"):
        build_stage("autoencoder", config, ["start_from=autoencoder", "model.output=vector"], there)
    phases = ["start_from=autoencoder", "model.griffin_lim=2", "model.output=magnitude"]
    for name in ("autoencoder", "adversarial"):
        made = build_stage(name, config, phases, needs)
        assert made.autoencoder.config.output == "magnitude" and made.autoencoder.config.griffin_lim == 2
        made.start()
    train(build_stage("autoencoder", config, [*phases, "steps=1"], needs), tmp_path / "silent")
    there = Needs(tmp_path, needs.store)
    with pytest.raises(ConfigError, match=r"griffin_lim = 0, but .*silent predicts no phases; set model.griffin_lim=2"):
        build_stage("adversarial", config, ["start_from=silent"], there)
    kept = build_stage("adversarial", config, ["start_from=silent", "model.griffin_lim=1"], there)
    assert kept.autoencoder.config.output == "magnitude"
    plain = build_stage("adversarial", config, phases[:2], needs)
    assert plain.autoencoder.config.output == "angle", "as the run has it, unless it is to be left out"


def test_codes_of_a_track_are_those_of_the_run_that_is_named_for_it(
    needs: Needs, elsewhere: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs from one stage 2, a track each; the third has the codes of both."""
    values = stage3_config(freeze=True).model_dump(mode="json")
    config, runs = write(tmp_path, "stage3", values), elsewhere.runs
    start = f"start_from={needs.runs / 'stage2'}"
    for name, seed in (("voices", 1), ("bands", 2)):
        train(build_stage("stage3", config, [start, f"seed={seed}"], elsewhere), runs / name)
    chosen = ["start_from=voices", "branch_from.accompaniment=bands"]
    both = build_stage("stage3", config, chosen, elsewhere)
    mine = both.tokenizer.state_dict()
    voices, bands = (load_file(best(runs / name) / "tokenizer.safetensors") for name in ("voices", "bands"))
    for name, value in mine.items():
        assert torch.equal(value, (bands if name.startswith("branches.1.") else voices)[name]), name
    assert any(not torch.equal(bands[name], voices[name]) for name in mine if name.startswith("branches.1."))
    assert both.parents == {
        "start_from": origin_of(best(runs / "voices"), "tokenizer"),
        "branch_from.accompaniment": origin_of(best(runs / "bands"), "tokenizer"),
    }
    train(both, runs / "stage3")  # and trains on as any

    with pytest.raises(ConfigError, match=r"branch_from.accompaniment: needs a start_from of stage 3"):
        build_stage("stage3", config, [start, chosen[1]], elsewhere)
    with pytest.raises(ConfigError, match=r"model.map_bias = False, but .*bands was trained with True"):
        build_stage("stage3", config, [start, chosen[1], "model.map_bias=false"], elsewhere)
    with pytest.raises(ConfigError, match=r"lost: no checkpoint there, and branch_from.vocals names it"):
        build_stage("stage3", config, [chosen[0], "branch_from.vocals=lost"], elsewhere)
    with monkeypatch.context() as other:
        other.setattr("duotok.training.earlier_runs.highpass_of", lambda run: 5.0 * (run.name == "bands"))
        with pytest.raises(ConfigError, match=r"crops.highpass_hz = 0, but .*bands learned behind 5 Hz"):
            build_stage("stage3", config, [*chosen, "crops.highpass_hz=0"], elsewhere)
    one = stage3_config(model=TOKENIZER.model_copy(update={"shared_codebook": True}), fit_batches=0)
    train(Stage3(one, elsewhere.store, needs.runs / "stage2"), runs / "shared")
    with pytest.raises(ConfigError, match=r"branch_from.vocals: with model.shared_codebook both tracks have one"):
        Stage3(one, elsewhere.store, runs / "shared", {"vocals": runs / "shared"})
    free = [start, "freeze=false", "seed=3"]
    train(build_stage("stage3", config, free, elsewhere), runs / "free")
    with pytest.raises(ConfigError, match=r"branch_from.vocals: .*free has another encoder than start_from"):
        build_stage("stage3", config, [chosen[0], "branch_from.vocals=free"], elsewhere)


def test_basses_alone_count_where_they_alone_learn(renderers: Needs, tmp_path: Path) -> None:
    config = write(tmp_path, "autoencoder", AUTOENCODER.model_dump(mode="json"))
    needs = Needs(tmp_path / "runs", renderers.store)
    start = f"start_from={renderers.runs / 'autoencoder'}"
    train(build_stage("autoencoder", config, [start, *BASSES, "steps=1"], needs), needs.runs / "autoencoder")
    wide = ["dit.latent_dim=68", "dit.bass_latents=4", f"tokenizer_from={renderers.runs / 'stage3'}"]
    settings = [*wide, f"start_from={renderers.runs / 'stage4.vocals'}"]
    stage4 = write(tmp_path, "stage4", stage4_values())
    changed = {}
    for only in ("true", "false"):
        made = build_stage("stage4", stage4, [*settings, f"only_basses={only}"], needs)
        made.start()
        batch = {**made.batch(0, [0, 1]), "seeds": made.seeds(0, [0, 1])}
        told = []
        for _ in range(2):  # before basses have learned their velocity is 0, whatever the others are
            with torch.no_grad():
                told.append({"train": float(made.losses(batch, 0)["loss"]), **made.held_out()})
                made.dit.leave.bias += 3.0
                made.ema.leave.bias += 3.0
        changed[only] = {key for key in ("train", "loss", "mse_1", "mse_8") if abs(told[1][key] - told[0][key]) > 1e-4}
    assert changed == {"true": set(), "false": {"train", "loss", "mse_1", "mse_8"}}


def test_adapt_goes_on_without_phases_where_its_start_has_none(renderers: Needs, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(renderers.runs, runs, ignore=shutil.ignore_patterns("derived", "rendered"))
    needs = Needs(runs, renderers.store)
    config = write(tmp_path, "adversarial", AUTOENCODER.model_dump(mode="json"))
    silent = ["start_from=autoencoder", "model.griffin_lim=1", "model.output=magnitude", "steps=1", "fit_iterations=1"]
    train(build_stage("adversarial", config, silent, needs), runs / "silent")
    adapt = write(tmp_path, "adapt", {**adapt_values(), "fit_iterations": 1})
    made = build_stage("adapt", adapt, ["start_from=silent"], needs)
    made.start()
    weights = load_file(best(runs / "silent") / "autoencoder.safetensors")
    assert made.autoencoder.config.output == "magnitude"
    assert torch.equal(made.autoencoder.state_dict()["to_spectrum.weight"], weights["to_spectrum.weight"])


BASSES = ["only_basses=true", "model.bass_latents=4", "model.bass_bins=8", "model.griffin_lim=1", "model.latent_dim=68"]


def test_basses_are_added_to_an_autoencoder_and_to_its_renderers(renderers: Needs, tmp_path: Path) -> None:
    config = write(tmp_path, "autoencoder", AUTOENCODER.model_dump(mode="json"))
    needs = Needs(tmp_path / "runs", renderers.store)
    start = f"start_from={renderers.runs / 'autoencoder'}"
    for settings in (BASSES, [start, *BASSES[:1], *BASSES[2:]], [start, *(s for s in BASSES if "griffin" not in s)]):
        with pytest.raises(ConfigError, match="only_basses: needs a run to add basses to"):
            build_stage("autoencoder", config, settings, needs)
    with pytest.raises(ConfigError, match=r"model.latent_dim = 64, but what .*autoencoder gives is 68 wide"):
        build_stage("autoencoder", config, [start, *BASSES[:-1]], needs)
    with pytest.raises(ConfigError, match=r"model.bass_latents = 4, but .*autoencoder has none; add them"):
        build_stage("autoencoder", config, [start, *BASSES[1:]], needs)
    with pytest.raises(ConfigError, match=r"model.decoder_width = 8, but .*autoencoder was trained with 16"):
        build_stage("autoencoder", config, [start, *BASSES, "model.decoder_width=8"], needs)
    train(build_stage("autoencoder", config, [start, *BASSES, "steps=2"], needs), needs.runs / "autoencoder")

    on = build_stage("autoencoder", config, ["start_from=autoencoder", *BASSES, "steps=2"], needs)  # and goes on
    on.start()
    weights = load_file(best(needs.runs / "autoencoder") / "autoencoder.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in on.autoencoder.state_dict().items())

    before = renderers.runs / "stage4.vocals"
    wide = ["dit.latent_dim=68", "dit.bass_latents=4", f"tokenizer_from={renderers.runs / 'stage3'}"]
    settings = [*wide, f"start_from={before}", "only_basses=true"]
    stage4 = write(tmp_path, "stage4", stage4_values())
    for wrong in (wide + settings[-1:], [wide[0], wide[2], *settings[-2:]]):
        with pytest.raises(ConfigError, match="only_basses: needs a renderer to add basses to"):
            build_stage("stage4", stage4, wrong, needs)
    with pytest.raises(ConfigError, match=r"dit.bass_latents = 3, but the autoencoder of .*autoencoder has 4"):
        build_stage("stage4", stage4, [*settings, "dit.bass_latents=3"], needs)
    made = build_stage("stage4", stage4, settings, needs)
    made._codes_in_use = lambda: torch.tensor([0, 1])  # other codes than those that the renderer learned with
    train(made, needs.runs / "stage4.vocals")
    old, new = (load_file(best(run) / "ema.safetensors") for run in (before, needs.runs / "stage4.vocals"))
    assert made.parents["start_from"] == origin_of(best(before), "ema")
    assert all(torch.equal(new[name], value) for name, value in old.items()), "all that it renders besides stays"
    assert new.keys() - old.keys() == {name for name in new if name.startswith("basses.")}
    assert bool(new["basses.leave.weight"].any())
    for run in (before, needs.runs / "stage4.vocals"):  # and all of it may learn, from either
        again = build_stage("stage4", stage4, [*wide, f"start_from={run}"], needs)
        again.start()
        state = again.dit.state_dict()
        assert torch.equal(state["leave.weight"], old["leave.weight"])
        assert torch.equal(state["basses.leave.weight"], new["basses.leave.weight"]) == (run != before)
        assert all(p.requires_grad for p in again.dit.parameters())


def test_adapt_learns_from_true_latents_with_noise_and_rendered_ones_without(renderers: Needs, tmp_path: Path) -> None:
    config = write(tmp_path, "adapt", adapt_values())

    def crops(share: float, noise: float) -> torch.Tensor:
        settings = [f"rendered_share={share}", f"latent_noise={noise}"]
        batch = build_stage("adapt", config, settings, renderers).batch(0, [0, 1, 2, 3])
        latents: torch.Tensor = batch["latents"]
        return latents

    assert torch.equal(crops(1.0, 0.5), crops(1.0, 0.0))
    deviations = (crops(0.0, 0.5) - crops(0.0, 0.0)).std((1, 2))
    assert bool((deviations > 0).all()) and float(deviations.max()) < 0.6, (
        "of each crop a share of latent_noise, as in autoencoder"
    )


def test_rendered_latents_do_not_depend_on_what_else_is_rendered(renderers: Needs, tmp_path: Path) -> None:
    """They had the seed of their place in the list: more sound, or less, and the accompaniments were others."""
    runs = tmp_path / "runs"
    shutil.copytree(renderers.runs, runs, ignore=shutil.ignore_patterns("derived", "rendered"))
    found = []
    for seconds in (0.1, 6.0):
        config = AdaptConfig.model_validate({**adapt_values(), "rendered_seconds": seconds})
        excerpts = render_excerpts(renderers.store, runs, find_sources(config, runs), config, "train", seconds)
        found.append({(one.segment.track, one.segment.key): np.array(one.rendered) for one in excerpts})
        shutil.rmtree(runs / "rendered")
    few, many = found
    assert few.keys() < many.keys() and all(np.array_equal(few[key], many[key]) for key in few)

"""From earlier runs to the arrays of later stages: masks of the teacher, latents and codes, made once and again when weights change."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.training.small import AUTOENCODER, COMMON, TOKENIZER, make, stage4_values, write
from typer.testing import CliRunner

from duotok.audio.io import write as write_sound
from duotok.cli.main import app
from duotok.codec.bundle import Bundle
from duotok.codec.duotok import DuoTok
from duotok.errors import BundleError, ConfigError
from duotok.files import sha256
from duotok.renderer.render import RenderSettings
from duotok.seals import seal
from duotok.separation.separator import MiniSeparator
from duotok.shards.store import ShardStore
from duotok.tracks import STEMS, TRACKS
from duotok.training.assemble import assemble, codec_config
from duotok.training.batches import derive as derive_module
from duotok.training.batches.derive import compute_latents, compute_masks
from duotok.training.batches.latent_data import latent_segments, rendered
from duotok.training.batches.sounds import SegmentSound
from duotok.training.checkpoint import best, latest
from duotok.training.earlier_runs import opened, origin_of, stamp
from duotok.training.engine import train
from duotok.training.stages.adapt import AdaptConfig, find_sources, render_excerpts
from duotok.training.stages.loading import load_autoencoder, load_dit, load_separator, load_tokenizer, load_vectors
from duotok.training.stages.registry import Needs, build_stage


def test_stage2_hears_its_teacher(needs: Needs, tmp_path: Path):
    values = {**COMMON, "model": TOKENIZER.model_dump(mode="json"), "mask_seconds": 8.0, "steps": 2}
    stage = build_stage("stage2", write(tmp_path, "stage2", values), [], needs)
    items = range(4)
    found = [stage.batch(step, items) for step in range(6)]
    held = torch.cat([batch["masks_items"] for batch in found])
    assert held.any() and not held.all()  # a part of the mixes only
    masks = next(batch for batch in found if batch["masks_items"].any())
    row = int(masks["masks_items"].nonzero()[0])
    assert masks["masks"].shape[2:] == (4, 128)
    assert 0 < float(masks["masks"][row].max()) <= 1
    train(stage, tmp_path / "run")
    figures = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    seen = [float(batch["masks_items"].float().mean()) for batch in found[:2]]
    assert [f["masked"] for f in figures if f["kind"] == "train"] == pytest.approx(seen)


def test_masks_are_told_from_those_that_another_teacher_left(
    needs: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Few seconds of a new teacher leave the shards alone that it has no segment of."""
    store = ShardStore(needs.store.ranges.url, Path(shutil.copytree(needs.runs / "derived", tmp_path / "derived")))
    stamps = []
    for teacher, seconds in (("old", 1000.0), ("new", 1.0)):
        share = {"old": 0.25, "new": 0.75}[teacher]
        monkeypatch.setattr(
            "duotok.training.batches.derive.teacher_masks",
            lambda _, sound, grid, share=share: torch.full((4, sound.shape[-1] // 480, 128), share).half(),
        )
        stamps.append(compute_masks(store, Recorder(), 128, seconds, teacher))
    songs = store.select("train", "validation", types=("mix",), needs=("mix",))
    found = {
        stamp: {float(store.rows(i, "mix", "masks")[0, 0]) for i in songs if store.has(i, "mix", "masks", stamp)}
        for stamp in stamps
    }
    assert list(found.values()) == [{0.25}, {0.75}]


@pytest.mark.parametrize("resident", [False, True])
def test_stage2_hears_none_but_its_teacher(
    needs: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: bool
):
    """An earlier run's teacher left masks in shards that this one has no segment of; they trained and judged the run."""
    runs = Path(shutil.copytree(needs.runs, tmp_path / "runs"))
    own = Needs(runs, ShardStore(needs.store.ranges.url, runs / "derived"))
    values = {**COMMON, "model": TOKENIZER.model_dump(mode="json"), "resident": resident}
    config = write(tmp_path, "stage2", values)
    heard = {}
    for teacher, seconds, share in (("old", 1000.0, 0.25), ("new", 1.0, 0.75)):
        monkeypatch.setattr(
            "duotok.training.stages.registry._teacher", lambda *_, name=teacher: (Recorder(), name, None)
        )
        monkeypatch.setattr(
            "duotok.training.batches.derive.teacher_masks",
            lambda _, sound, grid, share=share: torch.full((4, sound.shape[-1] // 480, 128), share).half(),
        )
        stage = build_stage("stage2", config, [f"mask_seconds={seconds}"], own)
        drawn = [stage.filled(stage.batch(step, range(4))) for step in range(8)]
        for step, batch in enumerate(
            drawn
        ):  # what the parts of a batch weigh by, also where its masks lie on the device
            expected = (batch["lengths"] * batch["masks_items"]).sum()
            assert stage.counts(stage.batch(step, range(4)))["masks"] == expected
        drawn += [stage.held_out_crops.batch(step, range(4)) for step in range(8)]
        heard[teacher] = {float(v) for b in drawn for v in b["masks"][b["masks_items"]][:, 0].flatten()}
    assert heard["old"] == {0.25} and heard["new"] <= {0.75}
    # A component that asks for mixes with masks draws none that only the old teacher separated.
    mixture = {"mix": {"types": ["mix"], "masks": True}, "vocals": {"types": ["vocals"]}}
    values |= {"mixture": mixture, "crops": {**values.get("crops", {}), "pseudo_mix": {"share": 0.0}}}
    stage = build_stage("stage2", write(tmp_path, "masked", values), ["mask_seconds=1.0"], own)
    drawn = [stage.filled(stage.batch(step, range(4))) for step in range(8)]
    assert sum(int(batch["masks_items"].sum()) for batch in drawn) == 16  # of 32, as every second is a mix
    # No masks means none, whatever lies there.
    stage = build_stage("stage2", config, ["mask_seconds=0"], own)
    batches = [stage.filled(crops.batch(0, range(4))) for crops in (stage.train_crops, stage.held_out_crops)]
    assert not any("masks" in batch for batch in batches)


def test_mixes_without_masks_can_be_left_out(needs: Needs, tmp_path: Path):
    mixture = {"mix": {"types": ["mix"], "masks": True}}
    values = {**COMMON, "model": TOKENIZER.model_dump(mode="json"), "mask_seconds": 8.0, "mixture": mixture}
    stage = build_stage("stage2", write(tmp_path, "stage2", values), [], needs)
    assert all(stage.batch(step, range(4))["masks_items"].all() for step in range(6))


def test_the_teacher_works_on_no_mix_that_the_stage_never_draws(
    needs: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its seconds went to any mixes of the store: where a mixture wants some of them alone, few or none of its crops had masks."""
    monkeypatch.setattr("duotok.training.stages.registry._teacher", lambda *_: (Recorder(), "recorder", None))
    monkeypatch.setattr(
        "duotok.training.batches.derive.teacher_masks",
        lambda _, sound, grid: torch.full((4, sound.shape[-1] // 480, 128), 0.5).half(),
    )
    for corpus in ("index", "songs"):
        own = Needs(needs.runs, ShardStore(needs.store.ranges.url, tmp_path / corpus))
        mixture = {
            "mix": {"types": ["mix"], "corpora": [corpus], "masks": True},
            "vocals": {"types": ["vocals"], "optional": True},
            "switched off": {"types": ["mix"], "weight": 0},
        }
        values = {**COMMON, "model": TOKENIZER.model_dump(mode="json"), "mask_seconds": 1000.0, "mixture": mixture}
        stage = build_stage("stage2", write(tmp_path, corpus, values), [], own)
        mixes = own.store.select("train", "validation", types=("mix",), needs=("mix",))
        separated = {own.store.segments[i].segment.corpus for i in mixes if own.store.has(i, "mix", "masks")}
        assert separated == {corpus}
        drawn = [stage.batch(step, range(4)) for step in range(4)]
        assert all(
            masked for b in drawn for masked, kind in zip(b["masks_items"], b["types"], strict=True) if kind == "mix"
        )


class Recorder:
    """A separator that only tells where it is moved to."""

    def __init__(self) -> None:
        self.devices: list[torch.device] = []

    def to(self, device: torch.device) -> "Recorder":
        self.devices.append(device)
        return self


def test_a_published_teacher_works_on_the_device_of_the_stage_and_by_all_workers(
    needs: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It worked on the CPU, also beside a GPU, in one process whatever `--workers` said: the slowest of what is derived."""
    device, teacher, derived = torch.device("cuda", 7), Recorder(), []
    monkeypatch.setattr("duotok.training.stages.loading.gpu_or_cpu", lambda name: device)
    monkeypatch.setattr("duotok.separation.choose.separator_by_name", lambda name, **_: teacher)
    monkeypatch.setattr(
        "duotok.training.batches.derive.derive", lambda _, name, make, **given: derived.append((make, given))
    )
    monkeypatch.setattr("duotok.training.batches.derive.teacher_masks", lambda *_: torch.zeros(4, 8, 128))
    values = {**COMMON, "model": TOKENIZER.model_dump(mode="json"), "mask_seconds": 8.0, "teacher": "mini"}
    there = Needs(needs.runs, needs.store, workers=3)
    build_stage("stage2", write(tmp_path, "stage2", values), [], there)
    [(make, given)] = derived
    assert given["workers"] == 3 and not teacher.devices, "it is moved where it works, which may be another process"
    make(int(given["select"][0]), "mix")
    assert teacher.devices == [device]


def test_masks_by_several_workers_are_those_of_one(needs: Needs, tmp_path: Path) -> None:
    stored = []
    for workers in (1, 2):
        arrays = tmp_path / str(workers)
        store = ShardStore(needs.store.ranges.url, arrays)
        separator = load_separator(best(needs.runs / "separator"))
        compute_masks(store, MiniSeparator(separator, stems=STEMS), 128, 6.0, "trained", workers=workers)
        files = sorted(arrays.rglob("mix.masks.npy"))
        stored.append({str(path.relative_to(arrays)): np.load(path) for path in files})
    assert stored[0].keys() == stored[1].keys() and len(stored[0]) > 1, "of several shards"
    assert all(np.allclose(stored[0][name], stored[1][name], atol=2e-3) for name in stored[0])


def test_bins_of_no_grid_are_refused(needs: Needs, bare_shards: Path, tmp_path: Path):
    model = TOKENIZER.model_copy(update={"mask_bins": 100, "mask_bands": (50, 50)})
    values = {**COMMON, "model": model.model_dump(mode="json"), "mask_seconds": 8.0}
    there = Needs(needs.runs, ShardStore(bare_shards / "shards", tmp_path / "derived"))
    with pytest.raises(ConfigError, match=r"mask_bins 100: the teacher's grids have 128, 1025, 558"):
        build_stage("stage2", write(tmp_path, "stage2", values), [], there)
    assert not (tmp_path / "derived").exists(), "nothing is derived for a stage that cannot be trained"


def test_stage4_and_adapt_follow_from_what_is_trained(renderers: Needs, tmp_path: Path):
    segment = latent_segments(renderers.store, "train", "vocals")[0]
    assert segment.latents().shape == (2 * segment.frames, 64) and segment.codes().shape == (segment.frames,)
    values = {**AUTOENCODER.model_dump(mode="json"), "rendered_seconds": 6.0, "steps": 2}
    adapt = build_stage("adapt", write(tmp_path, "adapt", values), [], renderers)
    losses = train(adapt, tmp_path / "adapt")
    assert {"true_vocals", "rendered_vocals", "rendered_accompaniment", "loss"} <= losses.keys()


def test_each_renderer_learns_its_own_track(renderers: Needs, tmp_path: Path):
    """Codes, latents and vectors of the track that it is for, from the sound to the batch, and back in what it loads."""
    config = write(tmp_path, "stage4", stage4_values())
    tokenizer, autoencoder = (
        load_tokenizer(best(renderers.runs / "stage3")),
        load_autoencoder(best(renderers.runs / "autoencoder")),
    )
    for track in TRACKS:
        stage = build_stage("stage4", config, [f"track={track}"], renderers)
        for code, vector in ((0, stage.vectors[0]), (200, stage.vectors[200])):
            wanted = tokenizer.condition(torch.tensor([[code]]), track, "code")[0, 0]
            torch.testing.assert_close(vector, wanted)
        batch = stage.batch(3, range(2))
        for row in range(2):
            key, start = batch["ids"][row].split(" from frame ")
            stretch = next(s for s in stage.train_set if s.key == key)
            mel = torch.from_numpy(renderers.store.rows(stretch.indices[0], track, "mel").astype(np.float32))
            codes = torch.cat([tokenizer.encode(part[None], track)[0] for part in mel.split(4 * 40)])
            first, real = int(start), int(batch["lengths"][row]) // 2
            assert torch.equal(batch["codes"][row, :real], codes[first : first + real])
            sound = SegmentSound(renderers.store, stretch.indices[0]).mono(track)
            with torch.no_grad():
                latents = autoencoder.encode(sound[None, None])[0]
            torch.testing.assert_close(
                batch["latents"][row, : 2 * real], latents[2 * first : 2 * (first + real)], atol=1e-2, rtol=1e-2
            )
        renderer = best(renderers.runs / f"stage4.{track}")
        torch.testing.assert_close(load_vectors(renderer, best(renderers.runs / "stage3")), stage.vectors)
        averaged = load_file(renderer / "ema.safetensors")
        loaded = load_dit(renderer).state_dict()
        assert all(torch.equal(loaded[name], averaged[name]) for name in averaged)


def test_adapt_leaves_the_encoder_alone(renderers: Needs, tmp_path: Path):
    values = {**AUTOENCODER.model_dump(mode="json"), "rendered_seconds": 6.0, "steps": 2, "lr": 0.01}
    adapt = build_stage("adapt", write(tmp_path, "adapt", values), [], renderers)
    adapt.start()
    learned = {id(p) for group in adapt.parameter_groups() for p in group["params"]}
    assert not learned & {id(p) for part in adapt.autoencoder.encoder() for p in part.parameters()}, (
        "DDP would wait for them"
    )
    before = {name: value.clone() for name, value in adapt.autoencoder.state_dict().items()}
    trained = load_autoencoder(best(renderers.runs / "autoencoder")).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in before.items())
    train(adapt, tmp_path / "adapt")
    after = adapt.autoencoder.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"from_latent", "decode_coarse", "unpool", "decode_fine", "to_spectrum"} - (
        set() if any(name.startswith("decode_coarse.") for name in before) else {"decode_coarse"}
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_adapt_hears_rendered_latents_as_often_as_told(share: float, renderers: Needs, tmp_path: Path):
    values = {
        **AUTOENCODER.model_dump(mode="json"),
        "rendered_seconds": 6.0,
        "steps": 2,
        "rendered_share": share,
        "latent_noise": 0.0,
    }
    adapt = build_stage("adapt", write(tmp_path, "adapt", values), [], renderers)
    batch = adapt.batch(0, range(2))
    frames = batch["latents"].shape[1]
    for row, name in enumerate(batch["ids"]):
        key, track, *_, start = name.split(" ")
        excerpt = next(e for e in adapt.excerpts if e.segment.key == key and e.segment.track == track)
        wanted = excerpt.rendered if share else excerpt.true
        first = int(start)
        torch.testing.assert_close(
            batch["latents"][row], torch.from_numpy(np.array(wanted[first : first + frames])).float()
        )
    assert not np.allclose(adapt.excerpts[0].rendered, adapt.excerpts[0].true)


def test_codes_are_made_anew_for_other_weights(needs: Needs, tmp_path: Path):
    config = write(tmp_path, "stage4", stage4_values())
    runs = Path(shutil.copytree(needs.runs, tmp_path / "runs"))
    own = Needs(runs, ShardStore(needs.store.ranges.url, runs / "derived"))
    build_stage("stage4", config, ["track=vocals"], own)
    before = np.array(latent_segments(own.store, "train", "vocals")[0].codes())
    train(make("stage3", own.store, runs, steps=4), runs / "stage3")
    build_stage("stage4", config, ["track=vocals"], own)
    after = np.array(latent_segments(own.store, "train", "vocals")[0].codes())
    assert before.shape == after.shape and (before != after).any()


@pytest.fixture
def own(renderers: Needs, tmp_path: Path) -> Needs:
    """Runs and arrays that a test may change."""
    runs = Path(shutil.copytree(renderers.runs, tmp_path / "runs"))
    return Needs(runs, ShardStore(renderers.store.ranges.url, runs / "derived"))


def config_of_stage(name: str, folder: Path) -> Path:
    values = {**AUTOENCODER.model_dump(mode="json"), "rendered_seconds": 1.0, "steps": 2}
    return write(folder, name, stage4_values() if name == "stage4" else values)


@pytest.mark.parametrize("name", ["stage4", "adapt"])
def test_latents_that_another_training_derives_meanwhile_are_refused(
    name: str, own: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Codes of this one's tokenizer with latents of the other's autoencoder are a mixture."""
    config, real = config_of_stage(name, tmp_path), derive_module.compute_codes

    def while_another_trains(*given: Any) -> str:
        other = ShardStore(own.store.ranges.url, own.runs / "derived")
        compute_latents(other, load_autoencoder(best(own.runs / "autoencoder")), "others")
        return real(*given)

    monkeypatch.setattr(derive_module, "compute_codes", while_another_trains)
    with pytest.raises(
        ConfigError, match=r"another training has derived its own latents of (vocals|accompaniment) meanwhile; run"
    ):
        build_stage(name, config, [], own)
    monkeypatch.undo()
    build_stage(name, config, [], own)


def replace_weights(checkpoint: Path, module: str) -> None:
    """What a training that was begun anew leaves under the same name."""
    state = {key: value + 0.1 for key, value in load_file(checkpoint / f"{module}.safetensors").items()}
    save_file(state, checkpoint / f"{module}.safetensors")
    facts = json.loads((checkpoint / "state.json").read_text())
    facts["sha256"][f"{module}.safetensors"] = sha256(checkpoint / f"{module}.safetensors")
    (checkpoint / "state.json").write_text(json.dumps(seal({k: v for k, v in facts.items() if k != "seal"})))


@pytest.mark.parametrize("name", ["stage4", "adapt"])
def test_a_run_that_is_replaced_while_arrays_are_derived(
    name: str, own: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stage 4 has its weights in memory and says which they are; adapt reads some later, and refuses."""
    config, real = config_of_stage(name, tmp_path), derive_module.compute_latents
    checkpoint = best(own.runs / "autoencoder")
    before = origin_of(checkpoint, "autoencoder")

    def meanwhile(*given: Any) -> str:
        made_by = real(*given)
        replace_weights(checkpoint, "autoencoder")
        return made_by

    monkeypatch.setattr(derive_module, "compute_latents", meanwhile)
    if name == "stage4":
        stage = build_stage(name, config, [], own)
        assert stage.parents is not None and stage.parents["autoencoder_from"] == before
        assert origin_of(checkpoint, "autoencoder") != before
    else:
        with pytest.raises(ConfigError, match="autoencoder_from: another training has replaced the checkpoint"):
            build_stage(name, config, [], own)


def test_weights_that_are_replaced_while_they_are_read(own: Needs):
    checkpoint = best(own.runs / "autoencoder")
    with pytest.raises(ConfigError, match="replaced it while it was read; run the same command again"):
        opened(checkpoint, "autoencoder", lambda path: replace_weights(path, "autoencoder"))
    loaded, name, origin = opened(checkpoint, "autoencoder", load_autoencoder)
    assert name == stamp(checkpoint, "autoencoder") and origin == origin_of(checkpoint, "autoencoder")
    assert isinstance(loaded, torch.nn.Module)


def test_a_run_that_the_stage_needs_is_named(needs: Needs, tmp_path: Path):
    alone = Needs(tmp_path, needs.store)
    with pytest.raises(
        ConfigError,
        match=r"autoencoder: no checkpoint there, and autoencoder_from names it; train that stage first \(duotok train autoencoder .*--runs ",
    ):
        build_stage("stage4", write(tmp_path, "stage4", stage4_values()), ["track=vocals"], alone)
    values = {**COMMON, "model": TOKENIZER.model_dump(mode="json")}
    with pytest.raises(ConfigError, match="separator: no checkpoint there"):
        build_stage("stage2", write(tmp_path, "stage2", values), [], alone)


def test_prepare_derives_what_does_not_wait_for_an_earlier_stage(needs: Needs, tmp_path: Path):
    """So that a renderer's latents can be made while the tokenizer is still being trained."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "autoencoder").symlink_to(needs.runs / "autoencoder")
    (runs / "stage3").mkdir()
    config = write(tmp_path, "stage4", stage4_values())
    work = tmp_path / "work"
    work.mkdir()
    (work / "shards").symlink_to(str(needs.store.ranges.url))
    command = ["train", "stage4", "--config", str(config), "--data", str(work), "--runs", str(runs)]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and "stage3: no checkpoint there" in refused.output
    done = CliRunner().invoke(app, [*command, "--prepare"])
    assert done.exit_code == 0, done.output
    assert "stage3: no checkpoint there" in done.output
    store = ShardStore(work / "shards", work / "derived")
    latents = [store.has(index, "vocals", "latents") for index in rendered(store, "vocals", "train")]
    assert latents and all(latents)


def test_a_stage_hears_what_the_one_before_it_heard(needs: Needs, tmp_path: Path):
    values = {**COMMON, "model": TOKENIZER.model_dump(mode="json"), "teacher": "mini", "mask_seconds": 0}
    config = write(tmp_path, "stage2", values)
    with pytest.raises(ConfigError, match=r"crops.highpass_hz = 15, but .*stage1 learned behind 10 Hz"):
        build_stage("stage2", config, ["crops.highpass_hz=15"], needs)
    build_stage("stage2", config, [], needs)


def test_trained_runs_become_a_bundle(renderers: Needs, data: Path, tmp_path: Path):
    arguments = [
        "bundle",
        "--runs",
        str(renderers.runs),
        "--data",
        str(data),
        "-o",
        str(tmp_path / "out"),
        "--name",
        "t",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "holds files already" in again.stderr and "--force" in again.stderr
    model = DuoTok.from_pretrained(tmp_path / "out")
    codec = Bundle(tmp_path / "out").config.codec  # as stage 4 was told
    assert (codec.steps, codec.sampler, codec.temperature, codec.render.window) == (3, "ddim", 0.5, 96)
    tokens = model.encode(vocals=torch.randn(2, 48_000) / 9, accompaniment=torch.randn(2, 48_000) / 9)
    assert model.decode(tokens, steps=1).shape[-1] == 48_000
    card = (tmp_path / "out" / "README.md").read_text()
    assert "index/Potassium" in card and "song (generated)" in card
    for track in TRACKS:  # steps and mel distance of each track, with its deviation
        assert re.search(rf"\| stage4.{track} \| 2 \| .*mel [0-9.]+ ± [0-9.]+ \|", card)


def renderers_of(runs: Path) -> dict[str, Path]:
    return {track: best(runs / f"stage4.{track}") for track in TRACKS}


def test_a_bundle_has_one_sampler(renderers: Needs, tmp_path: Path):
    """Two runs of stage 4 that were told different things are refused by name, until the user says which."""
    runs = tmp_path / "runs"
    shutil.copytree(renderers.runs, runs)
    state = latest(runs / "stage4.vocals") / "state.json"
    told = json.loads(state.read_text())
    told["config"]["sample_steps"] = 50
    state.write_text(json.dumps(seal({name: value for name, value in told.items() if name != "seal"})))
    with pytest.raises(ConfigError, match=r"steps is 50 in stage4.vocals and 3 in stage4.accompaniment.*--set steps="):
        codec_config(runs / "stage3", renderers_of(runs))
    assert codec_config(runs / "stage3", renderers_of(runs), ["steps=7"]).steps == 7


def test_adapt_renders_as_stage_4_was_told(renderers: Needs, monkeypatch: pytest.MonkeyPatch):
    seen: list[RenderSettings] = []

    def render(dit: object, vectors: torch.Tensor, settings: RenderSettings, **more: object) -> torch.Tensor:
        seen.append(settings)
        return torch.zeros(2 * len(vectors), 64)

    monkeypatch.setattr("duotok.training.stages.adapt.render_latents", render)
    monkeypatch.setattr("duotok.training.stages.adapt.rendered_folder", lambda runs: runs / "rendered-elsewhere")
    config = AdaptConfig.model_validate(AUTOENCODER.model_dump() | {"rendered_seconds": 1.0})
    render_excerpts(renderers.store, renderers.runs, find_sources(config, renderers.runs), config, "train", 1.0)
    first = seen[0]
    assert (first.plan.window, first.steps, first.sampler, first.temperature) == (96, 3, "ddim", 0.5)
    assert len({settings.seed for settings in seen}) == len(seen)


def test_a_bundle_of_tokens_only(needs: Needs, tmp_path: Path):
    """Before stage 4 a tokenizer can be tried: it encodes as the whole bundle would, and says why it cannot decode."""
    made = assemble(needs.runs, needs.store, tmp_path / "tokens", "early", "test", tokens_only=True)
    assert {path.name for path in made.iterdir()} == {
        "README.md", "config.json", "separator.safetensors", "tokenizer.safetensors",
    }  # fmt: skip
    model = DuoTok.from_pretrained(made)
    tokenizer = load_tokenizer(best(needs.runs / "stage3"))
    sound = 0.1 * torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0))
    tokens = model.encode(vocals=sound, accompaniment=sound)
    assert tokens.n_frames == 25
    for name, value in model.tokenizer.state_dict().items():
        true = tokenizer.state_dict()[name]  # bundles are stored in eight bits
        assert torch.allclose(value, true, atol=1e-6 + float(true.abs().max()) / 200, rtol=1e-3), name
    assert model.embeddings(tokens)["vocals"].shape == (25, tokenizer.config.width)
    with pytest.raises(BundleError, match=r"model 'early' has no renderer.*train stage 4"):
        model.decode(tokens)
    card = (made / "README.md").read_text()
    size = tokenizer.config.codebook_size
    assert f"a codebook each of {size:,} entries" in card and "it encodes and cannot decode" in card
    tokens.save(tmp_path / "song.duotok")
    for command in (
        ["decode", "song.duotok", "-o", "x.wav"],
        ["demo", "--vocals", "a.wav", "--accompaniment", "a.wav", "-o", "x"],
    ):
        write_sound(tmp_path / "a.wav", sound, 48_000)
        words = [str(tmp_path / word) if "." in word or word == "x" else word for word in command]
        done = CliRunner().invoke(app, [*words, "--model", str(made)])
        assert done.exit_code == 1 and "has no renderer" in done.stderr, done.output
        assert not list(tmp_path.glob("x*"))
    assert CliRunner().invoke(app, ["info", str(made)]).exit_code == 0

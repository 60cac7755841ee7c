"""A bundle as runs again: training starts from its weights, and what comes of it says so."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import tiny_bundle, tiny_config
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.bundle import Bundle, seal_bundle
from duotok.codec.duotok import DuoTok
from duotok.errors import BundleError, ConfigError
from duotok.files import sha256
from duotok.lyrics.text import BERT_ENTRIES, BERT_NAME
from duotok.model.config import TokenizerConfig
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.assemble import assemble
from duotok.training.checkpoint import best
from duotok.training.earlier_runs import origin_of
from duotok.training.engine import train
from duotok.training.stages.registry import Needs, build_stage, config_class
from duotok.training.unpack import settings_of, unpack

RUNS = ("stage2", "stage3", "autoencoder", "separator", "stage4.vocals", "stage4.accompaniment")
FEW = ("steps=2", "batch_size=2", "lr=1e-3", "device=cpu", "sample_every=0")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = tiny_config().tokenizer.model_copy(update={"vocabulary": 28})
    folder = tiny_bundle(tmp_path_factory.mktemp("released"), tokenizer=letters)
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\n# tiny\n\n## Data\n\n- voice: A. Singer (CC-BY-4.0)\n"
    )
    return seal_bundle(folder)


@pytest.fixture(scope="module")
def own(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("unpacked") / "own"
    assert [path.name for path in unpack(tiny, runs)] == list(RUNS)
    return runs


@pytest.fixture
def mine(own: Path, data: Path, tmp_path: Path) -> Needs:
    """Empty RUNS, and arrays of their own."""
    shutil.copytree(data / "derived", tmp_path / "derived")
    return Needs(tmp_path / "mine", ShardStore(data / "shards", tmp_path / "derived"))


def built(own: Path, run: str, needs: Needs, more: Sequence[str] = ()):
    return build_stage(run.split(".")[0], own / f"{run}.yaml", [*FEW, *more], needs)


def test_words_are_read_as_the_released_head_knows_them() -> None:
    """Letters would fit into a head of word pieces, as other words."""
    for classes, crops in ((28, {}), (BERT_ENTRIES, {"vocabulary": BERT_NAME})):
        config = tiny_config(tokenizer=TokenizerConfig.preset("tiny", vocabulary=classes))
        settings = settings_of(SimpleNamespace(config=config), Path("runs"))  # type: ignore[arg-type]
        found = [settings[run]["crops"] for run in ("stage2", "stage3")]
        assert all({key: crop[key] for key in crop.keys() & {"vocabulary"}} == crops for crop in found)


def test_every_part_is_a_run(own: Path, tiny: Path) -> None:
    for run in RUNS:
        stage, _, track = run.partition(".")
        part = f"dit.{track}" if track else "tokenizer" if stage in ("stage2", "stage3") else stage
        held = load_file(tiny / f"{part}.safetensors")
        file = best(own / run) / ("ema" if track else part)
        unpacked = load_file(f"{file}.safetensors")
        assert held.keys() == unpacked.keys() and all(
            torch.equal(held[name].float(), unpacked[name].float()) for name in held
        )
    assert not list(own.glob(".*"))


def test_a_bundle_of_unpacked_runs_is_the_bundle(own: Path, data: Path, tmp_path: Path) -> None:
    """Eight bits once and eight bits twice are the same bytes."""
    store = ShardStore(data / "shards", data / "derived")
    once = assemble(own, store, tmp_path / "once", "one", "test")
    unpack(once, tmp_path / "again")
    twice = assemble(tmp_path / "again", store, tmp_path / "twice", "two", "test")
    for part in Bundle(once).config.parts:
        assert (once / f"{part}.safetensors").read_bytes() == (twice / f"{part}.safetensors").read_bytes(), part
    sound = torch.randn(2, 96_000, generator=torch.Generator().manual_seed(0)) / 9
    first, second = (
        DuoTok.from_pretrained(folder).encode(vocals=sound, accompaniment=sound) for folder in (once, twice)
    )
    assert all(torch.equal(first[track], second[track]) for track in TRACKS)
    before, after = Bundle(once).config.codec, Bundle(twice).config.codec
    assert before == after


def test_stage_3_gives_the_released_encoder_new_codebooks(own: Path, tiny: Path, mine: Needs) -> None:
    stage = built(own, "stage3", mine, ["fit_batches=0", "seed=7"])  # the bundle's weights are those of seed 0
    released = load_file(tiny / "tokenizer.safetensors")
    state = stage.tokenizer.state_dict()
    assert all(
        torch.equal(state[n], released[n].float()) for n in released if n.startswith(("lower_blocks", "downsampling"))
    )
    assert not torch.equal(
        state["branches.0.quantizer.map.weight"], released["branches.0.quantizer.map.weight"].float()
    )
    assert stage.parents["start_from"].parents["start_from"].stage == "bundle tiny"


def test_a_renderer_trains_on_from_the_released_one(
    own: Path, tiny: Path, data: Path, mine: Needs, tmp_path: Path
) -> None:
    stage = built(own, "stage4.vocals", mine)
    stage.start()
    released = load_file(tiny / "dit.vocals.safetensors")
    state = stage.dit.state_dict()
    assert all(torch.equal(state[name], released[name].float()) for name in released if name.startswith("blocks"))
    train(stage, mine.runs / "stage4.vocals")
    chosen = [
        f"renderer_from.accompaniment={own / 'stage4.accompaniment'}", f"separator_from={own / 'separator'}", "window=40", "context=8",
    ]  # fmt: skip
    made = assemble(mine.runs, mine.store, tmp_path / "bundle", "mine", "test", overrides=chosen)
    card = (made / "README.md").read_text()
    assert "stage4.vocals" in card.split("From which ")[1] and card.count("A. Singer (CC-BY-4.0)") == 1
    assert "license" not in card.split("From which ")[1] and "##### Data" in card
    sound = torch.randn(2, 96_000) / 9
    old, new = DuoTok.from_pretrained(tiny), DuoTok.from_pretrained(made)
    assert new.model_hash != old.model_hash  # eight bits instead of 32
    assert new.decode(new.encode(vocals=sound, accompaniment=sound), steps=1).shape[-1] == 96_000


def test_a_new_tokenizer_does_not_fit_the_released_renderers(own: Path, mine: Needs, tmp_path: Path) -> None:
    stage = built(own, "stage3", mine, ["fit_batches=0"])
    train(stage, mine.runs / "stage3")
    parts = [f"renderer_from.{track}={own / f'stage4.{track}'}" for track in TRACKS]
    chosen = [*parts, f"tokenizer_from={mine.runs / 'stage3'}", f"separator_from={own / 'separator'}"]
    with pytest.raises(BundleError, match=r"renders tokens of stage3 at step 0 .*, not of stage3 at step 2"):
        assemble(mine.runs, mine.store, tmp_path / "bundle", "mine", "test", overrides=chosen)


def test_new_codebooks_are_not_left_out_in_silence(own: Path, mine: Needs, tmp_path: Path) -> None:
    """Renderers that go on from the released ones learn the released tokens, unless they are told of the new ones."""
    train(built(own, "stage3", mine, ["fit_batches=0"]), mine.runs / "stage3")
    for track in TRACKS:
        train(built(own, f"stage4.{track}", mine), mine.runs / f"stage4.{track}")
    chosen = [f"separator_from={own / 'separator'}", "window=40", "context=8"]

    def bundled(name: str, *more: str) -> str:
        made = assemble(mine.runs, mine.store, tmp_path / name, name, "test", overrides=[*chosen, *more])
        return str(Bundle(made).config.lineage["tokenizer"].sha256["tokenizer.safetensors"])

    with pytest.raises(
        ConfigError,
        match=r"mine/stage3: trained, but the renderers are for the tokens of .*own/stage3; .*tokenizer_from=stage3",
    ):
        bundled("either")
    released = sha256(best(own / "stage3") / "tokenizer.safetensors")
    assert bundled("released", f"tokenizer_from={own / 'stage3'}") == released
    for track in TRACKS:
        shutil.rmtree(mine.runs / f"stage4.{track}")
        train(built(own, f"stage4.{track}", mine, ["tokenizer_from=stage3"]), mine.runs / f"stage4.{track}")
    assert bundled("new") == sha256(best(mine.runs / "stage3") / "tokenizer.safetensors") != released


@pytest.mark.parametrize("run", ["separator", "autoencoder"])
def test_the_config_of_a_part_goes_on_from_it(run: str, own: Path, mine: Needs) -> None:
    stage = built(own, run, mine, ["crop_seconds=1"])
    stage.start()
    released = load_file(best(own / run) / f"{run}.safetensors")
    now = stage.modules[run].state_dict()
    assert all(torch.equal(now[name], released[name].float()) for name in released)


def test_music_in_which_everybody_sings_trains_on(own: Path, mine: Needs) -> None:
    for run in ("stage2", "stage3"):
        stage = built(own, run, mine, ["fit_batches=0"] if run == "stage3" else [])
        assert {name: part.optional for name, part in stage.config.mixture.items() if name == "instrumental"} == {
            "instrumental": True
        }
        weights = {name: part.weight for name, part in config_class(run).model_fields["mixture"].default.items()}
        assert {name: part.weight for name, part in stage.config.mixture.items()} == weights


def test_other_stages_train_in_the_unpacked_runs(own: Path, mine: Needs, tmp_path: Path) -> None:
    """The separator and the autoencoder go on in their own run: step 0 is a checkpoint like any."""
    shutil.copytree(own, mine.runs)
    released = load_file(best(own / "separator") / "separator.safetensors")
    stage = built(own, "separator", mine, ["lr=1e-9", "crop_seconds=1"])
    train(stage, mine.runs / "separator")
    trained = load_file(best(mine.runs / "separator") / "separator.safetensors")
    assert best(mine.runs / "separator").name.endswith("2")
    assert all(torch.allclose(trained[name], released[name], atol=1e-6) for name in released)
    start = origin_of(best(mine.runs / "separator"), "separator").parents["start_from"]
    assert (start.stage, start.step, start.parents["start_from"].stage) == ("separator", 0, "bundle tiny")


def test_a_separator_goes_on_from_the_weights_of_another(own: Path, mine: Needs) -> None:
    stage = built(own, "separator", mine, [f"start_from={own / 'separator'}", "crop_seconds=1"])
    fresh = {name: tensor.clone() for name, tensor in stage.separator.state_dict().items()}
    stage.start()
    released = load_file(best(own / "separator") / "separator.safetensors")
    now = stage.separator.state_dict()
    assert all(torch.equal(now[name], released[name]) for name in released)
    assert any(not torch.equal(fresh[name], now[name]) for name in released)
    origin = stage.parents["start_from"]
    assert (origin.stage, origin.parents["start_from"].stage) == ("separator", "bundle tiny")
    with pytest.raises(ConfigError, match=r"model\.depth = 9, but .*separator was trained with"):
        built(own, "separator", mine, [f"start_from={own / 'separator'}", "model.depth=9"])


def test_nothing_is_replaced(own: Path, tiny: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "stage3").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"stage3: is there already; name another folder with --runs"):
        unpack(tiny, runs)
    assert [path.name for path in runs.iterdir()] == ["stage3"]
    (runs / "stage3").rmdir()
    (runs / "stage3.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"stage3.yaml: is there already"):
        unpack(tiny, runs)
    assert (runs / "stage3.yaml").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"stage3.yaml: is a file, and the runs' folder would be there"):
        unpack(tiny, runs / "stage3.yaml")
    (runs / "stage3.yaml").unlink()
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny, damaged)
    weights = damaged / "separator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleError, match="separator"):
        unpack(damaged, runs)
    assert not list(runs.iterdir())


def test_a_bundle_of_tokens_only(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, autoencoder=None, dit=None, separator=None)
    done = CliRunner().invoke(app, ["bundle", "--unpack", str(folder), "--runs", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["stage2", "stage2.yaml", "stage3", "stage3.yaml"]
    missing = CliRunner().invoke(app, ["bundle", "--unpack", str(tmp_path / "no"), "--runs", str(tmp_path / "x")])
    assert missing.exit_code == 1 and "Traceback" not in missing.output

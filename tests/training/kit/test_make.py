"""What a kit holds, what it refuses, and that it appears whole or not at all. No wheels here: test_wheels.py has them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from tests.training.small import stage1_config, stage2_config, stage3_config

from duotok.errors import ConfigError, DuoTokError
from duotok.training.kit.make import KitOptions, gather, make_kit
from duotok.training.kit.plan import read_plan
from duotok.training.kit.start import MANIFEST, PARTS, damage, read, seal, unpack
from duotok.training.stages.registry import NAMES, config_class

FREE, CLOSED = "CC0", "all rights reserved"


def kit(folder: Path, **options: Any) -> dict[str, Any]:
    return make_kit(folder, KitOptions(**options), config_class, NAMES, lambda text: None)


def names(folder: Path) -> set[str]:
    return {entry["name"] for entry in read(folder / MANIFEST)["files"]}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    for name, config in (
        ("stage1", stage1_config()),
        ("stage2", stage2_config(mask_seconds=0)),
        ("stage3", stage3_config()),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "base.yaml").write_text("steps: 77\nbatch_size: 4\n")
    (folder / "stage4.yaml").write_text("extends: base.yaml\nlr: 0.001\n")
    return folder


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An indexed folder: two recordings, one that nobody lists, lyrics beside them."""
    folder = tmp_path_factory.mktemp("music")
    head = ["path", "use", "kind", "start", "seconds", "channels", "has_vocals", "licence", "attribution", "source"]
    rows = ["\t".join(head)]
    for name, licence in (("free", FREE), ("closed", CLOSED), ("stray", "")):
        soundfile.write(folder / f"{name}.flac", np.zeros(4800, np.int16), 48_000)
        if licence:
            rows.append(
                "\t".join((f"{name}.flac", "train", "instrumental", "0", "0.1", "1", "no", licence, "me", "here"))
            )
    (folder / "INDEX.tsv").write_text("\n".join(rows) + "\n")
    (folder / "metadata").mkdir()
    (folder / "metadata" / "words.txt").write_text("la la\n")
    (folder / ".hidden").write_text("no")
    return folder


def test_code_configs_and_recordings_come_along(configs: Path, music: Path, tmp_path: Path) -> None:
    facts = kit(
        tmp_path / "kit", stages=["stage1", "stage2"], configs=configs, minutes=["5", "stage2=7.5"], corpora=[f"index={music}"],
        settings=["index.validation=0.5"], licences=["public-domain"], segment=["whole_seconds=1"], separator="none",
        overrides=["steps=3", "stage2.lr=0.5"],
    )  # fmt: skip
    folder = tmp_path / "kit"
    manifest = read(folder / MANIFEST)
    assert damage(folder, manifest["files"]) == "" and seal(manifest["files"]) == manifest["seal"] == facts["seal"]
    held = names(folder)
    assert {"run.py", "kit.json", "README.md", "configs/stage1.yaml", "code/duotok/training/kit/steps.py"} <= held
    assert {name for name in held if name.startswith("audio/")} == {
        "audio/index/INDEX.tsv", "audio/index/free.flac", "audio/index/metadata/words.txt",
    }  # fmt: skip
    assert not any("bundles" in name or "__pycache__" in name for name in held)
    plan = read_plan(folder)
    assert [(t.run, t.minutes, t.overrides) for t in plan.trainings] == [
        ("stage1", 5.0, ("steps=3",)), ("stage2", 7.5, ("steps=3", "lr=0.5")),
    ]  # fmt: skip
    assert plan.prepare == (
        "--corpus", "index:index={kit}/audio/index", "--set", "index.validation=0.5", "--segment", "whole_seconds=1",
        "--licences", "public-domain", "--separator", "none", "--shard-segments", "256",
    )  # fmt: skip


def test_a_folder_may_be_named_with_dots(music: Path) -> None:
    items, _ = gather(KitOptions(corpora=[f"index={music / 'metadata' / '..'}"], separator="none"), config_class, NAMES)
    assert {"audio/index/free.flac", "audio/index/INDEX.tsv"} <= {item.name for item in items}


def test_the_model_comes_along_where_a_step_needs_it(configs: Path, music: Path) -> None:
    def has_model(**options: Any) -> bool:
        items, _ = gather(KitOptions(configs=configs, **options), config_class, NAMES)
        found = {item.name for item in items if "/bundles/" in item.name}
        assert not any("/lm/" in name for name in found)
        return "code/duotok/bundles/mini/separator.safetensors" in found

    assert has_model(corpora=[f"index={music}"], separator="mini")
    assert not has_model(corpora=[f"index={music}"], separator="none")
    assert has_model(bundle=True)
    taught = {"stages": ["stage1", "stage2"], "songs": 1, "separator": "none"}
    assert has_model(**taught, overrides=["stage2.teacher=mini"]) and not has_model(**taught)


def test_both_tracks_and_what_a_config_extends(configs: Path, tmp_path: Path, data: Path) -> None:
    for run in ("stage3", "autoencoder"):
        checkpoint = tmp_path / "runs" / run / "checkpoint-00000002"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text("{}")
        shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-00000001"))
    kit(
        tmp_path / "kit", stages=["stage4.accompaniment", "stage4.vocals"], configs=configs, data=data, runs=tmp_path / "runs",
        overrides=["stage4.vocals.start_from={runs}/stage4.accompaniment", "stage4.seed=4"],
    )  # fmt: skip
    plan = read_plan(tmp_path / "kit")
    assert [(t.run, t.stage, t.overrides) for t in plan.trainings] == [
        ("stage4.accompaniment", "stage4", ("track=accompaniment", "seed=4")),
        ("stage4.vocals", "stage4", ("track=vocals", "start_from={runs}/stage4.accompaniment", "seed=4")),
    ]
    assert [t.needs for t in plan.trainings] == [
        ("autoencoder", "stage3"), ("autoencoder", "stage3", "stage4.accompaniment"),
    ]  # fmt: skip
    values = yaml.safe_load((tmp_path / "kit" / "configs" / "stage4.vocals.yaml").read_text())
    assert values == {"steps": 77, "batch_size": 4, "lr": 0.001}
    held = names(tmp_path / "kit")
    assert "runs/stage3/checkpoint-00000002/state.json" in held and not any("00000001" in name for name in held)
    assert plan.shards == "shards" and "shards/shards.json" in held and not any(n.startswith("derived") for n in held)


def test_a_run_may_have_a_config_of_its_own(configs: Path, tmp_path: Path, data: Path) -> None:
    """As the paper's recipes have for each track, and a bundle whose two renderers differ in size."""
    folder = tmp_path / "own"
    shutil.copytree(configs, folder)
    (folder / "stage4.vocals.yaml").write_text("extends: stage4.yaml\nsteps: 78\n")
    options = KitOptions(
        stages=["stage3", "stage4"],
        configs=str(folder),
        data=data,
        runs=None,
        overrides=["stage3.start_from=/elsewhere/stage2", "stage4.autoencoder_from=/elsewhere/autoencoder"],
    )
    items, _ = gather(options, config_class, NAMES)
    found = {
        item.name: yaml.safe_load(str(item.source))["steps"] for item in items if item.name.startswith("configs/stage4")
    }
    assert found == {"configs/stage4.vocals.yaml": 78, "configs/stage4.accompaniment.yaml": 77}


def test_parts_are_below_the_size_and_make_the_same_kit(configs: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(3 << 20))
    options = {"include": [tmp_path / "noise"]}
    whole = kit(tmp_path / "whole", **options)
    cut = kit(tmp_path / "cut", **options, part_size=2 << 20)
    parts = sorted((tmp_path / "cut").glob("part-*"))
    assert len(parts) >= 3 and [path.name for path in parts] == cut["parts"]
    small = sum(path.stat().st_size for path in (tmp_path / "cut").iterdir() if path not in parts)
    assert all(path.stat().st_size + small <= 2 << 20 for path in parts)  # one part and the script go through together
    assert read(tmp_path / "cut" / PARTS)["kit"] == cut["seal"] == whole["seal"]
    unpack(parts, tmp_path / "joined")
    assert damage(tmp_path / "joined", read(tmp_path / "whole" / MANIFEST)["files"]) == ""


def test_a_kit_over_its_size_names_the_largest_parts(music: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    with pytest.raises(
        DuoTokError,
        match=r"over --max-size 1\.0 MiB; its largest parts: (code|extra/big) .*(code|extra/big) 2\.0 MiB|code",
    ):
        kit(tmp_path / "kit", include=[tmp_path / "big"], max_size=1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_only_a_kit_that_has_not_run_is_replaced(tmp_path: Path) -> None:
    kit(tmp_path / "kit")
    (tmp_path / "more").write_text("more")
    kit(tmp_path / "kit", include=[tmp_path / "more"])
    assert "extra/more" in names(tmp_path / "kit")
    (tmp_path / "kit" / "out").mkdir()
    with pytest.raises(ConfigError, match="has run there"):
        kit(tmp_path / "kit")
    with pytest.raises(ConfigError, match="holds other files and no kit"):
        kit(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        kit(tmp_path / "more")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "more"]


@pytest.mark.parametrize("part_size", [None, 4 << 20])
def test_a_kit_with_files_of_the_user_is_not_deleted(tmp_path: Path, part_size: int | None) -> None:
    folder, options = tmp_path / "kit", {"part_size": part_size}
    kit(folder, **options)
    (folder / "code" / "__pycache__").mkdir(parents=True)
    (folder / "code" / "__pycache__" / "x.pyc").touch()  # of `run.py --status`
    kit(folder, **options)
    mine = folder / "results" / "results.001"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=r"results\.001: not as the kit in .* was made, and would be deleted"):
        kit(folder, **options)
    assert mine.read_text() == "mine"
    mine.unlink()
    changed = folder / ("part-001" if part_size else "kit.json")
    changed.write_text("edited")
    with pytest.raises(ConfigError, match=f"{changed.name}: not as the kit"):
        kit(folder, **options)
    assert changed.read_text() == "edited"


@pytest.mark.parametrize("name", [MANIFEST, PARTS])
@pytest.mark.parametrize("text", ["{}", '{"files": ["a"], "seal": 1}', '{"parts": {}, "kit": 1}', "[]"])
def test_a_foreign_file_of_that_name_makes_no_kit(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / name).write_text(text)
    with pytest.raises(ConfigError, match="holds other files and no kit"):
        kit(tmp_path / "kit")
    assert (tmp_path / "kit" / name).read_text() == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ["stage9"]}, "--stages stage9: there are .*stage4.accompaniment; did you mean stage4"),
        ({"stages": ["stage4.drums"]}, "--stages stage4.drums: there are"),
        ({"stages": ["stage1", "stage1"], "songs": 1}, "stage1 is there twice"),
        ({"stages": ["stage2"], "songs": 1}, "stage2 needs stage1: name it before in --stages"),
        (
            {"stages": ["stage1", "stage2"], "songs": 1, "overrides": ["stage2.start_from=base/stage1"]},
            "stage2 needs base/stage1: ",
        ),
        (
            {"stages": ["stage1", "stage2"], "songs": 1, "overrides": ["stage2.mask_seconds=9"]},
            "stage2 needs separator: ",
        ),
        ({"stages": ["stage1"]}, "--stages without data"),
        ({"stages": ["stage1"], "songs": 1, "minutes": ["stage2=4"]}, "--minutes stage2=4: no such training"),
        ({"stages": ["stage1"], "songs": 1, "minutes": ["soon"]}, "--minutes soon: write minutes above 0"),
        ({"stages": ["stage1"], "songs": 1, "minutes": ["0"]}, "--minutes 0: write minutes above 0"),
        ({"stages": ["stage1"], "songs": 1, "overrides": ["batchsize=3"]}, "did you mean 'batch_size'"),
        ({"stages": ["stage1"], "songs": 1, "overrides": ["steps=["]}, "is no YAML value"),
        ({"stages": ["separator"], "songs": 1}, "separator.yaml: no such file; --configs names a folder"),
        ({"data": Path("nowhere")}, "nowhere/shards: missing; run `duotok data prepare --work nowhere`"),
        ({"data": Path("nowhere"), "songs": 3}, "give one or the other"),
        ({"corpora": ["folder=nowhere"]}, "nowhere: no such folder"),
        ({"settings": ["folder.kind=song"]}, "there is none"),
        ({"songs": 2, "segment": ["whole=1"]}, "--segment: unknown key 'whole'"),
        ({"runs": Path("nowhere")}, "--runs nowhere: no run with a checkpoint"),
        ({"include": [Path("nowhere")]}, "--include nowhere: no such file"),
        ({"part_size": 1000}, "--part-size 1000 bytes: at least 2 MiB"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    configs: Path, tmp_path: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DuoTokError, match=message):
        kit(tmp_path / "kit", **{"configs": configs, **options})
    assert list(tmp_path.iterdir()) == []


def test_shards_that_are_not_finished_are_refused(tmp_path: Path) -> None:
    (tmp_path / "work" / "shards").mkdir(parents=True)
    with pytest.raises(ConfigError, match="shards: not finished"):
        kit(tmp_path / "kit", data=tmp_path / "work")


def test_the_plan_reads_back_as_it_was(configs: Path, tmp_path: Path) -> None:
    items, plan = gather(KitOptions(stages=["stage1"], configs=configs, songs=2, minutes=["3"]), config_class, NAMES)
    plan = dataclasses.replace(plan, python="3.12", wheels=("wheels/a.whl",), requires=("a", "torch"))
    (tmp_path / "kit.json").write_text(plan.text())
    assert read_plan(tmp_path) == plan and json.loads(plan.text())["format"] == 1
    assert plan.prepare[:2] == ("--corpus", "generated:songs={out}/songs") and items

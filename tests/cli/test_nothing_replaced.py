"""Commands that train, compare, pack and collect: what they did not make stays, and an input is never an output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from tests.comparison.test_run import LM, setup
from tests.shards.shard_maker import make_shards, small_songs
from tests.tiny import song
from tests.training.small import stage1_config
from typer.testing import CliRunner

from duotok.audio.io import write
from duotok.cli.main import app
from duotok.tokens import DualTokens


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def refused(result: Result, *said: str) -> None:
    assert result.exit_code == 1 and all(text in result.stderr for text in said), result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    make_shards(folder / "shards", small_songs(8))
    return folder


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "best.json", "samples"])
def test_training_leaves_files_of_the_user_alone(name: str, work: Path, tmp_path: Path) -> None:
    values = stage1_config(steps=1, crops={"frames": 20}, mixture={"all": {"weight": 1}}).model_dump(mode="json")
    config = tmp_path / "stage1.yaml"
    config.write_text(yaml.safe_dump(values))
    mine = tmp_path / "runs" / "stage1" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('{"mine": 1}')
    before = {path for path in work.rglob("*")}
    command = ("train", "stage1", "-c", config, "--data", work, "--runs", tmp_path / "runs")
    refused(run(*command), str(mine), "no run of `duotok train`", "--runs")
    assert mine.read_text() == '{"mine": 1}' and list(mine.parent.iterdir()) == [mine]
    assert {path for path in work.rglob("*")} == before, "told before arrays are derived"
    mine.rename(tmp_path / name)
    (mine.parent / "notes.txt").write_text("of no name that training writes")
    assert run(*command).exit_code == 0
    assert run(*command).exit_code == 0  # it goes on with its own


def test_a_language_model_is_no_exception(tmp_path: Path) -> None:
    setup(tmp_path)
    config = tmp_path / "lm.yaml"
    config.write_text(yaml.safe_dump({**LM, "data": str(tmp_path / "fine.parquet")}))
    mine = tmp_path / "runs" / "lm"
    mine.parent.mkdir()
    mine.write_text("a file")
    refused(run("train", "lm", "-c", config, "--runs", tmp_path / "runs"), str(mine), "is a file")
    assert mine.read_text() == "a file"


def test_a_comparison_replaces_its_own_tables_only(tmp_path: Path) -> None:
    path = setup(tmp_path, seeds=[0], protocols=["parallel"])
    out = tmp_path / "out"
    out.mkdir()
    (out / "table.md").write_text("my table")
    command = ("eval", "lm", path, "-o", out)
    refused(run(*command), "out/table.md", "not made by this command", "--force")
    assert (out / "table.md").read_text() == "my table" and not (out / "runs").exists()
    assert run(*command, "--force").exit_code == 0
    assert run(*command).exit_code == 0
    (out / "table.md").write_text("edited")
    refused(run(*command), "out/table.md")
    assert (out / "table.md").read_text() == "edited"
    (out / "table.json").write_text("[1]")
    refused(run(*command), "and ")


def test_a_comparison_goes_on_in_no_folder_of_the_user(tmp_path: Path) -> None:
    path = setup(tmp_path, seeds=[0], protocols=["parallel"])
    place = tmp_path / "out" / "runs" / "fine" / "parallel" / "seed-0"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    refused(run("eval", "lm", path, "-o", tmp_path / "out"), "seed-0/config.json", "no run of `duotok train`")
    (place / "config.json").unlink()
    (place / "settings.json").write_text("[]")
    refused(run("eval", "lm", path, "-o", tmp_path / "out"), "settings.json", "choose another folder")
    assert [file.name for file in place.iterdir()] == ["settings.json"]


def test_pack_replaces_no_file_of_its_input(work: Path, bundle: Path, tmp_path: Path) -> None:
    DualTokens.from_codes([1, 2], [3, 4], model_id="m", model_hash="ab" * 32).save(tmp_path / "tokens" / "a.duotok")
    before = (tmp_path / "tokens" / "a.duotok").read_bytes()
    command = ("pack", tmp_path / "tokens", "-o", tmp_path / "tokens" / "a.duotok", "--force")
    refused(run(*command), "is in", "the input")
    assert (tmp_path / "tokens" / "a.duotok").read_bytes() == before
    manifest = work / "shards" / "manifest.parquet"
    kept = manifest.read_bytes()
    refused(run("pack", work, "-o", manifest, "--model", bundle, "--force"), "manifest.parquet", "the input")
    assert manifest.read_bytes() == kept
    inside = tmp_path / "tokens" / "packed.parquet"
    for _ in range(2):
        assert run("pack", tmp_path / "tokens", "-o", inside, "--force", "--model", bundle).exit_code == 0


def test_pack_removes_its_own_parts_only(work: Path, bundle: Path, tmp_path: Path) -> None:
    parts = tmp_path / "t.parquet.parts"
    parts.mkdir()
    (parts / "letter.txt").write_text("mine")
    assert run("pack", work, "-o", tmp_path / "t.parquet", "--model", bundle).exit_code == 0
    assert [path.name for path in parts.iterdir()] == ["letter.txt"]
    assert run("pack", work, "-o", tmp_path / "u.parquet", "--model", bundle).exit_code == 0
    assert not (tmp_path / "u.parquet.parts").exists()


def test_a_bundle_is_not_put_over_a_run(work: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "runs" / "stage3"
    run_folder.mkdir(parents=True)
    (run_folder / "config.json").write_text("{}")
    for out in (run_folder, tmp_path / "runs", work, work / "shards"):
        command = ("bundle", "--runs", tmp_path / "runs", "--data", work, "-o", out, "--force")
        refused(run(*command), f"{out}: is an input")
    assert (run_folder / "config.json").read_text() == "{}"


def test_generate_replaces_no_song_that_it_is_given(bundle: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.duotok"
    DualTokens.from_codes([1] * 50, [2] * 50).save(song)
    before = song.read_bytes()
    command = ("generate", "--continue", song, "-o", tmp_path / "song.wav", "--model", bundle, "--force", "--dry-run")
    refused(run(*command), "song.duotok: is an input")
    assert song.read_bytes() == before


@pytest.mark.parametrize("to", ["nowhere", "itself"])
def test_a_link_is_not_replaced(to: str, tmp_path: Path) -> None:
    """It may lead to a disk that is not mounted at the moment."""
    endings = {"": ".duotok", "generate": ".wav", "plot": ".png", "pack": ".parquet"}
    links = {what: tmp_path / f"x{ending}" for what, ending in endings.items()}
    for link in links.values():
        link.symlink_to(tmp_path / "disk" / link.name if to == "nowhere" else link)
    (tmp_path / "songs").mkdir()
    tokens = DualTokens.from_codes([1, 2], [3, 4])
    replace(tokens, model_id="x", model_hash="ab" * 32).save(tmp_path / "songs" / "a.duotok")
    refused(run("generate", "-o", links["generate"], "--seconds", 1, "--dry-run"), "is already there")
    refused(run("pack", tmp_path / "songs", "-o", links["pack"]), "is there, and no packed tokens")
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "kind": "train", "loss": 1.0}))
    refused(run("plot", tmp_path, "-o", links["plot"]), "is there already, and no learning curves")
    assert all(link.is_symlink() for link in links.values())


def test_a_folder_that_is_a_link_to_itself_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "runs")
    write(tmp_path / "songs" / "a.wav", song(1.0), 48_000)
    refused(
        run("eval", "reconstruction", "lowpass", "--songs", tmp_path / "songs", "-o", tmp_path / "runs"),
        "is a link to itself",
    )


def test_plot_replaces_no_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"step": 1, "kind": "train", "loss": 1.0}) + "\n")
    refused(run("plot", tmp_path, "-o", log, "--force"), "is the log of a run")
    refused(run("plot", tmp_path, "-o", tmp_path), "is a folder")
    assert log.read_text().startswith('{"step": 1')


@pytest.mark.parametrize("name", ["recordings.parquet", "segments.parquet", "ledger"])
def test_the_data_path_takes_no_table_of_the_user_for_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.wav").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("my table")
    result = run("data", "catalog", "--corpus", f"folder={tmp_path / 'music'}", "--work", tmp_path / "mine")
    refused(result, f"mine/{name}: is there, and no work of DuoTok")
    assert (tmp_path / "mine" / name).read_text() == "my table"

"""`duotok kit` as a user types it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import Result
from packaging.requirements import Requirement
from tests.training.kit.wheel_maker import make_wheel
from typer.testing import CliRunner

from duotok.cli import kit as cli_kit
from duotok.cli.main import app
from duotok.training.kit import wheels
from duotok.training.kit.collect import pack

EXAMPLE = re.compile(r"^ *duotok kit make (?:[^\\\n]|\\\\\n)*", re.MULTILINE)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_a_dry_run_lists_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_bytes(bytes(3 << 20))
    done = run("kit", "make", "-o", "kit", "--include", "notes.txt", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "3.0 MiB  extra/notes.txt" in done.stdout and "MiB  code" in done.stdout
    facts = json.loads(run("kit", "make", "-o", "kit", "--include", "notes.txt", "--dry-run", "--json").stdout)
    assert facts["groups"]["extra/notes.txt"] == 3 << 20 and facts["bytes"] == sum(facts["groups"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_kit_is_made_with_its_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "duotok_requirements", lambda extras: [Requirement("alpha"), Requirement("torch>=2.6")])
    make_wheel(tmp_path / "index", "alpha", "1.5")
    words = (
        "kit",
        "make",
        "-o",
        tmp_path / "kit",
        "--python",
        "3.12",
        "--find-links",
        tmp_path / "index",
        "--no-index",
    )
    done = run(*words, "--platform", "linux-x86_64", "--have", "torch==2.11.0", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["wheels"] == ["alpha-1.5-py3-none-any.whl"]
    plan = json.loads((tmp_path / "kit" / "kit.json").read_text())
    assert plan["requires"] == ["alpha", "torch"] and plan["python"] == "3.12" and plan["machine"] == "x86_64"
    lost = run(*words, "--platform", "linux-aarch64")
    assert lost.exit_code == 1 and len(lost.stderr.splitlines()) <= 2
    assert "no wheel of torch>=2.6 for Python 3.12 on linux-aarch64" in lost.stderr


def test_wheels_over_the_size_end_the_fetching_and_say_what_to_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "duotok_requirements", lambda extras: [Requirement("torch"), Requirement("alpha")])
    make_wheel(
        tmp_path / "index", "torch", "2.11", ["nvidia-big"], size=24 << 20
    )  # what follows is in no index: it is not asked for
    make_wheel(tmp_path / "index", "alpha", "1.5")
    words = (
        "kit",
        "make",
        "-o",
        tmp_path / "kit",
        "--find-links",
        tmp_path / "index",
        "--no-index",
        "--max-size",
        "20MiB",
    )
    done = run(*words, "--python", "3.12", "--platform", "linux-x86_64")
    assert (
        done.exit_code == 1 and "--have torch leaves out what that machine has already" in done.stderr.splitlines()[-1]
    )
    assert "wheels: nvidia-big" not in done.stderr and "wheels/torch-2.11-py3-none-any.whl 24.0 MiB" in done.stderr
    assert run(*words, "--python", "3.12", "--platform", "linux-x86_64", "--have", "torch").exit_code == 0


def test_examples_leave_torch_out() -> None:
    """Its wheels for CUDA are larger than the largest kit."""
    pages = [Path(__file__).parents[2] / "docs" / "kit.md", Path(cli_kit.__file__)]
    told = [line.replace(chr(92) * 2 + chr(10), " ") for page in pages for line in EXAMPLE.findall(page.read_text())]
    assert len(told) >= 6 and [line for line in told if "--have torch" not in line] == []


def test_collected_results_are_joined(tmp_path: Path) -> None:
    checkpoint = tmp_path / "there" / "stage1" / "checkpoint-00000005"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(os.urandom(1000))
    pack(tmp_path / "there", ["stage1"], tmp_path / "results", 1 << 20, weights_only=True)
    done = run("kit", "join", tmp_path / "results", "--runs", tmp_path / "runs")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path}/runs/stage1: step 5 (weights only: it cannot be trained further)\n"
    assert (tmp_path / "runs" / "stage1" / "checkpoint-00000005" / "model.safetensors").stat().st_size == 1000
    again = run("kit", "join", tmp_path / "results", "--runs", tmp_path / "runs", "--json")
    assert json.loads(again.stdout)["runs"][0]["step"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-size", "big"), "size 'big': write it as 60MiB"),
        (("--part-size", "0"), "size '0': write it as 60MiB"),
        (("--platform", "amiga"), "--platform amiga: there are linux-x86_64"),
        (("--python", "2.7"), "--python 2.7: write 3.11 or newer"),
        (("--separator", "demucs"), "--separator demucs: a kit brings mini, or none"),
        (("--stages", "stage7"), "--stages stage7: there are"),
        (("--stages", ","), "--stages ',': names nothing; write names with commas between"),
        (("--licences", ", "), "--licences ', ': names nothing"),
        (("--extra", ","), "--extra ',': names nothing"),
        (("--extra", "everything"), "--extra everything: there are"),
        (("--have", "torch>2"), "--have torch>2: write NAME or NAME==VERSION"),
        (("--requirement", "none.txt"), "--requirement none.txt: no such file"),
        (("--max-size", "1KiB"), "over --max-size 0.0 MiB; its largest parts: code"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("kit", "make", "-o", "kit", *words)
    assert done.exit_code == 1
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []

"""A kit at work: `run.py` as a user starts it, in processes of their own, killed and started again."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from tests.slow_to_end import ctrl_c_when_it_has_begun, slow_to_end
from tests.training.kit.wheel_maker import make_wheel
from tests.training.small import stage1_config, stage2_config
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.errors import ConfigError, DuoTokError
from duotok.training.kit import script, start, steps, trainers, wheels
from duotok.training.kit.collect import pack
from duotok.training.kit.join import join_results
from duotok.training.kit.make import KitOptions, make_kit
from duotok.training.kit.pieces import entries
from duotok.training.kit.plan import (
    FILE,
    KitError,
    KitPlan,
    Training,
    assignments_for,
    read_plan,
    train_words,
    training_hash,
)
from duotok.training.kit.script import _chosen
from duotok.training.kit.status import STEPS, only_one
from duotok.training.kit.steps import KitWork
from duotok.training.kit.wheels import Sources, Target
from duotok.training.stages.registry import NAMES, config_class

MIXTURE = {"all": {"weight": 1}}
HERE = f"{ {'Darwin': 'macos'}.get(platform.system(), platform.system().lower()) }-{platform.machine()}"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def started(kit: Path, *words: object) -> subprocess.Popen[str]:
    # The tests' own PYTHONPATH would bring the checkout's duotok; the kit's must be what runs.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(kit / "run.py"), "--workers", "1", *map(str, words)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=kit.parent
    )


def run(kit: Path, *words: object) -> tuple[int, str]:
    child = started(kit, *words)
    told, _ = child.communicate(timeout=300)
    return child.returncode, told


def until(found: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "never came"
        time.sleep(0.05)


class Here:
    """`trainers.Child` whose command of duotok runs in this process: torch is imported already."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        assert list(command[1:3]) == ["-m", "duotok"] and environment["PYTHONPATH"].partition(os.pathsep)[0].endswith(
            "code"
        )
        self.done = CliRunner().invoke(app, command[3:])

    def ended(self, name: str = "") -> bool:
        return True

    def wait(self) -> None:
        pass

    def check(self, name: str) -> float:
        assert self.done.exit_code == 0, f"{name}: {self.done.output}"
        return 0.0


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, config in (("stage1", stage1_config), ("stage2", stage2_config)):
        values = config(mixture=MIXTURE, save_every=1).model_dump(mode="json")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


def make(folder: Path, **options: Any) -> Path:
    make_kit(folder, KitOptions(**options), config_class, NAMES, lambda text: None)
    return folder


def checkpoints(out: Path, run: str) -> list[str]:
    return sorted(path.name for path in (out / "runs" / run).glob("checkpoint-*"))


def test_killed_in_the_middle_it_goes_on_and_the_results_come_back(
    configs: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {"configs": configs, "data": data}
    kit, out = (
        make(tmp_path / "kit", stages=["stage1"], part_size=4 << 20, overrides=["steps=400"], **shards),
        tmp_path / "out",
    )
    child = started(kit, "--out", out)
    until(lambda: len(checkpoints(out, "stage1")) >= 2)
    assert "at work, stage1" in run(kit, "--out", out, "--status")[1]
    assert "another run.py is at work there" in run(kit, "--out", out)[1]
    child.send_signal(signal.SIGKILL)
    child.wait()
    reached = int(checkpoints(out, "stage1")[-1][-8:])
    assert 2 <= reached < 400
    for part in kit.glob("part-*"):  # they were joined and are not needed any more
        part.unlink()
    code, told = run(kit, "--out", out, "--set", f"stage1.steps={reached + 3}")
    assert code == 0, told
    assert "goes on from step" in told and "stage1: done in" in told and told.endswith("all done\n")
    assert checkpoints(out, "stage1")[-1] == f"checkpoint-{reached + 3:08d}"
    code, told = run(kit, "--out", out, "--set", f"stage1.steps={reached + 3}")
    assert code == 0 and "stage1: done before" in told
    facts = json.loads(run(kit, "--out", out, "--status", "--json")[1])
    assert not facts["trainings"]["stage1"]["done"]  # the kit's own steps are others
    facts = json.loads(run(kit, "--out", out, "--set", f"stage1.steps={reached + 3}", "--status", "--json")[1])
    row = facts["trainings"]["stage1"]
    assert row["done"] and row["checkpoint"] == row["step"] == row["steps"] == reached + 3 and not facts["running"]
    results, runs = tmp_path / "results", tmp_path / "runs"
    code, told = run(kit, "--out", out, "--collect", results, "--piece-size", "50KB")
    assert code == 0, told
    pieces = sorted(results.glob("results.0*"))
    assert len(pieces) > 2 and all(path.stat().st_size <= 50_000 for path in pieces)
    assert [(row["run"], row["step"]) for row in join_results(results, runs)] == [("stage1", reached + 3)]
    source, copy = (place / "stage1" / f"checkpoint-{reached + 3:08d}" for place in (out / "runs", runs))
    assert {p.name: p.read_bytes() for p in source.iterdir()} == {p.name: p.read_bytes() for p in copy.iterdir()}

    # What came back goes along again, and the next stage starts from it: its command runs in this process.
    second = make(tmp_path / "second", stages=["stage2"], runs=runs, overrides=["steps=1", "mask_seconds=0"], **shards)
    monkeypatch.setattr(steps, "Child", Here)
    plan = read_plan(second)
    options = Namespace(python=sys.executable, workers=1, processes=1, parallel=1)
    KitWork(second, tmp_path / "next", plan, options).train_all(plan.trainings)
    assert checkpoints(tmp_path / "next", "stage2") == ["checkpoint-00000001"]
    state = json.loads((tmp_path / "next/runs/stage2/checkpoint-00000001/state.json").read_text())
    assert state["parents"]["start_from"]["step"] == reached + 3


def collected(run: Path, folder: Path, steps: Sequence[int], size: int = 2000) -> Path:
    """A run with checkpoints of noise, packed."""
    for step in steps:
        checkpoint = run / f"checkpoint-{step:08d}"
        checkpoint.mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.safetensors", "random.0000.safetensors"):
            (checkpoint / name).write_bytes(os.urandom(3000))
        (checkpoint / "state.json").write_text("{}")
    (run / "best.json").write_text(json.dumps({"step": steps[0], "figure": "loss", "value": 1.0}))
    pack(run.parent, [run.name], folder, size)
    return folder


def test_newest_and_best_are_packed_and_old_pieces_go(tmp_path: Path) -> None:
    results = collected(tmp_path / "there" / "stage1", tmp_path / "results", [1, 2, 3])
    many = len(list(results.iterdir()))
    join_results(results, tmp_path / "runs")
    held = {path.name for path in (tmp_path / "runs" / "stage1").iterdir()}
    assert held == {"checkpoint-00000001", "checkpoint-00000003", "best.json"}
    facts = pack(tmp_path / "there", ["stage1"], results, 2000, weights_only=True)
    assert len(list(results.iterdir())) < many and not facts["resumable"]
    assert join_results(results, tmp_path / "light")[0]["resumable"] is False
    run = tmp_path / "light" / "stage1"
    assert {path.name for path in run.iterdir()} == {"checkpoint-00000001", "best.json"}  # what later stages use
    assert {path.name for path in (run / "checkpoint-00000001").iterdir()} == {"model.safetensors", "state.json"}
    (tmp_path / "there" / "stage1" / "best.json").unlink()
    assert pack(tmp_path / "there", ["stage1"], results, 2000, weights_only=True)["steps"] == {"stage1": 3}


def test_several_runs_travel_in_one_set(tmp_path: Path) -> None:
    for name in ("stage1", "stage2", "stage4.vocals"):
        collected(tmp_path / "there" / name, tmp_path / "results", [2])
    facts = pack(tmp_path / "there", ["stage2", "stage4.vocals"], tmp_path / "results", 1 << 20)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"results.001", "results.json"}
    assert facts["steps"] == {"stage2": 2, "stage4.vocals": 2}
    join_results(tmp_path / "results", tmp_path / "runs", ["stage4.vocals"])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["stage4.vocals"]
    assert [row["run"] for row in join_results(tmp_path / "results", tmp_path / "runs")] == ["stage2", "stage4.vocals"]


def test_joining_overwrites_nothing_else(tmp_path: Path) -> None:
    results, runs = collected(tmp_path / "there" / "stage1", tmp_path / "results", [3]), tmp_path / "runs"
    join_results(results, runs)
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    assert join_results(results, runs)[0]["step"] == 3  # the same again changes nothing
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")} == before
    weights = runs / "stage1" / "checkpoint-00000003" / "model.safetensors"
    weights.write_bytes(b"other")
    with pytest.raises(DuoTokError, match="is there with another content"):
        join_results(results, runs)
    assert weights.read_bytes() == b"other"
    (runs / "stage1" / "checkpoint-00000003").rename(runs / "stage1" / "checkpoint-00000004")
    with pytest.raises(DuoTokError, match="is at step 4 already, the results at 3"):
        join_results(results, runs)


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "best.json"])
def test_joining_replaces_no_file_of_the_user(tmp_path: Path, name: str) -> None:
    results, run = collected(tmp_path / "there" / "stage1", tmp_path / "results", [3]), tmp_path / "runs" / "stage1"
    run.mkdir(parents=True)
    (run / name).write_text("mine")
    with pytest.raises(DuoTokError, match=rf"{name}: is there, and no run"):
        join_results(results, run.parent)
    assert [path.read_text() for path in run.iterdir()] == ["mine"]


def test_the_log_of_another_training_is_not_replaced(tmp_path: Path) -> None:
    there, run = tmp_path / "there" / "stage1", tmp_path / "runs" / "stage1"
    there.mkdir(parents=True)
    lines = [json.dumps({"step": step, "kind": "train"}) + "\n" for step in range(3)]
    (there / "log.jsonl").write_text("".join(lines))
    results = collected(there, tmp_path / "results", [3])
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text(lines[1])
    with pytest.raises(DuoTokError, match="is the log of another training"):
        join_results(results, run.parent)
    assert (run / "log.jsonl").read_text() == lines[1] and len(list(run.iterdir())) == 1
    (run / "log.jsonl").write_text(lines[0])  # joined earlier, and there it went on
    assert join_results(results, run.parent)[0]["step"] == 3
    assert (run / "log.jsonl").read_text() == "".join(lines)


@pytest.mark.parametrize("name", ["results.json", "results.001", "results.900"])
def test_collecting_replaces_no_file_of_the_user(tmp_path: Path, name: str) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"{name}: is there, and no result of a kit; name another folder"):
        collected(tmp_path / "there" / "stage1", results, [3])
    assert [path.read_text() for path in results.iterdir()] == ["{}"]
    (results / name).unlink()
    (results / "results.txt").write_text("of no name that pieces have")
    pack(tmp_path / "there", ["stage1"], results, 2000)
    (results / "results.777").write_text("mine")
    with pytest.raises(ValueError, match=r"results\.777: is there"):
        pack(tmp_path / "there", ["stage1"], results, 2000)


def test_a_collection_that_was_stopped_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collected(tmp_path / "there" / "stage1", tmp_path / "earlier", [2])
    results = tmp_path / "results"  # where nothing was collected before: only the table can say whose the pieces are
    from duotok.training.kit import collect

    moved: list[Path] = []

    def stop(source: Path, target: Path) -> None:
        if len(moved) == 1:
            raise KeyboardInterrupt
        moved.append(target)
        source.rename(target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(collect, "put", stop)
        pack(tmp_path / "there", ["stage1"], results, 3000)
    assert len(list(results.glob("results.0*"))) == 1
    with pytest.raises(DuoTokError, match="missing"):
        join_results(results, tmp_path / "runs")
    pack(tmp_path / "there", ["stage1"], results, 3000)
    assert join_results(results, tmp_path / "runs")[0]["step"] == 2


@pytest.mark.parametrize("name", ["packages", "state.json"])
def test_what_is_in_out_and_of_no_kit_stays(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "duotok_requirements", lambda extras: [Requirement("alpha")])
    make_wheel(tmp_path / "index", "alpha", "1.5")
    kit = make(tmp_path / "kit", target=Target(PYTHON, HERE), sources=Sources([str(tmp_path / "index")], no_index=True))
    mine = tmp_path / "mine" / name / "letter.txt" if name == "packages" else tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('"mine"')
    code, told = run(kit, "--check", "-o", tmp_path / "mine")
    assert code == 1 and f"{tmp_path / 'mine' / name}: is there, and n" in told and "--out" in told
    assert mine.read_text() == '"mine"'


def test_parts_are_not_joined_over_a_folder_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(5 << 20))
    parts = make(tmp_path / "parts", include=[tmp_path / "noise"], part_size=2 << 20)
    mine = tmp_path / "out" / "kit" / "letter.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, told = run(parts, "-o", tmp_path / "out", "--check")
    assert code == 1 and f"{mine.parent}: is there, and no kit" in told and mine.read_text() == "mine"


def test_results_that_are_damaged_or_incomplete_are_named(tmp_path: Path) -> None:
    results = collected(tmp_path / "there" / "stage1", tmp_path / "results", [3])
    for change, state in ((lambda path: path.write_bytes(b"x" * 2000), "damaged"), (Path.unlink, "missing")):
        change(results / "results.002")
        with pytest.raises(DuoTokError, match=rf"results\.002 is {state}"):
            join_results(results, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="no run 'stage7' in it; it has stage1"):
        join_results(results, tmp_path / "runs", ["stage7"])
    for empty, message in ((tmp_path / "none", "no such folder"), (tmp_path, "no readable results.json there")):
        with pytest.raises(ConfigError, match=message):
            join_results(empty, tmp_path / "runs")


ENTRY = {"name": "results.001", "bytes": 3, "sha256": ""}
WRONG: dict[str, tuple[Any, str]] = {
    "nothing that is known": ({"a": 1}, "its 'format' is missing or damaged"),
    "another format": ({"format": 9}, "results of format 9, this DuoTok reads 1; update DuoTok"),
    "no pieces": ({"pieces": []}, "its 'pieces' is missing or damaged"),
    "pieces without names": ({"pieces": [{"bytes": 3}]}, "its 'pieces' is missing or damaged"),
    "a length in words": ({"pieces": [{**ENTRY, "bytes": "3"}]}, "its 'pieces' is missing or damaged"),
    "files that are a number": ({"files": 3}, "its 'files' is missing or damaged"),
    "steps in a list": ({"steps": ["stage1"]}, "its 'steps' is missing or damaged"),
    "a step in words": ({"steps": {"stage1": "three"}}, "its 'steps' is missing or damaged"),
    "a run elsewhere": ({"steps": {"../stage1": 3}}, "'../stage1' is no name of a run"),
    "a run that is not in it": ({"steps": {"stage7": 3}}, "has no checkpoint of 'stage7' at step 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_table_of_results_that_is_none_is_told_in_one_line(case: str, tmp_path: Path) -> None:
    results = collected(tmp_path / "there" / "stage1", tmp_path / "results", [3])
    table, (change, message) = results / "results.json", WRONG[case]
    facts = json.loads(table.read_text())
    table.write_text(json.dumps(change if "a" in change else {**facts, **change}))
    with pytest.raises(ConfigError) as caught:
        join_results(results, tmp_path / "runs")
    assert str(caught.value).startswith(f"{table}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


def test_pieces_that_are_no_archive_are_told_in_one_line(tmp_path: Path) -> None:
    results = collected(tmp_path / "there" / "stage1", tmp_path / "results", [3])
    facts = json.loads((results / "results.json").read_text())
    (results / "noise").write_bytes(os.urandom(3000))
    (results / "results.json").write_text(json.dumps({**facts, "pieces": entries(results, ["noise"])}))
    with pytest.raises(DuoTokError, match=r"its pieces are no archive \(.*\); collect them again") as caught:
        join_results(results, tmp_path / "runs")
    assert "\n" not in str(caught.value) and list((tmp_path / "runs").glob("*")) == []


def test_parts_that_are_no_archive_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_bytes(Path(start.__file__).read_bytes())
    (tmp_path / "noise").write_bytes(os.urandom(3000))
    (tmp_path / "PARTS.json").write_text(json.dumps({"kit": "x", "parts": entries(tmp_path, ["noise"])}))
    code, told = run(tmp_path, "--check")
    assert code == 1 and told.startswith(f"error: {tmp_path}: its parts are no kit (") and told.count("\n") == 1


@pytest.mark.parametrize(
    "text", ['{"format": 1, "ki', "[]", "{}", '{"a": 1}', '{"kit": "x", "parts": []}', '{"kit": "x", "parts": [3]}']
)
def test_a_damaged_table_of_parts_is_named(text: str, tmp_path: Path) -> None:
    """A kit in parts has no MANIFEST.json: it must not be asked for."""
    (tmp_path / "run.py").write_bytes(Path(start.__file__).read_bytes())
    (tmp_path / "PARTS.json").write_text(text)
    code, told = run(tmp_path, "--check")
    assert (code, told) == (1, f"error: {tmp_path}/PARTS.json is damaged; bring it again, then run the same command\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ['{"a": 1}', '{"seal": "x", "files": [{"name": "run.py"}]}'])
def test_a_manifest_without_its_keys_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_bytes(Path(start.__file__).read_bytes())
    (tmp_path / "MANIFEST.json").write_text(text)
    code, told = run(tmp_path, "--check")
    assert (
        code == 1
        and told.startswith(f"error: {tmp_path}/MANIFEST.json is missing or damaged")
        and told.count("\n") == 1
    )


def test_wheels_are_installed_once_and_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "duotok_requirements", lambda extras: [Requirement("alpha"), Requirement("numpy")])
    make_wheel(tmp_path / "index", "alpha", "1.5")
    options = {"target": Target(PYTHON, HERE), "sources": Sources([str(tmp_path / "index")], no_index=True)}
    kit = make(tmp_path / "kit", have=["numpy"], **options)
    show = ("python", "-c", "import alpha; print(alpha.__file__, alpha.VERSION)")
    code, told = run(kit, *show)
    assert code == 0 and told.splitlines()[-1] == f"{kit}/out/packages/alpha.py 1.5", told
    assert "installing" in told and "installing" not in run(kit, *show)[1]
    code, told = run(kit, "duotok", "--version")
    assert (code, told.split()[0]) == (0, "duotok")

    make_wheel(tmp_path / "index", "alpha", "1.6")  # a newer kit over the same OUT
    assert (
        run(make(tmp_path / "newer", have=["numpy"], **options), "-o", kit / "out", *show)[1]
        .splitlines()[-1]
        .endswith("1.6")
    )

    other = make(tmp_path / "other", have=["numpy", "alpha"], **options)
    code, told = run(other)
    assert code == 1 and told == (
        f"error: this Python ({sys.executable}) lacks alpha, and the kit has no wheel of it; make the kit without naming it in "
        "--have, or name a Python that has it with --python\n"
    )


@pytest.mark.parametrize(("key", "value"), [("python", "3.99"), ("machine", "pdp11")])
def test_wheels_of_another_python_or_machine_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setattr(wheels, "duotok_requirements", lambda extras: [Requirement("alpha")])
    make_wheel(tmp_path / "index", "alpha", "1.5")
    kit = make(tmp_path / "kit", target=Target(PYTHON, HERE), sources=Sources([str(tmp_path / "index")], no_index=True))
    values = json.loads((kit / FILE).read_text())
    (kit / FILE).write_text(json.dumps({**values, key: value}))
    files = entries(kit, [entry["name"] for entry in start.read(kit / start.MANIFEST)["files"]])
    (kit / start.MANIFEST).write_text(json.dumps({"format": 1, "seal": start.seal(files), "files": files}))
    code, told = run(kit, "--check")
    assert code == 1 and told.startswith("error: the kit's wheels are for ") and value in told and told.count("\n") == 1


def test_a_damaged_or_missing_file_or_part_is_named(tmp_path: Path) -> None:
    kit = make(tmp_path / "kit")
    path = kit / "code" / "duotok" / "errors.py"
    path.write_text(path.read_text().replace("a", "b", 1))
    (kit / "kit.json").unlink()
    code, told = run(kit, "--check")
    assert code == 1
    assert told.startswith(f"error: {kit}: kit.json is missing and code/duotok/errors.py is damaged (of ")
    manifest = json.loads((kit / "MANIFEST.json").read_text())
    left = [entry for entry in manifest["files"] if not entry["name"].startswith(("kit.json", "code/"))]
    (kit / "MANIFEST.json").write_text(json.dumps({**manifest, "files": left}))  # it says nothing of the two any more
    assert "MANIFEST.json is damaged" in run(kit, "--check")[1]
    (kit / "MANIFEST.json").write_text("{")
    assert "MANIFEST.json is missing or damaged" in run(kit)[1]

    (tmp_path / "noise").write_bytes(os.urandom(5 << 20))
    parts = make(tmp_path / "parts", include=[tmp_path / "noise"], part_size=2 << 20)
    (parts / "part-002").unlink()
    code, told = run(parts, "-o", tmp_path / "out")
    assert code == 1 and f"{parts}: part-002 is missing" in told and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stages", "stage3"), "--stages stage3: this kit has stage1"),
        (("--stages", ","), "--stages ',': names no run; this kit has stage1"),
        (("--minutes", "stage3=5"), "--minutes stage3=5: this kit has stage1"),
        (("--minutes", "-1"), "write minutes above 0"),
        (("--collect", "results"), "no checkpoint of stage1 yet"),
        (("--python", "python9"), "--python python9: no such program"),
    ],
)
def test_mistakes_are_told_in_one_line(
    configs: Path, data: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    kit = make(tmp_path / "kit", stages=["stage1"], configs=configs, data=data)
    code, told = run(kit, *words)
    assert code == 1 and message in told and told.startswith("error: ") and told.count("\n") == 1


def test_overrides_reach_the_runs_they_name() -> None:
    vocals, other = Training("stage4.vocals", "stage4", "a"), Training("stage4.accompaniment", "stage4", "b")
    first = Training("stage1", "stage1", "c")
    given = ["all.steps=3", "stage4.lr=1", "stage4.vocals.lr=2", "stage1.crops.frames=7", "crops.frames=9"]
    everything = [first, vocals, other]
    assert assignments_for(given, vocals, everything) == ["steps=3", "lr=1", "lr=2", "crops.frames=9"]
    assert assignments_for(given, other, everything) == ["steps=3", "lr=1", "crops.frames=9"]
    assert assignments_for(given, first, everything) == ["steps=3", "crops.frames=7", "crops.frames=9"]


def test_a_run_is_done_where_the_same_command_would_not_train_it_again(
    configs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "out", {"stages": ["stage1"], "configs": configs, "data": data}
    kit, other = (
        make(tmp_path / "kit", overrides=["steps=3"], **words),
        make(tmp_path / "other", overrides=["steps=4"], **words),
    )
    checkpoint = out / "runs" / "stage1" / "checkpoint-00000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    plan = read_plan(kit)
    hashes = {entry["name"]: entry["sha256"] for entry in start.read(kit / start.MANIFEST)["files"]}
    asked = training_hash(plan, plan.trainings[0], hashes)
    (out / "state.json").write_text(json.dumps({"stage1": {"asked": asked, "seconds": 1.0}}))

    def told(of: Path, *more: str) -> tuple[str, bool]:
        text, as_json = (
            script.run(of, out, ["--status", *more, *last]) or capsys.readouterr().out for last in ([], ["--json"])
        )
        return text.splitlines()[1].split(maxsplit=1)[1].partition(":")[0], json.loads(as_json)["trainings"]["stage1"][
            "done"
        ]

    another = ("done with another config, overrides or minutes", False)
    assert told(kit) == ("done", True)
    assert told(other) == told(kit, "--minutes", "5") == told(kit, "--set", "lr=1e-4") == another
    held = json.loads((out / "state.json").read_text())
    (out / "state.json").write_text(json.dumps({**held, "now": {"stage1": time.time()}}))
    with only_one(out):
        assert told(other) == ("under way", False)
    work = KitWork(kit, out, plan, Namespace(python=sys.executable))
    assert work._trained(plan.trainings[0]) and not work._trained(read_plan(other).trainings[0])
    capsys.readouterr()
    (out / "state.json").write_text("{}")
    assert told(kit) == ("under way", False)
    (checkpoint / "state.json").unlink()
    (out / "state.json").write_text(json.dumps({"stage1": {"asked": asked, "seconds": 1.0}}))
    assert told(kit) == ("not begun", False)  # its checkpoint is gone: it would be trained


def test_a_step_is_done_where_the_same_command_would_not_do_it_again(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was done for a kit with fewer songs, or other wheels, is not done for this one."""
    out, words = tmp_path / "out", {"stages": ["stage1"], "configs": configs, "separator": "none"}
    kit, larger = make(tmp_path / "kit", songs=2, **words), make(tmp_path / "larger", songs=3, **words)
    (out / "work" / "shards").mkdir(parents=True)
    (out / "work" / "shards" / "shards.json").touch()
    monkeypatch.setattr(KitWork, "_command", lambda self, step, task_hash, *_: self._record(step, task_hash, 60.0))
    work = KitWork(kit, out, read_plan(kit), Namespace(python=sys.executable, workers=1, device=None))
    work.songs()
    work.data()
    work._record("packages", "of other wheels", 60.0)

    def told(of: Path) -> tuple[list[str], dict[str, float | None], list[str]]:
        text, as_json = (
            script.run(of, out, ["--status", *last]) or capsys.readouterr().out for last in ([], ["--json"])
        )
        facts = json.loads(as_json)
        return text.splitlines()[1:-1], {step: facts[step] for step in STEPS}, facts["done_otherwise"]

    assert told(kit) == (
        ["songs                   done in 1.0 minutes", "data                    done in 1.0 minutes"],
        {"packages": None, "songs": 60.0, "data": 60.0}, [],
    )  # fmt: skip
    again = [f"{step:<24}done for a kit with others; the next run does it again" for step in ("songs", "data")]
    assert told(larger) == (again, dict.fromkeys(STEPS), ["songs", "data"])
    other_device = KitWork(kit, out, read_plan(kit), Namespace(python=sys.executable, workers=1, device="cuda"))
    monkeypatch.setattr(KitWork, "_command", lambda *_: pytest.fail("it is done"))
    other_device.songs()
    other_device.data()


def test_minutes_reach_the_trainer(configs: Path, data: Path, tmp_path: Path) -> None:
    kit = make(
        tmp_path / "kit", stages=["stage1"], configs=configs, data=data, minutes=["stage1=2.5"], overrides=["steps=3"]
    )
    plan = read_plan(kit)
    assert train_words(plan, plan.trainings[0]) == [
        "train", "stage1", "-c", "{kit}/configs/stage1.yaml", "--data", "{work}", "--runs", "{runs}", "--shards", "{kit}/shards",
        "--minutes", "2.5", "--set", "steps=3",
    ]  # fmt: skip
    lm = replace(plan.trainings[0], stage="lm", run="lm", config="configs/lm.yaml", minutes=None, overrides=("data=x",))
    words = ["train", "lm", "-c", "{kit}/configs/lm.yaml", "--runs", "{runs}", "--set", "data=x"]
    assert train_words(plan, lm) == words, "it learns from tokens, and takes no shards"


def paced(begun: list[str], fails: str = "") -> tuple[Callable[[Training], Any], ...]:
    """`arrays`, `begin` and `end` of `side_by_side` over children that are over after a few looks."""

    class Fake:
        def __init__(self, what: str, run: str) -> None:
            self.what, self.run, self.looks, self.process = what, run, 0, Namespace(terminate=lambda: None)
            begun.append(f"{what} {run}")

        def ended(self, name: str) -> bool:
            self.looks += 1
            return self.looks > (5 if self.what == "begin" else 1)

        def check(self, name: str) -> float:
            if self.what == "begin" and self.run == fails:
                raise KitError(f"{name} broke")
            return 0.0

    def end(training: Training, child: Any) -> None:
        begun.append(f"end {training.run}")

    return lambda t: Fake("arrays", t.run), lambda t: Fake("begin", t.run), end


def test_a_command_that_fails_says_why_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('so far'); print('error: no space', file=sys.stderr); print('the end', file=sys.stderr); sys.exit(3)"
    log = tmp_path / "logs" / "stage1.log"
    for _ in range(2):  # the log is kept, what an earlier run said is not shown again
        child = trainers.Child([sys.executable, "-c", code], os.environ, log)
        until(lambda child=child: child.ended("stage1"))
        with pytest.raises(KitError, match=f"^stage1 ended with 3: no space .all of it: {log}.$"):
            child.check("stage1")
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == ["stage1: error: no space"] * 2 + ["stage1: so far"] * 2 + ["stage1: the end"] * 2
    assert log.read_text().count("no space") == 2


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_interrupted_it_waits_for_the_checkpoint_and_interrupted_again_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], parallel: bool, again: bool
) -> None:
    def interrupted_again(process: object) -> None:
        raise KeyboardInterrupt

    child = trainers.Child(slow_to_end(tmp_path), os.environ, tmp_path / "log")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainers.time, "sleep", ctrl_c_when_it_has_begun(tmp_path))
        if again:
            patched.setattr(trainers.subprocess.Popen, "wait", interrupted_again)
        if parallel:
            trainers.side_by_side([training("stage1")], 2, lambda t: child, lambda t: None, lambda t, c: None)
        else:
            child.wait()
    assert child.process.wait(60) == (-signal.SIGKILL if again else 1)
    assert (tmp_path / "saved").exists() != again and capfd.readouterr().err.count("Ctrl-C") == 1


def test_what_a_run_waits_for() -> None:
    everything = ["separator", "autoencoder", "stage1", "stage2", "stage3", "stage4.vocals"]
    stage2 = training("stage2", "stage1", "separator")
    assert trainers.waits_for(stage2, everything) == {"stage1", "separator"}
    assert trainers.waits_for(stage2, ["stage3"]) == trainers.waits_for(training("stage1"), everything) == set()


def test_choices_of_the_day_leave_what_a_training_waits_for() -> None:
    options = Namespace(stages="", minutes=["3"], set=["steps=2", "stage2.start_from={runs}/other"])
    first, second = _chosen(KitPlan(trainings=(training("stage1"), training("stage2", "stage1", "separator"))), options)
    assert (first.needs, first.minutes, first.overrides) == ((), 3.0, ("steps=2",))
    assert second.needs == ("stage1", "separator", "other") and second.minutes == 3.0


def training(run: str, *needs: str) -> Training:
    return Training(run, run, "", needs=needs)


def test_side_by_side_each_waits_for_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "POLL", 0.0)
    runs = [*map(training, ("separator", "autoencoder", "stage1")), training("stage2", "stage1", "separator")]
    told: list[str] = []
    trainers.side_by_side(runs, 3, *paced(told))
    assert [line for line in told if line.startswith("arrays")] == [f"arrays {t.run}" for t in runs]
    assert told.index("arrays stage2") > max(told.index("end stage1"), told.index("end separator"))
    assert told.index("begin autoencoder") < told.index("end separator")  # side by side
    assert all(told.index(f"arrays {t.run}") < told.index(f"begin {t.run}") < told.index(f"end {t.run}") for t in runs)
    for here, what in enumerate(told):  # arrays of one training at a time
        if what.startswith("arrays"):
            assert all(f"begin {name.split()[1]}" in told[:here] for name in told[:here] if name.startswith("arrays"))
    one: list[str] = []
    trainers.side_by_side(runs, 1, *paced(one))
    assert [line for line in one if line.startswith("end")] == [f"end {t.run}" for t in runs]
    assert all(one[3 * n].startswith("arrays") and one[3 * n + 2].startswith("end") for n in range(4))


def test_side_by_side_what_fails_stops_what_would_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "POLL", 0.0)
    runs = [training("autoencoder"), training("stage1"), training("stage2", "stage1")]
    told: list[str] = []
    with pytest.raises(KitError, match="stage1 broke"):
        trainers.side_by_side(runs, 2, *paced(told, fails="stage1"))
    assert "end autoencoder" in told and not any("stage2" in line for line in told)

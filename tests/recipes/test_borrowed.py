"""The calls to a borrowed machine: they bring every part, fit through the door, and bring all results back; nothing is trained here."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.recipes.test_small_corpora import sound

from duotok.errors import ConfigError, DuoTokError
from duotok.recipes import borrowed, door
from duotok.recipes.borrowed import arguments, borrow, released, tree_bytes
from duotok.recipes.door import SHARES, Door, calls, longest, page, parse_shares, schedule
from duotok.training.kit.make import KitOptions, gather
from duotok.training.kit.plan import read_plan
from duotok.training.kit.start import unpack
from duotok.training.stages.registry import NAMES, config_class

PLAN = schedule(Door(13), 3, 8.0, 0.4, list(SHARES), SHARES)


def test_the_longest_chain_of_runs_fills_the_time() -> None:
    assert longest(SHARES) == pytest.approx(1.0)  # separator, stages 2 to 4, adapt
    chain = ("separator", "stage2", "stage3", "stage4.vocals", "adapt")
    assert sum(PLAN.runs[run] for run in chain) == pytest.approx(PLAN.training, abs=0.03)
    assert PLAN.there + PLAN.setup + PLAN.training + PLAN.back == pytest.approx(13)
    for early, late in (("autoencoder", "stage4.vocals"), ("adversarial", "adapt")):  # these hold nothing up
        waits = PLAN.runs["autoencoder"] + (PLAN.runs["adversarial"] if early == "adversarial" else 0)
        begins = sum(PLAN.runs[run] for run in chain[: chain.index(late)])
        assert waits <= begins + 0.03
    two = schedule(Door(13), 3, 8.0, 0.4, ["stage2", "stage3"], SHARES)
    assert sum(two.runs.values()) == pytest.approx(two.training, abs=0.03)
    longer = schedule(Door(13), 3, 8.0, 0.4, ["stage2", "stage3"], parse_shares(["stage3=0.28"]))
    assert longer.runs["stage3"] == longer.runs["stage2"]
    with pytest.raises(ConfigError, match=r"--minutes 5: .* leave none to train; take fewer --parts"):
        schedule(Door(5), 3, 8.0, 0.4, ["stage2"], SHARES)
    for text in ("stage9=1", "stage2", "stage2=0", "stage2=x"):
        with pytest.raises(ConfigError, match=rf"--share {text}: write RUN=NUMBER"):
            parse_shares([text])


def made(machine: Door, parts: Sequence[str] = ("part-001", "part-002"), **options: Any) -> list[door.Call]:
    return calls(machine, PLAN, "b o/kit", parts, "mine", options.pop("bundle", []), **options)


def test_each_call_fits_through_the_door() -> None:
    machine = Door(13, limit=4)
    both = made(machine, unpack="mini")
    brought = [path for call in both for path in call.bring]
    assert brought == [f"b o/kit/{name}" for name in ("run.py", "PARTS.json", "README.md", "part-001", "part-002")]
    assert all(len(call.command) <= machine.length for call in both)
    waits = [int(count) / 60 for call in both for count in re.findall(r"date \+%s\)\+(\d+)", call.command)]
    assert len(waits) == 3 and all(0 < minutes <= machine.limit - 0.5 for minutes in waits)
    assert "bundle --unpack mini" in both[1].command and "bundle --unpack" not in made(machine)[1].command
    assert not any("duotok bundle" in call.command for call in made(machine, bundle=None))
    some = made(borrowed.door_of(options("--stages", "stage2,stage4", "--back-runs", "stage2,stage4.vocals")))
    assert [call.command.count("--stages stage2,stage4.vocals;") for call in some[2:4]] == [1, 0]
    with pytest.raises(ConfigError, match=r"its command has \d+ characters, over 300; choose shorter names"):
        made(Door(13, length=300))
    told = page(machine, PLAN, both, ["src/big"], "b", ["duotok kit join b/back"])
    assert all(call.command in told for call in both)
    assert "git sparse-checkout set --no-cone '/*' '!/src/big/'" in told and "git sparse-checkout disable" in told


RUN = """
import pathlib, sys, time
words, back = sys.argv[3:], pathlib.Path("back")
if "--workers" in words:
    pathlib.Path("out/work/shards").mkdir(parents=True, exist_ok=True)
    for name in ("manifest.parquet", "shards.json"):
        pathlib.Path("out/work/shards", name).write_text(name)
    time.sleep(SECONDS)
    pathlib.Path("trained").write_text(" ".join(words))
if "--collect" in words:
    back.mkdir()
    for number in range(1, 6):
        (back / f"results.{number:03d}").write_text(str(number))
    (back / "results.json").write_text("{}")
if "bundle" in words:
    pathlib.Path("out/bundle").mkdir()
    pathlib.Path("out/bundle/weights").write_bytes(bytes(range(256)) * 100)
"""


class Machine:
    """A folder that has nothing but what the calls bring, where bash runs their commands. The kit is a stub."""

    def __init__(self, folder: Path, training: float) -> None:
        self.here, self.machine, self.back, self.number = folder / "here", folder / "machine", folder / "back", 0
        for path in (self.here / "b o" / "kit", self.machine, self.back):
            path.mkdir(parents=True)
        for name in ("PARTS.json", "README.md", "part-001", "part-002"):
            (self.here / "b o" / "kit" / name).write_text(name)
        (self.here / "b o" / "kit" / "run.py").write_text(RUN.replace("SECONDS", str(training)))

    def play(self, call: door.Call) -> str:
        """Returns what it prints; what is in its outbox goes to `back`."""
        for path in call.bring:
            (self.machine / path).parent.mkdir(parents=True, exist_ok=True)
            (self.machine / path).write_bytes((self.here / path).read_bytes())
        self.number += 1
        outbox = self.back.with_name(f"out-{self.number}")
        outbox.mkdir()
        done = subprocess.run(
            ["bash", "-c", call.command], cwd=self.machine, env={**os.environ, "OUT": str(outbox)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        came = list(outbox.iterdir())
        assert len(came) <= 8 and sum(path.stat().st_size for path in came) <= 31_000
        for path in came:
            (self.back / path.name).write_bytes(path.read_bytes())
        return done.stdout


def small_door(there: Path) -> Door:
    return Door(
        13, limit=0.5, there=str(there), python=shlex.quote(sys.executable), piece=10_000, back=30_000, calls_back=2
    )  # fmt: skip


def test_the_training_outlives_its_call_and_everything_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "POLL", 0.1)
    there, machine = tmp_path / "there", Machine(tmp_path, training=1.0)
    *_, start, pack, more, last, again = made(small_door(there))
    for call in made(small_door(there))[:2]:
        machine.play(call)
    assert not (there / "trained").exists()  # the call is over, the training is not
    while "NOT OVER" in (told := machine.play(pack)):
        assert "another" not in told and not (there / "back").exists()
        time.sleep(0.1)
    assert "--workers 14 --parallel 8" in (there / "trained").read_text() and "pieces 1 to 3 of 9" in told
    assert "pieces 4 to 6 of 9" in machine.play(more) and "pieces 7 to 9 of 9" in machine.play(last)
    back = machine.back
    assert {path.name for path in back.glob("results.0*")} == {f"results.{n:03d}" for n in range(1, 6)}
    with subprocess.Popen(["cat", *sorted(back.glob("bundle.tar.*"))], stdout=subprocess.PIPE) as tar:
        subprocess.run(["tar", "-x", "-C", back], stdin=tar.stdout, check=True)
    assert (back / "bundle" / "weights").read_bytes() == bytes(range(256)) * 100
    assert (back / "work" / "shards" / "manifest.parquet").read_text() == "manifest.parquet"
    (there / "trained").unlink()
    machine.play(again)  # it trains once more, from what is there
    while not (there / "trained").exists():
        time.sleep(0.05)
    assert start.bring == ("b o/kit/part-002",)


def test_at_the_end_of_the_time_what_still_trains_is_ended_and_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "POLL", 0.1)
    there, machine = tmp_path / "there", Machine(tmp_path, training=60.0)
    first, start, pack, *_ = made(small_door(there))
    machine.play(first), machine.play(start)
    pid = int((there / "pid").read_text())
    assert os.getsid(pid) == pid != os.getsid(0)  # so the end of a call does not end it
    assert "NOT OVER" in machine.play(pack)
    (there / "began").write_text("0")  # as if that time had gone by
    told = machine.play(pack)
    assert "NOT OVER" not in told and "pieces 1 to 3 of" in told and not (there / "trained").exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with a large folder, a small file and some music beside it."""
    top = tmp_path / "checkout"
    (top / "large").mkdir(parents=True)
    (top / "large" / "weights").write_bytes(bytes(5 << 20))
    (top / "new").write_bytes(bytes(1000))
    (top / ".gitignore").write_text("/b/\n/ignored/\n")
    (top / "ignored").mkdir()
    (top / "ignored" / "x").write_bytes(bytes(1 << 20))
    subprocess.run("git init -q; git add large", shell=True, cwd=top, check=True)
    for number in range(6):
        sound(tmp_path / "music" / f"{number}.wav", 3.0)
    monkeypatch.chdir(top)
    return top


def options(*words: str) -> argparse.Namespace:
    usual = ["-o", "b", "--minutes", "30", "--no-wheels", "--call-size", "7MiB", "--stages", "stage1"]
    return arguments().parse_args([*usual, *words])


MUSIC = ("--audio", "../music", "--corpus-set", "folder.kind=instrumental")


def test_everything_is_prepared_in_parts_that_fit(checkout: Path) -> None:
    text = borrow(options(*MUSIC, "--hide", "large", "--train-set", "batch_size=3"))
    assert text == (checkout / "b" / "calls.md").read_text()
    parts = sorted((checkout / "b" / "kit").glob("part-*"))
    assert 1 <= len(parts) <= 3 and text.count("bring:") == len(parts) + 1 + 3 + 1
    small = sum(path.stat().st_size for path in (checkout / "b" / "kit").iterdir() if path not in parts)
    tree = tree_bytes(checkout, ["large"])
    assert tree == 1000 + len("/b/\n/ignored/\n") and tree_bytes(checkout, []) == tree + (5 << 20)
    assert all(tree + small + path.stat().st_size <= 7 << 20 for path in parts)
    unpack(parts, checkout / "b" / "joined")
    plan = read_plan(checkout / "b" / "joined")
    assert [(t.run, t.overrides) for t in plan.trainings] == [("stage1", ("batch_size=3",))]
    assert plan.trainings[0].minutes is not None and plan.trainings[0].minutes > 10
    assert "--separator none" in " ".join(plan.prepare) and "folder:folder={kit}/audio/folder" in plan.prepare
    assert len(list((checkout / "b" / "joined" / "audio").rglob("*.opus"))) >= 4
    (checkout / "b" / "joined").rename(checkout / "ignored" / "joined")
    assert borrow(options(*MUSIC, "--hide", "large")).count("Call") == text.count("Call")  # again: it goes on


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--audio and --songs: neither is given"),
        ((*MUSIC, "-o", "c"), r"-o c: git does not ignore it, .*: echo /c/ >> "),
        ((*MUSIC, "-o", "../b"), r"-o \.\./b: outside of .*checkout"),
        ((*MUSIC, "-o", "large"), r"large/weights: was not made by this command"),
        ((*MUSIC, "--hide", "lorge"), r"--hide lorge: no such folder in"),
        ((*MUSIC, "--call-size", "6MiB"), r"--parts 3 of --call-size 6MiB: nothing is left for sound \(work tree 5\.0 MiB"),
        ((*MUSIC, "--back-runs", "stage2"), r"--back-runs stage2: it is not trained; --stages has stage1"),
        ((*MUSIC, "--stages", "stage9"), r"--stages stage9: there are"),
        ((*MUSIC, "--stages", "stage2", "--hide", "large"), r"stage2 needs stage1: name it before in --stages"),
        ((*MUSIC, "--hide", "large", "--minutes", "1.5"), r"--minutes 1.5: .* leave none to train"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(checkout: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(DuoTokError, match=message):
        borrow(options(*words))
    assert not (checkout / "b" / "kit").exists() and (checkout / "large" / "weights").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--minutes", "nan"), "--minutes nan: give a number above 0"),
        (("--hour-minutes", "-1"), "--hour-minutes -1: give a number, 0 or more"),
        (("--kbps", "0"), "--kbps 0: give a number above 0"),
        (("--songs", "-1"), "--songs -1: give 0 or more"),
        (("--parts", "0"), "--parts 0: give 1 or more"),
        (("--stages", ","), "--stages ',': names no run"),
        (("--call-size", "nope"), "size 'nope'"),
        (("--audio", "nowhere"), "--audio nowhere: no such folder"),
        (("--audio", "."), "--audio .: b lies in it, whose songs would be taken for yours; name another -o"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_songs_are_made(
    checkout: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duotok.songs.generate_many", lambda *_, **__: pytest.fail("songs were made"))
    with pytest.raises((ConfigError, ValueError), match=message):
        borrow(options("--songs", "1", *words))
    assert not (checkout / "b").exists()


@pytest.mark.parametrize(
    ("stages", "named", "bundle"),
    [
        (
            ["stage4.vocals", "stage4.accompaniment"],
            {
                "stage4.vocals.start_from=stage4.vocals", "stage4.vocals.tokenizer_from=stage3",
                "stage4.vocals.autoencoder_from=autoencoder", "stage4.accompaniment.start_from=stage4.accompaniment",
                "stage4.accompaniment.tokenizer_from=stage3", "stage4.accompaniment.autoencoder_from=autoencoder",
            },
            ["--set", "separator_from={out}/released/separator"],
        ),
        (["stage2", "stage3"], {"stage2.start_from=stage2"}, None),
        (["stage3"], {"stage3.start_from=stage2"}, None),
        (["adversarial"], {"adversarial.start_from=autoencoder"}, None),
    ],
)  # fmt: skip
def test_released_weights_are_where_the_runs_start(
    tmp_path: Path, stages: list[str], named: set[str], bundle: list[str] | None
) -> None:
    configs, overrides, words = released(options("--released", "mini"), stages, tmp_path)
    assert {text.replace("{out}/released/", "") for text in overrides} == named and words == bundle
    chosen = KitOptions(stages=stages, configs=configs, overrides=overrides, songs=1, separator="none", bundle=True)
    items, plan = gather(chosen, config_class, NAMES)
    assert [t.run for t in plan.trainings] == stages
    config = next(item.source for item in items if item.name == f"configs/{stages[0]}.yaml")
    values = yaml.safe_load(str(config))
    assert values["precision"] == "bf16"  # of the recipe; the sizes are the bundle's
    assert values["dit"]["width"] == 352 if "dit" in values else values["model"]


def test_without_released_weights_a_bundle_needs_all_of_its_runs(tmp_path: Path) -> None:
    everything = ["separator", "autoencoder", "stage4.vocals", "stage4.accompaniment"]
    assert released(options(), everything, tmp_path)[1:] == ([], [])
    assert released(options(), [*everything, "adversarial"], tmp_path)[2] == ["--set", "autoencoder_from=adversarial"]
    assert released(options(), everything[1:], tmp_path)[2] is None
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["borrowed", "-o", "b", "--minutes", "9"])
    assert borrowed.main() == 1
    assert capsys.readouterr().err == (
        "error: --audio and --songs: neither is given; name folders of audio, or how many songs to generate\n"
    )
    assert all(run in arguments().format_help() for run in SHARES)


def test_pieces_from_the_hundredth_on_come_back_too(tmp_path: Path) -> None:
    """They were not in the list of pieces, so no call brought them."""
    names = ["results.099", "results.100", "results.1000"]
    for folder, files in (("back", [*names, "results.json"]), (".", ["run.log"]), ("outbox", [])):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in files:
            (tmp_path / folder / name).touch()
    told = subprocess.run(["sh", "-c", door._take(Door(minutes=10, outbox="outbox"), 1)], cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert told.stdout.split() == ["pieces", "1", "to", "4", "of", "3"]
    assert {path.name for path in (tmp_path / "outbox").iterdir()} == {*names, "results.json", "run.log"}

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.test_scan import RATE, put, tone
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.data.corpus_figures import failures
from duotok.shards.store import ShardStore

RUNNER = CliRunner()


def duotok(*arguments: object, code: int = 0) -> Any:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def words(first: float, count: int) -> str:
    """An LRC file of lines that are sung while `voice` sings."""
    times = [first + 4.0 * n for n in range(count)]
    return "".join(f"[{int(t // 60):02d}:{t % 60:05.2f}]la la number {n}\n" for n, t in enumerate(times))


def voice(seconds: float, seed: int) -> np.ndarray:
    """Sings 3 s, breathes 1 s."""
    sound = tone(seconds, 1, 0.4, seed)
    sound[(np.arange(len(sound)) / RATE) % 4 > 3] = 0
    return sound


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs with true stems (and lyrics), mixes nobody separated, a broken file."""
    folder = tmp_path_factory.mktemp("music")
    for n in range(2):
        put(folder / f"duet{n}" / "vocals.flac", voice(16, n))
        put(folder / f"duet{n}" / "accompaniment.flac", tone(16, 2, 0.1, 10 + n))
        (folder / f"duet{n}.lrc").write_text(words(0.0, 4))
    for n in range(6):
        put(folder / f"mix{n}.flac", tone(11 + n, 2, seed=20 + n))
    (folder / "broken.flac").write_bytes((folder / "mix0.flac").read_bytes()[:9000])
    return folder


def hashes(work: Path) -> dict[str, str]:
    found = [*(work / "shards").iterdir(), work / "recordings.parquet", work / "segments.parquet"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}


def run(tree: Path, work: Path, *more: object) -> Any:
    options = ("--separator", "none", "--shard-segments", 4, "--workers", 1, *more)
    return duotok("data", "prepare", "--corpus", f"folder={tree}", "--work", work, *options)


@pytest.fixture(scope="module")
def prepared(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("prepared") / "work"
    run(tree, work)
    return work


def test_all_steps(prepared: Path) -> None:
    assert (prepared / "report" / "index.html").stat().st_size > 10_000
    store = ShardStore(prepared / "shards")
    segments = [stored.segment for stored in store.segments]
    assert len({s.recording for s in segments}) == 8  # the broken one is not among them
    sung = [s for s in segments if "duet" in s.recording]
    assert sung and all(s.text.startswith("la la number") and s.activity == "lyrics" for s in sung)
    assert {s.stems for s in sung} == {("vocals", "accompaniment")}
    assert all(5 <= s.seconds <= 30 for s in segments)
    ledger = [json.loads(line) for line in (prepared / "ledger" / "scan.jsonl").read_text().splitlines()]
    (failed,) = (row for row in ledger if not row["ok"])
    assert "broken.flac" in failed["error"]


def test_it_says_what_it_did(tree: Path, tmp_path: Path) -> None:
    result = run(tree, tmp_path / "work")
    told = [line.split()[0] for line in result.stdout.splitlines() if "done" in line and line[0] != "f"]
    assert told == ["catalog", "transcribe", "scan", "segment", "shard", "report"]
    assert "broken.flac" in result.output and "1 failed" in result.output
    again = json.loads(run(tree, tmp_path / "work", "--json").stdout)
    assert again["scan"]["kept"] == 8 and again["shard"]["kept"] == again["shard"]["done"]
    assert len(again["scan"]["failures"]) == 1


def test_lyrics_that_came_to_nothing_are_told(tree: Path, tmp_path: Path) -> None:
    """Text without times fits no segment of a song of several: said by the command, and on the page of the report."""
    put(tmp_path / "songs" / "ballad.flac", tone(40, 2, seed=3))
    (tmp_path / "songs" / "ballad.txt").write_text("la la\nla la la\n")
    for name in ("duet0", "duet1"):
        (tmp_path / "songs" / name).symlink_to(tree / name)
        (tmp_path / "songs" / f"{name}.lrc").write_bytes((tree / f"{name}.lrc").read_bytes())
    result = run(tmp_path / "songs", tmp_path / "work", "--set", "folder.symlinks=follow")
    assert ", 2 with words" in result.stdout
    assert "warning: lyrics of 1 recordings are left out" in result.stderr and "LRC" in result.stderr
    (lost,) = (found for found in failures(tmp_path / "work") if found.step == "segment")
    assert lost.units == ("folder/ballad",) and lost.reason.startswith("lyrics left out")


def test_steps_one_by_one_give_the_same(tree: Path, prepared: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    duotok("data", "catalog", "--corpus", f"folder={tree}", "--work", work)
    duotok("data", "transcribe", "--work", work)
    duotok("data", "scan", "--work", work, "--workers", 1)
    duotok("data", "segment", "--work", work)
    duotok("data", "shard", "--work", work, "--workers", 2, "--shard-segments", 4)
    assert hashes(work) == hashes(prepared)
    assert "as it was written" in duotok("data", "check", "--work", work, "--workers", 1).output


def test_seeds(tree: Path, prepared: Path, tmp_path: Path) -> None:
    run(tree, tmp_path / "work", "--seed", 1)
    same = {name for name, value in hashes(tmp_path / "work").items() if hashes(prepared)[name] == value}
    assert {"recordings.parquet", "segments.parquet"} <= same and "train-000000.tar" not in same


def test_separated_stems_come_into_the_shards(tree: Path, tmp_path: Path) -> None:
    for name in ("mix0.flac", "mix1.flac"):
        (tmp_path / "music").mkdir(exist_ok=True)
        shutil.copy(tree / name, tmp_path / "music")
    work = tmp_path / "work"
    options = ("--corpus", f"folder={tmp_path / 'music'}", "--work", work, "--workers", 1)
    steps = json.loads(duotok("data", "prepare", *options, "--json").stdout)
    assert steps["separate"]["done"] == 2
    assert {s.segment.stems for s in ShardStore(work / "shards").segments} == {("vocals", "accompaniment")}
    before = hashes(work)
    steps = json.loads(duotok("data", "prepare", *options, "--json").stdout)
    assert steps["separate"]["kept"] == 2 and hashes(work) == before
    # Without a separator these stems are still used, which is said, until they are removed.
    said = "warning: stems of 2 recordings were separated earlier and are used"
    assert said in duotok("data", "prepare", *options, "--separator", "none").stderr
    shutil.rmtree(work / "stems")
    assert said not in duotok("data", "prepare", *options, "--separator", "none").stderr
    assert {s.segment.stems for s in ShardStore(work / "shards").segments} == {("mix",)}


def test_dry_run_writes_nothing(tree: Path, tmp_path: Path) -> None:
    result = json.loads(run(tree, tmp_path / "work", "--dry-run", "--json").stdout)
    assert result["catalog"]["recordings"] == 9 and result["scan"] == {"to do": 9, "kept": 0, "failed": 0}
    assert not (tmp_path / "work").exists()
    duotok("data", "catalog", "--corpus", f"folder={tree}", "--work", tmp_path / "work")
    before = sorted((tmp_path / "work").rglob("*"))
    assert "to do: 9" in duotok("data", "scan", "--work", tmp_path / "work", "--dry-run").output
    assert sorted((tmp_path / "work").rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("scan",), "no such table"),
        (("shard",), "no such table"),
        (("check",), "no shards there"),
        (("prepare",), "name a corpus"),
        (("prepare", "--corpus", "folder=/nowhere/at/all"), "/nowhere/at/all"),
        (("prepare", "--corpus", "nothing=/tmp"), "nothing"),
        (("prepare", "--corpus", "folder=/tmp", "--engine", "spark"), "local or ray"),
        (("prepare", "--corpus", "folder=/tmp", "--separator", "demux"), "demucs"),
        (("prepare", "--corpus", "folder=/tmp", "--transcriber", "whisperx"), "--python"),
        (("prepare", "--corpus", "folder=/tmp", "--python", "whisper=/x"), "TOOL=PATH"),
        (("prepare", "--corpus", "folder=/tmp", "--segment", "max_second=3"), "max_seconds"),
        (("scan", "--address", "auto"), "--engine ray"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    result = duotok("data", *arguments, "--work", tmp_path / "work", code=1)
    (line,) = (line for line in result.output.splitlines() if line.startswith("error:"))
    assert told in line and "Traceback" not in result.output


def test_check_tells_what_is_damaged(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "shards", tmp_path / "shards")
    path = tmp_path / "shards" / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(bytes(data))
    result = duotok("data", "check", "--shards", tmp_path / "shards", "--workers", 1, code=1)
    assert "train-000000.tar" in result.output and "problems" in result.output
    found = duotok("data", "check", "--shards", tmp_path / "shards", "--workers", 1, "--json", code=1).output
    assert '"problems": [' in found
    assert "--shards" in duotok("data", "check", code=1).output


def test_every_command_has_an_example() -> None:
    listed = duotok("data", "--help").output
    for command in ("prepare", "scan", "shard", "check"):
        assert command in listed
        assert f"duotok data {command} --" in duotok("data", command, "--help").output

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from duotok.data import jobs
from duotok.data.engines import answer_all, name_of, no_space
from duotok.data.jobs import JobError, LocalEngine, RayEngine, Unit, atomic_write, read_ledger, run_units
from duotok.errors import AudioError, ConfigError, DuoTokError, MissingExtraError


def work(payload: dict[str, Any]) -> dict[str, Any]:
    """What the units of these tests do: append to a file (so that runs can be counted), then what `do` says."""
    with open(payload["log"], "a") as log:
        log.write(f"{payload['n']}\n")
    match payload.get("do"):
        case "bad":
            raise AudioError(f"song {payload['n']} is\nbroken")
        case "gone":
            raise FileNotFoundError(errno.ENOENT, "No such file", "song.wav")
        case "bug":
            raise KeyError("colour")
        case "nan":
            return {"value": float("nan")}
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", "x.tar")
        case "full, in other words":
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                raise AudioError("x.flac: cannot be written") from None
        case "extra":
            raise MissingExtraError("needs demucs; pip install 'duotok[demucs]'")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "print":
            print("a library talks")
            os.system("echo from C")
        case "sleep":
            time.sleep(0.2)
    return {"square": payload["n"] ** 2, "pid": os.getpid()}


def units(log: Path, count: int = 6, **do: str) -> list[Unit]:
    """`do` by number: n2="bad" lets the third unit fail."""
    return [Unit(f"u{n}", {"n": n, "log": str(log), "do": do.get(f"n{n}", "")}) for n in range(count)]


def runs(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "work" / "ledger" / "step.jsonl"


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_once_in_order_of_the_units(workers: int, log: Path, ledger: Path) -> None:
    results = run_units(work, units(log), ledger, LocalEngine(workers), "squares")
    assert list(results.done) == [f"u{n}" for n in range(6)] and not results.failed and results.kept == 0
    assert [value["square"] for value in results.done.values()] == [0, 1, 4, 9, 16, 25]
    assert runs(log) == list(range(6))
    again = run_units(work, units(log), ledger, LocalEngine(workers), "squares")
    assert again.done == results.done and again.kept == 6 and runs(log) == list(range(6))
    mine = {value["pid"] for value in results.done.values()} == {os.getpid()}
    assert mine == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_unit_is_told_and_stops_nothing(workers: int, log: Path, ledger: Path) -> None:
    some = units(log, n1="bad", n2="gone", n3="bug", n4="nan")
    results = run_units(work, some, ledger, LocalEngine(workers), "squares")
    assert list(results.done) == ["u0", "u5"]
    assert results.failed["u1"] == "song 1 is broken"
    assert results.failed["u2"] == "song.wav: No such file"
    assert results.failed["u3"].startswith("unexpected KeyError at test_jobs.py:")
    assert "unexpected ValueError" in results.failed["u4"]
    assert {key: entry.error for key, entry in read_ledger(ledger).items() if entry.error} == results.failed
    run_units(work, some, ledger, LocalEngine(workers), "squares")
    assert runs(log) == list(range(6))  # failed units wait for retry
    healed = run_units(work, units(log, n3="bug", n4="nan"), ledger, LocalEngine(workers), "squares")
    assert list(healed.failed) == ["u3", "u4"]  # another payload is other work, tried without being asked
    run_units(work, some, ledger, LocalEngine(workers), "squares", retry=True)
    assert runs(log).count(3) == 2


def test_changed_or_lost_work_is_done_again(log: Path, ledger: Path) -> None:
    run_units(work, units(log, 3), ledger, LocalEngine(1), "squares")
    changed = [Unit("u0", {**units(log, 1)[0].payload, "n": 7}), *units(log, 3)[1:]]
    results = run_units(work, changed, ledger, LocalEngine(1), "squares")
    assert results.done["u0"]["square"] == 49 and runs(log) == [0, 1, 2, 7]
    run_units(work, changed, ledger, LocalEngine(1), "squares", intact=lambda unit, result: unit.id != "u2")
    assert runs(log) == [0, 1, 2, 2, 7]


@pytest.mark.parametrize(
    ("do", "words"), [("full", "No space left"), ("full, in other words", "x.flac"), ("extra", "pip")]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_no_unit_can_mend_stops_the_job(do: str, words: str, workers: int, log: Path, ledger: Path) -> None:
    with pytest.raises(JobError, match=words):
        run_units(work, units(log, n0=do), ledger, LocalEngine(workers), "squares")
    assert "u0" not in read_ledger(ledger)
    assert len(run_units(work, units(log), ledger, LocalEngine(1), "squares").done) == 6


@pytest.mark.parametrize(("do", "words", "workers"), [("die", "memory", 2), ("crash", "SIGSEGV", 1)])
def test_a_killed_worker_costs_its_unit_only(do: str, words: str, workers: int, log: Path, ledger: Path) -> None:
    """Also a single one, if it is a process of its own."""
    results = run_units(work, units(log, n2=do, n4=do), ledger, LocalEngine(workers, apart=True), "squares")
    assert list(results.done) == ["u0", "u1", "u3", "u5"] and words in results.failed["u2"]


def test_a_log_without_a_terminal_shows_that_a_long_job_is_alive(
    log: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_units(work, units(log, 3), ledger, LocalEngine(), "squares")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(jobs, "LINE_SECONDS", 0.0)
    ledger.unlink()
    run_units(work, units(log, 3), ledger, LocalEngine(), "squares")
    assert capsys.readouterr().err.splitlines() == [f"squares: {n} of 3" for n in (1, 2, 3)]


def test_workers_may_print(log: Path, ledger: Path) -> None:
    assert len(run_units(work, units(log, n2="print", n3="print"), ledger, LocalEngine(2), "squares").done) == 6


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_ledger_line_is_done_again(cut: int, log: Path, ledger: Path) -> None:
    run_units(work, units(log, 3), ledger, LocalEngine(1), "squares")
    ledger.write_bytes(ledger.read_bytes()[:-cut])
    results = run_units(work, units(log, 3), ledger, LocalEngine(1), "squares")
    assert len(results.done) == 3
    assert runs(log) == ([0, 1, 2, 2] if cut > 1 else [0, 1, 2])
    assert len(read_ledger(ledger)) == 3


def test_ledger_lines_are_as_documented(log: Path, ledger: Path) -> None:
    run_units(work, units(log, 2, n1="bad"), ledger, LocalEngine(1), "squares")
    good, bad = (json.loads(line) for line in ledger.read_text().splitlines())
    assert good.keys() == {"unit", "stamp", "ok", "result"} and bad.keys() == {"unit", "stamp", "ok", "error"}
    assert good["stamp"] == units(log, 2)[0].stamp and len(good["stamp"]) == 64


def test_ledger_on_a_full_disk(log: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.parent.mkdir(parents=True)
    ledger.symlink_to("/dev/full")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    monkeypatch.setattr(jobs, "read_ledger", lambda path: {})
    with pytest.raises(JobError, match="No space left"):
        run_units(work, units(log, 2), ledger, LocalEngine(1), "squares")


def test_one_run_at_a_time(log: Path, ledger: Path) -> None:
    pytest.importorskip("fcntl")
    with jobs._opened(ledger), pytest.raises(JobError, match="another run"):
        run_units(work, units(log, 2), ledger, LocalEngine(1), "squares")


def test_two_units_of_one_name(log: Path, ledger: Path) -> None:
    with pytest.raises(JobError, match="u1"):
        run_units(work, [*units(log, 2), units(log, 2)[1]], ledger, LocalEngine(1), "squares")


def test_interrupted_in_the_middle_keeps_what_is_done(log: Path, ledger: Path) -> None:
    class Interrupting(LocalEngine):
        def map(self, function: Any, payloads: Any) -> Any:
            for n, answer in enumerate(super().map(function, payloads)):
                if n == 3:
                    raise KeyboardInterrupt
                yield answer

    with pytest.raises(KeyboardInterrupt):
        run_units(work, units(log), ledger, Interrupting(2), "squares")
    assert len(read_ledger(ledger)) == 3
    assert len(run_units(work, units(log), ledger, LocalEngine(1), "squares").done) == 6


def test_workers_leave_when_the_job_is_killed(log: Path, ledger: Path) -> None:
    """SIGKILL leaves no orphans: the workers' input ends, and so do they."""
    code = f"""
from pathlib import Path
from tests.data.test_jobs import *
slow = {{f"n{{n}}": "sleep" for n in range(50)}}
run_units(work, units(Path({str(log)!r}), 50, **slow), Path({str(ledger)!r}), LocalEngine(2), "squares")
"""
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}
    job = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=root, stderr=subprocess.PIPE)
    while len(read_ledger(ledger)) < 2:
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.02)
    pids = {entry.result["pid"] for entry in read_ledger(ledger).values() if entry.result}
    assert pids and job.pid not in pids
    job.kill()
    job.communicate(timeout=300)  # ends when nobody can say anything any more: with the last of its workers
    finished = len(read_ledger(ledger))
    assert 2 <= finished < 50
    results = run_units(work, units(log, 3, n0="sleep", n1="sleep", n2="sleep"), ledger, LocalEngine(1), "squares")
    assert results.kept >= 2


@pytest.mark.parametrize("read", [False, True])
def test_a_worker_whose_driver_is_killed_says_nothing(read: bool) -> None:
    """It had ended in a traceback: nobody was there any more who could be told."""
    mine, theirs = multiprocessing.Pipe()
    mine.send_bytes(b"{}")

    def work(payload: dict[str, Any]) -> dict[str, Any]:
        if read:
            mine.close()
        return payload

    if not read:
        theirs.send_bytes(b"{}")  # waits on the other side, which is closed without reading it
        mine.close()
    answer_all(work, theirs)
    assert mine.closed


def test_functions_must_be_importable() -> None:
    with pytest.raises(ValueError, match="module-level"):
        name_of(lambda payload: payload)
    assert name_of(work).endswith("test_jobs:work")


def test_engine_options() -> None:
    assert isinstance(jobs.engine("local", 2), LocalEngine) and isinstance(jobs.engine("ray", 2, "auto"), RayEngine)
    for name, workers, address in (("spark", 1, None), ("local", 1, "auto"), ("local", 0, None)):
        with pytest.raises(ConfigError):
            jobs.engine(name, workers, address)


def test_no_cluster_at_the_address(log: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is not even asked, as it would try for many minutes."""
    ray, asked = pytest.importorskip("ray"), []
    monkeypatch.setattr(ray, "init", lambda **given: asked.append(given))
    with pytest.raises(JobError, match=r"--address 127\.0\.0\.1:1: no Ray cluster there"):
        run_units(work, units(log, 2), ledger, RayEngine("127.0.0.1:1"), "squares")
    assert asked == [] == runs(log)


def test_atomic_write(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "deep" / "a.bin") as file:
        file.write(b"whole")
    with pytest.raises(DuoTokError), atomic_write(tmp_path / "deep" / "a.bin") as file:
        file.write(b"half")
        raise DuoTokError("stopped")
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "deep" / "b.bin") as file:
        raise OSError(errno.ENOSPC, "full")
    assert no_space(caught.value) and str(caught.value.filename).endswith("b.bin")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "deep").iterdir()] == [("a.bin", b"whole")]
    (tmp_path / ".a.tar.99.partial").touch()
    (tmp_path / "a.tar").touch()
    jobs.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "deep"]


def test_a_sweep_spares_what_another_run_is_writing(tmp_path: Path) -> None:
    new, old, whole = tmp_path / ".new.partial", tmp_path / ".old.partial", tmp_path / "old.wav"
    for path in (new, old, whole):
        path.write_bytes(b"half")
    for path in (old, whole):
        os.utime(path, (0, 0))
    jobs.sweep(tmp_path, older=3600.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".new.partial", "old.wav"]
    jobs.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["old.wav"]


def test_a_worker_that_cannot_be_started_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As under a limit of processes (ulimit -u)."""

    def start(self: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", start)
    with pytest.raises(JobError, match=r"a worker process cannot be started .*Resource temporarily.* fewer --workers"):
        run_units(work, units(tmp_path / "log", 4), tmp_path / "ledger.jsonl", LocalEngine(2), "test")
    assert "Traceback" not in capfd.readouterr().err

"""Killed with -9, a command leaves no process behind: its workers go, and what they had started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from duotok.pool import WorkerDied, pool, result_of

PATIENCE = 300.0  # seconds until a hang is called one; nothing waits longer than it must

POOL = """
import time
from duotok.pool import WorkerDied, pool, result_of
if __name__ == "__main__":
    with pool(2) as processes:
        list(processes.map(time.sleep, [600, 600]))
"""
DERIVED = """
import sys, time
from pathlib import Path
from duotok.shards.deriving import derive
from duotok.shards.store import ShardStore
from tests.test_pool import slowly
if __name__ == "__main__":
    store = ShardStore(Path(sys.argv[1]) / "shards", Path(sys.argv[1]) / "slow")
    derive(store, "levels", slowly, tracks=("vocals",), made_by="test", workers=2)
"""


def slowly(index: int, track: str) -> object:
    time.sleep(600)
    raise AssertionError("it was to be killed")


def processes(mark: str) -> list[int]:
    """Processes that live and have this mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if mark.encode() in (folder / "environ").read_bytes() and state != "Z":
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def killed(command: list[str], least: int) -> list[int]:
    """Start a command, kill it once `least` processes are at work, and tell who is left after a while."""
    mark = f"DUOTOK_TEST_MARK={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    started = subprocess.Popen(
        command, env={**os.environ, name: value}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert until(lambda: len(processes(mark)) >= least), f"only {len(processes(mark))} processes"
        started.send_signal(signal.SIGKILL)
        started.wait()
        until(lambda: not processes(mark))
        return processes(mark)
    finally:
        for left in processes(mark):
            os.kill(left, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("name", ["pool", "derived arrays", "songs"])
def test_nobody_is_left_after_a_kill(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name == "songs":
        pytest.importorskip("espeakng_loader")
        command = ["-m", "duotok", "songs", "-n", "40", "-o", str(tmp_path / "songs"), "--workers", "2"]
        least = 6  # the command, what Python starts for its workers (two), the workers, and their speech
    else:
        script = tmp_path / "script.py"
        script.write_text(POOL if name == "pool" else DERIVED)
        command, least = [str(script)], 5
        if name == "derived arrays":
            from tests.shards.shard_maker import make_shards, small_songs

            make_shards(tmp_path / "shards", small_songs(6), per_shard=2)
            command.append(str(tmp_path))
    assert killed([sys.executable, *command], least) == []


def begun(value: int) -> None:
    os.environ["BEGUN"] = str(value)


def told(_: int) -> str:
    return os.environ["BEGUN"]


def test_workers_begin_as_they_are_told_and_errors_come_back() -> None:
    with pool(1, begun, (7,)) as workers:
        assert workers.submit(told, 0).result() == "7"
        with pytest.raises(ValueError, match="invalid literal"):
            workers.submit(int, "seven").result()


def test_workers_have_the_environment_of_their_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what came and went after the server of an earlier pool had started."""
    monkeypatch.setenv("DUOTOK_TEST_OLD", "1")
    with pool(1) as workers:
        assert workers.submit(os.getenv, "DUOTOK_TEST_OLD").result() == "1"
    monkeypatch.delenv("DUOTOK_TEST_OLD")
    monkeypatch.setenv("DUOTOK_TEST_NEW", "2")
    with pool(1) as workers:
        assert workers.submit(os.getenv, "DUOTOK_TEST_OLD").result() is None
        assert workers.submit(os.getenv, "DUOTOK_TEST_NEW").result() == "2"


def torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def test_workers_take_as_many_threads_as_they_are_told() -> None:
    for threads in (1, 2):
        with pool(1, threads=threads) as workers:
            assert workers.submit(torch_threads).result() == threads


def waits_for(place: str, name: str, wanted: str) -> str:
    """Leaves its name, and ends once another has."""
    assert until((Path(place) / wanted).exists)
    (Path(place) / name).touch()
    return name


def test_results_come_as_they_end_with_the_number_of_their_task(tmp_path: Path) -> None:
    (tmp_path / "nobody").touch()
    with pool(2) as workers:
        tasks = [(str(tmp_path), "first", "second"), (str(tmp_path), "second", "nobody")]
        ended = [(number, result_of(future)) for number, future in workers.as_they_end(waits_for, tasks)]
    assert ended == [(1, "second"), (0, "first")]


def begins(place: str, number: int) -> None:
    (Path(place) / str(number)).touch()
    if number == 0:
        raise ValueError("the first fails")
    time.sleep(0.02)  # so that they cannot all be done before the error is heard


def test_after_an_error_nothing_else_begins(tmp_path: Path) -> None:
    """Beyond what the executor had handed out already: a few tasks more than it has workers."""
    with pytest.raises(ValueError, match="the first fails"), pool(1) as workers:
        for _, future in workers.as_they_end(begins, [(str(tmp_path), number) for number in range(1000)]):
            result_of(future)
    assert 0 < len(list(tmp_path.iterdir())) < 1000


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_is_an_error_for_people() -> None:
    with pytest.raises(WorkerDied, match=r"a worker process died, .*fewer --workers") as caught, pool(1) as workers:
        result_of(workers.submit(dies))
    assert "\n" not in str(caught.value)

"""The Ray engine on a cluster of this machine gives the local engine's bytes; and, on one that is played here, what it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.bulk.conftest import Run, files

from duotok.bulk import ray_engine
from duotok.bulk.encoding import encode_group
from duotok.bulk.engines import TRIES, Here, Job, Model, Result
from duotok.bulk.pipelines import pipeline
from duotok.bulk.ray_engine import RayPipeline
from duotok.codec.duotok import DuoTok
from duotok.data.engines import JobError, Outcome, function_of


def test_slow_ray_gives_the_bytes_of_the_local_engine(
    music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run
) -> None:
    ray = pytest.importorskip("ray", reason="no Ray here")
    (music / "train/bad.wav").write_bytes(b"RIFF of nothing")
    run(music, tmp_path / "local")
    engine = RayPipeline(Model(str(bundle), model.model_hash, batch_size=2), "cpu", 1, 1, 0.0)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        summary = run(music, tmp_path / "ray", pipeline=lambda scratch: engine)
        assert (summary.encoded, summary.failed) == (4, 1) and 0 < engine.times.model < engine.times.encoding
        assert files(tmp_path / "ray") == files(tmp_path / "local")
        assert run(music, tmp_path / "ray", pipeline=lambda scratch: engine).kept == 4
    finally:
        ray.shutdown()


class Lost(Exception):
    """What Ray raises."""


class Rows:
    """Ray's rows with one actor a step, in this process. `played` notes what was asked for."""

    def __init__(self, played: Played, rows: Iterable[dict[str, Any]]) -> None:
        self.played, self.rows = played, rows

    def map(self, actor: Any, compute: Any, **resources: Any) -> Rows:
        self.played.asked.append((actor.__name__, compute, resources))
        return Rows(self.played, map(actor(), self.rows))

    def map_batches(
        self, actor: Any, batch_size: int, compute: Any, fn_constructor_kwargs: dict[str, Any], **resources: Any
    ) -> Rows:
        self.played.asked.append((actor.__name__, compute, resources))
        actor = actor(**fn_constructor_kwargs)

        def batches() -> Iterator[dict[str, Any]]:
            rows = list(self.rows)
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                done = actor({key: [row[key] for row in part] for key in part[0]})
                yield from (dict(zip(done, values, strict=True)) for values in zip(*done.values(), strict=True))

        return Rows(self.played, batches())

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            if self.played.lost:
                raise Lost("a node\nis gone")
            yield row


class Played:
    """As much of the module ray as the engine uses."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, dict[str, Any]]] = []
        self.windows: list[int] = []
        self.pulled, self.lost, self.gpus = 0, False, 0.0
        self.data, self.exceptions = self, SimpleNamespace(RayError=Lost)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, **({"GPU": self.gpus} if self.gpus else {})}

    def ActorPoolStrategy(self, **sizes: int) -> dict[str, int]:
        return sizes

    def from_items(self, items: list[Any], override_num_blocks: int) -> Rows:
        assert override_num_blocks == len(items), "a song a block: no more wait for one that is slow"
        self.windows.append(self.pulled)
        return Rows(self, items)


class InProcess(Here):
    died = False

    def __init__(self, function: str) -> None:
        super().__init__(function_of(function))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    ray = Played()
    monkeypatch.setattr(ray_engine, "connected", lambda address: ray)
    monkeypatch.setattr(ray_engine, "Worker", InProcess)
    return ray


class Counted(RayPipeline):
    """Counts the songs that are taken from the listing."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        def counted() -> Iterator[Job]:
            for job in jobs:
                ray_engine.connected(None).pulled += 1
                yield job

        return super().run(counted())


def test_songs_go_to_ray_in_windows_and_no_more_are_listed_than_one_holds(
    played: Played, music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (music / "train/bad.wav").write_bytes(b"RIFF of nothing")
    run(music, tmp_path / "local")
    monkeypatch.setattr(ray_engine, "WINDOW", 2)
    engine = Counted(Model(str(bundle), model.model_hash, batch_size=2), "cpu", 3, 4, 0.0)
    summary = run(music, tmp_path / "ray", pipeline=lambda scratch: engine)
    assert (summary.encoded, summary.failed) == (4, 1) and played.windows == [2, 4, 5]
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    most = [strategy["max_size"] for _, strategy, _ in played.asked]
    assert most == [2, 2, 2, 2, 1, 1], "no more readers and actors than songs"
    assert run(music, tmp_path / "ray", pipeline=lambda scratch: engine).kept == 4
    assert len(played.windows) == 3, "nothing to do, nothing asked"


@pytest.mark.parametrize("gpus", [0.0, 4.0])
@pytest.mark.parametrize(
    ("devices", "asked"),
    [
        ("cpu", {"num_cpus": 1}),
        ("cuda", {"num_gpus": 1.0}),
        ("cuda/2", {"num_gpus": 0.5}),
        ("cuda/8", {"num_gpus": 0.125}),
    ],
)
def test_an_actor_asks_for_its_share_of_a_gpu(
    devices: str,
    asked: dict[str, float],
    gpus: float,
    played: Played,
    bundle: Path,
    model: DuoTok,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And says that it waits where no machine has one."""
    played.gpus = gpus
    engine = pipeline("ray", Model(str(bundle), model.model_hash), devices, workers=8)
    assert isinstance(engine, RayPipeline) and engine.device == devices.partition("/")[0]
    payload = {
        "sources": {"mix": ["/none.wav", "", 0, 0]},
        "marks": {},
        "highpass": 1.0,
        "separates": True,
        "scratch": "/",
    }
    assert [number for number, _ in engine.run([Job(7, "none", payload)])] == [7]
    (_, _, reading), (_, _, computing) = played.asked
    assert computing == asked and reading == {"num_cpus": 0.5}
    waits = [message for message in caplog.messages if "the cluster has no GPU now; waiting" in message]
    assert len(waits) == (devices != "cpu" and not gpus)


def test_a_cluster_that_fails_is_one_line_and_the_same_command_goes_on(
    played: Played, music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run
) -> None:
    engine = RayPipeline(Model(str(bundle), model.model_hash), "cpu", 1, 1, 0.0)
    played.lost = True
    with pytest.raises(JobError, match="Ray: a node is gone; fix the cluster, then run the same command again"):
        run(music, tmp_path / "store", pipeline=lambda scratch: engine)
    played.lost = False
    assert run(music, tmp_path / "store", pipeline=lambda scratch: engine).encoded == 4
    other = RayPipeline(Model(str(bundle), "0" * 64), "cpu", 1, 1, 0.0)
    with pytest.raises(JobError, match=r"tiny: is another model on this machine .*run the same command again"):
        run(music, tmp_path / "other", pipeline=lambda scratch: other)


def test_a_song_that_ends_the_process_of_an_actor_is_a_row_and_its_neighbours_are_done(
    played: Played, music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(music, tmp_path / "whole")
    tried: list[int] = []

    class Deadly(InProcess):
        def run(self, payload: dict[str, Any]) -> Outcome | None:
            if self.function is encode_group and any(song["name"].endswith("s1") for song in payload["songs"]):
                tried.append(len(payload["songs"]))
                return Outcome(error="its worker was killed (SIGKILL)")
            return super().run(payload)

    monkeypatch.setattr(ray_engine, "Worker", Deadly)
    engine = RayPipeline(Model(str(bundle), model.model_hash, batch_size=4), "cpu", 1, 1, 0.0)
    summary = run(music, tmp_path / "store", pipeline=lambda scratch: engine)
    assert (summary.encoded, summary.failed) == (3, 1) and tried == [4, *[1] * TRIES]
    assert "music/train/s1: its worker was killed" in (tmp_path / "store/failures.jsonl").read_text()
    monkeypatch.setattr(ray_engine, "Worker", InProcess)
    assert run(music, tmp_path / "store", pipeline=lambda scratch: engine, retry=True).encoded == 1
    assert files(tmp_path / "store") == files(tmp_path / "whole")


def test_warnings_of_actors_reach_the_driver(
    played: Played, music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Ray keeps what its processes print."""

    class Warns(InProcess):
        def run(self, payload: dict[str, Any]) -> Outcome | None:
            outcome = super().run(payload)
            assert outcome is not None
            return replace(outcome, warnings=["of a group" if "songs" in payload else "of a file"])

    monkeypatch.setattr(ray_engine, "Worker", Warns)
    engine = RayPipeline(Model(str(bundle), model.model_hash, batch_size=2), "cpu", 1, 1, 0.0)
    run(music, tmp_path / "store", pipeline=lambda scratch: engine)
    assert (caplog.messages.count("of a file"), caplog.messages.count("of a group")) == (4, 2)

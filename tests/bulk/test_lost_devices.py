"""A device that fails takes no song with it while another is left, whatever it says and whenever it fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from duotok.bulk import encoding, engines, verifying
from duotok.bulk.encoding import DeviceLost, encode_group
from duotok.bulk.engines import Job, LocalPipeline, Model
from duotok.bulk.planning import Planned
from duotok.bulk.sources import SongEntry
from duotok.data.engines import JobError

SONGS = 6


def prepare(payload: dict[str, Any]) -> dict[str, Any]:
    file = Path(payload["file"])
    file.write_bytes(b"sound")
    return {"file": str(file), "bytes": 5, "seconds": 1.0, "sha256": {}, "marks": {}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, Any]]:
    """Songs through a pipeline whose devices are functions of a group; each in a thread of this process."""

    def ran(**devices: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[int, Any]:
        monkeypatch.setattr(engines, "prepare", prepare)
        monkeypatch.setattr(engines, "encode_group", lambda payload: devices[payload["device"]](payload))
        pipeline = LocalPipeline(Model("model", "hash", batch_size=2), list(devices))
        pipeline.apart = False
        jobs = (Job(n, f"song {n}", {"file": str(tmp_path / f"{n}")}) for n in range(SONGS))
        return dict(pipeline.run(jobs))

    return ran


def group(payload: dict[str, Any], **result: Any) -> dict[str, Any]:
    return {"songs": [{"device": payload["device"], **result} for _ in payload["songs"]], "model": 0.0, "all": 0.0}


class After:
    """A device that works once another has failed so many times."""

    def __init__(self, times: int) -> None:
        self.times, self.failed = times, threading.Event()

    def good(self, payload: dict[str, Any]) -> dict[str, Any]:
        assert self.failed.wait(20)
        return group(payload)

    def bad(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.times -= 1
        if not self.times:
            self.failed.set()
        return group(payload, error="CUDA out of memory", again=True)


def test_a_song_that_a_device_cannot_do_goes_to_another(run: Callable[..., dict[int, Any]]) -> None:
    """The same device had taken it three times, and then it had failed."""
    two = After(times=1)
    results = run(bad=two.bad, good=two.good)
    assert len(results) == SONGS and all(result.get("device") == "good" for result in results.values())


def test_a_song_that_no_device_can_do_fails(run: Callable[..., dict[int, Any]], tmp_path: Path) -> None:
    results = run(one=After(0).bad, other=After(0).bad)
    assert sorted(results) == list(range(SONGS)) and results[0]["error"] == "song 0: CUDA out of memory"
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_lost_is_told_and_the_others_go_on(
    run: Callable[..., dict[int, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    gone = threading.Event()

    def lost(payload: dict[str, Any]) -> dict[str, Any]:
        gone.set()
        raise DeviceLost("lost: CUDA error: device-side assert triggered")

    def good(payload: dict[str, Any]) -> dict[str, Any]:
        assert gone.wait(20)
        return group(payload)

    results = run(lost=lost, good=good)
    assert [results[n]["device"] for n in range(SONGS)] == ["good"] * SONGS
    assert ["device-side assert triggered; its songs go to the other processes (1)" in m for m in caplog.messages] == [
        True
    ]
    with pytest.raises(JobError, match=r"no device is left: lost: CUDA error: .*; then run the same command again"):
        run(lost=lost, other=lost)


def payload_of(songs: int = 1) -> dict[str, Any]:
    rows = [{"name": f"song {n}", "kind": "mix", "file": "none"} for n in range(songs)]
    return {
        "model": "m",
        "model_hash": "h",
        "device": "cuda:1",
        "precision": "fp32",
        "batch_size": 2,
        "songs": rows,
    }


@pytest.mark.parametrize("where", ["opened", "separator"])
def test_a_model_that_finds_no_place_is_no_fault_of_songs(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Each song had got a row of its own, at the speed of the failing device."""

    def fails(*given: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    codec = type("Codec", (), {"model_hash": "h", "separator": property(fails)})()
    monkeypatch.setattr(encoding, "opened", fails if where == "opened" else lambda *given: codec)
    with pytest.raises(DeviceLost, match=r"^cuda:1: the model cannot be loaded .*out of memory"):
        encode_group(payload_of())


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("text", ["cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "cuFFT error: CUFFT_INTERNAL_ERROR"])
def test_an_error_of_a_device_is_its_or_tried_elsewhere(
    monkeypatch: pytest.MonkeyPatch, answers: bool, text: str
) -> None:
    codec = SimpleNamespace(model_hash="h", separator=None, device=torch.device("cuda:1"))
    monkeypatch.setattr(encoding, "opened", lambda *given: codec)
    monkeypatch.setattr(encoding, "answers", lambda device: answers)

    def fails(*given: Any) -> Any:
        raise RuntimeError(f"{text}\nadvice for programmers")

    monkeypatch.setattr(encoding, "_encode", fails)
    if answers:
        assert [song["again"] for song in encode_group(payload_of(2))["songs"]] == [True, True]
    else:
        with pytest.raises(DeviceLost, match=f"^cuda:1: {text}$"):
            encode_group(payload_of(2))


def test_a_failed_batch_lets_go_of_its_memory() -> None:
    """Its frames had kept the activations until the garbage collector came."""
    import gc
    import weakref

    from duotok.bulk.batching import Batches

    kept: list[weakref.ref[torch.Tensor]] = []

    def work(x: torch.Tensor) -> torch.Tensor:
        large = x + 1
        kept.append(weakref.ref(large))
        raise RuntimeError("out of memory")

    def lane() -> None:
        with pytest.raises(RuntimeError):
            device.ask(work, torch.zeros(1, 4))

    gc.disable()
    try:
        device = Batches(2)
        device.run([lane])
        assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()


def test_verifying_on_a_lost_device_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*given: Any, **how: Any) -> Iterator[Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(verifying, "fetched", fails)
    entry = SongEntry("music/a", "train", "music/a", {"mix": ("a.wav",)}, {"mix": ""}, "")  # type: ignore[dict-item]
    one = verifying.compare(None, Planned(entry, 0, 0), SimpleNamespace(id="music/a", frames=3), tmp_path)  # type: ignore[arg-type]
    assert not one.equal and "cannot be encoded again (CUDA error" in one.error


def test_warnings_of_another_process_reach_this_one(caplog: pytest.LogCaptureFixture) -> None:
    """On a cluster they had been lost."""
    from duotok.data.engines import Worker

    worker = Worker("tests.bulk.test_lost_devices:warns")
    told = [worker.run({"name": name}) for name in ("a.flac", "b.flac")]
    worker.end()
    assert [list(outcome.warnings) for outcome in told if outcome] == [["a.flac: is cut off"], ["b.flac: is cut off"]]
    assert caplog.messages == ["a.flac: is cut off", "b.flac: is cut off"]


def warns(payload: dict[str, Any]) -> dict[str, Any]:
    logging.getLogger("duotok.audio.io").warning("%s: is cut off", payload["name"])
    logging.getLogger("duotok.audio.io").info("not this")
    return {}


def test_readers_are_no_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from duotok.bulk import pipelines

    monkeypatch.setattr(pipelines, "check_device", lambda *given: None)
    monkeypatch.setattr("os.cpu_count", lambda: 6)

    def readers(devices: str, workers: int, readers: int = 0) -> int:
        made = pipelines.pipeline("local", Model("model", "hash"), devices, workers, readers)
        assert isinstance(made, LocalPipeline)
        return made.readers

    assert [readers("cuda:0", 1), readers("cuda:0,cuda:1", 4), readers("cuda:0,cuda:1", 4, 20)] == [4, 6, 20]
    assert [readers("cpu", 1), readers("cpu", 9)] == [1, 2]

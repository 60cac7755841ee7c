"""The local engine when something breaks: a device, a process, a model of another machine; and how far it reads ahead."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bulk.conftest import Run, files, put
from tests.tiny import tiny_bundle

from duotok.bulk.encoding import encode_group
from duotok.bulk.engines import TRIES, Here, Job, LocalPipeline, Model, Result, _Prepared, _Shelf
from duotok.bulk.preparing import ENDING, prepare
from duotok.codec.duotok import DuoTok
from duotok.data.engines import JobError, Worker, name_of

Step = Callable[[dict[str, Any]], dict[str, Any]]
UNUSABLE = "cuda:99"
PATIENCE = 120.0


class Stepped(LocalPipeline):
    """Steps of a test's own in threads of this process, one for each hand; they call the real ones."""

    def __init__(self, model: Model, devices: list[str], prepare: Step, encode: list[Step], **more: Any) -> None:
        super().__init__(model, devices, **more)
        self.steps = [*(prepare for _ in range(self.readers)), *encode]

    def _hand(self, function: Any) -> Here:
        return Here(self.steps.pop(0))


def in_time(work: Callable[[], Any]) -> Any:
    """What it returns or raises; a run that hangs fails its test, not the whole suite."""
    ends: list[Any] = []

    def attempt() -> None:
        try:
            ends.append((work(), None))
        except Exception as error:
            ends.append((None, error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ends, "it hangs"
    result, error = ends[0]
    if error is not None:
        raise error
    return result


@pytest.fixture
def more_music(music: Path) -> Path:
    """More songs than are read ahead for one device."""
    for number in range(4, 8):
        put(music / f"train/s{number}.wav", 0.3, seed=number)
    return music


def after(event: threading.Event) -> Step:
    """Encodes once the event has come."""

    def encode(payload: dict[str, Any]) -> dict[str, Any]:
        assert event.wait(PATIENCE)
        return encode_group(payload)

    return encode


@pytest.mark.parametrize("why", ["unusable", "another model", "another hash"])
def test_songs_of_a_device_that_is_lost_go_to_the_other(
    why: str, more_music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run
) -> None:
    run(more_music, tmp_path / "whole")
    lost, said = threading.Event(), []
    changes = {
        "unusable": {"device": UNUSABLE},
        "another model": {"model": str(tiny_bundle(tmp_path / "other", seed=1))},
        "another hash": {"model_hash": "0" * 64},
    }[why]

    def losing(payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return encode_group({**payload, **changes})
        except Exception as error:
            said.append(str(error))
            raise
        finally:
            lost.set()

    pipeline = Stepped(Model(str(bundle), model.model_hash), ["cpu", "cpu"], prepare, [losing, after(lost)])
    summary = in_time(lambda: run(more_music, tmp_path / "store", pipeline=lambda scratch: pipeline))
    assert len(said) == 1, "a lost device gets no second song"
    assert (summary.encoded, summary.failed) == (8, 0)
    assert files(tmp_path / "store") == files(tmp_path / "whole")


def leave(payload: dict[str, Any]) -> dict[str, Any]:
    sys.exit(3)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    ("devices", "hash", "said"),
    [
        ([UNUSABLE], None, f"'{UNUSABLE}': not usable here"),
        ([UNUSABLE, UNUSABLE], None, f"'{UNUSABLE}': not usable here"),
        (["cpu"], "0" * 64, r"tiny: is another model on this machine \(.*\); give all the same"),
    ],
)
def test_without_any_device_the_run_ends_with_its_reason_and_goes_on_later(
    devices: list[str],
    hash: str | None,
    said: str,
    batch_size: int,
    more_music: Path,
    tmp_path: Path,
    bundle: Path,
    model: DuoTok,
    run: Run,
) -> None:
    for number in range(8, 16):
        put(more_music / f"train/s{number}.wav", 0.1, seed=number)
    lost = Stepped(
        Model(str(bundle), hash or model.model_hash, batch_size=batch_size),
        devices,
        prepare,
        [encode_group for _ in devices],
    )
    before = threading.active_count()
    with pytest.raises(JobError, match=f"no device is left: .*{said}.*; then run the same command again"):
        in_time(lambda: run(more_music, tmp_path / "store", pipeline=lambda scratch: lost))
    assert threading.active_count() == before
    assert run(more_music, tmp_path / "store").encoded == 16


def test_a_process_that_cannot_start_is_a_device_that_is_lost(
    music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run
) -> None:
    class Leaving(LocalPipeline):
        def _hand(self, function: Any) -> Worker | Here:
            return Here(function) if function is prepare else Worker(name_of(leave))

    pipeline = Leaving(Model(str(bundle), model.model_hash), ["cpu"])
    with pytest.raises(JobError, match=r"a worker process ended with code 3.*run the same command again"):
        in_time(lambda: run(music, tmp_path / "store", pipeline=lambda scratch: pipeline))


# -- processes that are killed ----------------------------------------------------------------------------------------------


def prepare_or_die(payload: dict[str, Any]) -> dict[str, Any]:
    """Dies at s1 when all of it is read, but the first time only."""
    facts = prepare(payload)
    tried = Path(payload["scratch"]).parent.with_name("read")
    if payload["sources"].get("mix", [""])[0].endswith("s1.wav"):
        with tried.open("a") as file:
            file.write("x")
        if tried.stat().st_size == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return facts


def encode_or_die(payload: dict[str, Any]) -> dict[str, Any]:
    """Dies at s0, always."""
    if any(song["name"].endswith("s0") for song in payload["songs"]):
        log = Path(payload["songs"][0]["file"]).parent.parent.with_name("encoded")
        with log.open("a") as file:
            file.write(f"{len(payload['songs'])}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return encode_group(payload)


def test_a_song_whose_reader_is_killed_is_read_again_and_one_that_always_kills_is_a_row(
    music: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run
) -> None:
    class Dying(LocalPipeline):
        def _hand(self, function: Any) -> Worker:
            return Worker(name_of(prepare_or_die if function is prepare else encode_or_die))

    pipeline = Dying(Model(str(bundle), model.model_hash, batch_size=2), ["cpu"])
    summary = in_time(lambda: run(music, tmp_path / "store", pipeline=lambda scratch: pipeline))
    assert (summary.encoded, summary.failed) == (3, 1)
    assert (tmp_path / "read").read_text() == "xx"
    tried = [int(line) for line in (tmp_path / "encoded").read_text().split()]
    assert len(tried) == TRIES + 1 and tried[1:] == [1] * TRIES, "its neighbours are not tried with it again"
    row = json.loads((tmp_path / "store/failures.jsonl").read_text())
    assert row["id"] == "music/train/s0" and "was killed (SIGKILL" in row["error"]
    assert run(music, tmp_path / "store", retry=True).encoded == 1
    run(music, tmp_path / "whole")
    assert files(tmp_path / "store") == files(tmp_path / "whole")


# -- reading ahead ----------------------------------------------------------------------------------------------------------


def prepared(number: int, size: int = 1, seconds: float = 1.0) -> _Prepared:
    return _Prepared(Job(number, f"s{number}", {}), {"bytes": size, "seconds": seconds})


@pytest.mark.parametrize(
    ("songs", "size", "room"), [(3, 100, 3), (9, 2, 2), (9, 1, 1), (1, 1, 1)], ids=["songs", "bytes", "both", "one"]
)
def test_a_shelf_has_room_for_so_many_songs_and_bytes(songs: int, size: int, room: int) -> None:
    shelf = _Shelf(songs, size)
    fits = threading.Event()

    def fill() -> None:
        for number in range(room):
            assert shelf.wait_for_room()
            shelf.put(prepared(number))
        fits.set()
        shelf.wait_for_room()
        shelf.put(prepared(room))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    assert fits.wait(PATIENCE)
    thread.join(0.1)
    assert thread.is_alive() and len(shelf.waiting) == room
    assert [p.job.number for p in shelf.take(1, 0)] == [0]
    thread.join(PATIENCE)
    assert not thread.is_alive() and [p.job.number for p in shelf.waiting] == list(range(1, room + 1))


def test_songs_of_nearly_one_length_go_together_and_one_that_came_back_goes_alone() -> None:
    shelf = _Shelf(9, 100, able={0})
    shelf.put(*(prepared(number, seconds=seconds) for number, seconds in enumerate((5.0, 90.0, 6.0, 4.0, 30.0))))

    def taken() -> list[int]:
        return [p.job.number for p in shelf.take(3, 0)]

    back = shelf.take(1, 0)
    back[0].tries = 1
    shelf.done(back)
    assert taken() == [0]
    shelf.put(*back)
    assert taken() == [1, 4, 2] and taken() == [3] and taken() == [0]


class Slow(Stepped):
    """A computer that begins when nothing more is read. `seen`: prepared files at the moments when another song is to be read."""

    def __init__(self, scratch: Path, model: Model, expected: int, **more: Any) -> None:
        super().__init__(model, ["cpu"], prepare, [self.encode], **more)
        self.scratch, self.expected, self.seen = scratch, expected, []
        self.full, self.asked = threading.Event(), 0

    def there(self) -> int:
        return len(list(self.scratch.glob(f"*{ENDING}")))

    def encode(self, payload: dict[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while self.there() < self.expected and not self.full.is_set() and time.monotonic() < until:
            time.sleep(0.005)
        if not self.full.is_set():
            time.sleep(0.1)  # one that reads on without bounds has done so by then
            self.full.set()
        return encode_group(payload)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        def noted() -> Iterator[Job]:
            for job in jobs:
                self.seen.append(self.there())
                yield job

        return super().run(noted())


@pytest.mark.parametrize("bound", ["songs", "bytes"])
def test_no_more_is_read_ahead_than_the_shelf_holds_however_slow_the_device(
    bound: str, tmp_path: Path, bundle: Path, model: DuoTok, run: Run
) -> None:
    for number in range(14):
        put(tmp_path / f"music/s{number:02d}.wav", 0.25, seed=number)
    each = 12_000 * 8
    if bound == "songs":  # 2 batches of 2 and one for the reader, beside those that are computed
        most, more = 2 * 2 + 1, {}
    else:
        most, more = 3, {"ahead_bytes": 2 * each + 1}
    slow: list[Slow] = []

    def pipeline(scratch: Path) -> Slow:
        slow.append(Slow(scratch, Model(str(bundle), model.model_hash, batch_size=2), most + 1, **more))
        return slow[0]

    summary = in_time(lambda: run(tmp_path / "music", tmp_path / "store", shard_songs=20, pipeline=pipeline))
    assert summary.encoded == 14 and len(slow[0].seen) == 14
    assert most <= max(slow[0].seen) + 1 <= most + 2, "read ahead, and two under way"

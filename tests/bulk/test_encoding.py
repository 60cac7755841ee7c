"""Groups of songs on a device that has too little memory for them, or whose prepared sound is gone: each song stands for itself."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bulk.conftest import Run, files, put
from torch import Tensor

from duotok.bulk.encoding import encode_group, opened
from duotok.bulk.engines import TRIES, Here, LocalPipeline, Model
from duotok.bulk.preparing import ENDING, prepare
from duotok.codec.duotok import DuoTok

SONGS = 6
PATIENCE = 120.0


class Between(LocalPipeline):
    """Calls `before(payload)` before each group, and notes the groups by their songs' names. The first one is encoded when all songs are
    read, so that none but the first can be alone by chance."""

    def __init__(self, *given: Any, before: Callable[[dict[str, Any]], None] = lambda payload: None) -> None:
        super().__init__(*given)
        self.before, self.groups = before, []

    def _hand(self, function: Any) -> Here:
        if function is prepare:
            return Here(prepare)

        def encode(payload: dict[str, Any]) -> dict[str, Any]:
            until, scratch = time.monotonic() + PATIENCE, Path(payload["songs"][0]["file"]).parent
            while not self.groups and len(list(scratch.glob(f"*{ENDING}"))) < SONGS and time.monotonic() < until:
                time.sleep(0.005)
            self.groups.append([Path(song["name"]).name for song in payload["songs"]])
            self.before(payload)
            return encode_group(payload)

        return Here(encode)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Six of nearly one length, of which one has a window like no other."""
    for number in range(SONGS):
        put(tmp_path / f"songs/s{number}.wav", 1.0 if number == 3 else 0.5, seed=number)
    return tmp_path / "songs"


@pytest.fixture
def codec(bundle: Path) -> DuoTok:
    """The one that encodes in this process."""
    return opened(str(bundle), "cpu", "fp32")


@pytest.mark.parametrize("lasting", [False, True])
def test_a_song_for_which_memory_is_too_small_is_tried_alone_and_harms_no_other(
    lasting: bool,
    songs: Path,
    tmp_path: Path,
    bundle: Path,
    model: DuoTok,
    codec: DuoTok,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = Between(Model(str(bundle), model.model_hash, batch_size=SONGS), ["cpu"])
    real, lengths = codec.encode_mel, []

    def encode_mel(mel: Tensor, routes: Tensor) -> Tensor:
        lengths.append(mel.shape[1])
        if pipeline.groups and mel.shape[1] == max(lengths) and (lasting or len(pipeline.groups[-1]) > 1):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(mel, routes)

    monkeypatch.setattr(codec, "encode_mel", encode_mel)
    run(songs, tmp_path / "whole")
    assert lengths.count(max(lengths)) == 1, "s3 alone has such a window"
    summary = run(songs, tmp_path / "store", pipeline=lambda scratch: pipeline)
    with_it = [group for group in pipeline.groups if "s3" in group]
    alone = TRIES if lasting else 1
    assert with_it[1:] == [["s3"]] * alone, "once with others, then alone"
    others = Counter(name for group in pipeline.groups for name in group if name != "s3")
    assert set(others.values()) == {1} and len(others) == 5
    assert (summary.encoded, summary.failed) == ((5, 1) if lasting else (6, 0))
    if lasting:
        row = json.loads((tmp_path / "store/failures.jsonl").read_text())
        assert row["id"] == "songs/s3" and "give a smaller --batch-size, then --retry" in row["error"]
        monkeypatch.undo()
        assert run(songs, tmp_path / "store", retry=True).encoded == 1
    assert files(tmp_path / "store") == files(tmp_path / "whole")


@pytest.mark.parametrize("lasting", [False, True])
def test_a_song_whose_prepared_sound_is_gone_is_tried_again_and_then_a_row(
    lasting: bool, songs: Path, tmp_path: Path, bundle: Path, model: DuoTok, run: Run
) -> None:
    """As on a network's disk, where it may be late."""
    run(songs, tmp_path / "whole")
    kept = tmp_path / "kept"

    def before(payload: dict[str, Any]) -> None:
        for song in payload["songs"]:
            if song["name"].endswith("s2"):
                file = Path(song["file"])
                if file.exists():
                    file.rename(kept)
                elif not lasting:
                    kept.rename(file)

    pipeline = Between(Model(str(bundle), model.model_hash, batch_size=3), ["cpu"], before=before)
    summary = run(songs, tmp_path / "store", pipeline=lambda scratch: pipeline)
    tried = [group for group in pipeline.groups if "s2" in group]
    assert tried[1:] == [["s2"]] * (TRIES if lasting else 1)
    assert (summary.encoded, summary.failed) == ((5, 1) if lasting else (6, 0))
    if lasting:
        row = json.loads((tmp_path / "store/failures.jsonl").read_text())
        assert row["id"] == "songs/s2" and "its prepared sound is gone; --retry" in row["error"]
        assert run(songs, tmp_path / "store").encoded == 0
        assert run(songs, tmp_path / "store", retry=True).encoded == 1
    assert files(tmp_path / "store") == files(tmp_path / "whole")

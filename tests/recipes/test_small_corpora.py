"""Copies of corpora: within their room, every kind with a share, read back as the same recordings in the same splits."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duotok.audio.io import probe
from duotok.corpora.index import COLUMNS
from duotok.data import catalog
from duotok.errors import DuoTokError
from duotok.recipes.small_corpora import FACTS, SmallCorpora, fill, make_small_corpora, small_copy

RATE = 48_000


def sound(path: Path, seconds: float, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(len(path.name)).standard_normal((round(seconds * RATE), channels))
    soundfile.write(path, samples.astype(np.float32), RATE, **({"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}))  # fmt: skip
    return path


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """An index (training, validation by its list, a song that is also evaluated), any folder, two generated songs."""
    music, mine, songs = tmp_path / "music", tmp_path / "mine", tmp_path / "songs"
    rows = [
        ("instrumental/a.wav", "train", "instrumental"), ("instrumental/b.opus", "train", "instrumental"),
        ("instrumental/c.wav", "train", "instrumental"), ("voice/held.wav", "train", "voice"),
        ("voice/both.wav", "train", "voice"), ("eval/both.wav", "evaluation-only", "voice"),
        ("dual/d.vocals.wav", "train", "dual_track"), ("dual/d.accompaniment.wav", "train", "dual_track"),
    ]  # fmt: skip
    lines = ["\t".join(COLUMNS)]
    for path, use, kind in rows:
        sound(music / path, 2.0)
        cells = (path, use, kind, "0", "2", "1", "no", "CC0", '"A quoted" name', "here")
        lines.append("\t".join(f'"{cell.replace(chr(34), 2 * chr(34))}"' if '"' in cell else cell for cell in cells))
    (music / "INDEX.tsv").write_text("\n".join(lines) + "\n")
    sound(mine / "x" / "one.wav", 1.0, channels=2)
    sound(mine / "x" / "one.flac", 1.0)
    (mine / "x" / "one.txt").write_text("la la\n")
    for seed in range(2):
        facts = {
            "format": "duotok-song-1", "seed": seed, "seconds": 1.0, "language": "en", "tags": [], "files": "wav",
            "words": [{"text": "la"}] if seed else [], "tracks": ["vocals", "accompaniment"],
        }  # fmt: skip
        for track in ("vocals", "accompaniment"):
            sound(songs / f"song-{seed}" / f"{track}.wav", 1.0)
        (songs / f"song-{seed}" / FACTS).write_text(json.dumps(facts))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "held_out.txt").write_text("held\n")
    (lists / "test.txt").write_text("c\n")
    return [music, mine, songs]


SETTINGS = ["folder.validation=0", "folder.test=0", "songs.validation=0", "songs.test=0"]


def copied(folders: list[Path], tmp_path: Path, room: int = 1 << 30) -> SmallCorpora:
    return make_small_corpora(
        folders, tmp_path / "copy", tmp_path / "cache", room, lists=tmp_path / "lists", settings=SETTINGS, tell=lambda _: None
    )  # fmt: skip


def test_small_kinds_come_whole_and_large_ones_share_what_is_left() -> None:
    waiting = {"few": [1, 1], "many": [10] * 50, "more": [10] * 50}
    asked: list[int] = []

    def size_of(item: int) -> int:
        asked.append(item)
        return item

    taken = fill(waiting, 105, size_of)
    assert {kind: len(items) for kind, items in taken.items()} == {"few": 2, "many": 5, "more": 5}
    assert len(asked) == 2 + 5 + 5 + 2  # the two that no longer fit, and none after them
    assert fill({"a": []}, 10, len) == {"a": []}


def test_copies_are_read_as_the_same_recordings_in_the_same_splits(folders: list[Path], tmp_path: Path) -> None:
    small = copied(folders, tmp_path)
    copies = {r.id: r for r in catalog.build(catalog.open_corpora(small.corpora, small.settings)).recordings}
    assert {name: r.split for name, r in copies.items()} == {
        "index/instrumental/a": "train", "index/instrumental/b": "train", "index/voice/held": "validation",
        "index/dual/d": "train", "folder/x/one": "train", "folder/x/one-wav": "train", "songs/song-0": "train",
        "songs/song-1": "train",
    }  # fmt: skip
    files = [Path(path) for recording in copies.values() for path in recording.audio.values()]
    assert all(path.suffix == ".opus" and probe(path).rate == RATE for path in files)
    assert probe(tmp_path / "copy" / "folder" / "x" / "one-wav.opus").channels == 2
    assert Path(copies["folder/x/one"].lyrics).read_text() == "la la\n"
    assert copies["songs/song-1"].lyrics.startswith(str(tmp_path / "copy"))
    assert copies["index/instrumental/a"].attribution == '"A quoted" name'
    assert +small.left == {} and dict(small.files) == {
        "generated": 2, "voice": 1, "instrumental": 2, "music": 2, "song in tracks": 1,
    }  # fmt: skip
    assert small.hours == pytest.approx((2 * 2 + 2 + 2 + 2 + 2) / 3600, rel=0.01)


def test_what_is_taken_fits_as_a_tar(folders: list[Path], tmp_path: Path) -> None:
    whole = sum(copied(folders, tmp_path).sizes.values())
    room = whole // 2
    small = copied(folders, tmp_path, room)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "copy", "audio")
    spare = 2 * 10_240 + 512 * 16  # how a tar ends, its folders, and the head of INDEX.tsv
    assert 0 < (tmp_path / "all.tar").stat().st_size <= room + spare
    assert sum(small.left.values()) > 0 and len([kind for kind, count in small.files.items() if count]) >= 3
    with pytest.raises(DuoTokError, match=r"no recording fits into 0\.0 MiB; take more parts"):
        copied(folders, tmp_path, 1000)


def test_small_opus_is_copied_and_the_rest_is_encoded_once(folders: list[Path], tmp_path: Path) -> None:
    as_it_is = folders[0] / "instrumental" / "b.opus"
    cache = tmp_path / "cache"
    assert small_copy(as_it_is, cache, kbps=64) == as_it_is
    fewer = small_copy(as_it_is, cache, kbps=12)
    assert fewer.parent == cache and fewer.stat().st_size < as_it_is.stat().st_size
    before = fewer.stat().st_mtime_ns
    assert small_copy(as_it_is, cache, kbps=12) == fewer and fewer.stat().st_mtime_ns == before
    long = sound(tmp_path / "long.wav", 10.0)
    size = small_copy(long, cache, kbps=32).stat().st_size
    assert 0.8 * 32_000 * 10 / 8 < size < 1.2 * 32_000 * 10 / 8
    assert not list(cache.glob(".*"))

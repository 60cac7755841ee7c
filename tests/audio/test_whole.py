"""Files are read to their real end, whatever their container says, and one line tells where the two differ."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.audio.odd_files import RATE, coded, tune, variable_mp3, wav_that_counts, without_first_frame

from duotok.audio import io
from duotok.errors import AudioError

A, B = tune(6.0), tune(2.0, seed=1)


def heard(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[float, list[str]]:
    """Seconds that are read, and what was said. What is probed is what is read."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "duotok"):
        sound = io.read(path)
    assert abs(io.probe(path).seconds - sound.shape[1] / RATE) < 0.7
    loud = sound[:, sound.shape[1] * 9 // 10 :]
    assert float(loud.square().mean()) > 1e-3, "the end is the loud part"
    return sound.shape[1] / RATE, [record.getMessage() for record in caplog.records]


def refused(path: Path) -> None:
    """What shards are made of must be whole."""
    with pytest.raises(AudioError, match=r"cut off|damaged|broken"):
        list(io.stream(path, strict=True))


def test_mp3_without_a_count_of_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    variable_mp3(tmp_path / "vbr.mp3", A)
    assert heard(tmp_path / "vbr.mp3", caplog) == (pytest.approx(6.0, abs=0.03), [])
    assert io.probe(tmp_path / "vbr.mp3").exact
    (tmp_path / "bare.mp3").write_bytes(without_first_frame(tmp_path / "vbr.mp3"))
    seconds, said = heard(tmp_path / "bare.mp3", caplog)
    assert seconds == pytest.approx(6.0, abs=0.1) and len(said) == 1 and "no length" in said[0]
    assert not io.probe(tmp_path / "bare.mp3").exact
    assert sum(block.shape[1] for block in io.stream(tmp_path / "bare.mp3", strict=True)) > 5.9 * RATE


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac", ".wav"])
def test_files_that_were_joined(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = coded(tmp_path / f"1{suffix}", A), coded(tmp_path / f"2{suffix}", B)
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(one + two + one)
    seconds, said = heard(joined, caplog)
    assert seconds == pytest.approx(14.0, abs=0.2) and len(said) == 1 and "all" in said[0]
    assert not io.probe(joined).cut
    part = io.read(joined, start=7.0, seconds=0.9)  # of the second file, which is loud there
    assert part.shape[1] == round(0.9 * RATE) and float(part.square().mean()) > 1e-3


def test_chained_ogg_of_another_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = coded(tmp_path / "1.ogg", A), coded(tmp_path / "2.ogg", tune(2.0, 1, 44_100)[:, :1], 44_100)
    (tmp_path / "joined.ogg").write_bytes(one + two)
    seconds, said = heard(tmp_path / "joined.ogg", caplog)
    assert seconds == pytest.approx(8.0, abs=0.01) and len(said) == 1


@pytest.mark.parametrize("counted", [0, 100_000, 400_001])
def test_wav_that_holds_more_than_it_counts(counted: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = coded(tmp_path / "a.wav", A)
    (tmp_path / "short.wav").write_bytes(wav_that_counts(data, counted))
    seconds, said = heard(tmp_path / "short.wav", caplog)
    assert seconds == 6.0 and len(said) == 1 and "6.00 s are in it" in said[0]
    assert np.array_equal(io.read(tmp_path / "short.wav").numpy(), io.read(tmp_path / "a.wav").numpy())


def test_what_stands_behind_the_sound_is_not_sound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = coded(tmp_path / "a.wav", A)
    for more in (b"LIST" + struct.pack("<I", 9000) + bytes(range(250)) * 36, b"TAG" + b"x" * 6000, bytes(50_000)):
        (tmp_path / "more.wav").write_bytes(data + more)
        assert heard(tmp_path / "more.wav", caplog) == (6.0, [])
    (tmp_path / "open.wav").write_bytes(wav_that_counts(data, 0xFFFFFFFF))  # what is written to a pipe
    assert heard(tmp_path / "open.wav", caplog) == (6.0, [])


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".au", ".caf", ".w64", ".ogg", ".opus", ".mp3", ".flac"])
def test_a_file_that_was_cut(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = coded(tmp_path / f"a{suffix}", np.concatenate([A[len(A) // 2 :], A[len(A) // 2 :]]))
    assert heard(tmp_path / f"a{suffix}", caplog)[1] == []
    half = tmp_path / f"half{suffix}"
    half.write_bytes(data[: len(data) * 6 // 10])
    seconds, said = heard(half, caplog)
    assert 2.5 < seconds < 5.0 and len(said) == 1 and "cut off" in said[0]
    assert io.probe(half).cut
    refused(half)


def test_ogg_without_its_last_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = coded(tmp_path / "a.ogg", A)
    (tmp_path / "unended.ogg").write_bytes(data[: data.rindex(b"OggS")])
    assert "no end mark" in heard(tmp_path / "unended.ogg", caplog)[1][0]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_ogg_with_a_broken_or_missing_page(
    suffix: str, joined: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Decoders leave the page out, a second of sound, and say nothing."""
    data = coded(tmp_path / f"a{suffix}", A)
    first = data.index(b"OggS", len(data) // 2)
    second = data.index(b"OggS", first + 4)
    broken = data[: first + 100] + bytes([data[first + 100] ^ 1]) + data[first + 101 :]
    for damaged in (broken, data[:first] + data[second:]):
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damaged + data if joined else damaged)
        caplog.clear()
        io.read(path)
        assert "pages are broken or missing" in caplog.messages[0] and io.probe(path).cut
        refused(path)


def test_mp3_with_a_hole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = coded(tmp_path / "a.mp3", A)
    (tmp_path / "hole.mp3").write_bytes(data[: len(data) // 2] + bytes(range(256)) * 40 + data[len(data) // 2 :])
    seconds, said = heard(tmp_path / "hole.mp3", caplog)
    assert seconds > 5.8 and all("damaged" in line for line in said)

"""Sound files: any rate, any channel count, exact lengths, one line for what cannot be read."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forked import python

from duotok.audio import io
from duotok.audio.channels import stereo_weights
from duotok.audio.finding import find_audio
from duotok.errors import AudioError


def tone(rate: int, seconds: float = 1.0, channels: int = 1, hz: float = 440.0) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    return np.repeat(0.3 * np.sin(2 * np.pi * hz * t)[:, None], channels, axis=1).astype(np.float32)


def put(path: Path, samples: np.ndarray, rate: int, **how: str) -> Path:
    soundfile.write(path, samples, rate, **how)
    return path


def write_m4a(path: Path, samples: np.ndarray, rate: int, codec: str = "aac") -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        frame.rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@given(
    n=st.integers(1, 30_000),
    rates=st.tuples(
        st.sampled_from([8000, 11025, 22050, 44100, 48000, 192000]), st.sampled_from([8000, 24000, 44100, 48000])
    ),
)
@settings(max_examples=40, deadline=None)
def test_resampled_length_is_exact(n: int, rates: tuple[int, int]) -> None:
    source, target = rates
    out = io.resample(torch.zeros(2, n), source, target)
    assert out.shape == (2, -(-n * target // source))


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 192000])
@pytest.mark.parametrize("block_seconds", [0.013, 0.5, 100.0])
def test_stream_is_read_in_pieces(tmp_path: Path, rate: int, block_seconds: float) -> None:
    samples = np.random.default_rng(0).standard_normal((rate + 17, 2)).astype(np.float32) * 0.1
    path = put(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
    whole = io.read(path)
    blocks = list(io.stream(path, block_seconds=block_seconds))
    assert torch.equal(torch.cat(blocks, 1), whole)
    assert whole.shape == (2, -(-(rate + 17) * 48_000 // rate))
    assert {b.shape[1] for b in blocks[:-1]} <= {round(block_seconds * 48_000)}
    assert torch.equal(io.resample(torch.from_numpy(samples.T.copy()), rate, 48_000), whole)


def test_resampling_keeps_a_tone(tmp_path: Path) -> None:
    path = put(tmp_path / "x.wav", tone(44_100, 1.0), 44_100, subtype="FLOAT")
    expected = torch.from_numpy(tone(48_000, 1.0).T.copy())
    assert (io.read(path) - expected)[:, 2000:-2000].abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("x.wav", {"subtype": "PCM_16"}),
        ("x.flac", {"subtype": "PCM_24"}),
        ("x.mp3", {}),
        ("x.ogg", {"subtype": "VORBIS"}),
        ("x.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("x.aiff", {}),
    ],
)
def test_formats(tmp_path: Path, name: str, how: dict[str, str]) -> None:
    samples = tone(48_000, 1.0, 2) * np.hanning(48_000).astype(np.float32)[:, None]
    path = put(tmp_path / name, samples, 48_000, **how)
    audio = io.read(path)
    assert audio.shape == (2, 48_000)
    assert (audio - torch.from_numpy(samples.T.copy())).abs().mean() < 0.02
    info = io.probe(path)
    assert (info.rate, info.channels, info.n_samples) == (48_000, 2, 48_000)


def test_m4a_is_aligned(tmp_path: Path) -> None:
    samples = tone(48_000, 1.0, 2) * np.hanning(48_000).astype(np.float32)[:, None]
    path = write_m4a(tmp_path / "x.m4a", samples, 48_000)
    audio = io.read(path)
    assert 0 <= audio.shape[1] - 48_000 <= 1024  # the last packet is filled up
    assert (audio[:, :48_000] - torch.from_numpy(samples.T.copy())).abs().mean() < 0.02
    part = io.read(path, start=0.25, seconds=0.25)
    assert torch.equal(part, audio[:, 12_000:24_000])
    assert not io.probe(path).exact


def test_start_and_seconds(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((48_000, 1)).astype(np.float32) * 0.1
    path = put(tmp_path / "x.wav", samples, 48_000, subtype="FLOAT")
    whole = io.read(path)
    assert torch.equal(io.read(path, start=0.25, seconds=0.5), whole[:, 12_000:36_000])
    assert io.read(path, start=0.9, seconds=5.0).shape[1] == 4800
    with pytest.raises(AudioError, match=r"x\.wav: start = 1 s is past its end"):
        io.read(path, start=1.0)
    with pytest.raises(ValueError):
        io.read(path, seconds=0)


def test_8_khz_mono_and_192_khz_surround(tmp_path: Path) -> None:
    low = put(tmp_path / "low.wav", tone(8000), 8000)
    assert io.read(low, channels=2).shape == (2, 48_000)
    left = np.zeros((19_200, 6), dtype=np.float32)
    left[:, 0] = tone(192_000, 0.1)[:, 0]
    path = put(tmp_path / "surround.wav", left, 192_000, subtype="FLOAT")
    assert io.read(path).shape == (6, 4800)
    stereo = io.read(path, channels=2)
    assert stereo[0].abs().max() > 0.1 and stereo[1].abs().max() == 0
    assert io.read(path, channels=1).shape == (1, 4800)


@pytest.mark.parametrize(
    ("mask", "left", "right"),
    [
        (0x107, [1, 0, 0.5**0.5, 0.5], [0, 1, 0.5**0.5, 0.5]),  # left, right, centre, back: films
        (0x03B, [1, 0, 0, 0.5**0.5, 0], [0, 1, 0, 0, 0.5**0.5]),  # with an effects channel in place of the centre
        (0, [1, 0, 0.5**0.5, 0], [0, 1, 0, 0.5**0.5]),  # none: as it is usual for so many
    ],
)
def test_a_wav_says_where_its_channels_are(mask: int, left: list[float], right: list[float], tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.eye(len(left), dtype=np.float32).repeat(100, 0) / 2, 48_000, format="WAVEX")
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 28
    data[at : at + 4] = mask.to_bytes(4, "little")
    path.write_bytes(data)
    found = io.read(path, channels=2)[:, 50::100] * 2
    assert torch.allclose(found, torch.tensor([left, right]) / sum(left), atol=1e-3)


def test_surround_vorbis_keeps_left_left(tmp_path: Path) -> None:
    # Vorbis orders 5.1 as L C R ...; read in wav order, the right channel would sound in the middle.
    samples = np.zeros((48_000, 6), dtype=np.float32)
    samples[:, 2] = tone(48_000)[:, 0]
    path = put(tmp_path / "x.ogg", samples, 48_000, subtype="VORBIS")
    stereo = io.read(path, channels=2)
    assert stereo[1].abs().max() > 0.1 and stereo[0].abs().max() < 0.01


@pytest.mark.parametrize("layout", [("FL", "FR", "FC", "LFE", "BL", "BR"), ("?",) * 11, ("LFE",)])
def test_downmix_cannot_clip(layout: tuple[str, ...]) -> None:
    weights = stereo_weights(layout)
    assert weights.shape == (len(layout), 2)
    assert weights.sum(0).min() > 0 and weights.sum(0).max() <= 1 + 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e12])
def test_samples_that_are_no_sound(tmp_path: Path, bad: float) -> None:
    samples = tone(48_000)
    samples[24_000] = bad
    path = put(tmp_path / "x.wav", samples, 48_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"x\.wav: samples that are no sound.* at 0\.500 s"):
        io.read(path)


def test_not_audio(tmp_path: Path) -> None:
    empty, text, header = tmp_path / "empty.wav", tmp_path / "text.mp3", tmp_path / "header.wav"
    empty.touch()
    text.write_text("hello\n" * 200)
    soundfile.write(header, np.zeros((0, 1)), 48_000)
    for path, words in [
        (empty, "is empty"),
        (text, "not audio"),
        (header, "0 samples"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.wav", "No such file"),
    ]:
        with pytest.raises(AudioError, match=words) as caught:
            io.read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value) and ";" in str(caught.value)


def test_truncated_mp3(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    whole = put(tmp_path / "whole.mp3", tone(48_000, 4.0, 2), 48_000).read_bytes()
    path = tmp_path / "cut.mp3"
    path.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        audio = io.read(path)
    assert 1.5 * 48_000 < audio.shape[1] < 2.5 * 48_000
    assert "cut.mp3" in caplog.text and "cut off" in caplog.text
    path.write_bytes(whole[:200])
    with pytest.raises(AudioError, match=r"cut\.mp3"):
        io.read(path)
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert said == []  # libmpg123 likes to talk


def test_damage_anywhere_is_an_audio_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    sources = [
        put(tmp_path / name, tone(48_000, 0.2, 2), 48_000, **how)
        for name, how in [("x.wav", {}), ("x.flac", {}), ("x.mp3", {}), ("x.ogg", {}), ("x.caf", {})]
    ]
    sources.append(write_m4a(tmp_path / "x.m4a", tone(48_000, 0.2, 2), 48_000))
    refused = 0
    for source in sources:
        for _ in range(40):
            data = bytearray(source.read_bytes())
            for index in rng.integers(0, min(len(data), 300), 4):
                data[index] = rng.integers(256)
            path = tmp_path / f"damaged{source.suffix}"
            path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.5 else data)
            try:
                assert io.read(path).shape[1] > 0
            except AudioError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 20


def test_a_header_that_claims_1_hz(tmp_path: Path) -> None:
    path = put(tmp_path / "x.wav", tone(48_000), 48_000)
    data = bytearray(path.read_bytes())
    data[24:28] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(AudioError, match="1 samples a second"):
        io.read(path)


@pytest.mark.parametrize("name", ["x.wav", "x.flac"])
def test_write_and_read_back(tmp_path: Path, name: str) -> None:
    audio = torch.from_numpy(tone(48_000, 0.5, 2).T.copy())
    io.write(tmp_path / "new" / name, audio, 48_000)
    back = io.read(tmp_path / "new" / name)
    assert torch.equal(back, audio) if name.endswith("wav") else (back - audio).abs().max() < 2e-7
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name]
    io.write(tmp_path / "short.wav", audio, 48_000, bits=16)
    assert io.probe(tmp_path / "short.wav").format == "WAV/PCM_16"


def test_loud_sound_is_clipped_not_wrapped(tmp_path: Path) -> None:
    io.write(tmp_path / "x.flac", torch.full((1, 100), 1.5), 48_000)
    assert io.read(tmp_path / "x.flac").min() > 0.99


def test_what_follows_a_packet_that_cannot_be_decoded_keeps_its_time(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (40_960, 2)).astype(np.float32)
    path = tmp_path / "x.m4a"
    data = bytearray(write_m4a(path, samples, 48_000, "alac").read_bytes())
    whole = io.read(path)
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)  # more than a packet of 4096 samples
    path.write_bytes(data)
    damaged = io.read(path)
    assert damaged.shape == whole.shape and torch.equal(damaged[:, -8192:], whole[:, -8192:])


@pytest.mark.parametrize("name", ["x.wav", "x.ogg"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e7])
def test_what_is_no_sound_is_not_written(name: str, value: float, tmp_path: Path) -> None:
    """It could not be read again; in ogg it silences the rest, and mp3's encoder aborts the process."""
    sound = torch.zeros(2, 4800)
    sound[1, 100] = value
    with pytest.raises(AudioError, match=f"{name}: not written"):
        io.write(tmp_path / name, sound, 48_000)
    assert not list(tmp_path.iterdir())


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir.wav").mkdir()
    for path in (tmp_path / "file" / "x.wav", tmp_path / "dir.wav", tmp_path / "x.m4a", Path("/proc/x.wav")):
        with pytest.raises(AudioError) as caught:
            io.write(path, torch.zeros(1, 10), 48_000)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    io.write(tmp_path / "x.wav", torch.zeros(1, 10), 48_000)
    before = (tmp_path / "x.wav").read_bytes()
    with pytest.raises(KeyboardInterrupt), io.Writer(tmp_path / "x.wav", 48_000, 1) as writer:
        writer.write(torch.ones(1, 10))
        raise KeyboardInterrupt
    assert (tmp_path / "x.wav").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_find_audio(tmp_path: Path) -> None:
    for name in ("b/x.wav", "a.MP3", "a.txt", ".hidden/x.wav", "b/.x.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_audio(tmp_path) == [tmp_path / "a.MP3", tmp_path / "b" / "x.wav"]


FULL = """
import resource, sys, torch
from pathlib import Path
from duotok.audio.io import write
from duotok.data.stem_files import StemWriter

sound = torch.rand(2, 480_000, generator=torch.Generator().manual_seed(0)) - 0.5
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # as a disk that is full after so many bytes
folder = Path(sys.argv[1])

def stems():
    with StemWriter(folder / "stems", 2) as writer:
        writer.write(sound, sound)

for use in (
    lambda: write(folder / "x.wav", sound, 48_000), lambda: write(folder / "x.wav", sound, 48_000, bits=16),
    lambda: write(folder / "x.flac", sound, 48_000), lambda: write(folder / "x.flac", sound, 48_000, bits=16), stems,
):
    try:
        use()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    """No traceback of the writer, none of the callbacks below it, and nothing half-written."""
    done = python(FULL, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    told = done.stdout.decode().splitlines()
    assert len(told) == 5 and all("File too large" in line for line in told), told
    assert all(line.startswith("AudioError") and "cannot be written" in line for line in told[:4])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "ending", ["au", "snd", "gsm", "ul", "al", "sw", "ub", "sln", "g722", "g729", "302", "vox", "raw"]
)
def test_a_name_makes_no_sound_of_any_bytes(ending: str, tmp_path: Path) -> None:
    """Formats without a header are guessed from the ending alone: refused, whatever is in the file."""
    noise = np.random.default_rng(0).integers(0, 256, 60_000, dtype=np.uint8).tobytes()
    for data in (b"The quick brown fox jumps over the lazy dog. " * 1000, noise, bytes(60_000)):
        path = tmp_path / f"x.{ending}"
        path.write_bytes(data)
        for use in (io.probe, io.read):
            with pytest.raises(AudioError, match="not audio that can be read"):
                use(path)


def test_a_true_au_file_is_read(tmp_path: Path) -> None:
    sound = np.linspace(-0.5, 0.5, 4800)
    soundfile.write(tmp_path / "x.au", sound, 48_000, format="AU", subtype="FLOAT")
    assert torch.allclose(io.read(tmp_path / "x.au")[0], torch.from_numpy(sound).float())
    soundfile.write(tmp_path / "y.gsm", sound, 48_000, format="WAV")
    assert io.read(tmp_path / "y.gsm").shape == (1, 4800)  # the bytes count, not the name


@pytest.mark.parametrize(("ending", "said"), [("flac", 1), ("mp3", 1), ("wav", 0)])
def test_what_is_clipped_is_said(ending: str, said: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound = 0.5 * torch.sin(torch.arange(48_000) / 20.0)[None]
    io.write(tmp_path / f"a.{ending}", sound, 48_000)
    assert not caplog.records
    io.write(tmp_path / f"b.{ending}", 4 * sound, 48_000)
    assert len(caplog.records) == said and ("peak +6.0 dBFS" in caplog.text) == bool(said)

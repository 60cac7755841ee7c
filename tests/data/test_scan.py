from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from duotok.audio.io import read
from duotok.audio.loudness import integrated_loudness
from duotok.data.jobs import LocalEngine, read_ledger
from duotok.data.scan import frame_levels, mix_parts, read_scan, run_scan, scan_files, scan_recording, scan_units
from duotok.errors import AudioError
from duotok.records import CorpusError, Recording

RATE = 48_000


def tone(seconds: float, channels: int = 2, level: float = 0.3, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """float32 `[samples, channels]`: a tune in noise that comes and goes, so that no two frames are alike."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tune = np.sin(2 * np.pi * 220 * 2 ** (np.floor(3 * t) % 12 / 12) * t) * (0.6 + 0.4 * np.sin(2 * np.pi * t))
    sound = level * tune[:, None] * rng.uniform(0.5, 1, channels) + 0.02 * rng.standard_normal((len(t), channels))
    return sound.astype(np.float32)


def put(path: Path, sound: np.ndarray, rate: int = RATE, **how: Any) -> str:
    """Write a file in blocks (libsndfile's vorbis cannot take long ones)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", rate, sound.shape[1], **how) as file:
        for first in range(0, len(sound), 4800):
            file.write(sound[first : first + 4800])
    return str(path)


def recording(name: str, audio: dict[str, str], **values: Any) -> Recording:
    return Recording(**{"id": f"c/{name}", "corpus": "c", "kind": "song", "split": "train", "identity": name,
                        "audio": audio, **values})  # fmt: skip


def scan_one(item: Recording, work: Path) -> dict[str, Any]:
    unit = scan_units([item], work)[0]
    return scan_recording({**unit.payload, **unit.place})


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_found(channels: int, tmp_path: Path) -> None:
    voice, band = tone(12.34, channels, seed=1), tone(12.34, channels, 0.1, seed=2)
    audio = {"vocals": put(tmp_path / "v.flac", voice, subtype="PCM_24"),
             "accompaniment": put(tmp_path / "a.wav", band, subtype="FLOAT")}  # fmt: skip
    found = scan_one(recording("x", audio), tmp_path / "work")
    mix = read(audio["vocals"]) + read(audio["accompaniment"])
    assert found["samples"] == mix.shape[1] == round(12.34 * RATE) and found["seconds"] == mix.shape[1] / RATE
    assert found["channels"] == channels and found["stems"] == ["accompaniment", "vocals"] and found["notes"] == []
    assert found["loudness"] == pytest.approx(integrated_loudness([mix], RATE), abs=1e-3)
    assert found["peak"] == pytest.approx(float(mix.abs().max()), abs=1e-6)
    again, levels = read_scan(tmp_path / "work", "c/x")
    for file in scan_files(tmp_path / "work" / "scan", "c/x"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(CorpusError, match="no scan there"):
            read_scan(tmp_path / "work", "c/x")
        file.write_bytes(whole)
    assert again == found
    assert levels.shape == (2, -(-mix.shape[1] // 1920)) and levels.dtype == np.float16
    np.testing.assert_allclose(levels[1], frame_levels(read(audio["vocals"])), atol=0.02)


def test_levels_are_power_in_db() -> None:
    import torch

    block = torch.zeros(2, 3 * 1920 + 960)
    block[:, 1920:3840] = 1.0
    block[0, 3840:5760] = 0.1
    block[:, 5760:] = 1.0  # half a frame, the rest counts as silence
    np.testing.assert_allclose(frame_levels(block), [-120, 0, -23.01, -3.01], atol=0.02)


def test_long_files_do_not_care_where_blocks_end(tmp_path: Path) -> None:
    sound = tone(31.7, 1)
    found = scan_one(recording("x", {"mix": put(tmp_path / "x.flac", sound)}), tmp_path)
    levels = read_scan(tmp_path, "c/x")[1]
    np.testing.assert_allclose(levels[0], frame_levels(read(tmp_path / "x.flac")), atol=0.02)
    assert found["samples"] == len(sound)


@pytest.mark.parametrize(
    ("stems", "mix"),
    [
        (("accompaniment", "mix", "vocals"), ("mix",)),
        (("accompaniment", "bass", "drums", "vocals"), ("vocals", "accompaniment")),
        (("bass", "drums", "other", "vocals"), ("vocals", "drums", "bass", "other")),
        (("vocals",), ("vocals",)),
        (("accompaniment",), ("accompaniment",)),
    ],
)
def test_what_the_mix_is(stems: tuple[str, ...], mix: tuple[str, ...]) -> None:
    assert mix_parts(stems) == mix


def test_mono_voice_over_a_stereo_band(tmp_path: Path) -> None:
    voice, band = tone(3, 1, seed=1), tone(3, 2, seed=2)
    audio = {"vocals": put(tmp_path / "v.wav", voice, subtype="FLOAT"),
             "accompaniment": put(tmp_path / "a.wav", band, subtype="FLOAT")}  # fmt: skip
    found = scan_one(recording("x", audio), tmp_path)
    assert found["channels"] == 2 and found["peak"] == pytest.approx(float(np.abs(voice + band).max()), abs=1e-6)


def test_other_rates_and_surround(tmp_path: Path) -> None:
    surround = put(tmp_path / "x.wav", tone(2, 6, rate=44_100), 44_100)
    found = scan_one(recording("x", {"mix": surround}), tmp_path)
    assert found["samples"] == 2 * RATE and found["channels"] == 2 and found["notes"] == ["resampled from 44100 Hz"]


def test_a_part_of_a_file(tmp_path: Path) -> None:
    path = put(tmp_path / "x.flac", tone(20))
    found = scan_one(recording("x", {"mix": path}, start=5.0, stop=12.5, seconds=7.5), tmp_path)
    assert found["seconds"] == 7.5
    found = scan_one(recording("x", {"mix": path}, start=5.0, seconds=15.0), tmp_path)
    assert found["seconds"] == 15.0


@pytest.mark.parametrize(
    ("gain", "told"), [(1.3, []), (4.0, ["peaks 12.0 dB over full scale, which shards clip; export it softer"])]
)
def test_what_shards_will_clip_is_told(gain: float, told: list[str], tmp_path: Path) -> None:
    sound = tone(0.5)
    audio = {"vocals": put(tmp_path / "v.wav", gain * sound / np.abs(sound).max(), subtype="FLOAT")}
    assert scan_one(recording("x", audio), tmp_path / "work")["notes"] == told


def test_silence_has_no_loudness(tmp_path: Path) -> None:
    found = scan_one(recording("x", {"mix": put(tmp_path / "x.wav", np.zeros((RATE, 2), np.float32))}), tmp_path)
    assert found["loudness"] is None and found["peak"] == 0.0


def cut_bytes(path: str, keep: float) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * keep)])


def damage(path: str, at: float, count: int = 400) -> None:
    data = bytearray(Path(path).read_bytes())
    first = int(len(data) * at)
    data[first : first + count] = b"\x55" * count
    Path(path).write_bytes(bytes(data))


def bad_recordings(folder: Path) -> dict[str, tuple[Recording, str]]:
    """Everything that goes wrong with files in the wild, and a word of the reason that must be told."""
    sound = tone(8)
    good = put(folder / "good.flac", sound)
    files = {name: str(folder / name) for name in ("missing.flac", "empty.flac", "text.wav", "header.wav")}
    Path(files["empty.flac"]).touch()
    Path(files["text.wav"]).write_text("404 not found\n" * 100)
    put(Path(files["header.wav"]), sound[:0])
    short_flac, broken_flac = put(folder / "short.flac", sound), put(folder / "broken.flac", sound)
    cut_bytes(short_flac, 0.6)
    damage(broken_flac, 0.5)
    nan = sound.copy()
    nan[RATE] = np.nan
    longer = put(folder / "longer.flac", tone(8.1))
    short_opus = put(folder / "short.opus", sound, format="OGG", subtype="OPUS")
    cut_bytes(short_opus, 0.5)
    listed = {
        "missing": ({"mix": files["missing.flac"]}, {}, "missing.flac"),
        "empty": ({"mix": files["empty.flac"]}, {}, "empty.flac: is empty"),
        "text": ({"mix": files["text.wav"]}, {}, "text.wav: not audio"),
        "no samples": ({"mix": files["header.wav"]}, {}, "header.wav: contains no sound"),
        "cut off": ({"mix": short_flac}, {}, "short.flac"),
        "damaged": ({"mix": broken_flac}, {}, "broken.flac"),
        "cut off opus": ({"mix": short_opus}, {"seconds": 8.0}, "short.opus"),
        "not a number": ({"mix": put(folder / "nan.wav", nan, subtype="FLOAT")}, {}, "nan.wav: samples that are no"),
        "unequal stems": ({"vocals": good, "accompaniment": longer}, {}, "stems of one recording"),
        "other length": ({"mix": good}, {"seconds": 9.0}, "metadata say 9.00 s"),
        "past the end": ({"mix": good}, {"start": 9.0}, "past its end"),
        "no audio": ({}, {}, "no audio file"),
        "one stem missing": ({"vocals": good, "accompaniment": files["missing.flac"]}, {}, "missing.flac"),
    }
    return {
        name: (recording(name.replace(" ", "-"), audio, **values), words)
        for name, (audio, values, words) in listed.items()
    }  # fmt: skip


def test_every_damage_is_named(tmp_path: Path) -> None:
    bad = bad_recordings(tmp_path)
    good = [recording(f"good{n}", {"mix": put(tmp_path / f"g{n}.flac", tone(3, seed=n))}) for n in range(3)]
    results = run_scan([*good, *(item for item, _ in bad.values())], tmp_path / "work", LocalEngine(1))
    assert list(results.done) == [item.id for item in good]
    told = {name: results.failed.get(item.id, "not found out") for name, (item, _) in bad.items()}
    assert {name: reason for name, reason in told.items() if bad[name][1] not in reason} == {}
    assert not any("unexpected" in reason or "\n" in reason for reason in told.values())
    ledger = read_ledger(tmp_path / "work" / "ledger" / "scan.jsonl")
    assert {item.id: ledger[item.id].error for item, _ in bad.values()} == results.failed


@pytest.mark.parametrize(("stated", "fits"), [(8.0, True), (8.6, True), (7.4, True), (8.8, False), (7.2, False)])
def test_length_tolerance(stated: float, fits: bool, tmp_path: Path) -> None:
    item = recording("x", {"mix": put(tmp_path / "x.flac", tone(8))}, seconds=stated)
    if fits:
        assert scan_one(item, tmp_path)["seconds"] == 8.0
    else:
        with pytest.raises(CorpusError, match=r"x\.flac: 8\.00 s"):
            scan_one(item, tmp_path)


def test_a_few_samples_between_stems_are_noted(tmp_path: Path) -> None:
    sound = tone(4)
    audio = {"vocals": put(tmp_path / "v.wav", sound), "accompaniment": put(tmp_path / "a.wav", sound[:-500])}
    found = scan_one(recording("x", audio), tmp_path)
    assert found["samples"] == len(sound) - 500 and "500 samples" in found["notes"][0]
    with pytest.raises(AudioError, match="one length"):
        scan_one(recording("x", {**audio, "accompaniment": put(tmp_path / "a.wav", sound[:-1920])}), tmp_path)


def test_again_only_what_changed(tmp_path: Path) -> None:
    items = [recording(f"x{n}", {"mix": put(tmp_path / f"x{n}.flac", tone(2, seed=n))}) for n in range(3)]
    work = tmp_path / "work"
    first = run_scan(items, work, LocalEngine(1))
    put(tmp_path / "x1.flac", tone(2.5, seed=9))
    scan_files(work / "scan", "c/x2")[1].unlink()
    second = run_scan(items, work, LocalEngine(1))
    assert second.kept == 1 and second.done["c/x1"]["seconds"] == 2.5
    assert second.done["c/x2"] == first.done["c/x2"]
    Path(items[0].audio["mix"]).unlink()
    third = run_scan(items, work, LocalEngine(1))
    assert list(third.failed) == ["c/x0"] and third.kept == 2
    with pytest.raises(CorpusError, match="no scan"):
        read_scan(work, "c/x0")  # what is no longer true does not stay


def test_scans_of_before_are_made_again_where_more_is_seen_now(tmp_path: Path) -> None:
    """Pages of ogg and channel masks of wav: hours of other files are not scanned anew for them."""
    names = ["a.flac", "b.FLAC", "c.mp3", "d.m4a", "e.opus", "f.wav", "g"]
    units = scan_units([recording(name, {"mix": name}) for name in names], tmp_path)
    assert [unit.payload["format"] for unit in units] == [1, 1, 1, 1, 2, 2, 2]
    (both,) = scan_units([recording("x", {"mix": "a.flac", "vocals": "v.opus"})], tmp_path)
    assert both.payload["format"] == 2


def test_a_moved_work_folder_is_kept(tmp_path: Path) -> None:
    item = recording("x", {"mix": put(tmp_path / "x.flac", tone(2))})
    run_scan([item], tmp_path / "a", LocalEngine(1))
    (tmp_path / "a").rename(tmp_path / "b")
    assert run_scan([item], tmp_path / "b", LocalEngine(1)).kept == 1


def test_files_behind_urls(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    local = put(tmp_path / "x.flac", tone(2))
    with fsspec.open("memory://corpus/x.flac", "wb") as file:
        file.write(Path(local).read_bytes())
    here = scan_one(recording("x", {"mix": local}), tmp_path)
    there = scan_one(recording("y", {"mix": "memory://corpus/x.flac"}), tmp_path)
    assert here == there
    with pytest.raises(AudioError, match=r"memory://corpus/no\.flac"):
        scan_one(recording("z", {"mix": "memory://corpus/no.flac"}), tmp_path)


def test_workers_find_the_same(tmp_path: Path) -> None:
    items = [recording(f"x{n}", {"mix": put(tmp_path / f"x{n}.flac", tone(2, seed=n))}) for n in range(4)]
    one = run_scan(items, tmp_path / "one", LocalEngine(1))
    two = run_scan(items, tmp_path / "two", LocalEngine(2))
    assert one.done == two.done
    for item in items:
        for a, b in zip(
            scan_files(tmp_path / "one/scan", item.id), scan_files(tmp_path / "two/scan", item.id), strict=True
        ):
            assert a.read_bytes() == b.read_bytes()
    assert (
        dataclasses.asdict(items[0])["id"]
        == json.loads((tmp_path / "one/ledger/scan.jsonl").read_text().split("\n")[0])["unit"]
    )

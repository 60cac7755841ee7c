"""The step that separates: what it takes, stems that sum to the mix, both or none, resuming, and the check."""

from __future__ import annotations

import errno
import json
import math
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from duotok.audio.io import read, write
from duotok.data import catalog, separate, stem_files
from duotok.data.jobs import JobError, LocalEngine
from duotok.data.scan import run_scan
from duotok.data.separate import SeparationOptions, pending_separate, run_separate, to_separate, with_stems
from duotok.data.separation_check import mean_quality, measure_separation, with_true_stems
from duotok.data.stem_files import StemWriter, stems_in
from duotok.errors import AudioError, ConfigError
from duotok.records import CorpusError, Recording
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.measures import SiSdr, floored_si_sdr
from duotok.separation.separator import GivenStems

ENGINE = LocalEngine(1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder with a tiny random separator."""
    folder = tmp_path_factory.mktemp("bundle")
    config = BSRoFormerConfig(
        n_fft=288, hop=96, bands=(6, 19, 120), groups=(1, 2, 16), dim=8, depth=1, heads=2, head_dim=4, feedforward=8,
        mask_hidden=4,
    )  # fmt: skip
    torch.manual_seed(0)
    save_file(BSRoFormer(config).state_dict(), folder / "separator.safetensors")
    (folder / "config.json").write_text(json.dumps({"separator": config.model_dump(mode="json")}))
    return folder


@pytest.fixture
def options(bundle: Path) -> SeparationOptions:
    return SeparationOptions(weights=str(bundle))


def sound(seconds: float, channels: int = 2, seed: int = 0, rate: int = 48_000) -> Tensor:
    shape = (channels, round(seconds * rate))
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def recording(name: str, audio: dict[str, Path], **more: Any) -> Recording:
    values: dict[str, Any] = {"kind": "song", "split": "train", "identity": name}
    return Recording(f"c/{name}", "c", audio={stem: str(path) for stem, path in audio.items()}, **values | more)


def mixes(folder: Path, count: int = 2, seconds: float = 0.5) -> list[Recording]:
    found = []
    for n in range(count):
        path = folder / f"mix{n}.wav"
        write(path, sound(seconds, 2 - n % 2, seed=n), 48_000)
        found.append(recording(f"r{n}", {"mix": path}))
    return found


def stored(work: Path) -> dict[str, bytes]:
    return {str(p.relative_to(work)): p.read_bytes() for p in sorted((work / "stems").rglob("*")) if p.is_file()}


# -- stems on disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "channels"), [(16, 2), (16, 1), (24, 2)])
def test_flac_stems_sum_to_the_mix(tmp_path: Path, bits: int, channels: int) -> None:
    mix = sound(0.3, channels)
    vocals = sound(0.3, channels, seed=1)
    with StemWriter(tmp_path, channels, "flac", bits) as writer:
        for v, m in zip(vocals.split(1000, dim=-1), mix.split(1000, dim=-1), strict=True):
            writer.write(v, m)
    kept = {track: read(path) for track, path in stems_in(tmp_path).items()}
    assert soundfile.info(stems_in(tmp_path)["vocals"]).subtype == f"PCM_{bits}"
    step = 2.0 ** (1 - bits)
    assert kept["vocals"].shape == mix.shape
    assert float((kept["vocals"] - vocals).abs().max()) <= step * 0.501 + 1e-8
    assert float((kept["vocals"] + kept["accompaniment"] - mix).abs().max()) <= step * 0.501 + 6e-8
    assert writer.clipped == 0


def test_what_is_beyond_full_scale_is_clipped_and_counted(tmp_path: Path) -> None:
    with StemWriter(tmp_path, 1) as writer:
        writer.write(torch.tensor([[1.5, 0.0, 0.0]]), torch.tensor([[0.9, 0.0, 0.5]]))
    assert writer.clipped == 1
    total = sum(read(path) for path in stems_in(tmp_path).values())
    torch.testing.assert_close(total, torch.tensor([[0.9, 0.0, 0.5]]), atol=4e-5, rtol=0)


@pytest.mark.parametrize("samples", [1, 959, 960, 50_001])
def test_opus_stems_have_the_length_and_the_same_bytes_each_time(tmp_path: Path, samples: int) -> None:
    time = torch.arange(samples) / 48_000
    mix = (0.4 * torch.sin(2 * torch.pi * 440 * time) + 0.2 * torch.sin(2 * torch.pi * 1870 * time)).expand(2, -1)
    for name in ("one", "two"):
        with StemWriter(tmp_path / name, 2, "opus") as writer:
            for part in mix.split(7000, dim=-1):
                writer.write(0.3 * part, part)
    one, two = (stems_in(tmp_path / name) for name in ("one", "two"))
    assert all(one[track].read_bytes() == two[track].read_bytes() for track in one)
    kept = {track: read(path) for track, path in one.items()}
    assert all(audio.shape == mix.shape for audio in kept.values())
    if samples > 10_000:
        error = kept["vocals"] + kept["accompaniment"] - mix
        assert 10 * math.log10(float(mix.square().sum() / error.square().sum())) > 25


def test_both_or_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), StemWriter(tmp_path, 2) as writer:
        writer.write(sound(0.1), sound(0.1))
        raise RuntimeError("a decoder gives up")
    assert list(tmp_path.iterdir()) == [] and stems_in(tmp_path) == {}
    with StemWriter(tmp_path, 2, "opus") as writer:
        writer.write(sound(0.1), sound(0.1))
    with StemWriter(tmp_path, 2, "flac") as writer:  # the other kind takes the place of this one
        writer.write(sound(0.1), sound(0.1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["accompaniment.flac", "vocals.flac"]
    (tmp_path / "vocals.flac").unlink()
    assert stems_in(tmp_path) == {}


@pytest.mark.parametrize("extension", ["flac", "opus"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, extension: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))  # a full disk, as far as write() is concerned
        with pytest.raises(AudioError, match="cannot be written"), StemWriter(tmp_path, 2, extension) as writer:
            for _ in range(10):
                writer.write(sound(1.0), sound(1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_no_space_stays_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the job stops, and does not write the rest of the recordings off."""

    def full(self: Any, data: Any) -> int:
        self.error = OSError(errno.ENOSPC, "No space left on device")
        return 0

    monkeypatch.setattr(stem_files.DiskFile, "write", full)
    with pytest.raises(OSError, match="No space left"), StemWriter(tmp_path, 2) as writer:
        writer.write(sound(1.0), sound(1.0))
    assert list(tmp_path.iterdir()) == []


def test_places_and_formats_that_do_not_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match="stems cannot be written"):
        StemWriter(tmp_path / "file" / "id", 2)
    with pytest.raises(ConfigError, match="flac or opus"):
        StemWriter(tmp_path, 2, "mp3")
    with pytest.raises(ConfigError, match="use 16 or 24"):
        StemWriter(tmp_path, 2, "flac", 20)


# -- the step -----------------------------------------------------------------------------------------------------------


def test_which_recordings_are_separated(tmp_path: Path) -> None:
    mix = {"mix": tmp_path / "m.wav"}
    yes = [recording("a", mix), recording("b", mix, kind="music")]
    no = [
        recording("c", mix, kind="speech"), recording("d", mix, kind="instrumental"), recording("e", mix, kind="sound"),
        recording("f", mix | {"vocals": tmp_path / "v.wav"}), recording("g", {"vocals": tmp_path / "v.wav"}),
        recording("h", mix | {"drums": tmp_path / "d.wav"}), recording("i", mix | {"accompaniment": tmp_path / "x.wav"}),
    ]  # fmt: skip
    assert to_separate([*no, *yes]) == yes


def test_stems_are_written_and_added(tmp_path: Path, options: SeparationOptions) -> None:
    recordings, work = mixes(tmp_path), tmp_path / "work"
    assert with_stems(recordings, work) == recordings
    results = run_separate(recordings, work, options, ENGINE)
    assert list(results.done) == ["c/r0", "c/r1"] and not results.failed
    for before, after in zip(recordings, with_stems(recordings, work), strict=True):
        mix = read(before.audio["mix"])
        assert set(after.audio) == {"mix", "vocals", "accompaniment"}
        tracks = [read(after.audio[track]) for track in ("vocals", "accompaniment")]
        assert all(track.shape == mix.shape for track in tracks)
        assert float((tracks[0] + tracks[1] - mix).abs().max()) <= 2.0**-16 + 1e-6
        assert float(tracks[0].abs().max()) > 0.01
        found = results.done[before.id]
        assert (found["samples"], found["channels"]) == (mix.shape[-1], mix.shape[0])


def test_nothing_is_done_twice_and_changes_are_seen(tmp_path: Path, options: SeparationOptions) -> None:
    recordings, work = mixes(tmp_path), tmp_path / "work"
    run_separate(recordings, work, options, ENGINE)
    bytes_before = stored(work)
    assert run_separate(recordings, work, options, ENGINE).kept == 2
    assert pending_separate(recordings, work, options).todo == []
    (work / "stems/c/r0/vocals.flac").unlink()
    assert [u.id for u in pending_separate(recordings, work, options).todo] == ["c/r0"]
    assert run_separate(recordings, work, options, ENGINE).kept == 1
    assert stored(work) == bytes_before
    write(Path(recordings[1].audio["mix"]), sound(0.4, 1, seed=7), 48_000)
    assert [u.id for u in pending_separate(recordings, work, options).todo] == ["c/r1"]
    opus = SeparationOptions(weights=options.weights, extension="opus")
    assert len(pending_separate(recordings, work, opus).todo) == 2
    run_separate(recordings, work, opus, ENGINE)
    assert sorted(p.name for p in (work / "stems/c/r0").iterdir()) == ["accompaniment.opus", "vocals.opus"]


def test_stems_of_a_mix_that_was_exchanged_are_not_scanned(tmp_path: Path, options: SeparationOptions) -> None:
    """Of the same length, so that nothing else would notice."""
    (item,), work = mixes(tmp_path, 1), tmp_path / "work"

    def failed() -> dict[str, str]:
        return run_scan(with_stems([item], work), work, ENGINE).failed

    run_separate([item], work, options, ENGINE)
    assert failed() == {}
    write(Path(item.audio["mix"]), sound(0.5, 2, seed=9), 48_000)
    assert "separated from other sound" in failed()["c/r0"]
    run_separate([item], work, options, ENGINE)
    assert failed() == {}


def test_another_place_or_device_name_is_the_same_work(tmp_path: Path, options: SeparationOptions) -> None:
    recordings = mixes(tmp_path, 1)
    one, two = (separate.separate_units(recordings, tmp_path / name, options)[0] for name in ("one", "two"))
    other = separate.separate_units(recordings, tmp_path, SeparationOptions(weights=options.weights, device="cuda"))[0]
    assert one.stamp == two.stamp == other.stamp
    assert separate.separate_units(recordings, tmp_path, SeparationOptions())[0].stamp != one.stamp


def test_broken_recordings_are_named_and_the_rest_goes_on(tmp_path: Path, options: SeparationOptions) -> None:
    recordings, work = mixes(tmp_path, 4), tmp_path / "work"
    run_separate(recordings, work, options, ENGINE)
    Path(recordings[0].audio["mix"]).write_bytes(b"no sound at all")
    Path(recordings[1].audio["mix"]).unlink()
    flac = tmp_path / "damaged.flac"
    write(flac, sound(2.0), 48_000)
    data = bytearray(flac.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    flac.write_bytes(bytes(data))
    recordings[2] = recording("r2", {"mix": flac})
    results = run_separate(recordings, work, options, ENGINE)
    assert list(results.done) == ["c/r3"] and list(results.failed) == ["c/r0", "c/r1", "c/r2"]
    assert "mix0.wav" in results.failed["c/r0"] and "No such file" in results.failed["c/r1"]
    assert "damaged.flac" in results.failed["c/r2"]
    # stems of what was there before do not stay beside a file that is damaged now
    assert sorted(p.name for p in (work / "stems/c").iterdir() if any(p.iterdir())) == ["r3"]
    assert with_stems(recordings, work)[0] == recordings[0]


def test_parts_of_files_keep_their_time_line(tmp_path: Path, options: SeparationOptions) -> None:
    path = tmp_path / "long.wav"
    write(path, sound(1.5), 48_000)
    part = recording("part", {"mix": path}, start=0.5, stop=1.25)
    work = tmp_path / "work"
    done = run_separate([part], work, options, ENGINE).done["c/part"]
    assert done["samples"] == 36_000
    audio = with_stems([part], work)[0].audio
    tracks = [read(audio[track], start=part.start, seconds=0.75) for track in ("vocals", "accompaniment")]
    torch.testing.assert_close(sum(tracks), read(path, start=0.5, seconds=0.75), atol=2e-5, rtol=0)
    assert float(read(audio["vocals"], seconds=0.5).abs().max()) == 0.0


def test_other_rates_and_surround(tmp_path: Path, options: SeparationOptions) -> None:
    write(tmp_path / "a.wav", sound(0.31, 2, rate=44_100), 44_100)
    write(tmp_path / "b.wav", sound(0.3, 6), 48_000)
    recordings = [recording(name, {"mix": tmp_path / f"{name}.wav"}) for name in "ab"]
    work = tmp_path / "work"
    run_separate(recordings, work, options, ENGINE)
    for item in with_stems(recordings, work):
        mix = read(item.audio["mix"], channels=2)
        total = read(item.audio["vocals"]) + read(item.audio["accompaniment"])
        torch.testing.assert_close(total, mix, atol=2e-5, rtol=0)


def test_worker_processes_and_threads_do_not_show(tmp_path: Path, options: SeparationOptions) -> None:
    recordings = mixes(tmp_path, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_separate(recordings, tmp_path / "one", options, ENGINE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    results = run_separate(recordings, tmp_path / "two", options, LocalEngine(2))
    assert not results.failed and stored(tmp_path / "one") == stored(tmp_path / "two")


def test_a_separator_that_cannot_work_stops_the_job(tmp_path: Path) -> None:
    recordings = mixes(tmp_path, 1)
    with pytest.raises(ConfigError, match="did you mean 'demucs'"):
        SeparationOptions("demuc")
    with pytest.raises(ConfigError, match="flac"):
        SeparationOptions(extension="wav")
    with pytest.raises(JobError, match="needs weights"):
        run_separate(recordings, tmp_path / "work", SeparationOptions("bs-roformer"), ENGINE)
    assert with_stems(recordings, tmp_path / "work") == recordings


def test_estimates_that_are_no_sound_are_refused(
    tmp_path: Path, options: SeparationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    separator = options.open()
    monkeypatch.setattr(separator, "estimate", lambda mix, stems: torch.full((1, *mix.shape), math.nan))
    results = run_separate(mixes(tmp_path, 1), tmp_path / "work", options, ENGINE)
    assert "no finite sound" in results.failed["c/r0"]
    assert stored(tmp_path / "work") == {}


def test_speed_is_told(tmp_path: Path, options: SeparationOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separate, "NOTE_SECONDS", 0.0)
    notes: list[str] = []
    run_separate(mixes(tmp_path, 2), tmp_path / "work", options, ENGINE, note=notes.append)
    assert [note.split(":")[0] for note in notes] == ["separated 1 of 2", "separated 2 of 2"]
    assert "x real time" in notes[0] and "left" in notes[0] and "left" not in notes[1]


# -- the check ----------------------------------------------------------------------------------------------------------


def true_songs(folder: Path) -> list[Recording]:
    found = []
    for n in range(2):
        parts = {"vocals": sound(0.5, 1, seed=n), "drums": sound(0.5, seed=10 + n), "bass": sound(0.5, seed=20 + n)}
        parts["other"] = sound(0.5, seed=30 + n)
        parts["accompaniment"] = parts["drums"] + parts["bass"] + parts["other"]
        paths = {name: folder / f"{n}.{name}.wav" for name in parts}
        for name, audio in parts.items():
            write(paths[name], audio, 48_000)
        if n:
            del paths["accompaniment"]
        found.append(recording(f"s{n}", paths))
    return found


def test_true_stems_are_found(tmp_path: Path) -> None:
    songs = true_songs(tmp_path)
    some = recording("some", {"vocals": tmp_path / "v.wav", "drums": tmp_path / "d.wav"})
    assert with_true_stems([*songs, some, *mixes(tmp_path)]) == songs
    with pytest.raises(CorpusError, match="c/some: its true stems are not known"):
        list(measure_separation([some], SeparationOptions().open()))


def test_measured_against_doing_nothing(tmp_path: Path, options: SeparationOptions) -> None:
    separator = options.open()
    songs = true_songs(tmp_path)
    found = list(measure_separation(songs, separator))
    for song, quality in zip(songs, found, strict=True):
        vocals = read(song.audio["vocals"], channels=2)
        rest = sum(read(song.audio[name]) for name in ("drums", "bass", "other"))
        estimates = separator.separate(vocals + rest)
        for track, target in (("vocals", vocals), ("accompaniment", rest)):
            assert quality.nothing[track] == pytest.approx(float(floored_si_sdr(vocals + rest, target)), abs=1e-3)
            assert quality.separated[track] == pytest.approx(float(floored_si_sdr(estimates[track], target)), abs=1e-3)
        assert quality.seconds == 0.5 and quality.took > 0
    means = mean_quality(found)
    assert means["vocals"]["gain"] == pytest.approx(means["vocals"]["separated"] - means["vocals"]["nothing"])
    assert [q.seconds for q in measure_separation(songs, separator, 0.25)] == [0.25, 0.25]


def test_a_perfect_separator_scores_high_and_silence_is_no_number(tmp_path: Path) -> None:
    song = true_songs(tmp_path)[0]
    vocals = read(song.audio["vocals"], channels=2)

    class Perfect:
        def stream(self, blocks: Any) -> Any:
            mix = torch.cat(list(blocks), dim=-1)
            yield GivenStems({"vocals": vocals}).separate(mix)

    quality = next(measure_separation([song], Perfect()))  # type: ignore[arg-type]
    assert quality.separated["vocals"] > 80 and quality.separated["accompaniment"] > 80
    write(Path(song.audio["vocals"]), torch.zeros(1, 24_000), 48_000)
    silent = next(measure_separation([song], SeparationOptions().open()))
    assert math.isnan(silent.nothing["vocals"]) and not math.isnan(silent.separated["accompaniment"])
    assert mean_quality([quality, silent])["accompaniment"]["separated"] == quality.separated["accompaniment"]
    assert math.isnan(mean_quality([silent])["vocals"]["gain"])


def test_running_si_sdr_is_si_sdr() -> None:
    estimate, target = sound(0.1), sound(0.1, seed=1)
    score = SiSdr()
    for e, t in zip(estimate.split(700, dim=-1), target.split(700, dim=-1), strict=True):
        score.add(e, t)
    assert score.decibels() == pytest.approx(float(floored_si_sdr(estimate, target)), abs=1e-6)


# -- the command --------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str, str]:
    from duotok.cli.main import app

    done = CliRunner().invoke(app, ["data", "separate", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_command(tmp_path: Path, bundle: Path) -> None:
    work = tmp_path / "work"
    recordings = mixes(tmp_path)
    catalog.write(work, catalog.Catalog([*recordings, *true_songs(tmp_path)], {}))  # type: ignore[arg-type]
    common = ("--work", work, "--weights", bundle, "--workers", 1)
    assert run(*common, "--dry-run", "--json")[1] == '{"to do": 2, "kept": 0, "failed": 0}\n'
    assert not (work / "stems").exists()
    code, out, _ = run(*common, "--json")
    facts = json.loads(out)
    assert code == 0 and (facts["done"], facts["kept"], facts["failed"]) == (2, 0, 0) and facts["worker_hours"] > 0
    code, _, told = run(*common, "--stems", "flac24")
    assert code == 0 and "2 recordings separated (0 by an earlier run)" in told and "x real time" in told
    assert soundfile.info(work / "stems/c/r0/vocals.flac").subtype == "PCM_24"
    Path(recordings[0].audio["mix"]).write_bytes(b"broken")
    code, _, told = run(*common, "--stems", "flac24")
    assert code == 0 and "failed: c/r0: " in told and "separate.jsonl has them all" in told
    assert run(*common, "--separator", "x")[0] == 1 and run(*common, "--stems", "mp3")[0] == 1


def test_command_check(tmp_path: Path, bundle: Path) -> None:
    work = tmp_path / "work"
    catalog.write(work, catalog.Catalog(true_songs(tmp_path), {}))  # type: ignore[arg-type]
    code, out, _ = run("--work", work, "--weights", bundle, "--check")
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines[1:]] == ["recording", "c/s0", "c/s1", "mean"]
    assert "->" in lines[2] and "gain" in lines[-1]
    facts = json.loads(run("--work", work, "--weights", bundle, "--check", "--check-seconds", 1, "--json")[1])
    assert (
        facts["separator"].startswith("mini:") and len(facts["recordings"]) == 2 and "gain" in facts["mean"]["vocals"]
    )
    catalog.write(work, catalog.Catalog(mixes(tmp_path), {}))  # type: ignore[arg-type]
    code, _, told = run("--work", work, "--check")
    assert code == 1 and "no recording of the catalog has true stems" in told

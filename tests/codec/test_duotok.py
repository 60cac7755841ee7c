"""The whole chain on a tiny random bundle: lengths, windows, batches, gains, given stems, rendering in pieces."""

from __future__ import annotations

import errno
import logging
import tempfile
from dataclasses import replace
from io import BufferedRandom, RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.tiny import song, tiny_bundle, tiny_config

from duotok.audio import io
from duotok.audio.features import HIGHPASS_HZ
from duotok.audio.highpass import highpass
from duotok.audio.loudness import integrated_loudness
from duotok.clock import n_frames
from duotok.codec.bundle import build, write_bundle
from duotok.codec.duotok import DuoTok
from duotok.codec.spool import AudioSource, Spool, tracks_of
from duotok.errors import AudioError, BundleError, ConfigError
from duotok.tokens import DualTokens, WindowPlan
from duotok.tracks import TRACKS


@pytest.mark.parametrize("n_samples", [1, 960, 1919, 1920, 1921, 3839, 48_000, 100_003])
def test_lengths_for_remainders(model: DuoTok, n_samples: int) -> None:
    audio = song(3.0)[:, :n_samples]
    tokens = model.encode(vocals=audio, accompaniment=audio.flip(0))
    assert len(tokens.vocals) == len(tokens.accompaniment) == model.n_frames(n_samples) == n_frames(n_samples)
    assert tokens.n_samples == n_samples
    assert model.decode(tokens, steps=1).shape == (1, n_samples)


def test_separates_short_and_long(model: DuoTok) -> None:
    for seconds in (0.02, 5.0):
        tokens = model.encode(song(seconds))
        assert tokens.n_frames == n_frames(round(seconds * 48_000))


def test_tokens_come_from_file_and_plan_only(model: DuoTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = song(6.5)
    io.write(tmp_path / "song.wav", audio, 48_000)
    tokens = model.encode(tmp_path / "song.wav")
    assert tokens.source == "song.wav" and tokens.plan == WindowPlan(40, 8)
    again = replace(model.encode(audio), source="song.wav", sources=tokens.sources)
    assert again == tokens
    monkeypatch.setattr("duotok.codec.spool.BLOCK_SECONDS", 0.37)
    assert model.encode(tmp_path / "song.wav") == tokens


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batched_windows_give_the_same_tokens(model: DuoTok, batch_size: int) -> None:
    audio = song(8.0)
    one = model.encode(vocals=audio, accompaniment=0.5 * audio)
    many = model.encode(vocals=audio, accompaniment=0.5 * audio, batch_size=batch_size)
    assert one == many


def test_mel_of_a_window_is_the_mel_of_the_file(model: DuoTok) -> None:
    audio = song(4.0)
    with Spool() as spool:
        spool.fill(tracks_of(None, AudioSource(audio), AudioSource(audio), None))
        whole = model.mel(spool.window("vocals", 0, spool.frames, model.mel.margin), margins=True)
        assert whole.shape == (4 * spool.frames, 128)
        padded = torch.nn.functional.pad(audio.mean(0, keepdim=True), (0, -audio.shape[1] % 1920))
        assert torch.allclose(whole, model.mel(io.resample(padded, 48_000, 24_000))[0], atol=1e-4)
        for start, stop in [(0, 7), (30, 60), (90, spool.frames)]:
            part = model.mel(spool.window("vocals", start, stop, model.mel.margin), margins=True)
            assert torch.allclose(part, whole[4 * start : 4 * stop], atol=1e-4)


def test_one_window_equals_the_tokenizer(model: DuoTok) -> None:
    audio = song(1.2)
    tokens = model.encode(vocals=audio, accompaniment=0 * audio)
    gain = 10 ** (tokens.gain_db / 20)
    heard = highpass(audio, HIGHPASS_HZ, 48_000)
    mono = torch.nn.functional.pad(heard.mean(0, keepdim=True), (0, -audio.shape[1] % 1920))
    mel = model.mel(io.resample(mono, 48_000, 24_000) * gain)
    assert torch.equal(model.tokenizer.encode(mel, "vocals")[0], tokens.vocals)


def test_one_gain_brings_the_mix_to_its_loudness(model: DuoTok) -> None:
    audio = song(3.0)
    quiet = model.encode(vocals=0.01 * audio, accompaniment=0.02 * audio)
    loud = model.encode(vocals=audio, accompaniment=2 * audio)
    assert quiet.gain_db - loud.gain_db == pytest.approx(40, abs=1e-3)
    assert quiet.gain_db == round(-18 - integrated_loudness([0.03 * audio], 48_000), 2)
    assert (quiet.stack() == loud.stack()).float().mean() > 0.99


def test_gain_is_undone(model: DuoTok) -> None:
    tokens = replace(model.encode(song(1.0)), gain_db=0.0)
    loud = model.decode(tokens)
    assert torch.allclose(model.decode(replace(tokens, gain_db=20.0)), loud / 10, atol=1e-6)


def test_silence_and_whispers(model: DuoTok) -> None:
    assert model.encode(torch.zeros(2, 48_000)).gain_db == 0.0
    faint = song(1.0) * 10 ** (-60 / 20)
    assert model.encode(faint).gain_db in (0.0, 40.0)
    assert model.decode(model.encode(torch.zeros(1, 10_000))).isfinite().all()


def test_one_stem_and_the_mix(model: DuoTok) -> None:
    voice, band = song(2.0), song(2.0, seed=1).roll(997, 1)
    both = model.encode(vocals=voice, accompaniment=band)
    for given in ({"vocals": voice}, {"accompaniment": band}):
        one = model.encode(voice + band, **given)
        assert one.gain_db == pytest.approx(both.gain_db, abs=1e-4)
        assert (one.stack() == both.stack()).float().mean() > 0.99
    with pytest.raises(AudioError, match="give the mix"):
        model.encode(vocals=voice)
    with pytest.raises(AudioError, match="nothing to encode"):
        model.encode()


def test_stems_of_unlike_length(model: DuoTok, caplog: pytest.LogCaptureFixture) -> None:
    voice = song(2.0)
    with caplog.at_level(logging.WARNING):
        tokens = model.encode(vocals=voice[:, :48_000], accompaniment=voice)
    assert tokens.n_samples == 96_000 and "differ in length" in caplog.text


def test_any_rate_and_channels(model: DuoTok, tmp_path: Path) -> None:
    for rate, channels in [(8000, 1), (192_000, 6), (44_100, 2)]:
        samples = np.tile(song(0.5, rate)[:1].numpy().T, (1, channels))
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        from_file = model.encode(path)
        assert from_file.n_samples == -(-len(samples) * 48_000 // rate)
        from_tensor = model.encode(torch.from_numpy(samples.T), rate)
        assert torch.equal(from_file.stack(), from_tensor.stack())


@pytest.mark.parametrize("bad", [torch.zeros(2, 0), torch.full((1, 100), float("nan")), torch.ones(2, 2, 10)])
def test_tensors_that_are_no_sound(model: DuoTok, bad: torch.Tensor) -> None:
    with pytest.raises(AudioError, match="audio"):
        model.encode(bad)
    with pytest.raises(AudioError, match="int64"):
        model.encode(torch.zeros(2, 100, dtype=torch.int64))


def test_no_temporary_files_stay(model: DuoTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[list[Path]] = []
    model.encode(song(3.0), progress=lambda _: seen.append(list(tmp_path.iterdir())))
    assert seen and not any(seen)


class FullDisk(RawIOBase):
    """A temporary file on a disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self._file, self._room = tempfile.TemporaryFile(buffering=0), room  # noqa: SIM115

    def write(self, data: Any) -> int:
        if len(data) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._room -= len(data)
        return self._file.write(data)

    def readinto(self, into: Any) -> int:
        return self._file.readinto(into)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readable(self) -> bool:
        return True

    writable = seekable = readable


@pytest.mark.parametrize("missing", [4 * 24_000, 1000, 1, 0])
def test_no_room_for_temporary_files_is_told(missing: int, model: DuoTok, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever bytes find no room: the last ones wait in a buffer until the file is flushed, or closed."""
    room = 4 * 24_000 - missing
    monkeypatch.setattr("duotok.codec.spool.temporary_file", lambda: BufferedRandom(FullDisk(room)))
    if not missing:
        model.encode(song(1.0))
        return
    with pytest.raises(AudioError, match=r"no room for temporary files .No space left on device.; set TMPDIR"):
        model.encode(song(1.0))


def test_progress_rises_to_one(model: DuoTok, tmp_path: Path) -> None:
    said: list[float] = []
    tokens = model.encode(song(5.0), progress=said.append)
    assert said == sorted(said) and said[-1] == pytest.approx(1.0)
    said.clear()
    model.decode(tokens, progress=said.append)
    assert said == sorted(said) and said[-1] == pytest.approx(1.0)


def test_mix_is_the_sum_of_the_tracks(model: DuoTok) -> None:
    tokens = model.encode(song(4.0))
    parts = [model.decode(tokens, track, seed=3) for track in TRACKS]
    assert torch.allclose(model.decode(tokens, seed=3), parts[0] + parts[1], atol=1e-6)
    assert not torch.allclose(parts[0], parts[1])


def test_seed_and_settings(model: DuoTok) -> None:
    tokens = model.encode(song(1.0))
    assert torch.equal(model.decode(tokens, seed=1), model.decode(tokens, seed=1))
    assert not torch.equal(model.decode(tokens, seed=1), model.decode(tokens, seed=2))
    for wrong in ({"track": "drums"}, {"sampler": "euler"}, {"steps": 0}, {"temperature": -1.0}):
        with pytest.raises(ConfigError):
            model.decode(tokens, **wrong)


def test_decoding_into_a_file(model: DuoTok, tmp_path: Path) -> None:
    tokens = model.encode(song(4.0))
    blocks = list(model.decode_blocks(tokens))
    assert len(blocks) > 1
    model.decode_to(tmp_path / "x.wav", tokens)
    assert torch.equal(io.read(tmp_path / "x.wav"), model.decode(tokens))
    assert torch.equal(torch.cat(blocks, 1), model.decode(tokens))


def test_tokens_of_another_model(model: DuoTok) -> None:
    tokens = model.encode(song(0.5))
    with pytest.raises(BundleError, match="tokens of tiny"):
        model.decode(replace(tokens, model_hash="0" * 64))
    with pytest.raises(BundleError, match="codebooks"):
        model.decode(replace(tokens, codebook_sizes=(32_768, 32_768)))
    bare = DualTokens.from_codes([1, 2], [3, 4], codebook_sizes=model.codebook_sizes)
    assert model.decode(bare).shape == (1, 3840)


def test_codec_contract(model: DuoTok) -> None:
    assert (model.sample_rate, model.frame_rate) == (48_000, 25.0)
    assert [s.name for s in model.streams] == list(TRACKS)
    assert model.streams[0].codebook_sizes == (64,)
    tokens = model.encode(song(1.0))
    embeddings = model.embeddings(tokens)
    assert set(embeddings) == set(TRACKS)
    assert embeddings["vocals"].shape == (25, 32)
    assert model.code_vectors(tokens, "vocals").shape == (25, 4)


def test_separator_at_another_rate(model: DuoTok) -> None:
    class Half:
        """Vocals = a half, at 44.1 kHz and without streaming."""

        sample_rate = 44_100

        def separate(self, audio: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"vocals": 0.5 * audio, "accompaniment": 0.5 * audio}

    audio = song(1.5)
    pairs = list(tracks_of(AudioSource(audio), None, None, Half()))
    vocals = torch.cat([v for v, _ in pairs], 1)[:, : audio.shape[1]]
    assert (vocals - 0.5 * audio)[:, 1000:-1000].pow(2).mean().sqrt() < 0.02  # what lies over 22 kHz is gone
    own, model.separator = model.separator, Half()
    try:
        tokens = model.encode(audio)
        assert tokens.n_samples == audio.shape[1]
        assert tokens.n_frames == n_frames(audio.shape[1])
    finally:
        model.separator = own


def test_the_gain_does_not_depend_on_threads(model: DuoTok) -> None:
    """Its last bits did: a matrix product summed the channels, and the separator's stems differ by rounding."""
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([model.encode(song(2.0, seed=seed)) for seed in range(4)])
    finally:
        torch.set_num_threads(before)
    for tokens in found[1:]:
        assert [t.gain_db for t in tokens] == [t.gain_db for t in found[0]]
        assert tokens == found[0]
    assert all(t.gain_db == round(t.gain_db, 2) for t in found[0])


def test_each_track_is_decoded_from_its_own_codes_by_its_own_renderer(model: DuoTok) -> None:
    """Other codes of one track change that track's sound and no other's; the mix is the sum; tracks do not sound alike."""
    codes = torch.arange(30) % 60
    tokens = DualTokens.from_codes(codes, codes, codebook_sizes=(64, 64))
    for changed, kept in (("vocals", "accompaniment"), ("accompaniment", "vocals")):
        other = DualTokens.from_codes(**{kept: codes, changed: codes.flip(0)}, codebook_sizes=(64, 64))
        assert torch.equal(model.decode(tokens, kept), model.decode(other, kept))
        assert model.decode(tokens, changed).shape == model.decode(other, changed).shape
        assert not torch.equal(model.code_vectors(tokens, changed), model.code_vectors(other, changed))
        assert torch.equal(model.code_vectors(tokens, kept), model.code_vectors(other, kept))
    assert not torch.allclose(model.code_vectors(tokens, "vocals"), model.code_vectors(tokens, "accompaniment"))
    mix = model.decode(tokens, "vocals") + model.decode(tokens, "accompaniment")
    torch.testing.assert_close(model.decode(tokens), mix, atol=1e-5, rtol=1e-4)


def test_a_renderer_is_asked_with_its_track_s_vectors(model: DuoTok, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def rendered(
        dit: object, autoencoder: object, vectors: torch.Tensor, n: int, *rest: object, track: str, **more: object
    ):
        seen.append((track, dit, vectors))
        yield torch.zeros(1, n)

    monkeypatch.setattr("duotok.codec.duotok.stream_track", rendered)
    tokens = DualTokens.from_codes(torch.arange(30), torch.arange(30).flip(0), codebook_sizes=(64, 64))
    model.decode(tokens)
    assert [track for track, _, _ in seen] == ["vocals", "accompaniment"]
    for track, dit, vectors in seen:
        assert dit is model.dit(track)
        wanted = model.tokenizer.branch(track).quantizer.code_vectors(tokens.track(track))
        torch.testing.assert_close(vectors, wanted.detach())
    assert model.dit("vocals") is not model.dit("accompaniment")


def test_what_decodes_has_a_hash_of_its_own(model: DuoTok, bundle: Path, tmp_path: Path) -> None:
    """Tokens mean the same under another renderer, and sound otherwise; the same weights elsewhere are the same."""
    again = DuoTok.from_pretrained(tiny_bundle(tmp_path / "again"))
    assert (again.model_hash, again.sound_hash) == (model.model_hash, model.sound_hash) and model.sound_hash
    config = tiny_config()
    torch.manual_seed(0)
    parts = {part: build(config, part) for part in config.parts}
    renderer = next(part for part in parts if part not in ("tokenizer", "separator", "autoencoder"))
    with torch.no_grad():
        next(parts[renderer].parameters()).add_(1)
    other = DuoTok.from_pretrained(write_bundle(tmp_path / "other", config, parts))
    assert other.model_hash == model.model_hash and other.sound_hash != model.sound_hash

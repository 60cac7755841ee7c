"""Mel and chroma against librosa, framing, windows."""

import librosa
import numpy as np
import torch

from duotok.audio.features import Chroma, LogMel, chroma_filters, mel_filters


def sound(samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    t = torch.arange(samples) / 24_000
    tones = sum(torch.sin(2 * np.pi * f * t) / (i + 1) for i, f in enumerate((220.0, 277.2, 329.6, 1760.0)))
    return 0.1 * tones + 0.02 * torch.randn(samples, generator=generator)


def test_mel_agrees_with_librosa():
    x = sound(24_000)
    mel = LogMel()
    padded = np.pad(x.numpy(), mel.margin)
    reference = librosa.feature.melspectrogram(
        y=padded, sr=24_000, n_fft=2048, hop_length=240, n_mels=128, htk=True, norm=None, center=False, power=2.0
    ).T
    ours = mel.denormalise(mel(x)).numpy()
    assert ours.shape == reference.shape == (100, 128)
    np.testing.assert_allclose(ours, np.log(np.maximum(reference, 1e-5)), atol=2e-3)


def test_chroma_agrees_with_librosa():
    x = sound(24_000)
    chroma = Chroma()
    power = np.abs(librosa.stft(np.pad(x.numpy(), chroma.margin), n_fft=4096, hop_length=240, center=False)) ** 2
    reference = (librosa.filters.chroma(sr=24_000, n_fft=4096, tuning=0.0) @ power).T
    reference /= reference.max(1, keepdims=True)
    np.testing.assert_allclose(chroma(x).numpy(), reference, atol=1e-3)
    assert int(chroma(x).mean(0).argmax()) == 9  # an A is loudest


def test_filters_agree_with_librosa():
    for rate, n_fft, n_mels in ((24_000, 32, 5), (24_000, 2048, 128), (48_000, 4096, 320)):
        reference = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, htk=True, norm=None)
        np.testing.assert_allclose(mel_filters(rate, n_fft, n_mels).T.numpy(), reference, atol=1e-5)
    np.testing.assert_allclose(
        chroma_filters(24_000, 4096).T.numpy(), librosa.filters.chroma(sr=24_000, n_fft=4096, tuning=0.0), atol=1e-5
    )


def test_frames_are_exact_and_windows_equal_the_whole():
    x = sound(9600)
    for module in (LogMel(), Chroma()):
        whole = module(x)
        assert whole.shape[0] == 40
        padded = torch.nn.functional.pad(x, (module.margin, module.margin))
        part = module(padded[2400 : 2400 + 4800 + 2 * module.margin], margins=True)
        torch.testing.assert_close(part, whole[10:30], atol=1e-5, rtol=1e-5)


def test_silence_is_the_floor_and_has_no_chroma():
    silence = torch.zeros(2400)
    mel = LogMel()
    torch.testing.assert_close(mel.denormalise(mel(silence)), torch.full((10, 128), float(np.log(1e-5))))
    assert not Chroma()(silence).any()

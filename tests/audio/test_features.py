"""Mel and chroma against the filters of transformers (those of librosa, which compiles for half a minute), framing, windows."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import get_window
from transformers.audio_utils import chroma_filter_bank, mel_filter_bank

from duotok.audio.features import Chroma, LogMel, chroma_filters, mel_filters


def sound(samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    t = torch.arange(samples) / 24_000
    tones = sum(torch.sin(2 * np.pi * f * t) / (i + 1) for i, f in enumerate((220.0, 277.2, 329.6, 1760.0)))
    return 0.1 * tones + 0.02 * torch.randn(samples, generator=generator)


def power(x: torch.Tensor, n_fft: int) -> NDArray[np.float64]:
    """Frames of n_fft samples, the first centred on sample 120, in float64."""
    padded = np.pad(x.double().numpy(), (n_fft - 240) // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::240]
    return np.abs(np.fft.rfft(frames * get_window("hann", n_fft))) ** 2


def mel_reference(rate: int, n_fft: int, n_mels: int) -> NDArray[np.float64]:
    return mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, rate / 2, rate, norm=None, mel_scale="htk")


def test_mel_agrees_with_transformers():
    x = sound(24_000)
    mel = LogMel()
    reference = power(x, 2048) @ mel_reference(24_000, 2048, 128)
    ours = mel.denormalise(mel(x)).numpy()
    assert ours.shape == reference.shape == (100, 128)
    np.testing.assert_allclose(ours, np.log(np.maximum(reference, 1e-5)), atol=2e-3)


def test_chroma_agrees_with_transformers():
    x = sound(24_000)
    chroma = Chroma()
    reference = power(x, 4096) @ chroma_filter_bank(4096, 12, 24_000).T
    reference /= reference.max(1, keepdims=True)
    np.testing.assert_allclose(chroma(x).numpy(), reference, atol=1e-3)
    assert int(chroma(x).mean(0).argmax()) == 9  # an A is loudest


def test_filters_agree_with_transformers():
    for rate, n_fft, n_mels in ((24_000, 32, 5), (24_000, 2048, 128), (48_000, 4096, 320)):
        filters = mel_filters(rate, n_fft, n_mels).numpy()
        np.testing.assert_allclose(filters, mel_reference(rate, n_fft, n_mels), atol=1e-5)
    np.testing.assert_allclose(chroma_filters(24_000, 4096).T.numpy(), chroma_filter_bank(4096, 12, 24_000), atol=1e-5)


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

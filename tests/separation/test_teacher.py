"""Teacher masks: on the tokenizer's frames, shares of one, zero in silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from duotok.audio.features import LogMel
from duotok.errors import AudioError
from duotok.separation.teacher import ratio_masks, teacher_masks
from duotok.tracks import STEMS


def tone(frequency: float, samples: int) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * frequency * torch.arange(samples) / 48_000).expand(2, -1)


@pytest.mark.parametrize("grid", ["mel", "stft"])
@pytest.mark.parametrize("samples", [1, 1919, 1920, 1921, 30_000])
def test_shape_and_range(samples: int, grid: str) -> None:
    masks = ratio_masks(torch.randn(4, 2, samples), grid=grid)  # type: ignore[arg-type]
    frames = 4 * -(-samples // 1920)
    assert masks.shape == (4, frames, 128 if grid == "mel" else 1025)
    assert masks.dtype == torch.float16
    assert float(masks.min()) >= 0.0 and float(masks.max()) <= 1.0


def test_masks_share_the_audible_and_fade_in_silence() -> None:
    masks = ratio_masks(torch.cat((torch.randn(4, 2, 48_000), torch.zeros(4, 2, 48_000)), dim=-1)).float()
    assert (masks[:, 10:90].sum(0) - 1).abs().max() < 0.03
    assert masks[:, 110:].max() == 0.0


def test_each_stem_owns_its_tone() -> None:
    frequencies = (300.0, 900.0, 2500.0, 7000.0)
    masks = ratio_masks(torch.stack([tone(f, 48_000) for f in frequencies]))
    filters = LogMel().filters
    for stem, frequency in enumerate(frequencies):
        band = int(filters[round(frequency / 24_000 * 2048)].argmax())
        middle = masks[:, 50, band]
        assert int(middle.argmax()) == stem and float(middle[stem]) > 0.9


def test_blocks_do_not_show() -> None:
    """More frames than are done at once: the same as the part alone, away from its ends."""
    stems = torch.randn(4, 1, 48_000 * 21)
    whole, part = ratio_masks(stems), ratio_masks(stems[..., 48_000 * 19 :])
    torch.testing.assert_close(whole[:, 1920:2080], part[:, 20:180], atol=2e-2, rtol=0)


def test_teacher_asks_for_all_four_stems() -> None:
    class Fixed:
        sample_rate = 48_000

        def __init__(self, stems: tuple[str, ...]) -> None:
            self.stems = stems

        def separate(self, audio: Tensor) -> dict[str, Tensor]:
            return {stem: audio.expand(2, -1) * (1.0 + index) for index, stem in enumerate(self.stems)}

    masks = teacher_masks(Fixed(STEMS), torch.randn(1, 9600)).float()
    torch.testing.assert_close(masks[:, 10].mean(-1), torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=5e-3, rtol=0)
    with pytest.raises(AudioError, match="gives no drums"):
        teacher_masks(Fixed(("vocals", "bass", "other")), torch.randn(1, 9600))
    with pytest.raises(AudioError, match="shape"):
        ratio_masks(torch.randn(4, 100))


def test_the_grid_of_bs_roformer_has_the_same_frames_and_hears_the_same_shares():
    """558 bins up to 12 kHz, 100 frames a second; two tones in two stems, each alone in its bins at its time."""
    t = torch.arange(48_000 * 2) / 48_000
    stems = torch.zeros(4, 2, len(t))
    stems[0] = torch.sin(2 * torch.pi * 1000 * t) * (t < 1)
    stems[1] = torch.sin(2 * torch.pi * 5000 * t)
    masks = ratio_masks(stems, 48_000, "roformer")
    assert masks.shape == (4, 200, 558)
    low, high = round(1000 * 2048 / 44_100), round(5000 * 2048 / 44_100)
    assert masks[0, 20:80, low].min() > 0.95 and masks[1, 20:80, high].min() > 0.95
    assert masks[0, 120:180, low].max() < 0.2
    assert masks.float().sum(0).max() <= 1.01

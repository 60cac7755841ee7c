"""Downsampling x4: normalised log-mel at 100 Hz to the 25 Hz token frames (figure of stage 1, unspecified there).

Two residual convolution blocks of stride 2 and a linear layer, as in MusicFM (conv2d), in four variants that differ in cost
(docs/experiments/front-ends.md). Norms act inside a time step and padding is zeroed before each convolution, so an item of a padded batch
gives the same output as alone.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from duotok.clock import MEL_PER_FRAME
from duotok.nn.masks import frame_mask, silence_padding

Kind = Literal["conv1d", "conv2d", "pyramid", "separable"]
SHARES: dict[str, tuple[int, int]] = {"conv2d": (1, 1), "pyramid": (8, 2), "separable": (4, 2)}
"""Channels of the two 2D blocks: `conv_channels` divided by these. The first block has four times as many positions as the
second, so its channels cost most."""


class ResidualConv1d(nn.Module):
    """`[batch, 2 t, channels_in]` to `[batch, t, channels]`: a strided and a plain convolution beside a pooled skip."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv1d(channels_in, channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)
        self.skip = nn.Linear(channels_in, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`mask [batch, t]` at the output rate; x must already be zero beyond its lengths."""
        h = self.down(x.transpose(1, 2)).transpose(1, 2)
        h = silence_padding(F.gelu(self.norm(h)), mask)
        h = self.conv(h.transpose(1, 2)).transpose(1, 2)
        skip = self.skip(x.reshape(x.shape[0], -1, 2, x.shape[2]).mean(2))
        return silence_padding(skip + h, mask)


def _conv2d(channels_in: int, channels: int, stride: int, separable: bool) -> nn.Module:
    """A 3 x 3 convolution, full or depthwise separable."""
    if not separable or channels_in == 1:
        return nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1)
    depthwise = nn.Conv2d(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(channels_in, channels, 1))


class ResidualConv2d(nn.Module):
    """The same in two dimensions: `[batch, channels_in, 2 t, 2 f]` to `[batch, channels, t, f]`; norm over channels."""

    def __init__(self, channels_in: int, channels: int, separable: bool = False) -> None:
        super().__init__()
        self.down = _conv2d(channels_in, channels, 2, separable)
        self.norm = nn.LayerNorm(channels)
        self.conv = _conv2d(channels, channels, 1, separable)
        self.skip = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.down(x).permute(0, 2, 3, 1)
        h = self.norm(h).to(h.dtype)  # mixed precision: the norm returns float32, and this tensor is large
        h = silence_padding(F.gelu(h), mask).permute(0, 3, 1, 2)
        y = self.skip(F.avg_pool2d(x, 2)) + self.conv(h)
        return silence_padding(y.permute(0, 2, 3, 1), mask).permute(0, 3, 1, 2)


class Downsampling(nn.Module):
    """`mel [batch, 4 * frames, n_mels]` to `[batch, frames, width]`."""

    def __init__(self, n_mels: int, width: int, channels: int, kind: Kind = "conv1d") -> None:
        super().__init__()
        self.kind, self.n_mels = kind, n_mels
        self.first: nn.Module
        self.second: nn.Module
        if kind == "conv1d":
            self.first, self.second = ResidualConv1d(n_mels, channels), ResidualConv1d(channels, channels)
            self.out = nn.Linear(channels, width)
            return
        if n_mels % 4:
            raise ValueError(f"{kind} halves the mel bins twice; n_mels {n_mels} must be a multiple of 4")
        low, high = (channels // share for share in SHARES[kind])
        if not low:
            raise ValueError(
                f"{kind}: conv_channels {channels} leaves none for the first block; at least {SHARES[kind][0]}"
            )
        separable = kind == "separable"
        self.first, self.second = ResidualConv2d(1, low, separable), ResidualConv2d(low, high, separable)
        self.out = nn.Linear(high * (n_mels // 4), width)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`lengths [batch]` in token frames. Raises ValueError for another shape."""
        if mel.dim() != 3 or mel.shape[2] != self.n_mels or mel.shape[1] % MEL_PER_FRAME or not mel.shape[1]:
            raise ValueError(f"mel is {tuple(mel.shape)}; it must be [batch, 4 * frames, {self.n_mels}]")
        frames = mel.shape[1] // MEL_PER_FRAME
        fine = None if lengths is None else frame_mask(lengths * 4, frames * 4)
        middle = None if lengths is None else frame_mask(lengths * 2, frames * 2)
        coarse = frame_mask(lengths, frames)
        x = silence_padding(mel, fine)
        if self.kind == "conv1d":
            x = self.second(self.first(x, middle), coarse)
        else:
            x = self.second(self.first(x[:, None], middle), coarse)
            x = x.permute(0, 2, 1, 3).flatten(2)
        return silence_padding(self.out(x), coarse)

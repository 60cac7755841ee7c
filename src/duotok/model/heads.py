"""The four heads on top of the upper blocks: mel, chroma, stem masks, text (figures of stages 2 and 3).

Convolutions run at 25 Hz and the step to 100 Hz comes last (a linear layer to four sub-frames: sub-pixel upsampling),
so a head costs little more than its output.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.clock import MEL_PER_FRAME
from duotok.model.config import TokenizerConfig
from duotok.nn.masks import frame_mask, silence_padding

HEADS = ("mel", "chroma", "masks", "text")


class ConvBlock(nn.Module):
    """Residual bottleneck: norm, linear down, convolution of 3 frames, GELU, linear up."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, hidden)
        self.conv = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.up = nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = silence_padding(F.gelu(self.down(self.norm(x))), mask)
        h = self.conv(h.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.up(F.gelu(h))
        return out


class ConvUpsampling(nn.Module):
    """`[batch, frames, width]` to `[batch, 4 * frames, channels]`."""

    def __init__(self, width: int, channels: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.channels = channels
        self.blocks = nn.ModuleList(ConvBlock(width, hidden) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, MEL_PER_FRAME * channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.out(self.norm(x))
        return out.reshape(x.shape[0], -1, self.channels)


class MaskEstimator(nn.Module):
    """A small MLP with GLU for each band, as in BS-RoFormer: `[..., channels]` to `[..., stems, bins]` in [0, 1].

    Bands of equal width run as one batched product.
    """

    order: Tensor

    def __init__(self, channels: int, hidden: int, bands: tuple[int, ...], stems: int) -> None:
        super().__init__()
        self.stems, self.hidden = stems, hidden
        self.widths = sorted(Counter(bands).items())
        self.hidden_layer = nn.Linear(channels, hidden * len(bands))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(n, hidden, stems * width * 2).uniform_(-(hidden**-0.5), hidden**-0.5))
            for width, n in self.widths
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(n, stems * width * 2)) for width, n in self.widths)
        starts = [sum(bands[:i]) for i in range(len(bands))]
        grouped = [
            s + k
            for width, _ in self.widths
            for s, b in zip(starts, bands, strict=True)
            if b == width
            for k in range(b)
        ]
        order = torch.empty(len(grouped), dtype=torch.long, device="cpu")
        order[torch.tensor(grouped, device="cpu")] = torch.arange(len(grouped), device="cpu")
        self.in_order = grouped == sorted(grouped)
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[:-1]
        h = torch.tanh(self.hidden_layer(x)).reshape(-1, self.hidden_layer.out_features // self.hidden, self.hidden)
        # Bands sorted by width own consecutive hidden units.
        parts, first = [], 0
        for (width, n), weight, bias in zip(self.widths, self.weights, self.biases, strict=True):
            y = torch.baddbmm(
                bias[:, None], h[:, first : first + n].transpose(0, 1), weight
            )  # [n, rows, stems * 2 width]
            y = F.glu(y.view(n, -1, self.stems, 2 * width), dim=-1)
            parts.append(y.permute(1, 2, 0, 3).flatten(2))
            first += n
        logits = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        if not self.in_order:
            logits = logits[..., self.order]
        return torch.sigmoid(logits).view(*shape, self.stems, -1)


class Heads(nn.Module):
    """The config decides which heads exist, the caller which ones run."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width, blocks, hidden = config.width, config.head_blocks, config.head_hidden
        if config.mel_head:
            self.mel = ConvUpsampling(width, config.n_mels, blocks, hidden)
        if config.chroma_head:
            self.chroma = ConvUpsampling(width, config.chroma, blocks, hidden)
        if config.mask_head:
            self.mask_upsampling = ConvUpsampling(width, config.mask_channels, blocks, hidden)
            self.masks = MaskEstimator(config.mask_channels, config.mask_hidden, config.mask_bands, len(config.stems))
        if config.text_head:
            self.text = nn.Linear(width, config.vocabulary + 1)
        enabled = (config.mel_head, config.chroma_head, config.mask_head, config.text_head)
        self.names = tuple(name for name, on in zip(HEADS, enabled, strict=True) if on)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, names: tuple[str, ...] | None = None
    ) -> dict[str, Tensor]:
        """`x [batch, frames, width]` from the upper blocks; see Tokenizer.heads for the shapes."""
        mask = frame_mask(lengths, x.shape[1])
        chosen = self.names if names is None else tuple(n for n in names if n in self.names)
        out: dict[str, Tensor] = {}
        for name in chosen:
            if name == "masks":
                out[name] = self.masks(self.mask_upsampling(x, mask))
            elif name == "text":
                out[name] = self.text(x)
            elif name == "mel":
                out[name] = self.mel(x, mask)
            else:
                out[name] = self.chroma(x, mask)
        return out

    def without(self, name: str) -> list[nn.Module]:
        """The modules of all heads but one."""
        excluded = {"masks": ("masks", "mask_upsampling")}.get(name, (name,))
        return [module for key, module in self.named_children() if key not in excluded]

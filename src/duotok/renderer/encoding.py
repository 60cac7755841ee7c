"""Encodes sound of any length to latents in bounded memory, the counterpart of `render.decode_blocks`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from duotok.renderer.contract import LatentAutoencoder


@torch.no_grad()
def encode_blocks(autoencoder: LatentAutoencoder, blocks: Iterable[Tensor], block: int = 500) -> Iterator[Tensor]:
    """Latents `[latent_frames, latent_dim]` of sound `[channels, samples]` that comes in blocks of any size, in order, on the CPU.

    Equal to encoding all at once, within float tolerance: every piece of `block` latent frames is encoded with the sound of
    the encoder's receptive field on both sides. The end is padded to a whole frame with zeros.
    """
    device = next(autoencoder.parameters()).device
    field, hop = autoencoder.encoder_field, autoencoder.hop
    buffer: Tensor | None = None  # sound, starting `left` frames before the next frame to encode
    left = 0

    def middle(sound: Tensor, count: int) -> Tensor:
        with_context = sound[None, :, : (left + count + field) * hop].to(device)
        return autoencoder.encode(with_context)[0, left : left + count].cpu()

    def drop(sound: Tensor, count: int) -> tuple[Tensor, int]:
        dropped = max(0, left + count - field)
        return sound[:, dropped * hop :].clone(), left + count - dropped

    for piece in blocks:
        buffer = piece if buffer is None else torch.cat([buffer, piece], dim=1)
        while buffer.shape[1] >= (left + block + field) * hop:
            yield middle(buffer, block)
            buffer, left = drop(buffer, block)
    if buffer is None:
        return
    buffer = F.pad(buffer, (0, -buffer.shape[1] % hop))
    while buffer.shape[1] > left * hop:
        count = min(block, buffer.shape[1] // hop - left)
        yield middle(buffer, count)
        buffer, left = drop(buffer, count)

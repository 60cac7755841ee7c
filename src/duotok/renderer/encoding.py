"""Sound of any length to latents in bounded memory: what `render.decode_blocks` is for the way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from duotok.clock import LATENT_SAMPLES
from duotok.renderer.contract import LatentAutoencoder


@torch.no_grad()
def encode_blocks(
    autoencoder: LatentAutoencoder, blocks: Iterable[Tensor], block: int = 500, hop: int = LATENT_SAMPLES
) -> Iterator[Tensor]:
    """Latents `[latent_frames, latent_dim]` of sound `[channels, samples]` that comes in blocks of any size, in order, on the CPU.

    Equal to encoding all at once to float tolerance: every piece of `block` latent frames is encoded with the sound of the
    encoder's field on both sides. The end is padded to a whole frame with zeros.
    """
    device = next(autoencoder.parameters()).device
    field = autoencoder.encoder_field
    buffer: Tensor | None = None  # sound from `left` frames before the next one to be encoded
    left = 0

    def middle(held: Tensor, count: int) -> Tensor:
        heard = held[None, :, : (left + count + field) * hop].to(device)
        return autoencoder.encode(heard)[0, left : left + count].cpu()

    def drop(held: Tensor, count: int) -> tuple[Tensor, int]:
        gone = max(0, left + count - field)
        return held[:, gone * hop :].clone(), left + count - gone

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

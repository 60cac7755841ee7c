"""Tables and heads initialized from the codec's code vectors, for corpora too small to learn so many vectors from.

Not the paper's: there every code starts as a random vector and is learned from the corpus. In an hour of music most of
32,768 codes come a few times or never, while codes that sound alike have similar vectors in the quantizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from duotok.errors import ConfigError

if TYPE_CHECKING:
    from duotok.lm.model import MultiStreamLM
    from duotok.lm.unigram import Unigram

Vectors = dict[str, NDArray[np.float16]]
"""Name of a column (STREAM.CODEBOOK) -> `[codes, width]`, in units of the largest deviation: see `principal`."""

MOST = 64
"""Principal components that are kept of wide vectors."""
REST = 0.1
"""Scale of the random part of the tables, which lets codes with equal components be told apart."""
SHARPNESS = 0.3
"""Scale of the code vectors in the heads: small, so that the first predictions are the frequencies."""


def principal(table: Tensor, most: int = MOST) -> NDArray[np.float16]:
    """Principal components of code vectors `[codes, width]`, centred, the largest first: `[codes, at most `most`]`."""
    centred = table.detach().cpu().double()
    centred = centred - centred.mean(0)
    left, scales, _ = torch.linalg.svd(centred, full_matrices=False)
    # Smaller scales are rounding errors of float32 sums, which whitening would amplify.
    rank = max(1, int((scales > 1e-4 * scales[0]).sum())) if scales[0] > 0 else 1
    components = (left * scales)[:, : min(most, rank)]
    # in units of the largest deviation: float16 has no room for very small ones
    deviation = components.square().mean(0).sqrt().max().clamp_min(1e-30)
    return cast(NDArray[np.float16], (components / deviation).numpy().astype(np.float16))


@torch.no_grad()
def start_from_codec(
    lm: MultiStreamLM, vectors: Mapping[str, NDArray[np.float16]], frequencies: Mapping[str, Unigram]
) -> None:
    """Initialize tables and heads with the whitened vectors, and the biases with the frequencies of the codes.

    vectors, frequencies: by the name of the column. Raises ConfigError when they are not those of the model's codec.
    """
    for k, column in enumerate(lm.codec.columns):
        stored = vectors.get(column.name)
        if stored is None or len(stored) != column.size:
            available = "none" if stored is None else f"{len(stored):,}"
            raise ConfigError(f"{column.name}: {available} vectors for {column.size:,} codes; pack the tokens again")
        white = torch.from_numpy(stored.astype(np.float32))
        white = white / white.square().mean(0).sqrt().clamp_min(1e-6)
        width = min(white.shape[1], lm.config.code_width)
        table, head = cast(nn.Embedding, lm.inputs.tables[k]), cast(nn.Linear, lm.outputs.heads[k])
        table.weight[: column.size] *= REST
        table.weight[: column.size, :width] += white[:, :width].to(table.weight)
        head.weight[: column.size, :width] += SHARPNESS * white[:, :width].to(head.weight)
        counts = frequencies[column.name].counts + 0.5
        head.bias[: column.size] = torch.from_numpy(np.log(counts / counts.sum())).to(head.bias)
        head.bias[column.size :] = math.log(0.5 / counts.sum())  # SOS, EOS and PAD as a code that never came

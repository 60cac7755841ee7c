"""From a mix to its stems: the interface, DuoTok's own small model, and stems that the user already has.

The small model's plan: chunks of 4 s start every 3 s; where two overlap, their estimates are crossfaded linearly with
weights that add to one (see `chunked.py`). Attention spans one chunk, so the result differs from that of a whole song at once; but an estimate
depends on the file and the plan only: chunk k always covers the samples from k x 3 s, and each is computed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from duotok.errors import AudioError, ConfigError
from duotok.separation.bs_roformer import BSRoFormer
from duotok.separation.chunked import ACCOMPANIMENT, VOCALS, ChunkedSeparator, as_stereo


@runtime_checkable
class Separator(Protocol):
    """The interface of a separator, as encoding needs it. `stems` are the keys that `separate` returns."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def stems(self) -> tuple[str, ...]: ...

    def separate(self, audio: Tensor) -> dict[str, Tensor]:
        """`audio [channels, samples]` (1 or 2 channels, at `sample_rate`) -> for each stem `[2, samples]`."""
        ...


class MiniSeparator(ChunkedSeparator):
    """A BSRoFormer run in overlapping chunks. Vocals come from the model, accompaniment = mix - vocals exactly.

    stems: what to return, of "vocals", "accompaniment" and the model's own stems; fewer are a little faster.
    chunk_seconds, overlap_seconds: the plan (rounded to whole hops); the overlap is at most half of a chunk.
    """

    def __init__(
        self,
        model: BSRoFormer,
        stems: tuple[str, ...] = (VOCALS, ACCOMPANIMENT),
        chunk_seconds: float = 4.0,
        overlap_seconds: float = 1.0,
    ) -> None:
        hop, rate = model.config.hop, model.config.sample_rate
        chunk = max(2, round(chunk_seconds * rate / hop)) * hop
        overlap = round(overlap_seconds * rate / hop) * hop
        if not 0 <= overlap <= chunk // 2:
            raise ConfigError(f"separator: overlap {overlap_seconds} s is not between 0 and half of {chunk_seconds} s")
        rise = (torch.arange(overlap, dtype=torch.float32) + 0.5) / max(overlap, 1)
        super().__init__(model.config.stems, stems, chunk, rise, rate=rate, sample_rate=rate)
        self.model = model.eval()

    def estimate(self, mix: Tensor, stems: tuple[str, ...]) -> Tensor:
        return self.estimates(mix[None], stems)[0]

    @torch.no_grad()
    def estimates(self, mixes: Tensor, stems: tuple[str, ...]) -> Tensor:
        """`estimate` of several chunks of one length: `[batch, 2, samples]` to `[batch, stems, 2, samples]` on the CPU."""
        return self.model.separate_stems(mixes.to(self.model.window.device), stems).cpu()


class GivenStems:
    """Stems that are already known, with the separator's interface; the mix must have their length.

    Where only one of vocals and accompaniment is given, the other is the mix minus it.
    """

    def __init__(self, stems: Mapping[str, Tensor], sample_rate: int = 48_000) -> None:
        self._given = {name: as_stereo(audio) for name, audio in stems.items()}
        self._rate = sample_rate
        if not {VOCALS, ACCOMPANIMENT} & self._given.keys():
            raise AudioError("given stems: neither vocals nor accompaniment among them; give at least one of the two")
        lengths = {name: audio.shape[-1] for name, audio in self._given.items()}
        if len(set(lengths.values())) > 1:
            raise AudioError(f"given stems: different lengths in samples {lengths}; cut them to one length")

    @property
    def sample_rate(self) -> int:
        return self._rate

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((VOCALS, ACCOMPANIMENT, *self._given)))

    def separate(self, audio: Tensor) -> dict[str, Tensor]:
        """The given stems, completed by `audio [1 or 2, samples]` (the mix). Raises AudioError when lengths differ."""
        mix = as_stereo(audio)
        length = next(iter(self._given.values())).shape[-1]
        if mix.shape[-1] != length:
            raise AudioError(f"given stems: {length} samples, the mix has {mix.shape[-1]}; give stems of that very mix")
        result = dict(self._given)
        for name, partner in ((VOCALS, ACCOMPANIMENT), (ACCOMPANIMENT, VOCALS)):
            if name not in result:
                result[name] = mix - result[partner]
        return result

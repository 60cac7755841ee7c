"""From a mix to its stems: one interface, our own small model behind it, or stems that the user already has.

The plan for long audio: chunks of 4 s start every 3 s; where two overlap, their estimates are crossfaded linearly with
weights that add to one. Attention sees one chunk, so chunked and whole are not equal; but an estimate depends on the
file and the plan only: chunk k always covers the samples from k x 3 s, and each is computed alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from duotok.errors import AudioError, ConfigError
from duotok.separation.bs_roformer import BSRoFormer

VOCALS, ACCOMPANIMENT = "vocals", "accompaniment"


@runtime_checkable
class Separator(Protocol):
    """What encoding needs of a separator. `stems` are the keys that `separate` returns."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def stems(self) -> tuple[str, ...]: ...

    def separate(self, audio: Tensor) -> dict[str, Tensor]:
        """`audio [channels, samples]` (1 or 2 channels, at `sample_rate`) -> for each stem `[2, samples]`."""
        ...


def as_stereo(audio: Tensor) -> Tensor:
    """`[1 or 2, samples]` -> float32 `[2, samples]`; mono is copied. Raises AudioError for other shapes."""
    if audio.dim() != 2 or audio.shape[0] not in (1, 2):
        raise AudioError(f"separation: sound of shape {tuple(audio.shape)}; give [1 or 2 channels, samples]")
    return audio.float().expand(2, -1)


class MiniSeparator:
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
        known = (ACCOMPANIMENT, *model.config.stems)
        for stem in stems:
            if stem not in known:
                raise ConfigError(f"separator: no stem '{stem}'; the model knows {', '.join(known)}")
        hop, rate = model.config.hop, model.config.sample_rate
        self.model = model.eval()
        self.chunk = max(2, round(chunk_seconds * rate / hop)) * hop
        self.overlap = round(overlap_seconds * rate / hop) * hop
        if not 0 <= self.overlap <= self.chunk // 2:
            raise ConfigError(f"separator: overlap {overlap_seconds} s is not between 0 and half of {chunk_seconds} s")
        self._stems = tuple(stems)
        # what the model must give: vocals stand in for the accompaniment
        self._inner = tuple(dict.fromkeys(VOCALS if stem == ACCOMPANIMENT else stem for stem in stems))

    @property
    def sample_rate(self) -> int:
        return self.model.config.sample_rate

    @property
    def stems(self) -> tuple[str, ...]:
        return self._stems

    def separate(self, audio: Tensor) -> dict[str, Tensor]:
        """`audio [1 or 2, samples]`, any length -> for each stem `[2, samples]`. Silence gives silence."""
        if audio.shape[-1] == 0:
            return {stem: as_stereo(audio).clone() for stem in self._stems}
        parts = list(self.stream([audio]))
        return {stem: torch.cat([part[stem] for part in parts], dim=-1) for stem in self._stems}

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """The same in bounded memory: blocks `[1 or 2, n]` in, pieces of every stem out, equal to `separate`."""
        waiting = torch.zeros(2, 0)
        tail: Tensor | None = None  # the faded-out end of the chunk before: [stems, 2, overlap]
        for block in blocks:
            block, position = as_stereo(block), 0
            while position < block.shape[-1]:
                # one sample more than a chunk is asked for, so that the last chunk is known to be the last
                take = self.chunk + 1 - waiting.shape[-1]
                waiting = torch.cat((waiting, block[:, position : position + take]), dim=-1)
                position += take
                if waiting.shape[-1] > self.chunk:
                    piece, tail = self._run(waiting[:, : self.chunk], tail, last=False)
                    yield piece
                    waiting = waiting[:, self.chunk - self.overlap :]
        if waiting.shape[-1]:
            yield self._run(waiting, tail, last=True)[0]

    @torch.no_grad()
    def _run(self, mix: Tensor, tail: Tensor | None, last: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """One chunk `mix [2, samples]`, crossfaded with `tail`; its own overlap is held back unless `last`."""
        device = self.model.window.device
        stems = self.model.separate_stems(mix[None].to(device), self._inner)[0].cpu()
        if tail is not None:
            # a last chunk is always longer than the overlap: chunks go on only when a sample beyond the chunk was seen
            rise = (torch.arange(self.overlap) + 0.5) / max(self.overlap, 1)
            stems[..., : self.overlap] = tail + stems[..., : self.overlap] * rise
        new_tail = None
        if not last:
            keep = self.chunk - self.overlap
            fall = 1.0 - (torch.arange(self.overlap) + 0.5) / max(self.overlap, 1)
            new_tail = stems[..., keep:] * fall
            stems, mix = stems[..., :keep], mix[:, :keep]
        named = dict(zip(self._inner, stems, strict=True))
        pieces = {stem: mix - named[VOCALS] if stem == ACCOMPANIMENT else named[stem].clone() for stem in self._stems}
        return pieces, new_tail


class GivenStems:
    """Stems that are already known, behind the separator's interface; the mix must have their length.

    With only one of vocals and accompaniment the other is what the mix has beyond it.
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

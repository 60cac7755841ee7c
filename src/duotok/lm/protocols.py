"""What the model reads and what it must predict: the two protocols of the paper (B.1.3, B.1.4; docs/parameters.md, language model),
and one that is ours.

parallel:        [SOS] [frame 1] ... [frame T] [EOS]; a frame is one step with the codes of all streams, each step predicts all
                 codebooks of the next one.
track to track:  [whole source] [first 2 s of the target] [SOS] [rest of the target] [EOS]; loss after SOS only.
aligned:         [SOS, source 1] [target 1, source 2] ... [target T - 1, source T] [target T]; each step predicts the target of the
                 frame whose source it reads, then EOS. In the track-to-track protocol the source of a frame lies a piece earlier
                 (751 steps at 30 s, with SOS), which a small model does not find; here it lies beside it. The model knows the
                 source up to this frame only. Not the paper's: its figures are no figures of the paper's protocol.

A stream that is absent in a step is PAD there, which the model reads as a zero vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.errors import ConfigError
from duotok.lm.streams import CodecIdentity

Name = Literal["parallel", "track_to_track", "aligned"]
PREFIX_SECONDS = 2.0


class Example(NamedTuple):
    """inputs, targets int64 and mask bool, all `[steps, K]`: at step t the model reads inputs[t] and predicts targets[t];
    the prediction counts where mask[t] is true."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Protocol:
    """One protocol for one codec; make it with `parallel` or `track_to_track`."""

    codec: CodecIdentity
    name: Name
    source: str = ""
    target: str = ""
    prefix_seconds: float = 0.0

    @property
    def directed(self) -> bool:
        """Whether one stream is given and another one predicted."""
        return self.name != "parallel"

    @property
    def prefix(self) -> int:
        """Frames of the target that are given."""
        return self.codec.frames(self.prefix_seconds)

    @property
    def scored(self) -> tuple[int, ...]:
        """The columns (codebooks) that the model must predict."""
        return tuple(
            k for k, column in enumerate(self.codec.columns) if self.name == "parallel" or column.stream == self.target
        )

    def describe(self) -> dict[str, Any]:
        """The protocol as it stands in the facts of a score file."""
        direction = {"source": self.source, "target": self.target, "prefix_seconds": self.prefix_seconds}
        return {"protocol": self.name, **(direction if self.directed else {})}

    def example(self, tokens: Mapping[str, NDArray[np.integer[Any]]]) -> Example:
        """The example of one piece: stream -> `[codebooks, frames]`, all equally long.

        Raises ConfigError when the piece is no longer than the prefix.
        """
        sizes = np.array([column.size for column in self.codec.columns])
        sos, eos, pad = sizes, sizes + 1, sizes + 2
        if not self.directed:
            frames = np.concatenate([tokens[stream.name] for stream in self.codec.streams]).T
            sequence = np.concatenate([sos[None], frames, eos[None]])
            return _example(sequence[:-1], sequence[1:], np.ones_like(sequence[1:], dtype=bool))
        source, target, columns = tokens[self.source].T, tokens[self.target].T, list(self.scored)
        if len(target) <= self.prefix:
            raise ConfigError(
                f"a prefix of {self.prefix_seconds:g} s ({self.prefix} frames) leaves nothing of a track of "
                f"{len(target) / self.codec.frame_rate:g} s ({len(target)} frames); shorten prefix_seconds"
            )
        if self.name == "aligned":
            inputs = np.tile(pad, (len(target) + 1, 1))
            targets, mask = inputs.copy(), np.zeros_like(inputs, dtype=bool)
            inputs[: len(source), self._columns(self.source)] = source[: len(inputs)]
            inputs[:, columns] = np.concatenate([sos[None, columns], target])
            targets[:, columns] = np.concatenate([target, eos[None, columns]])
            mask[self.prefix :, columns] = True
            return _example(inputs, targets, mask)
        start = len(source) + self.prefix
        sequence = np.tile(pad, (start + 1 + len(target) - self.prefix + 1, 1))
        sequence[: len(source), self._columns(self.source)] = source
        sequence[len(source) : start, columns] = target[: self.prefix]
        sequence[start] = sos
        sequence[start + 1 : -1, columns] = target[self.prefix :]
        sequence[-1, columns] = eos[columns]
        mask = np.zeros_like(sequence, dtype=bool)
        mask[start + 1 :, columns] = True
        return _example(sequence[:-1], sequence[1:], mask[1:])

    def _columns(self, stream: str) -> list[int]:
        return [k for k, column in enumerate(self.codec.columns) if column.stream == stream]


def _example(inputs: NDArray[np.int64], targets: NDArray[np.int64], mask: NDArray[np.bool_]) -> Example:
    read, predicted = (torch.from_numpy(codes.astype(np.int64)) for codes in (inputs, targets))
    return Example(read, predicted, torch.from_numpy(mask))


def parallel(codec: CodecIdentity) -> Protocol:
    """All streams at once, unconditional."""
    return Protocol(codec, "parallel")


def track_to_track(codec: CodecIdentity, source: str, target: str, prefix_seconds: float = PREFIX_SECONDS) -> Protocol:
    """One stream given another. Raises ConfigError for streams that the codec does not have, or a prefix below 0."""
    return _directed(codec, "track_to_track", source, target, prefix_seconds)


def aligned(codec: CodecIdentity, source: str, target: str, prefix_seconds: float = PREFIX_SECONDS) -> Protocol:
    """One stream given another, frame beside frame; so many seconds of the target are not scored. Raises as `track_to_track`."""
    return _directed(codec, "aligned", source, target, prefix_seconds)


def _directed(codec: CodecIdentity, name: Name, source: str, target: str, prefix_seconds: float) -> Protocol:
    names = [stream.name for stream in codec.streams]
    if source not in names or target not in names or source == target:
        raise ConfigError(
            f"{name} from '{source}' to '{target}': {codec} has the streams {', '.join(names)}; name two of them"
        )
    if prefix_seconds < 0:
        raise ConfigError(f"prefix_seconds {prefix_seconds:g} must be 0 or more")
    return Protocol(codec, name, source, target, prefix_seconds)


def protocol_by_name(
    codec: CodecIdentity, name: Name, source: str, target: str, prefix_seconds: float = PREFIX_SECONDS
) -> Protocol:
    """The protocol that a config names."""
    return parallel(codec) if name == "parallel" else _directed(codec, name, source, target, prefix_seconds)


def batched(examples: Sequence[Example], codec: CodecIdentity) -> Example:
    """Examples as one batch, `[items, steps, K]`; shorter ones end in PAD that is masked out.

    The padding cannot influence an example, because the model is causal.
    """
    steps = max(len(example.inputs) for example in examples)
    pad = torch.tensor([column.size + 2 for column in codec.columns])
    inputs = pad.repeat(len(examples), steps, 1)
    targets, mask = inputs.clone(), torch.zeros_like(inputs, dtype=torch.bool)
    for i, example in enumerate(examples):
        n = len(example.inputs)
        inputs[i, :n], targets[i, :n], mask[i, :n] = example
    return Example(inputs, targets, mask)

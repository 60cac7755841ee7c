"""CTC forced alignment: the frames of each letter of a known text. It works on tensors alone, without a model.

Viterbi over the CTC states (blank, target, blank, target, ..., blank), vectorised over the states. Scores are kept
only every BLOCK frames and the path is traced back block by block, so memory grows with states, not states x frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duotok.lyrics.text import TextVocabulary
from duotok.lyrics.types import LyricLine, Lyrics, LyricsError, SungWord

BLOCK = 256
FRAME_SECONDS = 0.04
"""A token frame (25 Hz)."""


@dataclass(frozen=True)
class WordAlignment:
    """Frames `start <= t < stop` of each target, int64 `[targets]`; its mean log-probability there, float32 `[targets]`.

    score: log-probability of the whole best path (blanks included).
    """

    start: Tensor
    stop: Tensor
    scores: Tensor
    score: float


def least_frames(targets: Tensor) -> int:
    """Frames that a CTC path through `targets [n]` needs: one each, and a blank between equal neighbours."""
    return len(targets) + int((targets[1:] == targets[:-1]).sum())


@torch.no_grad()
def align(log_probs: Tensor, targets: Tensor, blank: int) -> WordAlignment:
    """The most probable CTC path of `targets`, int64 `[n]`, through `log_probs [frames, classes]`.

    Among equally probable paths each target lasts as long as it can. Raises ValueError for other shapes, classes out of
    range or NaN; LyricsError when the targets do not fit into the frames.
    """
    if log_probs.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(f"log_probs {list(log_probs.shape)} must be [frames, classes], targets integers [n]")
    frames, classes = log_probs.shape
    if not 0 <= blank < classes or (len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes):
        raise ValueError(f"targets and blank {blank} must be in 0..{classes - 1}")
    if bool((targets == blank).any()) or bool(log_probs.isnan().any()):
        raise ValueError("a target is the blank, or a log-probability is NaN")
    if least_frames(targets) > frames:
        raise LyricsError(
            f"{len(targets)} letters do not fit into {frames} frames ({frames * FRAME_SECONDS:.1f} s); are these the "
            "words of this recording?"
        )
    if frames == 0:
        return WordAlignment(targets.cpu().long(), targets.cpu().long(), torch.zeros(0), 0.0)
    return _Trellis(log_probs.detach().float().cpu(), targets.cpu().long(), blank).best()


class _Trellis:
    def __init__(self, log_probs: Tensor, targets: Tensor, blank: int) -> None:
        self.log_probs = log_probs
        self.classes = torch.full((2 * len(targets) + 1,), blank, dtype=torch.long)
        self.classes[1::2] = targets
        # Only a blank between different targets may be skipped.
        skips = torch.zeros(len(self.classes), dtype=torch.bool)
        skips[3::2] = targets[1:] != targets[:-1]
        self.closed = torch.zeros(len(self.classes)).masked_fill(~skips, -math.inf)

    def best(self) -> WordAlignment:
        frames, states = len(self.log_probs), len(self.classes)
        scores = torch.full((states,), -math.inf)
        scores[:2] = self.log_probs[0, self.classes[:2]]
        checkpoints = [scores]
        for first in range(1, frames, BLOCK):
            checkpoints.append(self._block(checkpoints[-1], first, min(first + BLOCK, frames), None))
        ends = checkpoints[-1][-2:]
        score = float(ends.max())
        if score == -math.inf:
            raise LyricsError("the text has probability 0 in these frames; are these the words of this recording?")
        state = states - len(ends) + int(ends.argmax())
        path = torch.empty(frames, dtype=torch.long)
        steps = torch.empty(BLOCK, states, dtype=torch.int8)
        for index in range(len(checkpoints) - 2, -1, -1):
            first, last = 1 + index * BLOCK, min(1 + (index + 1) * BLOCK, frames)
            self._block(checkpoints[index], first, last, steps)
            for t in range(last - 1, first - 1, -1):
                path[t] = state
                state -= int(steps[t - first, state])
        path[0] = state
        return self._spans(path, score)

    def _block(self, scores: Tensor, first: int, last: int, steps: Tensor | None) -> Tensor:
        """Scores after frame `last - 1`, from those after `first - 1`; `steps [frames, states]` gets 0..2, the states moved."""
        states = len(self.classes)
        padded = torch.full((states + 2,), -math.inf)
        stay, step, skip = padded[2:], padded[1:-1], padded[:-2]
        stay.copy_(scores)
        best, skipped = torch.empty(states), torch.empty(states)
        for t in range(first, last):
            torch.add(skip, self.closed, out=skipped)
            torch.maximum(stay, step, out=best)
            if steps is not None:
                offsets = (step > stay).to(torch.int8)
                steps[t - first] = offsets.masked_fill_(skipped > best, 2)
            torch.maximum(best, skipped, out=best)
            torch.add(best, self.log_probs[t].index_select(0, self.classes), out=stay)
        return stay.clone()

    def _spans(self, path: Tensor, score: float) -> WordAlignment:
        inside = path % 2 == 1
        owners = path[inside] // 2
        positions = inside.nonzero()[:, 0]
        n = len(self.classes) // 2
        start = torch.full((n,), len(path)).scatter_reduce(0, owners, positions, "amin")
        stop = torch.zeros(n, dtype=torch.long).scatter_reduce(0, owners, positions + 1, "amax")
        frame_scores = self.log_probs[positions, self.classes[path[inside]]]
        scores = torch.zeros(n).index_add(0, owners, frame_scores) / (stop - start)
        return WordAlignment(start, stop, scores, score)


def encode_words(words: Sequence[str], vocabulary: TextVocabulary) -> tuple[list[int], list[int]]:
    """Classes of a text and for each the index of its word; -1 for a separator between words (a space class)."""
    classes: list[int] = []
    owners: list[int] = []
    for index, word in enumerate(words):
        word_classes = vocabulary.encode(word)
        if word_classes and classes:
            classes += vocabulary.separator
            owners += [-1] * len(vocabulary.separator)
        classes += word_classes
        owners += [index] * len(word_classes)
    return classes, owners


@dataclass(frozen=True)
class Aligned:
    """Lyrics with times, and how far the head can be trusted.

    margin: nats per letter by which the text fits better than the same text reversed. A head that recognizes the words gives
    one or more; one that does not gives about 0, whatever the text.
    """

    lyrics: Lyrics
    margin: float


def align_lyrics(
    lyrics: Lyrics, log_probs: Tensor, classes: Tensor, vocabulary: TextVocabulary, frame: float = FRAME_SECONDS
) -> Aligned:
    """Word times from a CTC head.

    log_probs: `[frames, columns]`, a column for each of `classes` (see `needed_classes`); frame: seconds. Words that have
    no class (another script) stay without times. Raises LyricsError when no word has any, or when they do not fit.
    """
    encoded, owners = encode_words([word.text for word in lyrics.words], vocabulary)
    if not encoded:
        raise LyricsError("none of the words has letters that the model's vocabulary knows; align with another model")
    columns = torch.searchsorted(classes, torch.tensor(encoded))
    blank = int(torch.searchsorted(classes, torch.tensor(vocabulary.size)))
    alignment = align(log_probs, columns, blank)
    backwards = align(log_probs, columns.flip(0), blank)
    times: dict[int, tuple[float, float]] = {}
    for owner, start, stop in zip(owners, alignment.start.tolist(), alignment.stop.tolist(), strict=True):
        if owner >= 0:
            times[owner] = (times.get(owner, (start * frame,))[0], stop * frame)
    lines: list[LyricLine] = []
    at = 0
    for line in lyrics.lines:
        words = tuple(SungWord(w.text, *times.get(at + i, (None, None))) for i, w in enumerate(line.words))
        at += len(words)
        timed = [w for w in words if w.timed]
        first, last = (timed[0].start, timed[-1].end) if timed else (None, None)
        lines.append(LyricLine(line.text, first, last, words))
    margin = (alignment.score - backwards.score) / len(encoded)
    return Aligned(Lyrics(tuple(lines), lyrics.language, "aligned", lyrics.notes), margin)


def needed_classes(lyrics: Lyrics, vocabulary: TextVocabulary) -> Tensor:
    """The classes that `align_lyrics` needs, sorted, with the blank: of 119,548 a song needs a few hundred."""
    encoded, _ = encode_words([word.text for word in lyrics.words], vocabulary)
    return torch.tensor(sorted({*encoded, vocabulary.size}))

"""Prepares a song for the encoder: from files or tensors to two mono tracks at 24 kHz, spooled to disk in one pass.

Memory holds only a few blocks, however long the song is. Sound is read, separated where stems are not given, measured
(loudness of the mix) and resampled block by block. The input of the encoder is kept in two unnamed temporary files,
which the system removes with the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.audio.alignment import Alignment, Fit
from duotok.audio.arrays import sound_of
from duotok.audio.channels import PolarityFix, remix
from duotok.audio.decoders import default_layout
from duotok.audio.highpass import HighPass
from duotok.audio.io import probe, resample, stream
from duotok.audio.loudness import LoudnessMeter
from duotok.audio.resampling import Resampler, resampled_length
from duotok.clock import ANALYSIS_RATE, FRAME_SAMPLES, SAMPLE_RATE, n_frames
from duotok.errors import AudioError
from duotok.files import no_temporary_room, sha256, temporary_file, text_of
from duotok.tokens import SourceFile
from duotok.tracks import TRACKS

log = logging.getLogger(__name__)

BLOCK_SECONDS = 10.0
MONO_FRAME = FRAME_SAMPLES * ANALYSIS_RATE // SAMPLE_RATE
# Lossy files of one song differ by some padding; a larger difference gives a warning.
TOLERATED_SAMPLES = SAMPLE_RATE // 5

Progress = Callable[[float], None]
Pair = tuple[Tensor, Tensor]


class AudioSource:
    """A source at 48 kHz stereo: a file, or samples from memory at `rate`.

    It goes through a high-pass at `highpass_hz`, and its polarity is fixed (`duotok.audio.channels.PolarityFix`).
    """

    def __init__(self, source: Any, rate: int = SAMPLE_RATE, name: str = "", highpass_hz: float = 0.0) -> None:
        """source: a path, or samples as `duotok.audio.arrays.sound_of` takes them."""
        self._highpass_hz = highpass_hz
        self._source: Tensor | Path
        if isinstance(source, str | os.PathLike):
            self._source, self._rate = Path(source), SAMPLE_RATE
            self.name = str(source)
        else:
            self.name = name or "sound"
            self._source, self._rate = sound_of(source, rate, self.name)

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return None if isinstance(self._source, Tensor) else self._source

    def file(self) -> SourceFile | None:
        """What identifies the file; None for sound from memory. Raises AudioError when it cannot be read."""
        if isinstance(self._source, Tensor):
            return None
        try:
            return SourceFile(text_of(self._source.name), sha256(self._source), self._source.stat().st_size)
        except OSError as error:
            remedy = "check the name" if isinstance(error, FileNotFoundError) else "check its permissions"
            raise AudioError(f"{self.name}: cannot be read ({error.strerror}); {remedy}") from None

    @property
    def expected_samples(self) -> int:
        """Samples at 48 kHz, according to the file's header."""
        if isinstance(self._source, Tensor):
            return resampled_length(self._source.shape[-1], self._rate, SAMPLE_RATE)
        info = probe(self._source)
        return resampled_length(info.n_samples, info.rate, SAMPLE_RATE)

    def blocks(self) -> Iterator[Tensor]:
        """float32 `[2, samples]` at 48 kHz, `BLOCK_SECONDS` each but the last."""
        through, polarity = HighPass(self._highpass_hz, SAMPLE_RATE), PolarityFix()
        for block in self._blocks_at_48_khz():
            yield polarity.push(through.push(block))
        self.warn_of(polarity)

    def warn_of(self, polarity: PolarityFix) -> None:
        """Tell of a channel that was turned back."""
        if polarity.inverted:
            log.warning(
                "%s: one channel is the other one turned over (correlation %.2f); it was turned back, or the two would "
                "cancel each other",
                self.name,
                polarity.lowest_correlation,
            )

    def _blocks_at_48_khz(self) -> Iterator[Tensor]:
        """The blocks without high-pass and polarity fix."""
        if not isinstance(self._source, Tensor):
            yield from stream(self._source, SAMPLE_RATE, 2, BLOCK_SECONDS)
            return
        audio = self._source
        stereo = remix(audio.numpy().T, default_layout(audio.shape[0]), 2).T
        whole = resample(torch.from_numpy(np.ascontiguousarray(stereo)), self._rate, SAMPLE_RATE)
        size = round(BLOCK_SECONDS * SAMPLE_RATE)
        for start in range(0, whole.shape[1], size):
            yield whole[:, start : start + size]


class StemSeparator(Protocol):
    """The interface of a separator (see `duotok.separation`); with a `stream` method, long songs need little memory."""

    @property
    def sample_rate(self) -> int: ...

    def separate(self, audio: Tensor) -> dict[str, Tensor]: ...


def _pad(block: Tensor, samples: int) -> Tensor:
    return torch.nn.functional.pad(block, (0, samples - block.shape[1]))


def _paired_blocks(first: AudioSource, second: AudioSource, first_leads: bool) -> Iterator[Pair]:
    """Pairs of blocks of two sounds. The shorter sound is padded with silence; with `first_leads`, `second` is cut to `first`."""
    one, two = first.blocks(), second.blocks()
    empty = torch.zeros(2, 0)
    lengths = [0, 0]
    while True:
        a, b = next(one, empty), next(two, empty)
        lengths[0] += a.shape[1]
        lengths[1] += b.shape[1]
        samples = a.shape[1] if first_leads else max(a.shape[1], b.shape[1])
        if samples == 0:
            break
        yield _pad(a, samples), _pad(b, samples)
    if abs(lengths[0] - lengths[1]) > TOLERATED_SAMPLES:
        log.warning(
            "%s and %s differ in length (%.2f s and %.2f s); are they of one song?",
            first.name,
            second.name,
            lengths[0] / SAMPLE_RATE,
            lengths[1] / SAMPLE_RATE,
        )


def _resampled(blocks: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    resampler = Resampler(from_rate, to_rate, 2)
    for block in blocks:
        yield torch.from_numpy(resampler.push(block.numpy().T).T)
    yield torch.from_numpy(resampler.push(np.zeros((0, 2), np.float32), last=True).T)


class _Polarity:
    """Blocks with a normalised sign for the separator: the first clear sample of the left channel is positive.

    A separator is not an odd function, so it would split a song and its negative differently.
    """

    CLEAR = 0.01

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = blocks
        self.sign = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        for block in self._blocks:
            if not self.sign and block.numel():
                left = block[0] if block[0].any() else block[1]
                clear = left.abs() > min(self.CLEAR, float(left.abs().max()) / 2)
                self.sign = float(left[clear.int().argmax()].sign()) if clear.any() else 0.0
            yield block if self.sign >= 0 else -block

    def undo(self, block: Tensor) -> Tensor:
        """A separated block with the sign of the source."""
        return block if self.sign >= 0 else -block


def _separated(mix: AudioSource, separator: StemSeparator) -> Iterator[Pair]:
    """Vocals and accompaniment of a mix, block by block."""
    rate = separator.sample_rate
    signed = _Polarity(mix.blocks())
    blocks: Iterable[Tensor] = signed if rate == SAMPLE_RATE else _resampled(signed, SAMPLE_RATE, rate)
    pieces: Iterable[dict[str, Tensor]]
    if hasattr(separator, "stream"):
        pieces = separator.stream(blocks)
    else:
        pieces = [separator.separate(torch.cat(list(blocks), dim=1))]
    back = [Resampler(rate, SAMPLE_RATE, 2) for _ in TRACKS]
    for piece in pieces:
        both = [
            torch.from_numpy(resampler.push(piece[track].cpu().numpy().T).T)
            for resampler, track in zip(back, TRACKS, strict=True)
        ]
        yield signed.undo(both[0]), signed.undo(both[1])
    if rate != SAMPLE_RATE:
        rest = [torch.from_numpy(r.push(np.zeros((0, 2), np.float32), last=True).T) for r in back]
        yield signed.undo(rest[0]), signed.undo(rest[1])


# A stem belongs to a mix when it is contained in it at the same time and level. Otherwise the mix minus the stem is no track.
TOLERATED_LAG = 0.002
TOLERATED_DB = 3.0  # correlation of voice and band shifts the measured level by a dB or two
SAID_DB = 1.5
LEAST_COHERENCE = 0.001
WORTH_A_WORD_DB = -20.0
JUDGED_DB = -20.0


def check_stem(mix: str, stem: str, fit: Fit | None) -> None:
    """Check a stem against its mix (names for people). Raises AudioError where the difference of the two would not be the other track."""
    if fit is None:
        return
    wrong = []
    if fit.coherence < LEAST_COHERENCE:
        wrong.append("is not heard in it")
    elif fit.inverted:
        wrong.append("is turned over against it")
    if abs(fit.lag) > TOLERATED_LAG:
        wrong.append(f"is {abs(1000 * fit.lag):.1f} ms {'late' if fit.lag > 0 else 'early'}")
    if abs(fit.gain_db) > TOLERATED_DB and fit.coherence >= LEAST_COHERENCE:
        wrong.append(f"is {abs(fit.gain_db):.1f} dB {'too soft' if fit.gain_db > 0 else 'too loud'}")
    if wrong:
        raise AudioError(
            f"{stem}: does not belong to {mix}: it {' and '.join(wrong)} ({fit}), so that one minus the other is no "
            "track; give stems of the same mixdown, or both stems without the song"
        )
    if abs(fit.gain_db) > SAID_DB:
        log.warning("%s: does not stand in %s as it is (%s); it is used as it is", stem, mix, fit)


def check_excerpt(sounds: tuple[Tensor, Tensor], mix: str, stem: str) -> None:
    """`check_stem` of (mix, stem), `[channels, samples]` at 48 kHz, of any part of a song.

    Where the stem is over 20 dB softer than the mix nothing is said: seconds do not show whose it is, and it hardly changes the difference.
    """
    whole, part = (float(sound.mean(0).square().sum()) for sound in sounds)
    if part < whole * 10 ** (JUDGED_DB / 10):
        return
    check_stem(mix, stem, fit_of(*sounds))


def fit_of(whole: Tensor, part: Tensor) -> Fit | None:
    """How a part lies in a whole, both `[channels, samples]` at 48 kHz."""
    meter, size = Alignment(SAMPLE_RATE), round(BLOCK_SECONDS * SAMPLE_RATE)
    for blocks in zip(*(torch.split(sound, size, dim=1) for sound in (whole, part)), strict=True):
        meter.push(*blocks)
    return meter.fit()


def check_stems(mix: str, fit: Fit | None) -> None:
    """Check both stems against the mix: they are used as they are, with a warning where their sum is not the mix."""
    if fit is not None and (fit.residual_db > WORTH_A_WORD_DB or abs(fit.lag) > TOLERATED_LAG):
        log.warning(
            "%s: is not the sum of the two stems (%s); the stems are used as they are, the song is not", mix, fit
        )


def tracks_of(
    mix: AudioSource | None,
    vocals: AudioSource | None,
    accompaniment: AudioSource | None,
    separator: StemSeparator | None,
) -> Generator[Pair, None, None]:
    """(vocals, accompaniment) blocks `[2, samples]` at 48 kHz from whatever is given: both stems; one and the mix (the
    other is what the mix has beyond it); or the mix alone, separated.

    Raises AudioError when that does not suffice, and at the end when one stem turns out not to belong to the mix: more than
    2 ms or 3 dB off its place in it, turned over, or not in it at all; from 1.5 dB on a warning is given. Both stems are
    used whatever the mix is; a warning tells where their sum is not the mix.
    """
    meter = Alignment(SAMPLE_RATE)
    if vocals is not None and accompaniment is not None:
        whole = None if mix is None else mix.blocks()
        for pair in _paired_blocks(vocals, accompaniment, first_leads=False):
            if whole is not None and (block := next(whole, None)) is not None:
                n = min(block.shape[1], pair[0].shape[1])
                meter.push(block[:, :n], (pair[0] + pair[1])[:, :n])
            yield pair
        if mix is not None:
            check_stems(mix.name, meter.fit())
    elif mix is None:
        raise AudioError("no mix given: one stem alone does not make a song; give the mix, or both stems")
    elif vocals is not None or accompaniment is not None:
        stem = vocals or accompaniment
        assert stem is not None
        for mixed, part in _paired_blocks(mix, stem, first_leads=True):
            meter.push(mixed, part)
            yield (part, mixed - part) if vocals is not None else (mixed - part, part)
        check_stem(mix.name, stem.name, meter.fit())
    elif separator is None:
        raise AudioError(f"{mix.name}: the bundle has no separator; give the stems (--vocals, --accompaniment)")
    else:
        yield from _separated(mix, separator)


class Spool:
    """Two mono tracks at 24 kHz on disk, filled once with `fill`, then read in windows of frames."""

    def __init__(self) -> None:
        self.n_samples = 0
        self.loudness = float("-inf")
        self.peak = 0.0
        self._starts = [0 for _ in TRACKS]
        self._files: list[IO[bytes]] = [temporary_file() for _ in TRACKS]

    def keep(self, path: Path) -> None:
        """Write what was filled in as one file, the tracks one after the other, for `kept`. Raises OSError."""
        with path.open("wb") as whole:
            for file in self._files:
                file.seek(0)
                shutil.copyfileobj(file, whole)

    @classmethod
    def kept(cls, path: Path, n_samples: int, loudness: float, peak: float) -> Spool:
        """A spool that another process filled and kept. Raises OSError when the file is gone."""
        spool = cls()
        spool.n_samples, spool.loudness, spool.peak = n_samples, loudness, peak
        each = path.stat().st_size // len(TRACKS)
        for k, file in enumerate(spool._files):
            file.close()
            spool._files[k] = opened = path.open("rb")
            spool._starts[k] = k * each
            opened.seek(k * each)
        return spool

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):  # bytes that found no room; that is being raised already
                file.close()

    @property
    def frames(self) -> int:
        return n_frames(self.n_samples)

    def fill(
        self, pairs: Iterable[Pair], limit: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """Take (vocals, accompaniment) blocks `[2, samples]` at 48 kHz, at most `limit` samples of them."""
        meter = LoudnessMeter(SAMPLE_RATE)
        resamplers = [Resampler(SAMPLE_RATE, ANALYSIS_RATE, 1) for _ in TRACKS]
        for pair in pairs:
            if limit is not None:
                pair = (pair[0][:, : limit - self.n_samples], pair[1][:, : limit - self.n_samples])
            mix = pair[0] + pair[1]
            meter.push(mix)
            self.peak = max(self.peak, float(mix.abs().max()) if mix.numel() else 0.0)
            self.n_samples += pair[0].shape[1]
            for file, resampler, block in zip(self._files, resamplers, pair, strict=True):
                self._put(file, resampler.push(block.mean(0, keepdim=True).numpy().T))
            if progress is not None:
                progress(self.n_samples)
        # Silence up to the end of the last frame, as in training.
        rest = np.zeros((-self.n_samples % FRAME_SAMPLES, 1), np.float32)
        for file, resampler in zip(self._files, resamplers, strict=True):
            self._put(file, resampler.push(rest, last=True))
        self.loudness = meter.integrated()

    def _put(self, file: IO[bytes], samples: NDArray[Any]) -> None:
        try:
            file.write(np.ascontiguousarray(samples, dtype=np.float32).tobytes())
            file.flush()
        except OSError as error:
            raise AudioError(no_temporary_room(error)) from error

    def window(self, track: str, start: int, stop: int, margin: int) -> Tensor:
        """Frames `[start, stop)` of a track with `margin` samples around them (zeros beyond the song): `[samples]`."""
        number = TRACKS.index(track)
        file = self._files[number]
        first, last, end = start * MONO_FRAME - margin, stop * MONO_FRAME + margin, self.frames * MONO_FRAME
        begin = max(0, first)
        file.seek(self._starts[number] + 4 * begin)
        samples = np.frombuffer(file.read(4 * (min(last, end) - begin)), dtype=np.float32)
        return torch.from_numpy(np.pad(samples, (begin - first, last - min(last, end))))

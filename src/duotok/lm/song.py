"""The tokens of one song, of any codec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duotok.errors import TokenFileError
from duotok.lm.streams import CodecIdentity
from duotok.records import SPLITS, Split

Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TokenizedSong:
    """Tokens of one song: stream -> int32 `[codebooks, frames]`.

    id: unique in a corpus; identity: artist or song, never in two splits; recording, start_frame: the recording that the row
    is a stretch of, and where it begins there, in frames ("": the row is the whole recording `id`).
    """

    id: str
    split: Split
    tokens: Mapping[str, Codes]
    identity: str = ""
    recording: str = ""
    start_frame: int = 0

    @property
    def frames(self) -> int:
        return int(next(iter(self.tokens.values())).shape[1])

    @property
    def sha256(self) -> str:
        """Hash of everything in the row."""
        facts = [self.id, self.split, self.identity, self.recording, self.start_frame, self.frames]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for name in sorted(self.tokens):
            digest.update(f"\0{name}\0{len(self.tokens[name])}\0".encode())
            digest.update(np.ascontiguousarray(self.tokens[name], dtype="<i4").tobytes())
        return digest.hexdigest()

    @property
    def recording_id(self) -> str:
        """The recording that these tokens are of."""
        return self.recording or self.id


def check_song(codec: CodecIdentity, song: TokenizedSong, name: str) -> None:
    """Raises TokenFileError, beginning with `name`, unless the tokens of `song` can be those of `codec`."""
    start = f"{name}: song '{song.id}'"
    expected = {stream.name for stream in codec.streams}
    if set(song.tokens) != expected:
        raise TokenFileError(
            f"{start} has the streams {', '.join(song.tokens)}; {codec} gives {', '.join(sorted(expected))}"
        )
    if song.split not in SPLITS:
        raise TokenFileError(f"{start}: split '{song.split}' is unknown; there are {', '.join(SPLITS)}")
    lengths = set()
    for stream in codec.streams:
        codes = song.tokens[stream.name]
        if codes.ndim != 2 or len(codes) != len(stream.codebook_sizes) or codes.dtype.kind not in "iu":
            raise TokenFileError(
                f"{start}: {stream.name} is {codes.dtype} {list(codes.shape)}; expected integers "
                f"[{len(stream.codebook_sizes)}, frames]"
            )
        lengths.add(codes.shape[1])
        for k, (row, size) in enumerate(zip(codes, stream.codebook_sizes, strict=True)):
            low, high = (int(row.min()), int(row.max())) if len(row) else (0, 0)
            if low < 0 or high >= size:
                raise TokenFileError(
                    f"{start}: {stream.name}.{k} holds token {low if low < 0 else high}, its codebook ends at {size - 1}"
                )
    if len(lengths) != 1 or lengths == {0}:
        frame_counts = ", ".join(f"{s.name} {song.tokens[s.name].shape[1]}" for s in codec.streams)
        raise TokenFileError(f"{start}: frames of its streams: {frame_counts}; they must be equally many, at least one")

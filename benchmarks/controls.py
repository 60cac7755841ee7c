"""Tokens whose answer is known, to test a comparison's language model before it is asked about tokenizers (docs/lm.md, controls).

    python -m benchmarks.controls notes -o notes.parquet -n 600          # the tie between the tracks is there, and large
    python -m benchmarks.controls jitter TOKENS.parquet -o jittered.parquet   # harder to predict, by construction
    python -m benchmarks.controls sung TOKENS.parquet --songs SONGS -o sung.parquet     # the melody itself in place of the vocals' tokens

`notes` composes the songs of `duotok songs` without any sound. Their vocals are the note that is sung in each frame (0: none,
else its pitch in the key of C), their accompaniment is the chord under it, in the same key. A model that listens must pay for
another song's notes; one that does not says nothing about tokenizers when it pays nothing for their vocals either.
`jitter` replaces a share of the codes of every stream by random ones. `sung` takes tokens of generated songs and puts the note
that is sung in each frame (as a pitch, in no key) in the place of their vocals: what a model of the accompaniment would learn from
vocals' tokens that hold pitch and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_int, positive_number, share_of_1
from duotok.clock import FRAME_RATE, SAMPLE_RATE
from duotok.codec.contract import Stream
from duotok.errors import DuoTokError
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity
from duotok.pool import pool, result_of
from duotok.records import SPLITS, Split
from duotok.songs.theory import MODES, chord_on

LOWEST, PITCHES = 24, 96  # MIDI; what is sung lies well inside
QUALITIES = sorted(
    {
        tuple(chord_on(0, mode, degree, seventh=seventh, power=power).intervals)
        for mode in MODES
        for degree in range(7)
        for seventh in (False, True)
        for power in (False, True)
    }
)
STREAMS = (Stream("vocals", (PITCHES + 1,)), Stream("accompaniment", (12 * len(QUALITIES) + 1,)))
NOTES = CodecIdentity(
    "notes and chords",
    hashlib.sha256(repr((LOWEST, PITCHES, QUALITIES)).encode()).hexdigest(),
    FRAME_RATE,
    SAMPLE_RATE,
    STREAMS,
)


def composed(seed: int, seconds: float) -> dict[str, NDArray[np.int32]]:
    """Notes and chords of one song as tokens: stream -> int32 `[1, frames]`."""
    from duotok.songs.generator import compose

    score, _, _, notes = compose(seed, seconds)
    frames = round(seconds * FRAME_RATE)
    codes = {stream.name: np.zeros((1, frames), np.int32) for stream in STREAMS}
    for note in notes:
        low = min(max(round(note.pitch) - score.tonic - LOWEST, 0), PITCHES - 1)
        codes["vocals"][0, round(note.start * FRAME_RATE) : round(note.end * FRAME_RATE)] = 1 + low
    for bar in score.bars:
        length = score.bar_seconds / len(bar.chords)
        for place, chord in enumerate(bar.chords):
            start = bar.start + place * length
            quality = QUALITIES.index(tuple(chord.intervals))
            code = 1 + (chord.root - score.tonic) % 12 * len(QUALITIES) + quality
            codes["accompaniment"][0, round(start * FRAME_RATE) : round((start + length) * FRAME_RATE)] = code
    return codes


def split_of(seed: int) -> Split:
    """A twelfth of the songs for validation, a sixth for the test, by a hash of the seed."""
    place = hashlib.sha256(str(seed).encode()).digest()[0] % 12
    return "validation" if place == 0 else "test" if place < 3 else "train"


def songs(seeds: Iterable[int], seconds: float, workers: int) -> Iterator[TokenizedSong]:
    """Split by split, as packing wants them."""
    by_split = {split: [seed for seed in seeds if split_of(seed) == split] for split in SPLITS}
    with pool(workers, imports=("duotok.songs.generator",)) as processes:
        for split, chosen in by_split.items():
            running = [processes.submit(composed, seed, seconds) for seed in chosen]
            for seed, future in zip(chosen, running, strict=True):
                yield TokenizedSong(f"songs/song-{seed:08d}", split, result_of(future), f"seed {seed}")


def jittered(song: TokenizedSong, codec: CodecIdentity, share: float, seed: int) -> TokenizedSong:
    """The song with a share of its codes replaced by uniform ones, which may by chance be the same."""
    random = np.random.default_rng(list(hashlib.sha256(f"{seed}:{song.id}".encode()).digest()))
    tokens = {}
    for stream in codec.streams:
        codes = song.tokens[stream.name]
        noise = np.stack([random.integers(0, size, codes.shape[1]) for size in stream.codebook_sizes]).astype(np.int32)
        tokens[stream.name] = np.where(random.random(codes.shape) < share, noise, codes)
    return replace(song, tokens=tokens)


def pitches(song: TokenizedSong, songs: Path) -> NDArray[np.int32]:
    """What is sung in each frame of a generated song, in codes of `STREAMS[0]` but in no key: int32 `[1, frames]`.

    Raises DuoTokError when the folder `songs` does not hold it.
    """
    path = songs / PurePosixPath(song.recording or song.id).name / "song.json"
    try:
        notes = json.loads(path.read_text("utf-8"))["notes"]
    except (OSError, ValueError, KeyError) as error:
        raise DuoTokError(
            f"{path}: no song of `duotok songs` ({type(error).__name__}); name the folder that the tokens' songs lie in"
        ) from None
    found = np.zeros((1, song.frames), np.int32)
    for note in notes:
        low = min(max(round(note["pitch"]) - LOWEST, 0), PITCHES - 1)
        start, end = (max(0, round(note[edge] * FRAME_RATE) - song.start_frame) for edge in ("start", "end"))
        found[0, start:end] = 1 + low
    return found


def pitch_vectors() -> NDArray[np.float16]:
    """A vector for each code of `pitches`, for language models that start from code vectors: place in the octave (cosine, sine),
    height in octaves, and whether anything is sung; `[codes, 4]`."""
    pitch = LOWEST + np.arange(PITCHES)
    angle = 2 * np.pi * pitch / 12
    rows = np.stack([np.cos(angle), np.sin(angle), (pitch - 60) / 12, np.ones(PITCHES)], axis=1)
    return np.concatenate([np.zeros((1, 4)), rows]).astype(np.float16)


def sung(song: TokenizedSong, songs: Path) -> TokenizedSong:
    """The song with its `pitches` as vocals."""
    return replace(song, tokens={**song.tokens, "vocals": pitches(song, songs)})


def compose_songs(options: argparse.Namespace) -> int:
    """The command `notes`; how many songs there are."""
    seeds = range(options.seed, options.seed + options.count)
    made = songs(seeds, options.seconds, options.workers)
    source = f"benchmarks.controls notes, seeds {seeds.start} to {seeds.stop - 1}"
    return write_tokens(options.output, NOTES, made, source=source)


def change_tokens(options: argparse.Namespace) -> int:
    """The commands `jitter` and `sung`; how many songs there are."""
    corpus = TokenCorpus(options.tokens)
    codec, vectors = corpus.identity, corpus.vectors
    if options.kind == "jitter":
        change = f"{options.share:.0%} jittered"
        codec = replace(codec, hash=f"{options.share}:{options.seed}:{codec.hash}")
        changed: Callable[[TokenizedSong], TokenizedSong] = partial(
            jittered, codec=codec, share=options.share, seed=options.seed
        )
    else:
        change = "vocals as notes"
        streams = tuple(STREAMS[0] if stream.name == "vocals" else stream for stream in codec.streams)
        codec = replace(codec, hash=f"sung:{codec.hash}", streams=streams)
        if vectors is not None:
            vectors = {**vectors, "vocals.0": pitch_vectors()}
        changed = partial(sung, songs=options.songs)
    codec = replace(codec, name=f"{codec.name}, {change}")
    parts = (changed(song) for split in corpus.counts for song in corpus.songs(split))
    return write_tokens(options.output, codec, parts, source=f"{options.tokens}, {change}", vectors=vectors)


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    notes = kinds.add_parser("notes", help="songs as notes and chords")
    notes.add_argument("-n", "--count", type=positive_int, default=600)
    notes.add_argument("--seed", type=int_from_0, default=500_000)
    notes.add_argument("--seconds", type=positive_number, default=60.0)
    notes.add_argument("--workers", type=positive_int, default=2)
    jitter = kinds.add_parser("jitter", help="tokens of which a share is replaced by random ones")
    jitter.add_argument("tokens", type=Path)
    jitter.add_argument("--share", type=share_of_1, default=0.2)
    jitter.add_argument("--seed", type=int_from_0, default=0)
    melody = kinds.add_parser("sung", help="tokens with the melody itself in place of the vocals' tokens")
    melody.add_argument("tokens", type=Path)
    melody.add_argument("--songs", type=Path, required=True, help="folder of `duotok songs`")
    for one in (notes, jitter, melody):
        one.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    count = compose_songs(options) if options.kind == "notes" else change_tokens(options)
    print(f"{options.output}: {count} songs")


if __name__ == "__main__":
    main()

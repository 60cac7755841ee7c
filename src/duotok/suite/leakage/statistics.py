"""How the codes' statistics change with the stems: unigram cost and entropy of every tokenizer, cnBPT where its language model is here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from duotok.codec.contract import Codec
from duotok.evaluation.results import Row, row_of
from duotok.lm.evaluate import score_songs
from duotok.lm.saved import LanguageModel
from duotok.lm.song import TokenizedSong
from duotok.lm.unigram import Unigram, count
from duotok.suite.leakage.measure import Codes
from duotok.suite.leakage.stems import DIRECT, TRUE

Parts = Mapping[tuple[str, str], Mapping[str, Codes]]
"""(song, part) -> condition -> stream -> codes `[books, frames]`."""
ALONE = "one song: there is no other whose frequencies could be learned"


def unigram_rows(codec: Codec, parts: Parts) -> Iterator[Row]:
    """`unigram.C`: bits a token, over log2 V, where each costs what its frequency in the true stems of all OTHER songs says;
    `entropy.C`: the plug-in entropy over log2 V. Means over codebooks."""
    songs = sorted({song for song, _ in parts})
    counts: dict[tuple[str, str, int], Unigram] = {}
    for stream in codec.streams:
        for book, size in enumerate(stream.codebook_sizes):
            for song in songs:
                codes = [c[TRUE][stream.name][book].numpy() for (of, _), c in parts.items() if of == song]
                counts[song, stream.name, book] = count(np.concatenate(codes), size)
    for (song, part), conditions in parts.items():
        for condition, streams in conditions.items():
            for stream in codec.streams:
                if condition == DIRECT:
                    continue
                bits, entropies = [], []
                for book, size in enumerate(stream.codebook_sizes):
                    own = count(streams[stream.name][book].numpy(), size)
                    entropies.append(own.normalized())
                    others = [counts[other, stream.name, book].counts for other in songs if other != song]
                    if others:
                        learned = Unigram(np.sum(others, axis=0))
                        bits.append(own.bits_by_frequency(learned) / math.log2(size))
                mean = sum(bits) / len(bits) if bits else None
                yield row_of(f"unigram.{condition}", stream.name, song, mean, ALONE, part)
                yield Row(f"entropy.{condition}", stream.name, song, sum(entropies) / len(entropies), "", part)


def cnbpt_rows(model: LanguageModel, parts: Parts) -> Iterator[Row]:
    """`cnbpt.C`: bits a token under the language model over log2 V (paper, equation 6), of each stretch by itself."""
    rate = model.protocol.codec.frame_rate
    places = {
        f"{number}": (song, part, condition, streams)
        for number, (song, part, condition, streams) in enumerate(
            (song, part, condition, streams)
            for (song, part), conditions in parts.items()
            for condition, streams in conditions.items()
            if condition != DIRECT
        )
    }
    songs = [
        TokenizedSong(key, "test", {name: codes.numpy().astype(np.int32) for name, codes in streams.items()})
        for key, (_, _, _, streams) in places.items()
    ]
    shortest = min(model.seconds, min(song.frames for song in songs) / rate)
    scores = score_songs(model.model, songs, model.protocol, seconds=model.seconds, shortest=shortest)
    found: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        found.setdefault((score.song, score.stream), []).append(float(score.bits.mean()) / math.log2(score.size))
    for (key, stream), each in found.items():
        song, part, condition, _ = places[key]
        yield row_of(f"cnbpt.{condition}", stream, song, sum(each) / len(each), "no figure", part)

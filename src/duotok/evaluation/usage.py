"""How the codes of a tokenizer are used on a set of songs: utilization and entropy (paper, equation 17; Figure 6, Table 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from duotok.clock import SAMPLE_RATE
from duotok.evaluation.codes import CodeUsage
from duotok.evaluation.instrument import Cost, Instrument, Observation, Song, System, codec_of, encode
from duotok.evaluation.results import ALL, Measure, Row

MEASURES = (
    Measure("utilization", "share of the codes of a codebook that occur at all", "", "higher", "paper, table 11"),
    Measure("normalized_entropy", "H / log2 V of how often each code occurs", "", "higher", "paper, equation 17"),
    Measure("entropy", "H of how often each code occurs", "bit", "higher", "paper, equation 7"),
    Measure("most_frequent", "share of the most frequent code", "", "lower"),
    Measure("uniform_utilization", "utilization of ideal, uniform codes in as many tokens"),
    Measure("uniform_entropy", "normalized entropy of ideal, uniform codes in as many tokens"),
    Measure("tokens", "tokens of a codebook that were counted"),
)


@dataclass(frozen=True)
class Usage(Instrument):
    """Of all songs together: a codebook is judged by what it does on all of them. The item of its rows is "all"."""

    name: ClassVar[str] = "usage"
    of_tokens: ClassVar[bool] = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        return MEASURES

    @property
    def cost(self) -> Cost:
        return Cost(encodings=1)

    @torch.inference_mode()
    def observe(self, system: System, song: Song) -> dict[str, Any]:
        """How often each code comes: by stream and codebook, [codes, counts]; and the sizes of the codebooks."""
        codec = codec_of(system)
        tokens = encode(codec, song.sounds, SAMPLE_RATE)
        counts = {
            stream.name: [
                [part.tolist() for part in torch.unique(row, return_counts=True)] for row in tokens[stream.name]
            ]
            for stream in codec.streams
        }
        return {"counts": counts, "sizes": {stream.name: list(stream.codebook_sizes) for stream in codec.streams}}

    def rows(self, observations: Sequence[Observation]) -> list[Row]:
        usages: dict[tuple[str, int], CodeUsage] = {}
        result = list[Row]()
        for seen in observations:
            if seen.reason:
                result += [
                    Row(m.name, t, seen.song, None, seen.reason, seen.part) for m in MEASURES for t in seen.tracks
                ]
                continue
            for stream, books in seen.data["counts"].items():
                for k, (codes, counts) in enumerate(books):
                    usage = usages.setdefault((stream, k), CodeUsage(seen.data["sizes"][stream][k]))
                    usage.add(torch.tensor(codes).repeat_interleave(torch.tensor(counts)))
        books_of = {stream: sum(s == stream for s, _ in usages) for stream, _ in usages}
        for (stream, k), usage in usages.items():
            facts = usage.facts()
            track = stream if books_of[stream] == 1 else f"{stream}.{k}"
            values = (
                facts.utilization, facts.normalized_entropy, facts.entropy, facts.most_frequent_share,
                facts.uniform_utilization, facts.uniform_normalized_entropy, float(facts.tokens),
            )  # fmt: skip
            result += [Row(m.name, track, ALL, value) for m, value in zip(MEASURES, values, strict=True)]
        return result

"""`checks` sees what it is for: a wrong length, and codes that change when nothing should."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.codec.tiny_codecs import make_codec
from torch import Tensor

from duotok.audio.io import resample
from duotok.clock import SAMPLE_RATE
from duotok.codec import Stream, StreamTokens, TransformersCodec
from duotok.codec.catalogue import ENTRIES, entry_of, how_to, usable
from duotok.codec.checks import equal_shares, lengths
from duotok.codec.external.registry import EXTERNAL
from duotok.codec.families import FAMILIES
from duotok.errors import BundleError, ConfigError
from duotok.tracks import TRACKS

RATE, HOP = 8000, 100


class Signs:
    """A codec whose code is whether a frame's first sample is positive; `fault` spoils one promise."""

    model_id, model_hash, sample_rate, frame_rate = "signs", "0" * 64, RATE, RATE / HOP
    streams = tuple(Stream(track, (2,)) for track in TRACKS)

    def __init__(self, fault: str = "") -> None:
        self.fault, self.calls = fault, 0

    def n_frames(self, n_samples: int) -> int:
        return (
            n_samples // HOP + (self.fault == "one more")
            if self.fault in ("floor", "one more")
            else -(-n_samples // HOP)
        )

    def encode(
        self,
        audio: Any = None,
        rate: int = SAMPLE_RATE,
        *,
        vocals: Any = None,
        accompaniment: Any = None,
        batch_size: int = 1,
    ) -> Any:
        self.calls += 1
        given = {"vocals": vocals, "accompaniment": accompaniment}
        n, codes = 0, {}
        for track, sound in given.items():
            mono = resample(sound.mean(0), rate, RATE)
            n = len(mono)
            frames = -(-n // HOP)
            row = (torch.nn.functional.pad(mono, (0, frames * HOP - n))[::HOP] > 0).long()
            if self.fault == "draws":
                row = (row + self.calls) % 2
            if self.fault == "stereo" and len(sound) == 2:
                row = 1 - row
            if self.fault == "batch" and batch_size > 1:
                row = 1 - row
            if self.fault == "loud" and float(mono.abs().mean()) < 0.04:
                row = 1 - row
            codes[track] = row[None]
        return StreamTokens(codes, n)

    def decode(self, tokens: Mapping[str, Tensor], track: str = "mix") -> Tensor:
        if self.fault == "mute":
            raise BundleError("signs: encodes only")
        assert isinstance(tokens, StreamTokens)
        return torch.zeros(1, tokens.n_samples + (self.fault == "longer"))

    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        raise NotImplementedError


def clip(seconds: float = 2.0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    n = int(seconds * SAMPLE_RATE)
    # Slow enough that resampling to 8 kHz keeps every sign.
    low = torch.randn(2, n // 600 + 2, generator=draw).repeat_interleave(600, 1)[:, :n]
    return {"vocals": 0.1 * low.clamp(-4, 4), "accompaniment": 0.1 * low.flip(1).clamp(-4, 4)}


def test_lengths_are_asked_at_every_remainder() -> None:
    found = lengths(Signs())
    assert (found.problems, found.remainders, found.samples_per_frame) == ((), HOP, HOP)
    assert (found.least, len(found.encoded), len(found.decoded)) == (0.0, 8, 2) and found.most == pytest.approx(0.99)
    assert len(lengths(Signs(), every=True).encoded) == HOP
    assert lengths(Signs("mute")).decoded == {}


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("floor", "n_frames leaves out 0.99 frames of sound"),
        ("one more", "300 samples: 3 frames of 300 samples, promised 4"),
        ("longer", "300 samples decode to 301"),
    ],
)
def test_wrong_lengths_are_told(fault: str, problem: str) -> None:
    assert any(problem in told for told in lengths(Signs(fault)).problems)


def test_a_codec_that_keeps_everything_has_ones_but_for_the_resampler() -> None:
    shares = {share.case: share for share in equal_shares(Signs(), clip())}
    assert len(shares) == 7
    for case, share in shares.items():
        wanted = 0.97 if "44.1" in case or "later" in case else 1.0
        assert {*share.streams} == {*TRACKS} and min(share.streams.values()) >= wanted, case


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        ("draws", "encoded again"),
        ("stereo", "mono, against dual mono"),
        ("batch", "the same, a window at a time"),
        ("loud", "-6 dB"),
    ],
)
def test_what_should_change_nothing_and_does_is_seen(fault: str, case: str) -> None:
    shares = {share.case: share.streams for share in equal_shares(Signs(fault), clip())}
    assert max(shares[case].values()) < 0.5


def test_sounds_that_are_no_clip() -> None:
    with pytest.raises(ConfigError, match="give at least 48000, a second"):
        equal_shares(Signs(), clip(0.5))
    with pytest.raises(ConfigError, match="equally long"):
        equal_shares(Signs(), {**clip(), "vocals": clip(1.0)["vocals"]})


def test_codecs_with_chunks_are_checked_too(tmp_path: Path) -> None:
    folder = make_codec(tmp_path, "encodec", normalize=True, chunk_length_s=0.5, overlap=0.01, audio_channels=2)
    codec = TransformersCodec.from_pretrained(folder, tracks=("mix",))
    assert lengths(codec).problems == ()
    shares = {share.case: share.streams["mix"] for share in equal_shares(codec, clip(1.0))}
    assert shares["encoded again"] == shares["mono, against dual mono"] == 1.0
    assert shares["-6 dB"] > 0.98  # each chunk is brought to one level


def test_the_catalogue_has_every_codec_once_with_all_that_a_user_needs() -> None:
    assert {*EXTERNAL} < {*ENTRIES} and {e.name for f in FAMILIES.values() for e in f.entries} < {*ENTRIES}
    for name, entry in ENTRIES.items():
        assert entry.name == name and entry.sample_rate >= 8000 and entry.channels in (1, 2) and entry.frame_rate > 1
        for text in (
            "what",
            "streams",
            "code_licence",
            "weights_licence",
            "needs",
            "windows",
            "verified",
            "cite",
            "use",
        ):
            assert getattr(entry, text).strip(), (name, text)
        assert entry.use.startswith("--model ") and how_to(name) and usable(name)
        if name in EXTERNAL:
            known = EXTERNAL[name]
            assert entry.read and entry.sample_rate in known.rates and known.adapter.is_file()
            assert any(abs(entry.frame_rate / r - 1) < 1e-9 for r in known.frame_rates(entry.sample_rate))
            assert "never" not in entry.verified and f"codec: {name}" in " ".join(how_to(name))
            lines = how_to(name)
            # An environment that is made from a repository comes after it.
            for folder in ("Open-Qwen-Music", "SongGeneration", "MuCodec"):
                for at, line in enumerate(lines):
                    if f"{folder}/requirements" in line or f"-e {folder}" in line:
                        assert any(earlier.startswith("git clone") and folder in earlier for earlier in lines[:at]), (
                            name
                        )
            environment = known.environment.split(" ")[3]  # python3 -m venv FOLDER
            assert f"    python: {environment}" in lines and len({*lines}) == len(lines)
    with pytest.raises(ConfigError, match="codec 'wavtokeniser' is not known; did you mean wavtokenizer"):
        entry_of("wavtokeniser")

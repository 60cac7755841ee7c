"""The report as one self-contained HTML file. Its text and style are in `templates/`."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import soundfile
from torch import Tensor

import duotok
from duotok.audio.loudness import integrated_loudness
from duotok.clock import SAMPLE_RATE
from duotok.demo import pictures
from duotok.demo.report import PIECES, YARDSTICK_BITS, DemoReport
from duotok.evaluation.codes import CodeUsage
from duotok.pages import rendering
from duotok.pages.rendering import data_uri, png_uri
from duotok.tokens import to_bytes
from duotok.tracks import TRACKS

TEMPLATE = Path(__file__).parent / "templates" / "demo.html.j2"
SILENT_LUFS = -100.0


@dataclass(frozen=True)
class Player:
    """A sound with its name, and for most its picture (both `data:` addresses).

    side: "in" or "out" for the tracks that the mixer plays; lufs: their loudness; gain: what undoes that the player's copy
    is turned down where it would clip.
    """

    track: str
    title: str
    note: str
    sound: str
    picture: str = ""
    side: str = ""
    lufs: float = SILENT_LUFS
    gain: float = 1.0


@dataclass(frozen=True)
class Compared:
    """A measurement of the decoded tokens and of Opus at `kbps`; higher: whether larger values are better."""

    title: str
    ours: float
    opus: float
    kbps: float
    higher: bool


@dataclass(frozen=True)
class Strip:
    """A track's token strip: its picture, the number of tokens, and the first of them."""

    track: str
    picture: str
    tokens: str
    first: str


def audio_uri(audio: Tensor) -> str:
    """`[channels, samples]` at 48 kHz as MP3 in a `data:` address (MP3: every browser plays it)."""
    peak = float(audio.abs().max())
    buffer = io.BytesIO()
    # Longer songs get a lower bit rate, so that a page with seven players of ten minutes still opens.
    level = 0.35 if audio.shape[1] < 100 * SAMPLE_RATE else 0.7
    soundfile.write(
        buffer,
        (audio / max(1.0, peak)).T.numpy(),
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=level,
    )
    return data_uri(buffer.getvalue(), "audio/mpeg")


def _player(track: str, title: str, note: str, audio: Tensor, side: str = "") -> Player:
    sound, picture = audio_uri(audio), png_uri(pictures.mel_picture(audio, SAMPLE_RATE))
    if not side:
        return Player(track, title, note, sound, picture)
    loudness = integrated_loudness([audio], SAMPLE_RATE)
    lufs = loudness if math.isfinite(loudness) else SILENT_LUFS
    return Player(track, title, note, sound, picture, side, lufs, gain=max(1.0, float(audio.abs().max())))


def _players(report: DemoReport) -> Iterator[Player]:
    """The players of the song and then of its tracks, each before and after coding."""
    yield _player("mix", "The song", "original", report.sounds["mix"])
    yield _player("mix", "The song", "both decoded tracks together", report.decoded["mix"])
    origin = "as given" if report.true_stems else "separated from the song"
    for track in TRACKS:
        yield _player(track, track.capitalize(), origin, report.sounds[track], "in")
        yield _player(track, track.capitalize(), "decoded", report.decoded[track], "out")


def _headroom(report: DemoReport) -> float:
    """The gain with which both tracks together do not clip, neither before nor after."""
    loudest = max(
        float((sounds[TRACKS[0]] + sounds[TRACKS[1]]).abs().max()) for sounds in (report.sounds, report.decoded)
    )
    return min(1.0, 1.0 / max(loudest, 1e-6))


def _distances(report: DemoReport) -> Iterator[Compared]:
    def row(title: str, values: Mapping[str, float], piece: str, higher: bool = True) -> Compared:
        return Compared(title, values["duotok"], values["opus"], report.yardstick_kbps[piece], higher)

    pieces = (*TRACKS, "mix")
    for name in pieces:
        title = f"{name}: seven-scale mel distance, lower is closer"
        yield row(title, report.distances[name], name, higher=False)
    if report.stoi:
        yield row("vocals: intelligibility (STOI), higher is better", report.stoi, "vocals")
    for name in pieces:
        yield row(f"{name}: the same notes (chroma correlation), higher is better", report.chroma[name], name)
    known = {codec: share for codec, share in report.f0.items() if share is not None}
    if len(known) == 2:
        yield row("vocals: pitch within 50 cents, share of voiced frames, higher is better", known, "vocals")


def _usage(report: DemoReport) -> list[list[str]]:
    usage = [report.usage[track] for track in TRACKS]
    return [
        ["tokens", *(f"{u.tokens:,}" for u in usage)],
        ["different codes", *(f"{u.distinct:,}" for u in usage)],
        ["codebook entries", *(f"{u.codebook_size:,}" for u in usage)],
        ["entropy", *(f"{u.entropy:.2f} bit" for u in usage)],
        ["normalized entropy", *(f"{u.normalized_entropy:.3f}" for u in usage)],
        ["the same of ideal codes, in as many tokens", *(f"{u.uniform_normalized_entropy:.3f}" for u in usage)],
        ["most frequent code", *(f"{u.most_frequent_share:.1%}" for u in usage)],
    ]


def _strip(report: DemoReport, track: str, vectors: Tensor) -> Strip:
    codes = report.tokens.track(track)
    picture = pictures.strip_picture(codes, vectors, report.seconds)
    first = " ".join(str(code) for code in codes[:12].tolist())
    return Strip(track, png_uri(picture), f"{len(codes):,}", first)


def _facts(report: DemoReport) -> list[tuple[str, str]]:
    """The numbers at the top of the page, each with its description."""
    seconds, whole = report.seconds, report.full_seconds
    part = "" if whole - seconds < 0.1 else f", {pictures.clock(int(seconds))} of {pictures.clock(int(whole))}"
    rate = report.bits_per_second / 1000
    return [
        (f"{seconds:.1f} s", "of music" + part),
        (f"2 × {report.tokens.n_frames:,}", "tokens, 25 a second"),
        (f"{rate:.2f} kbit/s", "both tracks together"),
        (f"1 : {16 * 2 * SAMPLE_RATE / 1000 / rate:,.0f}", "against 16-bit stereo"),
        (f"{len(to_bytes(report.tokens)):,} bytes", "the token file"),
    ]


def render(report: DemoReport, vectors: Mapping[str, Tensor]) -> str:
    """The page. vectors: code vectors `[frames, width]` of each track. Self-contained; a few MB for half a minute."""
    assert set(report.sounds) == set(PIECES)
    tokens, seconds = report.tokens, report.seconds
    codes = {track: tokens.track(track) for track in TRACKS}
    counts = {t: CodeUsage(size).add(codes[t]).counts for t, size in zip(TRACKS, tokens.codebook_sizes, strict=True)}
    return rendering.render(
        TEMPLATE,
        name=report.name,
        seconds=seconds,
        tracks=TRACKS,
        entries=" and ".join(f"{size:,}" for size in dict.fromkeys(tokens.codebook_sizes)),
        true_stems=report.true_stems,
        decoding=report.facts()["decoding"],
        facts=_facts(report),
        headroom=_headroom(report),
        players=list(_players(report)),
        strips=[_strip(report, track, vectors[track]) for track in TRACKS],
        variety=png_uri(pictures.variety_picture(codes, seconds)),
        similarity=[(track, png_uri(pictures.similarity_picture(vectors[track]))) for track in TRACKS],
        kept=report.chroma["mix"]["duotok"],
        distances=list(_distances(report)),
        opus_ratio=YARDSTICK_BITS / (report.bits_per_second / 2),
        yardstick=[
            Player(name, name.capitalize(), f"Opus, {report.yardstick_kbps[name]:.1f} kbit/s", audio_uri(sound))
            for name, sound in ((piece, report.yardstick[piece]) for piece in ("mix", *TRACKS))
        ],
        separation=[
            [track, f"{values['separated']:.1f} dB", f"{values['mix']:.1f} dB"]
            for track, values in report.separation.items()
        ],
        ranks=png_uri(pictures.rank_picture(counts)),
        usage=_usage(report),
        usage_note=" ".join(dict.fromkeys(u.note for u in report.usage.values())),
        times=[[name, f"{taken:.1f} s", f"{taken / seconds:.2f} x real time"] for name, taken in report.times.items()],
        version=duotok.__version__,
        bundle=report.model.model_id,
        hash=report.model.model_hash[:8],
    )

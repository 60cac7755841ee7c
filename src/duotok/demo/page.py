"""The report as one HTML file that needs nothing but itself: sounds and pictures are inside."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from string import Template

import soundfile
from torch import Tensor

import duotok
from duotok.audio.loudness import integrated_loudness
from duotok.clock import SAMPLE_RATE
from duotok.demo import pictures
from duotok.demo.report import PIECES, YARDSTICK_BITS, DemoReport
from duotok.demo.script import SCRIPT
from duotok.demo.template import PAGE, STYLE
from duotok.evaluation.codes import CodeUsage
from duotok.tokens import to_bytes
from duotok.tracks import TRACKS


def data_uri(data: bytes, kind: str) -> str:
    """`data:` address of some bytes."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def audio_uri(audio: Tensor) -> str:
    """`[channels, samples]` at 48 kHz as MP3 in a `data:` address (MP3: every browser plays it)."""
    peak = float(audio.abs().max())
    buffer = io.BytesIO()
    # Ten minutes of seven players must still open: longer songs get a lower rate.
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


def png_uri(data: bytes) -> str:
    return data_uri(data, "image/png")


def _view(picture: bytes, label: str, seconds: float) -> str:
    """A picture over time; a slider for hands, keys and screen readers."""
    slider = f'role="slider" tabindex="0" aria-label="position in the song; {html.escape(label)}" aria-valuemin="0"'
    limits = f'aria-valuemax="{seconds:.1f}" aria-valuenow="0" aria-valuetext="0:00"'
    return f'<div class="view" {slider} {limits}><img src="{png_uri(picture)}" alt=""><i></i></div>'


def _card(track: str, title: str, note: str, audio: Tensor, picture: bool = True, side: str = "") -> str:
    """side: "in" or "out" for the tracks that the mixer plays."""
    seconds = audio.shape[1] / SAMPLE_RATE
    view = (
        _view(pictures.mel_picture(audio, SAMPLE_RATE), f"spectrogram of {title}, {note}", seconds) if picture else ""
    )
    mixed = ""
    if side:
        loudness = integrated_loudness([audio], SAMPLE_RATE)
        level = loudness if math.isfinite(loudness) else -100.0
        # The player's copy is turned down where it would clip; the mixer puts that right.
        gain = max(1.0, float(audio.abs().max()))
        mixed = f' data-side="{side}" data-track="{track}" data-lufs="{level:.2f}" data-gain="{gain:.4f}"'
    name = html.escape(f"{title}, {note}")
    sound = f'<audio controls preload="metadata" aria-label="{name}"{mixed} src="{audio_uri(audio)}"></audio>'
    return f'<section class="card {track}"><h3>{title} <small>{note}</small></h3>{sound}{view}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"


def _fact(value: str, label: str) -> str:
    return f"<li><b>{value}</b><span>{label}</span></li>"


def _listening(report: DemoReport) -> str:
    origin = "as given" if report.true_stems else "separated from the song"
    parts = ["<header>what went in</header><header>out of the tokens</header>"]
    for name in ("mix", *TRACKS):
        title = "The song" if name == "mix" else name.capitalize()
        after = "both decoded tracks together" if name == "mix" else "decoded"
        before = "original" if name == "mix" else origin
        sides = ("", "") if name == "mix" else ("in", "out")
        parts.append(_card(name, title, before, report.sounds[name], side=sides[0]))
        parts.append(_card(name, title, after, report.decoded[name], side=sides[1]))
    return "".join(parts)


def _mixer(report: DemoReport) -> str:
    """Play, position, A or B, mute and solo; what they do is in `report_script.py`."""
    loudest = max(
        float((sounds[TRACKS[0]] + sounds[TRACKS[1]]).abs().max()) for sounds in (report.sounds, report.decoded)
    )
    tracks = "".join(
        f'<span class="track {track}"><b>{track}</b>'
        + "".join(
            f'<button type="button" data-what="{what}" data-track="{track}" aria-pressed="false" '
            f'aria-label="{what} {track}">{what}</button>'
            for what in ("mute", "solo")
        )
        + "</span>"
        for track in TRACKS
    )
    return (
        f'<div id="mixer" role="group" aria-label="mixer" data-headroom="{min(1.0, 1.0 / max(loudest, 1e-6)):.4f}">'
        '<div class="row"><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{report.seconds:.2f}" step="0.05" value="0" aria-label="position in the song"></div>'
        '<div class="row"><fieldset><legend>Hear</legend>'
        '<label><input type="radio" name="side" value="in" checked> A: what went in</label>'
        '<label><input type="radio" name="side" value="out"> B: out of the tokens</label></fieldset>'
        '<label><input type="checkbox" class="equal" checked> equal loudness</label></div>'
        f'<div class="row">{tracks}</div></div>'
    )


def _better(value: float, other: float, higher: bool = False) -> str:
    text = f"{value:.2f}"
    wins = value > other if higher else value < other
    return f'<span class="better">{text}</span>' if wins else text


def _distances(report: DemoReport) -> str:
    rows = []
    for name in (*TRACKS, "mix"):
        ours, opus = report.distances[name]["duotok"], report.distances[name]["opus"]
        title = f"{name}: seven-scale mel distance, lower is closer"
        rows.append([title, _better(ours, opus), _better(opus, ours), f"{report.yardstick_kbps[name]:.1f} kbit/s"])
    if report.stoi:
        ours, opus = report.stoi["duotok"], report.stoi["opus"]
        row = ["vocals: intelligibility (STOI), higher is better", _better(ours, opus, True), _better(opus, ours, True)]
        rows.append([*row, f"{report.yardstick_kbps['vocals']:.1f} kbit/s"])
    for name in (*TRACKS, "mix"):
        ours, opus = report.chroma[name]["duotok"], report.chroma[name]["opus"]
        title = f"{name}: the same notes (chroma correlation), higher is better"
        cells = [_better(ours, opus, True), _better(opus, ours, True)]
        rows.append([title, *cells, f"{report.yardstick_kbps[name]:.1f} kbit/s"])
    sung, coded = report.f0["duotok"], report.f0["opus"]
    if sung is not None and coded is not None:
        title = "vocals: pitch within 50 cents, share of voiced frames, higher is better"
        cells = [_better(sung, coded, True), _better(coded, sung, True)]
        rows.append([title, *cells, f"{report.yardstick_kbps['vocals']:.1f} kbit/s"])
    return _table(["against what went in", "from the tokens", "Opus", "Opus really took"], rows)


def _pitch(report: DemoReport) -> str:
    """What the pitch measures say of this song, in a plain sentence."""
    kept = report.chroma["mix"]["duotok"]
    if kept >= 0.8:
        return "By them, the notes of this song survive in the decoded sound."
    state = "only partly survive" if kept >= 0.4 else "do not survive"
    return (
        f"By them, the notes of this song {state} in the decoded sound (chroma correlation {kept:.2f}): it has the loudness and "
        "the colour of the song at every moment, and not its melody and harmony. A small mel distance does not mean more than that."
    )


def _separation(report: DemoReport) -> str:
    if not report.separation:
        return ""
    rows = [
        [track, f"{values['separated']:.1f} dB", f"{values['mix']:.1f} dB"]
        for track, values in report.separation.items()
    ]
    table = _table(["SI-SDR against the true stem", "separated", "the mix untouched"], rows)
    return (
        "<p>The true stems of this song are known, so the separation can be judged as well (higher is better):</p>"
        f'<div class="wide" tabindex="0" role="region" aria-label="separation"><table>{table}</table></div>'
    )


def _usage(report: DemoReport) -> str:
    usage = [report.usage[track] for track in TRACKS]
    rows = [
        ["tokens", *(f"{u.tokens:,}" for u in usage)],
        ["different codes", *(f"{u.distinct:,}" for u in usage)],
        ["codebook entries", *(f"{u.codebook_size:,}" for u in usage)],
        ["entropy", *(f"{u.entropy:.2f} bit" for u in usage)],
        ["normalized entropy", *(f"{u.normalized_entropy:.3f}" for u in usage)],
        ["the same of ideal codes, in as many tokens", *(f"{u.uniform_normalized_entropy:.3f}" for u in usage)],
        ["most frequent code", *(f"{u.most_frequent_share:.1%}" for u in usage)],
    ]
    return _table(["", *TRACKS], rows)


def _times(report: DemoReport) -> str:
    rows = [
        [name, f"{taken:.1f} s", f"{taken / report.seconds:.2f} x real time"] for name, taken in report.times.items()
    ]
    return _table([f"for {report.seconds:.1f} s of music", "time", ""], rows)


def _strips(report: DemoReport, vectors: Mapping[str, Tensor]) -> str:
    parts = []
    for track in TRACKS:
        picture = pictures.strip_picture(report.tokens.track(track), vectors[track], report.seconds)
        view = _view(picture, f"token strip of the {track}", report.seconds)
        first = " ".join(str(code) for code in report.tokens.track(track)[:12].tolist())
        caption = f"<b>{track}</b>: {report.tokens.n_frames:,} tokens, beginning <code>{first}</code>"
        parts.append(f'<figure class="strip {track}">{view}<figcaption>{caption}</figcaption></figure>')
    return "".join(parts)


def _similarity(vectors: Mapping[str, Tensor]) -> str:
    return "".join(
        f'<figure class="card square {track}"><h3>{track.capitalize()}</h3>'
        f'<img alt="moments alike" src="{png_uri(pictures.similarity_picture(vectors[track]))}"></figure>'
        for track in TRACKS
    )


def _lead(report: DemoReport) -> str:
    entries = " and ".join(f"{size:,}" for size in dict.fromkeys(report.tokens.codebook_sizes))
    return (
        "This song was turned into two streams of whole numbers, one for the voice and one for everything else, 25 a "
        f"second each, every number one of {entries}; and then the numbers, and nothing else, were turned back into "
        "sound. It is not meant to be a lossless copy: it is music written down so that a language model can read and "
        "write it, with the two tracks free to be swapped, muted or rewritten apart."
    )


def render(report: DemoReport, vectors: Mapping[str, Tensor]) -> str:
    """The page. vectors: code vectors `[frames, width]` of each track. Self-contained; a few MB for half a minute."""
    tokens, seconds = report.tokens, report.seconds
    rate = report.bits_per_second / 1000
    whole = report.full_seconds
    part = "" if whole - seconds < 0.1 else f", {pictures.clock(int(seconds))} of {pictures.clock(int(whole))}"
    facts = report.facts()
    original_kbps = 16 * 2 * SAMPLE_RATE / 1000
    usage = {t: CodeUsage(s).add(tokens.track(t)).counts for t, s in zip(TRACKS, tokens.codebook_sizes, strict=True)}
    cards = [
        _fact(f"{seconds:.1f} s", "of music" + part),
        _fact(f"2 × {tokens.n_frames:,}", "tokens, 25 a second"),
        _fact(f"{rate:.2f} kbit/s", "both tracks together"),
        _fact(f"1 : {original_kbps / rate:,.0f}", "against 16-bit stereo"),
        _fact(f"{len(to_bytes(tokens)):,} bytes", "the token file"),
    ]
    stems = (
        "The stems were given."
        if report.true_stems
        else "The two tracks were separated from the song by the bundle's own small separator; what it leaves of one "
        "track in the other is part of what you hear."
    )
    notes = dict.fromkeys(u.note for u in report.usage.values())
    name = html.escape(report.name)
    fields = {
        "title": name,
        "style": STYLE,
        "lead": _lead(report),
        "provenance": stems + " Decoded in {steps} steps of {sampler}, seed {seed}.".format(**facts["decoding"]),
        "cards": "".join(cards),
        "listening": _listening(report),
        "tokens_text": (
            "Each column is one token, 40 ms. Upper part: similar colour, similar sound (the principal directions of "
            "the vectors that the tokens stand for). Lower part: equal colour, equal token."
        ),
        "strips": _strips(report, vectors),
        "variety": _view(
            pictures.variety_picture({t: tokens.track(t) for t in TRACKS}, seconds),
            "share of distinct tokens over time",
            seconds,
        ),
        "mixer": _mixer(report),
        "similarity": _similarity(vectors),
        "distance_text": (
            "The mel distance compares the power in every pitch band and moment, on seven time scales, as a mean "
            "difference of natural logarithms: 0 is identical, 0.7 means off by a factor of two (3 dB) on average. "
            "STOI tells how much of the shape of the words survives (0 to 1). Both compare, in mono, with what went "
            "into the tokenizer. Neither hears which note is played. Chroma correlation does: whether the twelve notes sound "
            "alike at every moment (1: the same, 0: no relation); and the share of voiced frames of the singing whose pitch is "
            "within 50 cents. The better of the two codecs is green; what Opus took is beside it. " + _pitch(report)
        ),
        "distances": _distances(report),
        "ratio": f"{YARDSTICK_BITS / (report.bits_per_second / 2):.0f}",
        "half_ratio": f"{YARDSTICK_BITS / report.bits_per_second:.0f}",
        "yardstick": "".join(
            _card(name, f"{name.capitalize()}", f"Opus, {report.yardstick_kbps[name]:.1f} kbit/s", sound, picture=False)
            for name, sound in ((piece, report.yardstick[piece]) for piece in ("mix", *TRACKS))
        ),
        "separation": _separation(report),
        "ranks": png_uri(pictures.rank_picture(usage)),
        "usage": _usage(report),
        "usage_note": " ".join(html.escape(note) for note in notes),
        "times": _times(report),
        "commands": html.escape(
            "duotok encode song.mp3 -o tokens\n"
            "duotok decode tokens/song.duotok -o sound --track vocals\n\n"
            "from duotok import DuoTok\n"
            'model = DuoTok.from_pretrained("mini")\n'
            'tokens = model.encode("song.mp3")\n'
            "sound = model.decode(tokens)          # [channels, samples] at 48 kHz"
        ),
        "version": duotok.__version__,
        "bundle": html.escape(report.model.model_id),
        "hash": report.model.model_hash[:8],
        "script": Template(SCRIPT).substitute(seconds=f"{seconds:.4f}"),
    }
    assert set(report.sounds) == set(PIECES)
    return Template(PAGE).substitute(fields)

"""Transcribe: for every recording with a voice, WORK/lyrics/ID.json (`Lyrics.as_json`), or the reason why there is none.

A recording's own lyrics file comes first: it is read, and words without times are aligned by the lyric head of a bundle, if
it recognizes them. Recordings without a file go to a transcriber that runs in its own Python environment.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duotok.audio.io import probe
from duotok.corpora.base import lyrics_part
from duotok.data.jobs import Engine, Pending, Results, Unit, atomic_write, pending, read_ledger, run_units, sweep
from duotok.data.sources import fingerprint, local
from duotok.errors import ConfigError
from duotok.lyrics.readers import read_lyrics
from duotok.lyrics.text import BERT_NAME
from duotok.lyrics.transcribers import TOOLS, ToolConfig, Transcriber, interpreter, route
from duotok.lyrics.types import Lyrics, LyricsError
from duotok.records import KINDS, Recording

if TYPE_CHECKING:
    from duotok.data.lyric_head import LyricHead

LEDGER = Path("ledger") / "transcribe.jsonl"
FORMAT = 1  # of this step's files; a new number makes everything be done again
CHOICES = ("auto", *TOOLS, "none")
MARGIN = 0.5
"""Nats a letter (see `Aligned.margin`); below it the head does not recognize the words, and its times are noise."""


@dataclass(frozen=True)
class TranscriptionOptions:
    """transcriber: whisperx, funasr, auto (Chinese to FunASR, the rest to WhisperX) or none; tools: how each is run;
    kinds: of the recordings to transcribe; bundle: "" aligns nothing; encoding: of all lyrics files, "" to detect it.
    """

    transcriber: str = "none"
    tools: dict[str, ToolConfig] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("song", "music", "voice")
    bundle: str = "mini"
    vocab: str = BERT_NAME
    device: str = "cpu"
    margin: float = MARGIN
    encoding: str = ""

    def __post_init__(self) -> None:
        if self.transcriber not in CHOICES:
            raise ConfigError(f"transcriber '{self.transcriber}' is unknown; choose {', '.join(CHOICES)}")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise ConfigError(f"kind '{unknown[0]}' is unknown; there are {', '.join(KINDS)}")
        for name in self.required_tools:
            if name not in self.tools:
                raise ConfigError(
                    f"{name} needs an environment of its own; name it with --python {name}=ENV/bin/python"
                )
            interpreter(self.tools[name].python, name)

    @property
    def required_tools(self) -> tuple[str, ...]:
        """The tools that may be used, each of which must be in `tools`."""
        return {"auto": tuple(TOOLS), "none": ()}.get(self.transcriber, (self.transcriber,))


def transcribe_recording(payload: dict[str, Any]) -> dict[str, Any]:
    """The unit of work: find and write the words of one recording; returns their source and counts.

    Raises LyricsError for a damaged lyrics file or a tool that fails, AudioError for sound that cannot be read.
    """
    target = _file(Path(payload["folder"]), payload["id"])
    target.unlink(missing_ok=True)  # older words must not outlive a file that is damaged now
    with contextlib.ExitStack() as stack:
        audio = {stem: stack.enter_context(local(place)) for stem, place in payload["audio"].items()}
        start = float(payload["start"])
        length = _length(payload, audio)
        margin = None
        if payload["lyrics"]:
            lyrics, margin = _from_file(payload, audio, start, length)
        else:
            seconds = payload["stop"] - start if payload["stop"] else None
            voice = audio.get("vocals") or next(iter(audio.values()))
            lyrics = _from_transcriber(payload, voice, start, seconds)
    lyrics = dataclasses.replace(lyrics, language=lyrics.language or payload["language"] or None)
    with atomic_write(target) as file:
        file.write(json.dumps(lyrics.as_json(), ensure_ascii=False, indent=1).encode())
    words = lyrics.words
    return {
        "source": lyrics.source, "file": bool(payload["lyrics"]), "language": lyrics.language or "", "lines": len(lyrics.lines), "words": len(words),
        "timed lines": sum(line.timed for line in lyrics.lines), "timed words": sum(word.timed for word in words),
        "margin": margin, "notes": list(lyrics.notes),
    }  # fmt: skip


def _file(folder: Path, recording: str) -> Path:
    return folder / f"{recording}.json"


def _length(payload: dict[str, Any], audio: dict[str, Path]) -> float:
    """Seconds of the recording, from its part of the file or its metadata, else of its shortest file."""
    if payload["stop"]:
        return float(payload["stop"] - payload["start"])
    if payload["seconds"] is not None:
        return float(payload["seconds"])
    return min(probe(path).seconds for path in audio.values()) - float(payload["start"])


def _from_file(
    payload: dict[str, Any], audio: dict[str, Path], start: float, length: float
) -> tuple[Lyrics, float | None]:
    """The words of the lyrics file, and the margin if the lyric head aligned them: a whole song without times."""
    path, first, last = lyrics_part(payload["lyrics"])
    inside = length if last is None else min(length, last - first)
    lyrics = read_lyrics(path, seconds=inside, start=first + start, encoding=payload.get("encoding", ""))
    if any(line.timed for line in lyrics.lines) or not payload["align"]:
        return lyrics, None
    if first + start > 0:
        return _with_note(lyrics, "not aligned: a text without times, of more than this excerpt"), None
    settings = payload["align"]
    head = _head(settings["bundle"], settings["vocab"], payload["device"])
    try:
        aligned = head.align(lyrics, audio, start, payload["stop"] - start if payload["stop"] else None)
    except LyricsError as error:
        return _with_note(lyrics, f"not aligned: {error}"), None
    margin = round(aligned.margin, 4)
    if margin < settings["margin"]:
        reason = f"{settings['bundle']}'s lyric head does not recognize the words (margin {margin:.3f}, least {settings['margin']:g})"
        return _with_note(lyrics, f"not aligned: {reason}"), margin
    return aligned.lyrics, margin


def _with_note(lyrics: Lyrics, note: str) -> Lyrics:
    return dataclasses.replace(lyrics, notes=(*lyrics.notes, note))


def _from_transcriber(payload: dict[str, Any], voice: Path, start: float, seconds: float | None) -> Lyrics:
    """The words by the transcriber. With `auto` and no known language, Chinese found by WhisperX goes to FunASR."""
    tools, language = payload["tools"], payload["language"]
    lyrics = _transcriber(tools[payload["tool"]]).transcribe(voice, language, start, seconds)
    if payload["routed"] and not language:
        better = route(lyrics.language or "", "auto")
        if better != payload["tool"] and lyrics.lines:
            lyrics = _transcriber(tools[better]).transcribe(voice, lyrics.language or "", start, seconds)
    return lyrics


# One of each in a worker process: models take long to load.
_heads: dict[tuple[str, str, str], LyricHead] = {}
_running: dict[str, Transcriber] = {}


def _head(bundle: str, vocab: str, device: str) -> LyricHead:
    from duotok.data.lyric_head import LyricHead  # imports the whole codec, which only alignment needs

    key = (bundle, vocab, device)
    if key not in _heads:
        _heads[key] = LyricHead(bundle, vocab, device)
    return _heads[key]


def _transcriber(settings: dict[str, Any]) -> Transcriber:
    key = json.dumps(settings, sort_keys=True)
    if key not in _running:
        _running[key] = Transcriber(ToolConfig(**settings))
    return _running[key]


@atexit.register
def close_tools() -> None:
    """End the transcribers of this process and release the models."""
    while _running:
        _running.popitem()[1].close()
    _heads.clear()


def transcribe_units(recordings: Sequence[Recording], work: Path, options: TranscriptionOptions) -> list[Unit]:
    """One unit for each recording that has lyrics or will be transcribed; a changed file or another model changes its stamp."""
    units = []
    for recording in recordings:
        if recording.kind not in options.kinds:
            continue
        tool = "" if recording.lyrics else _tool(recording, options)
        if not recording.lyrics and not tool:
            continue
        path = str(lyrics_part(recording.lyrics)[0]) if recording.lyrics else ""
        values = dataclasses.asdict(recording)
        payload = {
            **{name: values[name] for name in ("id", "audio", "lyrics", "language", "start", "stop", "seconds")},
            "files": {place: fingerprint(place) for place in (path, *recording.audio.values()) if place},
            "tool": tool,
            "model": (options.tools[tool].model or TOOLS[tool].model) if tool else "",
            "routed": options.transcriber == "auto",
            "align": {k: getattr(options, k) for k in ("bundle", "vocab", "margin")}
            if path and options.bundle
            else None,
            "format": FORMAT,
            **({"encoding": options.encoding} if path and options.encoding else {}),
        }
        place = {
            "folder": str(work.absolute() / "lyrics"),
            "device": options.device,
            "tools": {name: dataclasses.asdict(options.tools[name]) for name in options.required_tools},
        }
        units.append(Unit(recording.id, payload, place))
    return units


def _tool(recording: Recording, options: TranscriptionOptions) -> str:
    """The tool that transcribes a recording; "" for none, as for music without vocals that may have no singing."""
    if options.transcriber == "none" or (recording.kind == "music" and "vocals" not in recording.audio):
        return ""
    return route(recording.language, options.transcriber)


def _intact(unit: Unit, result: dict[str, Any]) -> bool:
    return _file(Path(unit.place["folder"]), unit.id).is_file()


def pending_transcribe(
    recordings: Sequence[Recording], work: Path, options: TranscriptionOptions, retry: bool = False
) -> Pending:
    """What `run_transcribe` would do; writes nothing."""
    units = transcribe_units(recordings, work, options)
    return pending(units, work / LEDGER, retry=retry, intact=_intact)


def run_transcribe(
    recordings: Sequence[Recording], work: Path, options: TranscriptionOptions, engine: Engine, retry: bool = False
) -> Results:
    """Words for all recordings; see `run_units` for what is kept, retried and raised.

    Raises ConfigError, before anything is done, when a tool's environment is missing.
    """
    units = transcribe_units(recordings, work, options)
    for folder in sorted({_file(work / "lyrics", unit.id).parent for unit in units}):
        sweep(folder)
    _forget(recordings, work)
    try:
        return run_units(transcribe_recording, units, work / LEDGER, engine, "transcribe", retry=retry, intact=_intact)
    finally:
        close_tools()


def _forget(recordings: Sequence[Recording], work: Path) -> None:
    """Words of lyrics files that were taken away must not outlive them; what a transcriber heard stays."""
    ledger = read_ledger(work / LEDGER)
    for recording in recordings:
        entry = None if recording.lyrics else ledger.get(recording.id)
        # Ledgers of an earlier DuoTok do not say where the words are from.
        if entry is not None and entry.result and entry.result.get("file", entry.result["source"] not in TOOLS):
            _file(work / "lyrics", recording.id).unlink(missing_ok=True)


def summary(results: Results) -> dict[str, Any]:
    """Recordings by source and by language, lines and words, with and without times."""
    done = results.done.values()
    counted = {key: sum(row[key] for row in done) for key in ("lines", "timed lines", "words", "timed words")}
    return {
        "sources": dict(Counter(row["source"] for row in done)),
        "languages": dict(Counter(row["language"] or "not said" for row in done)),
        **counted,
        "with times": sum(row["timed lines"] > 0 for row in done),
        "without times": sum(row["timed lines"] == 0 for row in done),
    }

"""A tiny speech server: words in on stdin, espeak-ng's samples and phone times out on stdout.

Run as a plain script with the paths of the espeak-ng library and its data; it uses the standard library only, so it
starts in milliseconds. espeak_Initialize may run only once in a process, and espeak keeps state between words (flutter,
noise), so that the same word sounds different each time. Therefore the server initialises once and forks for every
word: each word is spoken by a process in the same fresh state. The noise of breathy voices comes from a generator that
espeak seeds with the time; the server reseeds it for every word, so that the samples depend on the request alone.

Request: one line of JSON {"voice", "text", "rate", "pitch"}. Answer: 4 bytes length, then that much JSON
{"rate", "samples", "phones": [[ms, ipa], ...], "end": ms} or {"error"}, then `samples` 16 bit samples.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from typing import Any

SYNCHRONOUS = 2  # espeak's output mode: samples to the callback, no thread (a thread would not survive the fork)
PHONEME_EVENTS_IPA = 3
EVENT_END, EVENT_PHONEME = 5, 7
SEED = 1
PARAMETER_RATE, PARAMETER_PITCH, PARAMETER_RANGE = 1, 3, 4


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def speak(library: Any, rate: int, request: dict[str, Any]) -> bytes:
    """One word as the bytes of an answer."""
    samples = bytearray()
    phones: list[tuple[int, str]] = []
    end = 0

    def collect(wave: Any, count: int, events: Any) -> int:
        nonlocal end
        if wave and count > 0:
            samples.extend(ctypes.string_at(wave, count * 2))
        i = 0
        while events[i].type:
            if events[i].type == EVENT_PHONEME:
                phones.append((events[i].audio_position, events[i].id.string.decode("utf-8", "ignore")))
            elif events[i].type == EVENT_END:
                end = events[i].audio_position
            i += 1
        return 0

    callback = _Callback(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        return answer({"error": f"espeak-ng has no voice {request['voice']!r}"})
    for seeding in ("espeak_ng_SetRandSeed", "srand"):  # espeak's own generator (since 1.52), and that of the C library
        if hasattr(library, seeding):
            getattr(library, seeding)(ctypes.c_long(SEED))
    library.espeak_SetParameter(PARAMETER_RATE, int(request["rate"]), 0)
    library.espeak_SetParameter(PARAMETER_PITCH, int(request["pitch"]), 0)
    library.espeak_SetParameter(PARAMETER_RANGE, 0, 0)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    head = {"rate": rate, "samples": len(samples) // 2, "phones": phones, "end": end}
    return answer(head, bytes(samples))


def answer(head: dict[str, Any], samples: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + samples


def write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, sys.argv[2].encode(), PHONEME_EVENTS_IPA)
    if rate <= 0:
        write_all(answer({"error": f"espeak-ng does not find its data in {sys.argv[2]}"}))
        return
    for line in sys.stdin:
        request = json.loads(line)
        if not hasattr(os, "fork"):  # Windows: the client starts a new server for every word
            write_all(speak(library, rate, request))
            return
        child = os.fork()
        if child == 0:
            try:
                write_all(speak(library, rate, request))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            write_all(answer({"error": f"espeak-ng failed on {request['text']!r} (status {status})"}))


if __name__ == "__main__":
    main()

"""Run by the Python of WhisperX's or FunASR's own environment: a loop that turns wav files into that tool's JSON.

`python transcribe_runner.py whisperx|funasr OPTIONS`, OPTIONS a JSON object (model, device, ...). A request is one line
of JSON on stdin, {"audio": wav of 16 kHz mono 16 bit, "out": path, "language": code or ""}; the tool's result is written
to `out` and one line answers on what was stdout: {"done": out} or {"error": text}. The first line, {"ready": version} or
{"fatal": text}, says whether the tool could be loaded. Ends with stdin. Standard library only (Python 3.8 and later);
numpy and the tool come from the environment.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import wave
from typing import Any, Callable, Dict  # noqa: UP035 (these environments may be older than ours)

Options = Dict[str, Any]  # noqa: UP006
Transcribe = Callable[[str, str], Any]


def samples(path: str) -> Any:
    """float32 numpy array, so that no tool needs ffmpeg to read our wav."""
    numpy = importlib.import_module("numpy")
    with wave.open(path) as file:
        data = file.readframes(file.getnframes())
    return numpy.frombuffer(data, dtype="<i2").astype("float32") / 32768.0


def device_of(options: Options) -> str:
    if options["device"] != "auto":
        return str(options["device"])
    return "cuda" if importlib.import_module("torch").cuda.is_available() else "cpu"


def whisperx(options: Options) -> Transcribe:
    tool = importlib.import_module("whisperx")
    device = device_of(options)
    compute = options["compute_type"] or ("float16" if device == "cuda" else "int8")
    model = tool.load_model(options["model"], device, compute_type=compute)
    aligners: Dict[str, Any] = {}  # noqa: UP006

    def transcribe(path: str, language: str) -> Any:
        audio = samples(path)
        result = model.transcribe(audio, batch_size=options["batch_size"], language=language or None)
        detected_language = result["language"]
        if not result["segments"]:
            return {"segments": [], "language": detected_language}
        if detected_language not in aligners:
            try:
                aligners[detected_language] = tool.load_align_model(language_code=detected_language, device=device)
            except ValueError:  # no aligner for this language: its lines have times, its words none
                aligners[detected_language] = None
        if aligners[detected_language] is None:
            return {"segments": result["segments"], "language": detected_language}
        aligner, facts = aligners[detected_language]
        aligned = tool.align(result["segments"], aligner, facts, audio, device, return_char_alignments=False)
        return dict(aligned, language=detected_language)

    return transcribe


def funasr(options: Options) -> Transcribe:
    tool = importlib.import_module("funasr")
    model = tool.AutoModel(
        model=options["model"],
        vad_model="fsmn-vad",
        punc_model="ct-punc",
        device=device_of(options),
        disable_update=True,
    )

    def transcribe(path: str, language: str) -> Any:
        return model.generate(input=samples(path), batch_size_s=300, sentence_timestamp=True)

    return transcribe


def plain(value: Any) -> Any:
    """numpy numbers as JSON numbers."""
    return value.item() if hasattr(value, "item") else str(value)


def serve(load: Callable[[Options], Transcribe], options: Options) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the tool prints must not come between the answers

    def answer(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    try:
        transcribe = load(options)
    except BaseException as error:
        answer(fatal="%s: %s" % (type(error).__name__, error))  # noqa: UP031
        return
    answer(ready=getattr(sys.modules[load.__name__], "__version__", ""))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = transcribe(request["audio"], request["language"])
            with open(request["out"], "w", encoding="utf-8") as file:
                json.dump(result, file, ensure_ascii=False, default=plain)
            answer(done=request["out"])
        except Exception as error:
            answer(error="%s: %s" % (type(error).__name__, error))  # noqa: UP031


if __name__ == "__main__":
    serve({"whisperx": whisperx, "funasr": funasr}[sys.argv[1]], json.loads(sys.argv[2]))

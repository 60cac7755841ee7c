"""Run by the Python of a tokenizer's own environment: a loop that turns files of sound into files of codes, and back.

`python codec_runner.py ADAPTER SETTINGS`: ADAPTER is a file with `files(settings)` and `load(settings, tools)`, SETTINGS a JSON
object (weights, checkout, options, device, codebooks, trust_pickle). The first line on what was stdout is {"ready": version,
"describe": facts, "checkpoint": [{file, bytes, sha256}]} or {"fatal": text}. Then a request a line:

{"do": "describe"}
{"do": "encode", "sounds": {stream: path}, "out": folder}     float32 [channels, samples] at the codec's rate
{"do": "decode", "codes": {stream: path}, "out": folder}      int32 [codebooks, frames]
{"do": "vectors", "codes": {stream: path}, "out": folder}     -> float32 [frames, width] of each stream

with .npy files, answered by {"done": {stream: path}} ("sound" for decode) or {"error": text}. Ends with stdin.

Weights are never random: every file that `files` names is hashed before anything is loaded, a pickle among them must be trusted
in the settings, and a model that was not filled from them is refused. Standard library and numpy (Python 3.8 and later); the
rest comes from the environment.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
import threading
import time
from typing import Any

NO_PICKLES = (".safetensors", ".npy", ".json", ".yaml", ".yml", ".onnx")


class Refused(Exception):
    """An error that the user can fix; its text is shown unchanged."""


class Tools:
    """Gives adapters torch, and records which weights it loads into models."""

    def __init__(self) -> None:
        self.filled = 0
        self.missing = []  # type: list[str]
        self.extra = []  # type: list[str]

    def torch(self) -> Any:
        """torch, with every `load_state_dict` from now on recorded with its missing keys."""
        torch = importlib.import_module("torch")
        original = torch.nn.Module.load_state_dict

        def load_state_dict(module: Any, *arguments: Any, **keywords: Any) -> Any:
            result = original(module, *arguments, **keywords)
            self.report(type(module).__name__, getattr(result, "missing_keys", ()))
            return result

        torch.nn.Module.load_state_dict = load_state_dict
        return torch

    def report(self, model: str, missing: Any, extra: Any = ()) -> None:
        """Record that a model was loaded, except for these weights; extra: weights that it had no place for.

        Of `load_state_dict` extra is not recorded: a package that leaves weights out does so knowingly, and what its published
        checkpoints hold besides is not known here.
        """
        self.filled += 1
        self.missing += ["%s.%s" % (model, key) for key in missing]  # noqa: UP031
        self.extra += sorted(extra)


def hashed(path: str) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
            size += len(block)
    return {"file": path, "bytes": size, "sha256": digest.hexdigest()}


def checked(paths: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Hashes of the weight files. Raises Refused if one is missing or an untrusted pickle, or the first is not the expected one."""
    if not paths:
        raise Refused("no weights; name them in the settings")
    for path in paths:
        if not os.path.isfile(path):
            raise Refused("%s: no such file of weights; random ones are never used" % path)  # noqa: UP031
        if not path.endswith(NO_PICKLES) and not settings.get("trust_pickle"):
            raise Refused(
                "%s: may be a pickle, which can run code when it is opened; if you trust where it is from, set "  # noqa: UP031
                "trust_pickle: true" % path
            )
    files = [hashed(path) for path in paths]
    expected_hash = settings.get("sha256")
    if expected_hash and files[0]["sha256"] != expected_hash:
        raise Refused(
            "%s: sha256 %s, not %s as the settings say" % (paths[0], files[0]["sha256"], expected_hash)  # noqa: UP031
        )
    return files


def loaded(adapter: Any, settings: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    files = checked([os.path.abspath(os.path.expanduser(str(path))) for path in adapter.files(settings)], settings)
    tools = Tools()
    model = adapter.load(settings, tools)
    elsewhere = tuple(getattr(model, "elsewhere", ()))
    missing = [key for key in tools.missing if not key.startswith(elsewhere or ("\0",))]
    if missing:
        raise Refused(
            "%d weights are not in the checkpoint and would be random (%s, ...); it is not one of this model"  # noqa: UP031
            % (len(missing), ", ".join(missing[:3]))
        )
    if tools.extra:
        raise Refused(
            "%d weights of the checkpoint have no place in the model (%s, ...); it is not one of this model"  # noqa: UP031
            % (len(tools.extra), ", ".join(tools.extra[:3]))
        )
    if not tools.filled:
        raise Refused("the model was built but not filled from any checkpoint; its weights would be random")
    return model, files


def one_each(model: Any, do: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The model's output for every stream: for each separately, or for all at once with joint models."""
    if do == "vectors":
        return {stream: model.vectors(stream, codes) for stream, codes in inputs.items()}
    if getattr(model, "joint", False):
        return dict(model.encode(inputs)) if do == "encode" else {"sound": model.decode(inputs)}
    if do == "encode":
        return {stream: model.encode(sound) for stream, sound in inputs.items()}
    if len(inputs) != 1:
        raise Refused("one stream at a time")
    return {"sound": model.decode(next(iter(inputs.values())))}


def answered(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    do = request["do"]
    if do == "describe":
        return {"done": model.facts}
    if do not in ("encode", "decode", "vectors"):
        raise Refused("no request '%s'" % do)  # noqa: UP031
    input_paths = request["sounds" if do == "encode" else "codes"]
    inputs = {stream: numpy.load(path, allow_pickle=False) for stream, path in input_paths.items()}
    done = {}
    for stream, array in one_each(model, do, inputs).items():
        path = os.path.join(request["out"], "%s.%s.npy" % (stream, do))  # noqa: UP031
        kind = numpy.int32 if do == "encode" else numpy.float32
        numpy.save(path, numpy.ascontiguousarray(numpy.asarray(array).astype(kind)), allow_pickle=False)
        done[stream] = path
    return {"done": done}


def error_text(error: BaseException) -> str:
    return str(error) if isinstance(error, Refused) else "%s: %s" % (type(error).__name__, error)  # noqa: UP031


def adapter_of(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("duotok_adapter", path)
    if spec is None or spec.loader is None:
        raise Refused("%s: no adapter" % path)  # noqa: UP031
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leave_with_parent() -> None:
    """End this process, whatever it is doing, once the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve(path: str, settings: dict[str, Any]) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the tool's own output must not mix with the answers

    def answer(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    try:
        adapter = adapter_of(path)
        model, files = loaded(adapter, settings)
    except BaseException as error:
        answer({"fatal": error_text(error)})
        return
    answer({"ready": str(getattr(model, "version", "")), "describe": model.facts, "checkpoint": files})
    for line in sys.stdin:
        try:
            answer(answered(model, json.loads(line)))
        except Exception as error:
            answer({"error": error_text(error)})


if __name__ == "__main__":
    # The folder of this file must not hide a package of the environment.
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != os.path.dirname(os.path.abspath(__file__))]
    leave_with_parent()
    serve(sys.argv[1], json.loads(sys.argv[2]))

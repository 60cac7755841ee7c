"""The script `run.py` of a kit: it checks every file, then runs the kit's own code. Python's standard library only.

Where the kit was cut into parts, it checks and joins them first. See README.md in this folder, or docs/kit.md.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST, PARTS = "MANIFEST.json", "PARTS.json"
TAKE_VALUES = ("-o", "--out", "--python", "--collect")  # options whose value may be any word
NEEDS = (3, 11, 4)  # the first Python whose tarfile refuses members outside of the folder


def digest(path: Path) -> str:
    """SHA-256 of a file in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> dict[str, Any]:
    """A JSON object; empty when it cannot be read as one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def is_table(files: Any) -> bool:
    """Whether a value is a list of one or more `name`, `bytes`, `sha256`, as `damage` and `seal` take it."""
    kinds = {"name": str, "bytes": int, "sha256": str}
    return isinstance(files, list) and len(files) > 0 and all(
        isinstance(entry, dict) and all(type(entry.get(key)) is kind for key, kind in kinds.items()) for entry in files
    )  # fmt: skip


def damage(folder: Path, files: Sequence[Mapping[str, Any]]) -> str:
    """Which of `files` (`name`, `bytes`, `sha256`) are missing from `folder` or damaged, in one line; empty if all are intact."""
    missing, broken = [], []
    for entry in files:
        path = folder / str(entry["name"])
        if not path.is_file():
            missing.append(str(entry["name"]))
        elif path.stat().st_size != entry["bytes"] or digest(path) != entry["sha256"]:
            broken.append(str(entry["name"]))
    problems = [f"{_some(names)} {'is' if len(names) == 1 else 'are'} {state}" for names, state in
            ((missing, "missing"), (broken, "damaged")) if names]  # fmt: skip
    return f"{folder}: {' and '.join(problems)} (of {len(files)})" if problems else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def seal(files: Sequence[Mapping[str, Any]]) -> str:
    """Identifies files and their content: SHA-256 over names, lengths and hashes."""
    lines = "".join(f"{entry['name']}\0{entry['bytes']}\0{entry['sha256']}\n" for entry in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


class Joined(io.RawIOBase):
    """Several files as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.file = list(paths), io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            count = self.file.readinto(buffer)
            if count or not self.paths:
                return count
            self.file.close()
            self.file = self.paths.pop(0).open("rb")  # type: ignore[assignment]


def unpack(pieces: Sequence[Path], folder: Path) -> None:
    """Write the files of a tar that was cut into pieces into the new `folder`. No file can be written outside of it."""
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BufferedReader(Joined(pieces)), mode="r|") as tar:
        tar.extractall(folder, filter="data")


def join(here: Path, out: Path, parts: Mapping[str, Any]) -> Path:
    """OUT/kit from the parts in `here`; they are not needed again after that."""
    if not isinstance(parts.get("kit"), str) or not is_table(parts.get("parts")):
        sys.exit(f"error: {here / PARTS} is damaged; bring it again, then run the same command")
    kit, partial = out / "kit", out / ".kit.partial"
    if read(kit / MANIFEST).get("seal") == parts["kit"]:
        return kit
    if kit.exists() and "seal" not in read(kit / MANIFEST):
        sys.exit(f"error: {kit}: is there, and no kit; name another folder with --out")
    problem = damage(here, parts["parts"])
    if problem:
        sys.exit(f"error: {problem}; bring them again, then run the same command")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        unpack([here / entry["name"] for entry in parts["parts"]], partial)
    except tarfile.TarError as error:
        sys.exit(
            f"error: {here}: its parts are no kit ({error}); bring them and {PARTS} again, then run the same command"
        )
    shutil.rmtree(kit, ignore_errors=True)
    partial.rename(kit)  # not flushed: the hashes show whether it reached the disk
    print(f"{kit}: joined from {len(parts['parts'])} parts", flush=True)
    return kit


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The script's own options, and the command after them: `duotok ...` or `python ...`, or nothing."""
    for number, word in enumerate(arguments):
        if word in ("duotok", "python") and (number == 0 or arguments[number - 1] not in TAKE_VALUES):
            return list(arguments[:number]), list(arguments[number:])
    return list(arguments), []


def place(arguments: Sequence[str], here: Path) -> Path:
    """The folder OUT of the arguments; beside the script unless they name one."""
    words = split(arguments)[0]
    for number, word in enumerate(words):
        if word in ("-o", "--out") and number + 1 < len(words):
            return Path(words[number + 1]).expanduser().absolute()
        if word.startswith("--out="):
            return Path(word.removeprefix("--out=")).expanduser().absolute()
    return here / "out"


def main() -> int:
    here, arguments = Path(__file__).resolve().parent, sys.argv[1:]
    if sys.version_info < NEEDS:
        sys.exit(
            f"error: this is Python {sys.version.split()[0]}; run the script with {'.'.join(map(str, NEEDS))} or newer"
        )
    out = place(arguments, here)
    parts = read(here / PARTS)
    if parts or (here / PARTS).exists():
        kit = join(here, out, parts)
        os.execv(sys.executable, [sys.executable, str(kit / "run.py"), "--out", str(out), *arguments])
    manifest = read(here / MANIFEST)
    if not isinstance(manifest.get("seal"), str) or not is_table(manifest.get("files")):
        sys.exit(f"error: {here / MANIFEST} is missing or damaged; bring it again, then run the same command")
    if "--status" not in arguments:
        problem = damage(here, manifest["files"])
        if not problem and seal(manifest["files"]) != manifest["seal"]:
            problem = f"{here / MANIFEST} is damaged"
        if problem:
            sys.exit(f"error: {problem}; bring them again, then run the same command")
    sys.path.insert(0, str(here / "code"))
    # Imported by name: this script lies outside of the package, whose folder was added only now.
    script = importlib.import_module("duotok.training.kit.script")
    return int(script.run(here, out, arguments))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(
            f"error: {error.filename or 'system'}: {error.strerror or error}; fix that and run the same command again"
        )
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to go on")

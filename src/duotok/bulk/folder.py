"""The folder of a token store: which place may become one, who holds it, whose tokens it has. Nothing here touches a song.

STORE/store.json       the codec and its options: what every token of the store was made with
STORE/lock             held by the run at work
STORE/plan.parquet     the place of every song (`plan.py`)
STORE/ledger/          what is known of each song (`ledger.py`)
STORE/scratch/         prepared sounds, gone after the run
STORE/failures.jsonl   the songs that could not be done, and why
STORE/*.parquet        the tokens (`token_shards.py`)
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from duotok.bulk.plan import PLAN
from duotok.errors import DuoTokError
from duotok.files import PARTIAL, hold, remove, sha256, write_bytes
from duotok.lm.start import Vectors
from duotok.lm.streams import CodecIdentity
from duotok.lm.token_store import FORMAT, MANIFEST, STORE, VECTORS
from duotok.records import SPLITS
from duotok.seals import is_sealed, read_json, seal

LOCK, LEDGERS, SCRATCH, FAILURES = "lock", "ledger", "scratch", "failures.jsonl"
UNREAD = "unread.jsonl"
"""In the scratch folder: songs that are done, and could not be read in this run."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The store is this run's for the block. Raises DuoTokError when another run has it, or when it cannot be written."""
    check_place(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+b")  # noqa: SIM115
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror}); choose another place with -o") from None
    with file:
        if not hold(file):
            raise DuoTokError(f"{folder}: another run is at work on this store; wait for it, or end it")
        for place in (folder, folder / LEDGERS):
            for partial in _partials(place):
                remove(partial)
        scratch = folder / SCRATCH
        remove(scratch)
        try:
            yield
        finally:
            remove(scratch)


def _partials(folder: Path) -> list[Path]:
    """What killed writers left."""
    return [path for path in folder.glob(f".*{PARTIAL}") if re.fullmatch(r"\.[0-9a-f]{16}\.[0-9a-f]{8}", path.stem)]


def check_place(folder: Path) -> None:
    """Raises DuoTokError for a place that is neither a store nor free for one; touches nothing."""
    if (
        len(folder.parts) > 1
        and re.fullmatch(r"[a-z][a-z0-9+.-]+:", folder.parts[0])
        and not Path(folder.parts[0]).exists()
    ):
        raise DuoTokError(
            f"{folder}: a store is written into a folder; choose one with -o, and copy it to the URL afterwards"
        )
    if folder.exists() and not folder.is_dir():
        raise DuoTokError(f"{folder}: is a file; choose another place with -o")
    if not folder.exists() or (folder / STORE).exists():
        return
    ours = {LOCK, VECTORS, *(path.name for path in _partials(folder))}  # of a first run that was killed
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
    if strangers:
        raise DuoTokError(f"{folder}: holds {strangers[0]}, and is no store of tokens; choose another place with -o")


def begin(folder: Path, identity: CodecIdentity, options: dict[str, Any], vectors: Vectors) -> None:
    """Make a store, or check that the one there has the same codec and options. Raises DuoTokError for another one."""
    facts = {"format": FORMAT, "codec": identity.as_json(), "options": options}
    if (folder / STORE).exists():
        check_same(folder, identity, options)
        if not _has_vectors(folder):
            _write_vectors(folder, vectors)
        return
    _write_vectors(folder, vectors)
    write_bytes(folder / STORE, (json.dumps(seal(facts), indent=1) + "\n").encode())


def check_same(folder: Path, identity: CodecIdentity, options: dict[str, Any]) -> None:
    """Raises DuoTokError for a store of another codec or other options, and for a part of one."""
    path = folder / STORE
    try:
        before = read_json(path.read_bytes())
        if not is_sealed(before) or before.get("format") != FORMAT:
            raise ValueError
        theirs = CodecIdentity.from_json(before["codec"])
    except OSError as error:
        raise DuoTokError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DuoTokError(f"{path}: damaged, or of another version; choose another place with -o") from None
    if not theirs.same(identity):
        raise DuoTokError(
            f"{folder}: a store of tokens of {theirs}, this is {identity}; choose another place with -o, or --model"
        )
    for name, value in options.items():
        if before["options"].get(name) != value:
            raise DuoTokError(
                f"{folder}: made with {name} {_short(before['options'].get(name))}, now it is {_short(value)}; choose another place with -o"
            )
    _check_whole(folder)


def _check_whole(folder: Path) -> None:
    """Without its plan or a ledger a run would take songs that are done for new ones, and remove their shards."""
    needed = {f"{LEDGERS}/{path.name.split('.')[0]}.jsonl" for path in shard_files(folder)}
    if needed or any((folder / LEDGERS).glob("*.jsonl")):
        needed.add(PLAN)
    gone = sorted(name for name in needed if not (folder / name).exists())
    if gone:
        raise DuoTokError(
            f"{folder}: {gone[0]} is missing, so this is a part of a store; copy all of it, or choose another place with -o"
        )


def shard_files(folder: Path) -> list[Path]:
    name = re.compile(rf"({'|'.join(SPLITS)})-\d{{6}}(\.\d+)?\.parquet")
    return [path for path in folder.glob("*.parquet") if name.fullmatch(path.name)]


def _write_vectors(folder: Path, vectors: Vectors) -> None:
    tables = {name: np.ascontiguousarray(table) for name, table in sorted(vectors.items())}
    write_bytes(folder / VECTORS, safetensors.numpy.save(tables))


def _has_vectors(folder: Path) -> bool:
    """Whether the vectors are there, and those of the manifest if there is one: the next manifest takes their hash as it is."""
    with contextlib.suppress(ValueError, KeyError, TypeError, FileNotFoundError):
        now = sha256(folder / VECTORS)
        return not (folder / MANIFEST).exists() or bool(read_json((folder / MANIFEST).read_bytes())["vectors"] == now)
    return False


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:16] if len(text) == 64 else text

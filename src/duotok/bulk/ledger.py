"""What is known of the songs of one shard: `STORE/ledger/SHARD.jsonl`.

While songs come in it is a journal, one line each with its codes, in any order; a line that a kill cut short counts as not
written. When the shard is written it is made anew without codes: a first line about the shard's files, then one line a song, in order.
So at every moment the ledger and the files it names are the whole truth.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from duotok.files import write_bytes

Row = dict[str, Any]
"""place, id, split, identity, marks; then either error, or sha256 (role -> of the source's bytes), n_samples, gain_db, song (the
hash in the shard) or codes."""
WAS = "identity as hashed"
"""Of a song whose identity the sources have corrected since: the one that `song` is the hash with, until the shard is written again."""


@dataclass
class Ledger:
    """The newest row of each place of a shard, and the shard's files as last written: name -> bytes, sha256, songs, frames."""

    path: Path
    rows: dict[int, Row] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    dirty: bool = False
    """Whether there are rows that the files do not have yet."""
    _lines: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Place -> where the line with its codes begins in the journal, and its bytes."""
    _file: IO[bytes] | None = None

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Lines that are no rows, as a kill leaves them, are passed over. Raises OSError."""
        ledger, start = cls(path), 0
        try:
            file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return ledger
        with file:
            for line in file:
                try:
                    row = json.loads(line)
                    if "files" in row:
                        ledger.files = dict(row["files"])
                    else:
                        ledger._take(row, start, len(line))
                except (ValueError, KeyError, TypeError):
                    ledger.dirty = True
                start += len(line)
        return ledger

    def _take(self, row: Row, start: int, size: int) -> None:
        place = int(row["place"])
        self._lines.pop(place, None)
        if "codes" in row:
            self._lines[place] = (start, size)
        self.rows[place] = {key: value for key, value in row.items() if key != "codes"}
        self.dirty = self.dirty or bool(row.get("new"))

    def codes(self, place: int) -> list[str] | None:
        """The codes of a row that the journal has; None where they are in the shard's files."""
        if place not in self._lines:
            return None
        start, size = self._lines[place]
        with open(self.path, "rb") as file:
            file.seek(start)
            codes: list[str] = json.loads(file.read(size))["codes"]
            return codes

    def has_codes(self, place: int) -> bool:
        """Whether the journal has the codes of a row."""
        return place in self._lines

    def lose_files(self, kept: Collection[int] = ()) -> None:
        """The shard's files are gone or changed: what only they had is to be done again, but for places that they still have."""
        self.rows = {p: row for p, row in self.rows.items() if "error" in row or p in self._lines or p in kept}
        self.files, self.dirty = self.files if kept else {}, True

    def append(self, row: Row) -> None:
        """Add a row, at once in the file. Raises OSError, as of a full disk."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
            size = self._file.seek(0, os.SEEK_END)
            if size:
                self._file.seek(size - 1)
                if self._file.read(1) != b"\n":  # an earlier run was killed while writing
                    self._file.write(b"\n")
        row = {**row, "new": True}
        line = json.dumps(row).encode() + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._take(row, start, len(line))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def settle(self, files: Mapping[str, dict[str, Any]], songs: Mapping[int, str]) -> None:
        """Rewrite without codes, atomically. songs: place -> hash of the song in the shard. Raises OSError."""
        self.close()
        lines = [json.dumps({"files": files})]
        for place in sorted(self.rows):
            row = {key: value for key, value in self.rows[place].items() if key not in ("new", WAS)}
            if place in songs:
                row["song"] = songs[place]
            self.rows[place] = row
            lines.append(json.dumps(row, sort_keys=True))
        write_bytes(self.path, ("\n".join(lines) + "\n").encode())
        self.files, self.dirty = dict(files), False
        self._lines.clear()

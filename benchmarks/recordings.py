"""Recordings of a folder of audio as `make mini` splits them: what the bundled model has never been trained on."""

from __future__ import annotations

from pathlib import Path

from duotok.errors import DuoTokError
from duotok.recipes.mini_bundle import catalog
from duotok.records import Recording


def recordings(*folders: Path, splits: tuple[str, ...] = ("train", "validation", "test")) -> list[Recording]:
    """Recordings of folders (with INDEX.tsv, of generated songs, or any others), by id. Raises DuoTokError for no folder."""
    for folder in folders:
        if not folder.is_dir():
            raise DuoTokError(f"{folder}: no such folder; name a folder of audio")
    return [recording for recording in catalog(list(folders)).recordings if recording.split in splits]


def name(recording: Recording) -> str:
    """The last part of a recording's id."""
    return recording.id.rpartition("/")[2]

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.suite.conftest import make_song

from duotok.audio.io import write
from duotok.errors import AudioError, ConfigError
from duotok.suite.true_stems import content_of, stretches, true_songs


def test_songs_with_both_tracks_are_found_and_read(tmp_path: Path) -> None:
    for seed in (3, 1):
        make_song(tmp_path, seed)
    first, second = true_songs(f"songs={tmp_path}")
    assert (first.id, second.id) == ("song-00000001", "song-00000003")
    assert true_songs(f"songs={tmp_path}", limit=1) == [first]
    ((start, sound),) = stretches(first, 1.0, 1)
    assert start == 0.5 and {track: s.shape for track, s in sound.items()} == dict.fromkeys(
        ("vocals", "accompaniment"), (2, 48_000)
    )
    before = content_of([first])
    write(next(iter(first.files.values()))[0], torch.rand(2, 96_000) - 0.5, 48_000)
    assert content_of([first]) != before


def test_a_song_that_never_sounds_is_told(tmp_path: Path) -> None:
    place = make_song(tmp_path, 1)
    write(place / "vocals.wav", torch.zeros(2, 96_000), 48_000)
    (silent,) = true_songs(f"songs={tmp_path}")
    with pytest.raises(AudioError, match="both tracks sound"):
        list(stretches(silent, 1.0, 2))


def test_a_folder_without_stems_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", torch.zeros(1, 4800), 48_000)
    with pytest.raises(ConfigError, match="has true stems"):
        true_songs(f"folder={tmp_path}")
    with pytest.raises(ConfigError, match="CORPUS=FOLDER"):
        true_songs(str(tmp_path))

"""What is not taken is told; a song that only looks like a sound of DuoTok's above all."""

from __future__ import annotations

from pathlib import Path

from duotok.bulk.listing import Listing
from duotok.bulk.plan import Plan
from duotok.bulk.planning import listed
from duotok.bulk.sources import SongEntry
from duotok.records import Split


def test_nothing_left_out_is_nothing_told() -> None:
    assert Listing().summary() == ""


def test_sounds_that_duotok_wrote_are_named_before_all_that_is_more_common() -> None:
    listing = Listing()
    listing.left_out.update({".jpg": 40, ".txt": 30, ".cue": 20, ".nfo": 10})
    assert listing.summary() == "40 .jpg, 30 .txt, 20 .cue, ..."
    listing.leave_out_written("music", {"b.wav", "a.wav"})
    assert listing.summary().startswith("2 written by DuoTok (music/a.wav, music/b.wav), 40 .jpg")
    listing.leave_out_written("more", {"d.wav", "c.wav"})
    listing.leave_out_written("more", set())
    told = "4 written by DuoTok (music/a.wav, music/b.wav, more/c.wav, ...), 40 .jpg, 30 .txt, 20 .cue, ..."
    assert listing.summary() == told


def test_an_identity_in_two_splits_is_named(tmp_path: Path) -> None:
    """Of the splits that songs have in the store: a song keeps its first one. A second song of an id does not count."""

    def noted(*songs: tuple[str, str, Split]) -> list[str]:
        listing = Listing()
        entries = [SongEntry(id, split, identity, {}, {}) for id, identity, split in songs]
        listed(tmp_path / "listing.parquet", entries, Plan(tmp_path / "plan.parquet", 2), listing)
        return listing.notes

    assert not noted(("a", "x", "train"), ("b", "x", "train"), ("c", "y", "test"), ("a", "x", "test"))
    (note,) = noted(("a", "x", "train"), ("c", "x", "train"), ("e", "x", "test"), ("d", "z", "validation"))
    assert note.startswith("1 identity with songs in several splits (x)")
    (note,) = noted(*((f"{k}{s}", f"who {k}", s) for k in range(9) for s in ("train", "test")))
    assert note.startswith("9 identities") and "who 0, who 1, who 2, who 3, who 4, ...)" in note

"""What is not taken is told; a song that only looks like a sound of DuoTok's above all."""

from __future__ import annotations

from duotok.bulk.listing import Listing


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

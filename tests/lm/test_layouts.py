"""Sequences for language models: every song comes back, and the numbers are where the layout says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lm.small import CODEC, MIXED

from duotok.codec.contract import Stream
from duotok.errors import ConfigError, TokenFileError
from duotok.lm.layouts import KINDS, Layout
from duotok.lm.streams import CodecIdentity

EQUAL = CodecIdentity("equal", "ab" * 32, 25.0, 48_000, (Stream("vocals", (16,)), Stream("accompaniment", (16,))))


def codes(codec: CodecIdentity, frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        s.name: np.stack([rng.integers(0, size, frames) for size in s.codebook_sizes]).astype(np.int32)
        for s in codec.streams
    }


def layouts() -> list[Layout]:
    return [
        *(Layout(codec, kind) for codec in (CODEC, MIXED) for kind in KINDS),
        Layout(MIXED, "interleaved", first_id=45_334),
        Layout(EQUAL, "interleaved", first_id=100, shared=True),
        Layout(MIXED, "delayed", delays=(3, 0, 5, 1)[: len(MIXED.columns)]),
    ]


@pytest.mark.parametrize("layout", layouts(), ids=lambda layout: f"{layout.codec.name}-{layout.kind}-{layout.first_id}")
@given(st.integers(1, 50), st.integers(0, 5))
def test_every_song_comes_back(layout: Layout, frames: int, seed: int) -> None:
    song = codes(layout.codec, frames, seed)
    again = Layout.from_json(layout.as_json())
    assert again == layout
    found = again.read_back(layout.lay_out(song))
    assert found.keys() == song.keys() and all(
        np.array_equal(found[s], song[s]) and found[s].dtype == np.int32 for s in song
    )


def test_interleaved_by_hand() -> None:
    """Each codebook has numbers of its own behind PAD, BOS and EOS."""
    layout = Layout(EQUAL, "interleaved", first_id=10)
    song = {"vocals": np.array([[1, 2]]), "accompaniment": np.array([[3, 4]])}
    assert layout.lay_out(song).tolist() == [11, 13 + 1, 13 + 16 + 3, 13 + 2, 13 + 16 + 4, 12]
    assert layout.as_json()["vocabulary"] == 10 + 3 + 32 and layout.as_json()["specials"] == {
        "pad": 10,
        "bos": 11,
        "eos": 12,
    }


def test_every_number_belongs_to_one_codebook() -> None:
    layout = Layout(MIXED, "interleaved", first_id=5)
    numbers = [5, 6, 7]
    for column, offset in zip(MIXED.columns, layout.offsets, strict=True):
        numbers += range(offset, offset + column.size)
    assert numbers == list(range(5, 5 + layout.vocabulary))


def test_the_numbers_of_yue() -> None:
    """Both tracks have the same numbers, and the place within a frame tells which is meant."""
    layout = Layout(EQUAL, "interleaved", first_id=45_334 - 3, shared=True)
    song = {"vocals": np.array([[1, 2]]), "accompaniment": np.array([[3, 4]])}
    assert layout.lay_out(song)[1:-1].tolist() == [45_335, 45_337, 45_336, 45_338]


def test_delayed_by_hand() -> None:
    """EOS is the size of the codebook and PAD the number after it, as LeVo has them (16384, 16385)."""
    song = {"vocals": np.array([[1, 2, 3]]), "accompaniment": np.array([[4, 5, 6]])}
    assert Layout(EQUAL, "delayed").lay_out(song).tolist() == [[1, 17], [2, 4], [3, 5], [16, 6], [17, 16]]


def test_what_a_model_writes_may_be_unfinished() -> None:
    layout = Layout(EQUAL, "interleaved")
    ids = layout.lay_out(codes(EQUAL, 5))
    for cut, frames in ((slice(1, None), 5), (slice(None, -1), 5), (slice(None, -2), 4), (slice(1, -4), 3)):
        assert layout.read_back(ids[cut])["vocals"].shape[1] == frames
    padded = np.concatenate([ids, [layout.pad] * 7])
    assert layout.read_back(padded)["vocals"].shape[1] == 5
    late = Layout(EQUAL, "delayed")
    rows = late.lay_out(codes(EQUAL, 5))
    assert late.read_back(rows[:4])["vocals"].shape[1] == 3  # the second codebook has come so far


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros(4, np.float32), "float32"),
        (np.zeros((2, 2), np.int64), "no interleaved sequence"),
        (np.array([1, 2]), "no whole frame"),
        (np.array([1, 3, 3 + 16, 3, 4]), "4 in frame 1 is no code of accompaniment.0, which has 19 to 34"),
        (np.array([3, 99]), "99 in frame 0"),
        (np.array([-5, 20]), "-5 in frame 0"),
    ],
)
def test_what_is_no_sequence(ids: np.ndarray, message: str) -> None:
    with pytest.raises(TokenFileError, match=f"^x: .*{message}"):
        Layout(EQUAL, "interleaved").read_back(ids, "x")


def test_rows_of_another_codec() -> None:
    with pytest.raises(TokenFileError, match="rows of 3 numbers; the codec has 2 codebooks"):
        Layout(EQUAL, "parallel").read_back(np.zeros((4, 3), np.int64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "sideways"}, "layout 'sideways': choose parallel, interleaved, delayed"),
        ({"codec": MIXED, "shared": True}, "shared numbers need codebooks of one size"),
        ({"kind": "parallel", "shared": True}, "only interleaved"),
        ({"kind": "delayed", "first_id": 5}, "only interleaved"),
        ({"delays": (0, 1)}, "only delayed sequences have delays"),
        ({"kind": "delayed", "delays": (0,)}, "give 2 numbers"),
        ({"kind": "delayed", "delays": (0, -1)}, "give 2 numbers"),
        ({"first_id": 2**31 - 5}, "would be over 2147483647"),
        ({"first_id": -1}, "first number -1"),
    ],
)
def test_impossible_layouts(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Layout(**{"codec": EQUAL, **values})  # type: ignore[arg-type]


def test_what_stands_behind_the_end_is_counted() -> None:
    """A model that writes on after EOS, or ends one codebook before the other, has written codes that `read_back` leaves out; one that
    was cut in its last steps, or pads, has not."""
    for layout in (Layout(EQUAL, "interleaved"), Layout(EQUAL, "interleaved", 9, True), Layout(EQUAL, "delayed")):
        ids = layout.lay_out(codes(EQUAL, 5))
        pads = np.broadcast_to(ids[:1] * 0 + (17 if layout.kind == "delayed" else layout.pad), (3, *ids.shape[1:]))
        for whole in (ids, ids[1:], ids[:-1], ids[:-2], ids[:-3], np.concatenate([ids, pads])):
            assert layout.behind_the_end(whole) == 0, (layout, len(whole))
        again = np.concatenate([ids, ids])
        assert layout.read_back(again)["vocals"].shape[1] == 5 and layout.behind_the_end(again) >= 10
    early = Layout(EQUAL, "delayed").lay_out(codes(EQUAL, 5))
    early[2, 0] = 16
    assert (
        Layout(EQUAL, "delayed").behind_the_end(early) == 2 + 3
    )  # two frames of one codebook are left, three of the other
    assert Layout(EQUAL, "parallel").behind_the_end(Layout(EQUAL, "parallel").lay_out(codes(EQUAL, 5))) == 0

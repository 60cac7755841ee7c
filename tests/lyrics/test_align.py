"""CTC forced alignment against brute force, and on what it is for."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotok.lyrics.align import BLOCK, _Trellis, align, align_lyrics, encode_words, least_frames, needed_classes
from duotok.lyrics.text import BertVocabulary, CharacterVocabulary, greedy_ctc
from duotok.lyrics.types import LyricLine, Lyrics, LyricsError, SungWord


def brute(log_probs: torch.Tensor, targets: list[int], blank: int) -> float:
    """The best of all paths that read as `targets`."""
    frames, classes = log_probs.shape
    best = -math.inf
    for path in itertools.product(range(classes), repeat=frames):
        if greedy_ctc(list(path), blank) == targets:
            best = max(best, sum(float(log_probs[t, c]) for t, c in enumerate(path)))
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(2, 4), st.lists(st.integers(0, 2), max_size=4), st.integers(0, 10_000), st.data())
def test_it_finds_the_best_of_all_paths(frames: int, classes: int, targets: list[int], seed: int, data: st.DataObject):
    blank = data.draw(st.integers(0, classes - 1))
    targets = [t for t in targets if t < classes and t != blank]
    log_probs = torch.randn(frames, classes, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    wanted = torch.tensor(targets, dtype=torch.long)
    if least_frames(wanted) > frames:
        with pytest.raises(LyricsError, match="do not fit"):
            align(log_probs, wanted, blank)
        return
    found = align(log_probs, wanted, blank)
    assert found.score == pytest.approx(brute(log_probs, targets, blank), abs=1e-4)
    path = [blank] * frames
    for target, start, stop in zip(targets, found.start.tolist(), found.stop.tolist(), strict=True):
        assert 0 <= start < stop <= frames
        path[start:stop] = [target] * (stop - start)
    assert greedy_ctc(path, blank) == targets  # the spans are in order, apart, and a path of that score
    assert sum(float(log_probs[t, c]) for t, c in enumerate(path)) == pytest.approx(found.score, abs=1e-4)
    for i, (start, stop) in enumerate(zip(found.start.tolist(), found.stop.tolist(), strict=True)):
        assert float(found.scores[i]) == pytest.approx(float(log_probs[start:stop, targets[i]].mean()), abs=1e-4)


@pytest.mark.parametrize("frames", [255, 256, 257, 258, 700])
def test_blocks_do_not_show(frames: int, monkeypatch: pytest.MonkeyPatch):
    log_probs = torch.randn(frames, 5, generator=torch.Generator().manual_seed(frames)).log_softmax(-1)
    targets = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(1))
    whole = align(log_probs, targets, 4)
    monkeypatch.setattr("duotok.lyrics.align.BLOCK", 7)
    parts = align(log_probs, targets, 4)
    assert whole.score == parts.score and torch.equal(whole.start, parts.start) and torch.equal(whole.stop, parts.stop)


def test_every_frame_is_looked_at_twice_and_steps_are_kept_of_one_block(monkeypatch: pytest.MonkeyPatch):
    """So that a song of five minutes takes seconds, and memory that does not grow with frames x states."""
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(3000, 29, generator=generator).log_softmax(-1)
    targets = torch.randint(0, 28, (1000,), generator=generator)
    block, looks, kept = _Trellis._block, torch.zeros(3000), set()

    def counted(self: _Trellis, scores: torch.Tensor, first: int, last: int, steps: torch.Tensor | None):
        looks[first:last] += 1
        kept.add(0 if steps is None else len(steps))
        return block(self, scores, first, last, steps)

    monkeypatch.setattr(_Trellis, "_block", counted)
    found = align(log_probs, targets, 28)
    assert looks[1:].eq(2).all() and looks[0] == 0 and kept == {0, BLOCK}
    assert bool((found.start[1:] >= found.stop[:-1]).all())


def test_empty_texts_and_bad_input():
    log_probs = torch.zeros(4, 3).log_softmax(-1)
    empty = align(log_probs, torch.zeros(0, dtype=torch.long), 2)
    assert empty.start.shape == (0,) and empty.score == pytest.approx(4 * math.log(1 / 3), abs=1e-5)
    assert align(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2).score == 0.0
    for targets, blank in (([3], 2), ([-1], 2), ([2], 2), ([0], 3)):
        with pytest.raises(ValueError, match="target"):
            align(log_probs, torch.tensor(targets), blank)
    with pytest.raises(ValueError, match="NaN"):
        align(torch.full((4, 3), math.nan), torch.tensor([0]), 2)
    with pytest.raises(ValueError, match="must be"):
        align(log_probs[0], torch.tensor([0]), 2)
    impossible = torch.full((4, 3), -math.inf)
    with pytest.raises(LyricsError, match="probability 0"):
        align(impossible, torch.tensor([0]), 2)


def lyrics_of(*lines: str) -> Lyrics:
    return Lyrics(tuple(LyricLine(text, words=tuple(SungWord(w) for w in text.split())) for text in lines), "en")


def sung(text: str, frames: int, at: list[int]) -> torch.Tensor:
    """What a head says that hears each letter of `text` for two frames from `at`."""
    log_probs = torch.full((frames, 29), -9.0)
    log_probs[:, 28] = -0.1
    for position, c in zip(at, CharacterVocabulary().encode(text), strict=True):
        log_probs[position : position + 2] = -9.0
        log_probs[position : position + 2, c] = -0.1
    return log_probs


def test_words_and_lines_get_the_times_of_their_letters():
    lyrics = lyrics_of("Oh my!", "go")
    vocabulary = CharacterVocabulary()
    classes = needed_classes(lyrics, vocabulary)
    assert classes.tolist() == sorted({*vocabulary.encode("oh my go"), 28})
    at = [10, 12, 14, 20, 22, 24, 40, 42]  # o h _ m y _ g o
    found = align_lyrics(lyrics, sung("oh my go", 60, at)[:, classes], classes, vocabulary, frame=1.0)
    assert [(w.text, w.start, w.end) for w in found.lyrics.words] == [("Oh", 10, 14), ("my!", 20, 24), ("go", 40, 44)]
    assert [(x.text, x.start, x.end) for x in found.lyrics.lines] == [("Oh my!", 10, 24), ("go", 40, 44)]
    assert found.lyrics.source == "aligned" and found.lyrics.language == "en" and found.margin > 1


def test_a_head_that_knows_nothing_has_no_margin():
    lyrics = lyrics_of("when it gets bad do you feel like a monkey")
    log_probs = (torch.randn(500, 29, generator=torch.Generator().manual_seed(3)) * 0.05).log_softmax(-1)
    found = align_lyrics(lyrics, log_probs, torch.arange(29), CharacterVocabulary())
    assert abs(found.margin) < 0.1


def test_words_of_another_script_stay_without_times():
    lyrics = lyrics_of("oh 你 my")
    log_probs = sung("oh my", 30, [2, 4, 6, 8, 10])
    words = align_lyrics(lyrics, log_probs, torch.arange(29), CharacterVocabulary()).lyrics.words
    assert [w.timed for w in words] == [True, False, True]
    with pytest.raises(LyricsError, match="none of the words has letters"):
        align_lyrics(lyrics_of("你 好"), log_probs, torch.arange(29), CharacterVocabulary())


def test_a_word_gives_the_classes_that_the_whole_text_has():
    vocabulary = CharacterVocabulary()
    words = ["Don't", "—", "stop", "me", "now!"]
    classes, owners = encode_words(words, vocabulary)
    assert classes == vocabulary.encode(" ".join(words))
    assert sorted({o for o in owners if o >= 0}) == [0, 2, 3, 4]


def test_word_pieces(tmp_path: Path):
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sing", "##ing", "song", "!"]), encoding="utf-8"
    )
    vocabulary = BertVocabulary(path)
    lyrics = lyrics_of("singing song!")
    assert encode_words(["singing", "song!"], vocabulary) == ([5, 6, 7, 8], [0, 0, 1, 1])
    classes = needed_classes(lyrics, vocabulary)
    assert classes.tolist() == [5, 6, 7, 8, 9]
    log_probs = torch.full((12, 5), -8.0)
    log_probs[:, 4] = -0.1
    for frame, column in ((1, 0), (3, 1), (7, 2), (8, 3)):
        log_probs[frame] = -8.0
        log_probs[frame, column] = -0.1
    words = align_lyrics(lyrics, log_probs, classes, vocabulary, frame=1.0).lyrics.words
    assert [(w.start, w.end) for w in words] == [(1, 4), (7, 9)]

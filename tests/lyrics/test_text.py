"""Lyrics to classes and back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duotok.errors import ConfigError
from duotok.lyrics.text import CHARACTERS, BertVocabulary, CharacterVocabulary, greedy_ctc


@given(st.text())
def test_any_text_becomes_known_classes(text: str):
    vocabulary = CharacterVocabulary()
    classes = vocabulary.encode(text)
    assert all(0 <= c < vocabulary.size for c in classes)
    plain = vocabulary.decode(classes)
    assert vocabulary.encode(plain) == classes and "  " not in plain


def test_accents_and_case_are_folded():
    vocabulary = CharacterVocabulary()
    assert vocabulary.decode(vocabulary.encode("Déjà  VU, don’t!")) == "deja vu don't"


@given(st.lists(st.integers(0, len(CHARACTERS) - 1), max_size=12))
def test_greedy_ctc_inverts_a_path_with_blanks(labels: list[int]):
    blank = len(CHARACTERS)
    path = [c for label in labels for c in (label, label, blank)]
    assert greedy_ctc(path, blank) == labels


def test_a_missing_bert_vocabulary_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"vocab.txt: no such vocabulary"):
        BertVocabulary(tmp_path / "vocab.txt")


def test_bert_word_pieces_from_a_vocabulary_file(tmp_path: Path):
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sing", "##ing", "song"]), encoding="utf-8"
    )
    vocabulary = BertVocabulary(path)
    assert vocabulary.size == 8
    assert vocabulary.encode("singing song") == [5, 6, 7]

"""Lyrics to classes and back."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duotok.errors import ConfigError, MissingExtraError
from duotok.lyrics.text import (
    BERT_ENTRIES,
    CHARACTERS,
    BertVocabulary,
    CharacterVocabulary,
    greedy_ctc,
    vocabulary_of_size,
)

TRUE_VOCABULARY = Path(__file__).parents[2] / "../shared/audio/metadata/bert/vocab.txt"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


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
    assert vocabulary.decode([5, 6, 7]) == "singing song" and vocabulary.separator == []
    assert vocabulary.encode("song ♥") == [7, 1]


def small(folder: Path, *entries: str) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, *entries]), encoding="utf-8")
    return path


def test_chinese_characters_are_split_one_by_one(tmp_path: Path):
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    vocabulary = BertVocabulary(small(tmp_path, "我", "爱", "你", "，", "love"))
    assert vocabulary.encode("我爱你，love") == [5, 6, 7, 8, 9]
    assert vocabulary.decode([5, 6, 7, 8, 5]) == "我爱你，我"


def test_typographic_marks_and_decomposed_letters_are_known(tmp_path: Path):
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    vocabulary = BertVocabulary(small(tmp_path, "don", "'", "t", "é"))
    assert vocabulary.encode("don’t") == [5, 6, 7] and vocabulary.decode([5, 6, 7]) == "don't"
    assert vocabulary.encode("e\u0301") == [8]


def test_a_folder_or_a_hub_name_gives_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    path = small(tmp_path, "song")
    assert BertVocabulary(tmp_path).size == 6
    asked = []

    def fetch(name: str, file: str) -> str:
        asked.append((name, file))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert BertVocabulary("google-bert/bert-base-multilingual-cased").size == 6
    assert asked == [("google-bert/bert-base-multilingual-cased", "vocab.txt")]


def test_offline_the_hub_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch):
    def fetch(name: str, file: str) -> str:
        raise OSError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    with pytest.raises(ConfigError, match=r"owner/name: vocab.txt not fetched from the hub \(no route to the hub\)"):
        BertVocabulary("owner/name")


def test_what_is_no_vocabulary_is_told(tmp_path: Path):
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="no BERT vocabulary"):
        BertVocabulary(tmp_path / "vocab.txt")


def test_without_tokenizers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'duotok\[train\]'"):
        BertVocabulary(small(tmp_path, "song"))


def test_a_head_gets_the_vocabulary_of_its_size(tmp_path: Path):
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    assert isinstance(vocabulary_of_size(len(CHARACTERS)), CharacterVocabulary)
    assert vocabulary_of_size(6, small(tmp_path, "song")).size == 6
    with pytest.raises(ConfigError, match="6 entries, the model's text head has 7"):
        vocabulary_of_size(7, tmp_path / "vocab.txt")


@pytest.mark.skipif(not TRUE_VOCABULARY.is_file(), reason="no ../shared/audio beside the project")
def test_the_true_vocabulary():
    pytest.importorskip("tokenizers", reason="word pieces need the tokenizers package")
    vocabulary = BertVocabulary(TRUE_VOCABULARY)
    assert vocabulary.size == BERT_ENTRIES == 119_547
    for text in (
        "Music, to me, is the most beautiful form",
        "你好，世界！我爱你",
        "L'été dernier, ça va?",
        "Ich weiß nicht",
    ):
        classes = vocabulary.encode(text)
        assert vocabulary.decode(classes) == text and vocabulary.encode(vocabulary.decode(classes)) == classes
    assert len(vocabulary.encode("我爱北京天安门")) == 7

"""Lyrics as class indices for the CTC head: a small character vocabulary, or BERT's multilingual word pieces."""

from __future__ import annotations

import itertools
import re
import unicodedata
from pathlib import Path
from typing import Protocol

from duotok.errors import ConfigError, MissingExtraError
from duotok.lyrics.words import CJK

CHARACTERS = " 'abcdefghijklmnopqrstuvwxyz"
BERT_ENTRIES = 119_547
BERT_NAME = "google-bert/bert-base-multilingual-cased"
_PLAIN_MARKS = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "…": "..."}
)


class TextVocabulary(Protocol):
    """Text to class indices; the CTC blank is the index after the last class."""

    @property
    def size(self) -> int: ...

    @property
    def separator(self) -> list[int]:
        """Classes between two words; none where the pieces themselves mark the beginning of a word."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, classes: list[int]) -> str: ...


class CharacterVocabulary:
    """Lower-case Latin letters, apostrophe and space; accents are stripped, everything else separates words."""

    @property
    def size(self) -> int:
        return len(CHARACTERS)

    @property
    def separator(self) -> list[int]:
        return [0]

    def encode(self, text: str) -> list[int]:
        """`Déjà vu!` to the classes of `deja vu`."""
        plain = unicodedata.normalize("NFKD", text.casefold().replace("’", "'"))
        letters = "".join(c if c in CHARACTERS else " " for c in plain if not unicodedata.combining(c))
        return [CHARACTERS.index(c) for c in " ".join(letters.split())]

    def decode(self, classes: list[int]) -> str:
        return "".join(CHARACTERS[c] for c in classes)


class BertVocabulary:
    """`bert-base-multilingual-cased` word pieces (119,547): the paper's lyric tokenizer.

    vocab: a local `vocab.txt`, a folder that holds one, or a name on the Hugging Face hub. Chinese characters are split
    one by one. Needs the `tokenizers` package. Raises ConfigError when the vocabulary is missing, invalid, or cannot be
    fetched; MissingExtraError without the package.
    """

    def __init__(self, vocab: str | Path = BERT_NAME) -> None:
        path = find_vocabulary(vocab)
        try:
            from tokenizers import BertWordPieceTokenizer
        except ImportError:
            raise MissingExtraError("BERT word pieces need tokenizers: pip install 'duotok[train]'") from None
        try:
            self._tokenizer = BertWordPieceTokenizer(str(path), lowercase=False, strip_accents=False)
            self._tokenizer.encode("a")
        except Exception as error:  # the Rust side raises classes of its own
            reason = " ".join(str(error).split())[:100]
            raise ConfigError(f"{path}: no BERT vocabulary ({reason}); give the vocab.txt of {BERT_NAME}") from None

    @property
    def size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @property
    def separator(self) -> list[int]:
        return []

    def encode(self, text: str) -> list[int]:
        # The vocabulary has composed letters and no typographic marks, which would become [UNK].
        plain = unicodedata.normalize("NFC", text).translate(_PLAIN_MARKS)
        return list(self._tokenizer.encode(plain, add_special_tokens=False).ids)

    def decode(self, classes: list[int]) -> str:
        """Pieces joined to words; white space, typographic marks and [UNK] do not come back."""
        pieces = [self._tokenizer.id_to_token(c) or "" for c in classes]
        text = ""
        for piece in pieces:
            text += piece[2:] if piece.startswith("##") else f" {piece}"
        return _without_gaps(text.strip())


def _without_gaps(text: str) -> str:
    """No space between Chinese characters, before closing punctuation, or around an apostrophe within a word."""
    text = re.sub(r"(?<=\w) ?(['’]) ?(?=\w)", r"\1", text)
    text = re.sub(r" (?=[.,!?;:)\]}%，。！？；：、）】」』])", "", text)
    return re.sub(f"(?<=[{CJK}，。！？；：、]) (?=[{CJK}，。！？；：、])", "", text)


def find_vocabulary(vocab: str | Path) -> Path:
    """A local `vocab.txt`: the file, the one in a folder, or a hub model's. Raises ConfigError, also when offline."""
    path = Path(vocab)
    if path.is_dir() and (path / "vocab.txt").is_file():
        return path / "vocab.txt"
    if path.is_file():
        return path
    name = str(vocab)
    if path.is_dir() or name.endswith(".txt") or name.count("/") > 1 or name.startswith(("/", ".", "~")):
        raise ConfigError(f"{vocab}: no such vocabulary; give the vocab.txt of {BERT_NAME}")
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, "vocab.txt"))
    except Exception as error:  # the hub client has dozens of error classes, all with long texts
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConfigError(f"{name}: vocab.txt not fetched from the hub ({reason}); give a local vocab.txt") from None


def vocabulary_of_size(size: int, bert: str | Path = BERT_NAME) -> TextVocabulary:
    """The vocabulary of a text head of `size` classes without the blank. Raises ConfigError when none has that many."""
    characters = CharacterVocabulary()
    if size == characters.size:
        return characters
    pieces = BertVocabulary(bert)
    if pieces.size != size:
        raise ConfigError(f"{bert}: {pieces.size} entries, the model's text head has {size}; give its own vocab.txt")
    return pieces


def greedy_ctc(classes: list[int], blank: int) -> list[int]:
    """Best path to labels: repeats merged, blanks dropped."""
    merged = [label for label, _ in itertools.groupby(classes)]
    return [label for label in merged if label != blank]

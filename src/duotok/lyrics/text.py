"""Lyrics as class indices for the CTC head: a small character vocabulary, or BERT's multilingual word pieces."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path
from typing import Protocol

from duotok.errors import ConfigError, MissingExtraError

CHARACTERS = " 'abcdefghijklmnopqrstuvwxyz"
BERT_ENTRIES = 119_547


class TextVocabulary(Protocol):
    """Text to class indices; the CTC blank is the index after the last class."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, classes: list[int]) -> str: ...


class CharacterVocabulary:
    """Lower-case Latin letters, apostrophe and space; accents are stripped, everything else separates words."""

    @property
    def size(self) -> int:
        return len(CHARACTERS)

    def encode(self, text: str) -> list[int]:
        """`Déjà vu!` to the classes of `deja vu`."""
        plain = unicodedata.normalize("NFKD", text.casefold().replace("’", "'"))
        letters = "".join(c if c in CHARACTERS else " " for c in plain if not unicodedata.combining(c))
        return [CHARACTERS.index(c) for c in " ".join(letters.split())]

    def decode(self, classes: list[int]) -> str:
        return "".join(CHARACTERS[c] for c in classes)


class BertVocabulary:
    """`bert-base-multilingual-cased` word pieces from a local `vocab.txt` (119,547 lines): the paper's lyric tokenizer.

    Needs the `tokenizers` package. Raises ConfigError when the file is missing, MissingExtraError without the package.
    """

    def __init__(self, vocab: Path) -> None:
        if not Path(vocab).is_file():
            raise ConfigError(f"{vocab}: no such vocabulary; give the vocab.txt of bert-base-multilingual-cased")
        try:
            from tokenizers import BertWordPieceTokenizer
        except ImportError:
            raise MissingExtraError("BERT word pieces need tokenizers: pip install tokenizers") from None
        self._tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=False, strip_accents=False)

    @property
    def size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, classes: list[int]) -> str:
        return str(self._tokenizer.decode(classes))


def greedy_ctc(classes: list[int], blank: int) -> list[int]:
    """Best path to labels: repeats merged, blanks dropped."""
    merged = [label for label, _ in itertools.groupby(classes)]
    return [label for label in merged if label != blank]

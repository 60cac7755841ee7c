"""The codecs of the transformers library, a small file each."""

from duotok.codec.families.base import Family, Shape
from duotok.codec.families.registry import FAMILIES, WANT_TORCHAUDIO

__all__ = ["FAMILIES", "WANT_TORCHAUDIO", "Family", "Shape"]

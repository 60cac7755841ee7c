"""Tokenizers of all makes behind one contract: ours, and those that others trained.

`open_codec` opens one by its name; `Codec` is what every instrument may ask of it; `Tokens` is what it gives.
"""

from duotok.codecs.contract import Codec, Described, Tokens
from duotok.codecs.opening import open_codec
from duotok.codecs.wrapped import TransformersCodec

__all__ = ["Codec", "Described", "Tokens", "TransformersCodec", "open_codec"]

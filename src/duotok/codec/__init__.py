"""Tokenizers of all makes behind one contract: DuoTok, and those that others trained.

`open_codec` opens one by its name; `Codec` is what every instrument may ask of it; `Tokens` is what it gives.
"""

from duotok.codec.contract import Codec, Described, Stream, StreamTokens
from duotok.codec.duotok import DuoTok
from duotok.codec.opening import open_codec
from duotok.codec.wrapped import TransformersCodec
from duotok.tokens import Tokens

__all__ = ["Codec", "Described", "DuoTok", "Stream", "StreamTokens", "Tokens", "TransformersCodec", "open_codec"]

"""The families of the transformers library by the `model_type` of their config.json."""

from __future__ import annotations

from duotok.codec.families.base import Family
from duotok.codec.families.dac import Dac
from duotok.codec.families.encodec import Encodec
from duotok.codec.families.mimi import Mimi
from duotok.codec.families.xcodec import Xcodec

FAMILIES: dict[str, Family] = {"dac": Dac(), "encodec": Encodec(), "mimi": Mimi(), "xcodec": Xcodec()}
WANT_TORCHAUDIO = ("higgs_audio_v2_tokenizer", "neucodec", "xcodec2")
"""Codecs of transformers that cannot encode without torchaudio, which DuoTok keeps out."""

"""The tokenizer: Transformer, BEST-RQ, replacement noise, SimVQ, heads, routing. It uses neither files nor trainers."""

from duotok.clock import MEL_PER_FRAME
from duotok.model.bestrq import BestRQ, BestRQConfig
from duotok.model.config import TokenizerConfig
from duotok.model.losses import Stage2Weights, Stage3Weights, stage2_loss, stage3_loss
from duotok.model.tokenizer import Quantized, Tokenizer
from duotok.tracks import STEMS

__all__ = [
    "MEL_PER_FRAME",
    "STEMS",
    "BestRQ",
    "BestRQConfig",
    "Quantized",
    "Stage2Weights",
    "Stage3Weights",
    "Tokenizer",
    "TokenizerConfig",
    "stage2_loss",
    "stage3_loss",
]

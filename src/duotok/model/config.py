"""The configuration of a tokenizer; every choice that the ablations vary is a key here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from duotok.config import Config
from duotok.errors import ConfigError
from duotok.tracks import STEMS

BS_ROFORMER_BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 3 + (30,)
"""BS-RoFormer's bands up to 12 kHz at 44.1 kHz / n_fft 2048: bins 0..557 of 1025, all that a 24 kHz student has."""


class TokenizerConfig(Config):
    """The tokenizer of the paper, section 3. The defaults are a small one (4.2M parameters), complete in form; recipes/mini has its own sizes."""

    # Encoder
    n_mels: int = Field(default=128, gt=0)
    downsampling: Literal["conv1d", "pyramid", "separable", "conv2d"] = Field(
        default="conv1d",
        description="mel bins as channels; or convolutions over the picture: few channels first and more later, "
        "depthwise separable ones, or MusicFM's, which cost most of the encoder",
    )
    conv_channels: int = Field(default=128, gt=0)
    width: int = Field(default=192, gt=0)
    heads: int = Field(default=6, gt=0)
    lower_blocks: int = Field(default=4, ge=0)
    upper_blocks: int = Field(default=4, ge=0)
    ffn: int = Field(default=768, gt=0, description="hidden width of the feed-forward layers")
    activation: Literal["gelu", "swiglu"] = "gelu"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rope_base: float = Field(default=10_000.0, gt=1)

    # Bottleneck, stage 2 (equation 1)
    code_dim: int = Field(default=16, gt=0)
    noise: Literal["replacement", "additive", "none"] = "replacement"
    noise_at: Literal["bottleneck", "input"] = "bottleneck"
    noise_probability: float = Field(default=0.2, ge=0, le=1)
    noise_scale: float = Field(default=1.0, ge=0, description="times the features' own standard deviation")
    noise_covariance: Literal["diagonal", "full"] = Field(
        default="diagonal", description="each channel's own spread, or the features' whole covariance"
    )
    noise_mean: Literal["zero", "features"] = Field(
        default="zero", description="of noise that replaces frames: 0, as equation 1 is read, or the features' own"
    )
    bottleneck_norm: bool = Field(
        default=False, description="layer norm of the features in the bottleneck: every frame has the same energy"
    )
    noise_sigma: float | None = Field(default=None, ge=0, description="fixed sigma instead of feature statistics")

    # Quantizer, stage 3 (equation 4)
    codebook_size: int = Field(default=32_768, gt=1)
    quantizer: Literal["simvq", "vq"] = "simvq"
    map_bias: bool = True
    basis_seed: int = 0
    commitment: float = Field(default=0.25, ge=0)
    vq_convention: Literal["paper", "legacy"] = Field(
        default="paper", description="which term carries `commitment`: pull on the features, or (legacy) on the codes"
    )
    vq_norm: Literal["l2", "l1"] = "l2"
    shared_codebook: bool = Field(default=False, description="one branch for both tracks (ablation)")
    routing: Literal["hard", "soft"] = Field(
        default="hard", description="by the known track, or (experiment) by a learned mixture of both branches"
    )

    # Heads
    head_blocks: int = Field(default=1, ge=0)
    head_hidden: int = Field(default=64, gt=0, description="channels of the convolutions inside the heads")
    chroma: int = Field(default=12, gt=0)
    mel_head: bool = True
    chroma_head: bool = True
    stems: tuple[str, ...] = STEMS
    mask_head: bool = True
    mask_bins: int = Field(default=128, gt=0)
    mask_bands: tuple[int, ...] = Field(default=(8,) * 16, description="widths in bins; they sum to mask_bins")
    mask_channels: int = Field(default=64, gt=0)
    mask_hidden: int = Field(default=32, gt=0, description="hidden width of the estimator of one band")
    text_head: bool = True
    vocabulary: int = Field(default=64, gt=0, description="text classes without the blank, which comes last")

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerConfig:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be heads x an even number; heads is {self.heads}")
        if self.mask_head and sum(self.mask_bands) != self.mask_bins:
            raise ValueError(f"mask_bands sum to {sum(self.mask_bands)}, mask_bins is {self.mask_bins}")
        if self.noise_mean == "features" and self.noise == "additive":
            raise ValueError("noise_mean features is for noise that replaces frames; what is added has mean 0")
        if len(set(self.stems)) != len(self.stems) or not self.stems:
            raise ValueError(f"stems {self.stems} must be different names")
        if self.shared_codebook and self.routing == "soft":
            raise ValueError("soft routing mixes two branches; shared_codebook leaves only one")
        return self

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> TokenizerConfig:
        """`mini`, `paper` or `tiny` (tests), with keys overridden. Raises ConfigError for another name."""
        if name not in PRESETS:
            raise ConfigError(f"tokenizer preset '{name}' is unknown; there are {', '.join(PRESETS)}")
        return cls.model_validate({**PRESETS[name], **overrides})


PRESETS: dict[str, dict[str, Any]] = {
    "mini": {},
    # 24 x 1024 / 16 / 4096, bert-base-multilingual-cased lyrics, BS-RoFormer masks (docs/parameters.md, tokenizer).
    "paper": {
        "downsampling": "conv1d",
        "conv_channels": 1024,
        "width": 1024,
        "heads": 16,
        "lower_blocks": 12,
        "upper_blocks": 12,
        "ffn": 4096,
        "dropout": 0.1,
        "head_blocks": 2,
        "head_hidden": 512,
        "mask_bins": 558,
        "mask_bands": BS_ROFORMER_BANDS,
        "mask_channels": 384,
        "mask_hidden": 256,
        "vocabulary": 119_547,
    },
    "tiny": {
        "n_mels": 16,
        "conv_channels": 16,
        "width": 32,
        "heads": 2,
        "lower_blocks": 1,
        "upper_blocks": 1,
        "ffn": 64,
        "code_dim": 4,
        "codebook_size": 64,
        "head_hidden": 16,
        "mask_bins": 16,
        "mask_bands": (2, 2, 4, 8),
        "mask_channels": 16,
        "mask_hidden": 8,
        "vocabulary": 8,
    },
}

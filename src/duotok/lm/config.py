"""Sizes of the language model."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from duotok.config import Config

PRESETS: dict[str, dict[str, Any]] = {
    # For two cores: nine tenths of its work are the two heads of 32,768 codes.
    "mini": {"hidden": 128, "layers": 4, "heads": 4, "kv_heads": 2, "ffn": 512},
    # mini with codes as vectors of 32: a third of the size, so that it fits beside the bundled model.
    "compact": {"hidden": 128, "layers": 4, "heads": 4, "kv_heads": 2, "ffn": 512, "embedding": 32},
    # The model behind the published baseline rows (docs/parameters.md, language model).
    "100m": {"hidden": 768, "layers": 10, "heads": 12, "kv_heads": 2, "ffn": 3072},
    # "Qwen2-1B" is no official size: Qwen2-1.5B's layers, 22 of its 28, are the nearest to 10^9.
    "1b": {"hidden": 1536, "layers": 22, "heads": 12, "kv_heads": 2, "ffn": 8960},
}


class LMConfig(Config):
    """Qwen2 with a table and a head for each codebook. `preset` fills in what is not given: `{preset: 100m, layers: 2}`."""

    preset: str = "mini"
    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    ffn: int = Field(gt=0)
    embedding: int | None = Field(
        default=None,
        gt=0,
        description="width of a code's vector in the tables and of what the heads read; null is hidden",
    )
    rope_theta: float = Field(default=1e6, gt=1)
    rms_eps: float = Field(default=1e-6, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = str(values.get("preset", "mini"))
        if name not in PRESETS:
            raise ValueError(f"preset '{name}' is unknown; there are {', '.join(PRESETS)}")
        return {**PRESETS[name], **values, "preset": name}

    @property
    def code_width(self) -> int:
        return self.hidden if self.embedding is None else self.embedding

    @model_validator(mode="after")
    def _consistent(self) -> LMConfig:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2 or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden {self.hidden} must be heads x an even number, and heads {self.heads} a multiple of "
                f"kv_heads {self.kv_heads}"
            )
        return self

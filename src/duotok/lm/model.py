"""The language model: one table and one head for each codebook around transformers' Qwen2 (paper B.1.2, equation 24)."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from duotok.errors import ConfigError, MissingExtraError
from duotok.lm.config import LMConfig
from duotok.lm.heads import Losses, Scores, head_loss, head_scores
from duotok.lm.streams import SPECIALS, CodecIdentity

if TYPE_CHECKING:
    from transformers import DynamicCache

MARK = "codec_mark"


class Inputs(nn.Module):
    """x_t = W_in [E_1(z_t^1) || ... || E_K(z_t^K)] (equation 24). PAD is the zero vector: an absent stream."""

    def __init__(self, sizes: tuple[int, ...], config: LMConfig) -> None:
        super().__init__()
        width = config.code_width
        self.tables = nn.ModuleList(nn.Embedding(n + SPECIALS, width, padding_idx=n + 2) for n in sizes)
        self.join = nn.Linear(len(sizes) * width, config.hidden, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 `[batch, steps, K]` -> `[batch, steps, hidden]`."""
        parts = [table(tokens[..., k]) for k, table in enumerate(self.tables)]
        return cast(Tensor, self.join(torch.cat(parts, dim=-1)))


class Outputs(nn.Module):
    """The last norm and one head for each codebook, behind a projection of its own where codes are narrower than the model.

    Everything goes through `forward`, which is where FSDP gathers weights.
    """

    def __init__(self, sizes: tuple[int, ...], config: LMConfig, norm: nn.Module) -> None:
        super().__init__()
        self.sizes, width = sizes, config.code_width
        self.norm = norm
        self.narrow = nn.ModuleList(
            nn.Identity() if config.embedding is None else nn.Linear(config.hidden, width, bias=False) for _ in sizes
        )
        self.heads = nn.ModuleList(nn.Linear(width, n + SPECIALS) for n in sizes)

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        score: bool = False,
        only: Sequence[int] | None = None,
    ) -> Any:
        """hidden `[..., hidden]` -> logits (of the codebooks `only`), losses or scores; see MultiStreamLM."""
        if targets is None or mask is None:
            normed = self.norm(hidden)
            chosen = range(len(self.heads)) if only is None else only
            return [self.heads[k](self.narrow[k](normed)) for k in chosen]
        any_stream = mask.any(-1)
        normed, targets, mask = self.norm(hidden[any_stream]), targets[any_stream], mask[any_stream]
        results = []
        for k, head in enumerate(self.heads):
            rows = mask[:, k]
            of_stream = normed if bool(rows.all()) else normed[rows]
            work = head_scores if score else head_loss
            results.append(work(self.narrow[k](of_stream), cast(nn.Linear, head), targets[rows, k], self.sizes[k]))
        return results


class MultiStreamLM(nn.Module):
    """A causal language model over all streams of one codec.

    tokens: int64 `[batch, steps, K]`, K codebooks in the order of `codec.columns`; codebook k has the codes 0 .. V_k - 1 and
    SOS = V_k, EOS = V_k + 1, PAD = V_k + 2. Weights hold the fingerprint of their codec and cannot be loaded for another one.
    """

    def __init__(self, config: LMConfig, codec: CodecIdentity) -> None:
        super().__init__()
        try:
            from transformers import Qwen2Config, Qwen2Model
        except ImportError:
            raise MissingExtraError("language models need transformers: pip install 'duotok[lm]'") from None
        self.config, self.codec = config, codec
        self.sizes = tuple(column.size for column in codec.columns)
        body: Any = Qwen2Model(
            Qwen2Config(
                vocab_size=1, hidden_size=config.hidden, num_hidden_layers=config.layers, intermediate_size=config.ffn,
                num_attention_heads=config.heads, num_key_value_heads=config.kv_heads, rms_norm_eps=config.rms_eps,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}, attention_dropout=0.0,
                use_cache=False, pad_token_id=None, bos_token_id=None, eos_token_id=None, attn_implementation="sdpa",  # type: ignore[call-arg]
            )
        )  # fmt: skip
        self.inputs = Inputs(self.sizes, config)
        self.outputs = Outputs(self.sizes, config, body.norm)
        body.embed_tokens = None  # never used; DDP would wait for its gradient
        body.norm = nn.Identity()
        self.body = body
        arguments = inspect.signature(body.forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"  # transformers before 5.24
        mark = torch.tensor(list(bytes.fromhex(codec.fingerprint)), dtype=torch.uint8)
        self.register_buffer(MARK, mark)
        self.register_load_state_dict_pre_hook(_check_mark)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def blocks(self) -> tuple[type[nn.Module], ...]:
        """The modules that FSDP shards as units."""
        return (type(self.body.layers[0]), Inputs, Outputs)

    def cache(self) -> DynamicCache:
        """An empty cache of keys and values for `hidden`."""
        from transformers import DynamicCache

        return DynamicCache(config=self.body.config)

    def hidden(self, tokens: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """States `[batch, steps, hidden]` before the last norm. cache: holds the steps before these; these are appended."""
        remembered = {} if cache is None else {self._cache_argument: cache}
        output = self.body(inputs_embeds=self.inputs(tokens), use_cache=cache is not None, **remembered)
        return cast(Tensor, output.last_hidden_state)

    def logits(self, hidden: Tensor, only: Sequence[int] | None = None) -> list[Tensor]:
        """K tensors `[..., V_k + 3]` from states `[..., hidden]`; those of the codebooks `only`, if given."""
        return cast(list[Tensor], self.outputs(hidden, only=only))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """K tensors of logits `[batch, steps, V_k + 3]`: step t predicts step t + 1."""
        return self.logits(self.hidden(tokens))

    def losses(self, tokens: Tensor, targets: Tensor, mask: Tensor) -> list[Losses]:
        """Cross-entropy of `targets` `[batch, steps, K]` where `mask` is true, for each codebook.

        Logits are made a few hundred rows at a time and never kept.
        """
        return cast(list[Losses], self.outputs(self.hidden(tokens), targets, mask))

    @torch.no_grad()
    def scores(self, tokens: Tensor, targets: Tensor, mask: Tensor) -> list[Scores]:
        """Bits and ranks of the targets where `mask` is true, for each codebook, in the order of `targets[mask]`.

        Probabilities are those of the V codes alone: at a place where the codec has a code, SOS, EOS and PAD cannot come,
        and the uniform predictor then costs exactly log2 V bits (equation 10). Targets must be codes.
        """
        return cast(list[Scores], self.outputs(self.hidden(tokens), targets, mask, True))


def _check_mark(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, *problems: list[str]
) -> None:
    stored, expected = state.get(prefix + MARK), cast(Tensor, getattr(module, MARK))
    if stored is not None and not expected.is_meta and bytes(stored.tolist()) != bytes(expected.tolist()):
        raise ConfigError(
            "these language model weights were trained on tokens of another codec "
            f"(fingerprint {bytes(stored.tolist()).hex()[:12]}, not {bytes(expected.tolist()).hex()[:12]}); choose another run"
        )

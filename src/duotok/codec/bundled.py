"""DuoTok behind the contract that other people's codecs keep: mappings instead of `DualTokens`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.codec.contract import Tokens, check_tokens
from duotok.codec.duotok import DuoTok, Source, Stream
from duotok.tokens import DualTokens
from duotok.tracks import TRACKS


class BundleCodec:
    """`model` as a `Codec`. Tokens of one codebook a track."""

    def __init__(self, model: DuoTok) -> None:
        self.model = model

    @property
    def model_id(self) -> str:
        return self.model.model_id

    @property
    def model_hash(self) -> str:
        return self.model.model_hash

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.model.frame_rate

    @property
    def streams(self) -> tuple[Stream, ...]:
        return self.model.streams

    def n_frames(self, n_samples: int) -> int:
        return self.model.n_frames(n_samples)

    def encode(
        self,
        audio: Source | None = None,
        rate: int = SAMPLE_RATE,
        *,
        vocals: Source | None = None,
        accompaniment: Source | None = None,
        batch_size: int = 1,
    ) -> Tokens:
        """As `DuoTok.encode`, which also separates a mix."""
        found = self.model.encode(audio, rate, vocals=vocals, accompaniment=accompaniment, batch_size=batch_size)
        return Tokens({track: found.track(track)[None] for track in TRACKS}, found.n_samples, found.gain_db)

    def decode(self, tokens: Mapping[str, Tensor], track: str = "mix") -> Tensor:
        """As `DuoTok.decode`, with the bundle's settings of rendering."""
        return self.model.decode(self._dual(tokens), track)

    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `DuoTok.embeddings`."""
        return self.model.embeddings(self._dual(tokens))

    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        """As `DuoTok.codebook_vectors`."""
        return self.model.codebook_vectors()

    def _dual(self, tokens: Mapping[str, Tensor]) -> DualTokens:
        frames = check_tokens(self, tokens)
        known = tokens if isinstance(tokens, Tokens) else Tokens(tokens)
        return DualTokens.from_codes(
            tokens["vocals"][0], tokens["accompaniment"][0], n_samples=known.n_samples or frames * FRAME_SAMPLES,
            gain_db=known.gain_db, codebook_sizes=self.model.codebook_sizes, model_id=self.model_id,
            model_hash=self.model_hash,
        )  # fmt: skip

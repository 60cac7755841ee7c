"""Alignment of lyrics with the CTC head of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from duotok.audio.io import read
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import AudioError, BundleError
from duotok.lyrics.align import Aligned, align_lyrics, needed_classes
from duotok.lyrics.repair import Draft, repair
from duotok.lyrics.text import BERT_NAME, vocabulary_of_size
from duotok.lyrics.types import Lyrics


class LyricHead:
    """Aligns texts with the lyric head of a bundle, which stage 3 trained on the codes of the vocals.

    vocab: BERT's vocabulary, for a bundle with as many classes. Raises BundleError for a bundle without a lyric head,
    ConfigError for a vocabulary that does not fit it.
    """

    def __init__(self, bundle: str = "mini", vocab: str = BERT_NAME, device: str = "cpu") -> None:
        self.model = DuoTok.from_pretrained(bundle, device)
        config = self.model.config.tokenizer
        if not config.text_head:
            raise BundleError(f"bundle '{bundle}' has no lyric head; name another with --bundle")
        self.vocabulary = vocabulary_of_size(config.vocabulary, vocab)

    def align(
        self, lyrics: Lyrics, audio: Mapping[str, str | Path], start: float = 0.0, seconds: float | None = None
    ) -> Aligned:
        """Lyrics with times. `audio`: stem -> file, of vocals, accompaniment and mix those that exist; without vocals the
        bundle's separator extracts them. `start`, `seconds`: the part of the files that the lyrics belong to.
        """
        classes = needed_classes(lyrics, self.vocabulary)
        log_probs = self.log_probs(audio, classes, start, seconds)
        aligned = align_lyrics(lyrics, log_probs, classes, self.vocabulary)
        timed = aligned.lyrics
        draft = Draft(list(timed.lines), timed.language or "", timed.source, list(timed.notes))
        return Aligned(
            repair(draft, str(next(iter(audio.values()))), len(log_probs) / self.model.frame_rate), aligned.margin
        )

    @torch.inference_mode()
    def log_probs(
        self, audio: Mapping[str, str | Path], classes: Tensor, start: float = 0.0, seconds: float | None = None
    ) -> Tensor:
        """Log-probabilities `[frames, len(classes)]` of some classes; computed window by window, so that those of all classes
        are never in memory together.
        """
        model = self.model
        part = start > 0 or seconds is not None
        sources = {stem: read(path, SAMPLE_RATE, 2, start, seconds) if part else path for stem, path in audio.items()}
        vocals, accompaniment, mix = sources.get("vocals"), sources.get("accompaniment"), sources.get("mix")
        if vocals is None and mix is None:
            raise AudioError(f"{', '.join(map(str, audio.values()))}: neither vocals nor a mix to align with")
        # A voice alone is its own mix.
        tokens = model.encode(
            mix if mix is not None or accompaniment is not None else vocals,
            vocals=vocals,
            accompaniment=accompaniment if mix is None or vocals is None else None,
        )
        rows = []
        for window in model.config.codec.plan.windows(tokens.n_frames):
            codes = tokens.vocals[None, window.start : window.stop].to(model.device)
            hidden = model.tokenizer.upper(model.tokenizer.embeddings(codes, "vocals"))
            logits = model.tokenizer.heads(hidden, names=("text",))["text"][0]
            inner = logits[window.keep_start - window.start : window.keep_stop - window.start]
            rows.append((inner[:, classes.to(inner.device)] - inner.logsumexp(-1, keepdim=True)).float().cpu())
        return torch.cat(rows)

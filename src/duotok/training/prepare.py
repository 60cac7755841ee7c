"""What later stages need from earlier ones, computed once: teacher masks for stage 2, latents and codes for stage 4."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import track as progress
from torch import Tensor

from duotok.audio.features import MEL_RATE
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.autoencoder import LATENT_HOP, Autoencoder
from duotok.separation.bs_roformer import BSRoFormer
from duotok.separation.separator import MiniSeparator
from duotok.separation.teacher import teacher_masks
from duotok.tokens import TRACKS
from duotok.training.corpus import RATE, Corpus, Recording
from duotok.training.features import FRAME_SAMPLES, MEL_PER_FRAME, feature_path, load_array, load_mono, save_array
from duotok.training.latent_data import frame_levels, write_code_vectors, write_codes, write_latents

TEACHER_STEMS = ("vocals", "drums", "bass", "other")
MASK_KINDS = ("dual", "song", "generated")
BLOCK_SECONDS = 30


def _stereo_mix(recording: Recording, start: int, stop: int) -> Tensor:
    names = ["mix"] if "mix" in recording.tracks else ["vocals", "accompaniment"]
    parts = [torch.from_numpy(recording.audio(name)[start:stop].T.astype("float32")) / 32768 for name in names]
    return torch.stack(parts).sum(0) * 10 ** (recording.gain_db / 20)


@torch.no_grad()
def compute_masks(corpus: Corpus, model: BSRoFormer, seconds: float) -> None:
    """The frozen teacher's masks of mixes (float16 `[4, mel_frames, 128]` from the start of each), `seconds` in all.

    Recordings take turns by kind, so that a small budget still covers all of them; a mask shorter than its recording
    simply ends early. Done ones are kept.
    """
    separator = MiniSeparator(model.eval(), stems=TEACHER_STEMS)
    by_kind = [corpus.recordings("train", kind) + corpus.recordings("held_out", kind) for kind in MASK_KINDS]
    by_kind = [kind for kind in by_kind if kind]
    queue: list[Recording] = []
    for index in range(max((len(kind) for kind in by_kind), default=0)):
        queue += [kind[index] for kind in by_kind if index < len(kind)]
    left = seconds
    for recording in progress(queue, description="teacher masks"):
        path = feature_path(corpus.cache, recording, "mix", "masks")
        if path.is_file():
            left -= len(load_array(path)[0]) / MEL_RATE
            continue
        if left <= 0:
            break
        stop = min(recording.samples, int(min(left, 120.0) * RATE) // FRAME_SAMPLES * FRAME_SAMPLES)
        if stop < RATE:
            continue
        masks = teacher_masks(separator, _stereo_mix(recording, 0, stop))
        save_array(path, masks.numpy())
        left -= stop / RATE


def jobs_for(corpus: Corpus) -> list[tuple[Recording, str]]:
    """Every vocals and accompaniment track that the renderers learn from."""
    return [(r, track) for r in corpus.all for track in TRACKS if track in r.tracks and r.kind != "sound"]


def _todo(data: Path, corpus: Corpus, name: str, made_by: str) -> list[tuple[Recording, str]]:
    """Jobs whose file is missing; all of them when the files there were made by other weights."""
    stamp = data / f"{name}.made_by"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") != made_by:
        for path in data.rglob(f"*.{name}.npy"):
            path.unlink()
    data.mkdir(parents=True, exist_ok=True)
    stamp.write_text(made_by, encoding="utf-8")
    return [(r, t) for r, t in jobs_for(corpus) if not (data / r.split / r.id / f"{t}.{name}.npy").is_file()]


@torch.no_grad()
def compute_latents(corpus: Corpus, autoencoder: Autoencoder, data: Path, made_by: str) -> None:
    """Latents `[2 frames, 64]` and levels of every track, in blocks of 30 s with context; done ones are kept.

    made_by: names the weights; latents of other weights are made anew.
    """
    autoencoder.eval()
    context, block = 16 * LATENT_HOP, BLOCK_SECONDS * RATE
    for recording, track in progress(_todo(data, corpus, "latents", made_by), description="latents"):
        audio = load_mono(recording, track)
        audio = torch.nn.functional.pad(audio, (0, -len(audio) % FRAME_SAMPLES))
        latents = []
        for start in range(0, len(audio), block):
            first, last = max(0, start - context), min(len(audio), start + block + context)
            part = autoencoder.encode(audio[None, None, first:last])[0]
            begin = (start - first) // LATENT_HOP
            latents.append(part[begin : begin + min(block, len(audio) - start) // LATENT_HOP])
        write_latents(data, recording.split, recording.id, track, torch.cat(latents), frame_levels(audio))


@torch.no_grad()
def compute_codes(corpus: Corpus, tokenizer: Tokenizer, data: Path, window: int, made_by: str) -> None:
    """Code vectors of both tracks, and codes `[frames]` of every track in plain windows of `window` frames; as compute_latents."""
    tokenizer.eval()
    for track in TRACKS:
        write_code_vectors(data, track, tokenizer.branch(track).quantizer.table())
    for recording, track in progress(_todo(data, corpus, "codes", made_by), description="codes"):
        mel = torch.from_numpy(load_array(feature_path(corpus.cache, recording, track, "mel")).astype("float32"))
        step = window * MEL_PER_FRAME
        codes = [tokenizer.encode(mel[None, s : s + step], track)[0] for s in range(0, len(mel), step)]
        write_codes(data, recording.split, recording.id, track, torch.cat(codes))

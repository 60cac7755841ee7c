"""EnCodec as at 48 kHz: overlapping chunks, each with a loudness that stands beside the codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.codec.tiny_codecs import CODEBOOKS, RATE, SIZE, make_codec, sound
from torch import Tensor

from duotok.codec import StreamTokens, TransformersCodec
from duotok.codec.token_files import load_tokens, save_tokens
from duotok.errors import BundleError, ConfigError, TokenFileError
from duotok.tokens import WindowPlan
from duotok.tracks import TRACKS

HOP, CHUNK, STRIDE = 40, 800, 792
PER_CHUNK = CHUNK // HOP


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TransformersCodec:
    place = tmp_path_factory.mktemp("codecs")
    folder = make_codec(
        place,
        "encodec",
        normalize=True,
        chunk_length_s=CHUNK / RATE,
        overlap=0.01,
        audio_channels=2,
        use_causal_conv=False,
    )
    return TransformersCodec.from_pretrained(folder)


def encode(codec: TransformersCodec, a: Tensor, b: Tensor | None = None, **how: int) -> StreamTokens:
    tokens = codec.encode(rate=RATE, vocals=a, accompaniment=a if b is None else b, **how)
    assert isinstance(tokens, StreamTokens)
    return tokens


def of_transformers(codec: TransformersCodec, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes `[codebooks, frames]`, scales `[chunks]` and sound, as the model's own encode and decode have them."""
    with torch.inference_mode():
        found = codec.model.encode(audio[None], bandwidth=3.2)
        own = PER_CHUNK * len(found.audio_codes) - found.last_frame_pad_length
        codes = torch.cat(list(found.audio_codes[:, 0]), dim=1)[:, :own]
        heard = codec.model.decode(
            found.audio_codes, found.audio_scales, last_frame_pad_length=found.last_frame_pad_length
        ).audio_values[0]
    return codes, torch.cat([scale.flatten() for scale in found.audio_scales]), heard


@pytest.mark.parametrize("samples", [1, 40, 791, 792, 793, 800, 801, 1584, 2000])
def test_codes_scales_and_sound_are_those_of_the_model(codec: TransformersCodec, samples: int) -> None:
    """Wherever the sound ends: no silence is filled in that the model would not."""
    audio = sound(samples / RATE, 3, channels=2)
    tokens = encode(codec, audio, audio.flip(1))
    codes, scales, heard = of_transformers(codec, audio)
    assert torch.equal(tokens["vocals"], codes) and tokens.n_samples == audio.shape[1]
    assert torch.equal(tokens.beside["vocals"]["scale"], scales[None])
    again = codec.decode(tokens, "vocals")
    # The model itself may give a few samples less than it got.
    assert torch.allclose(again[:, : heard.shape[1]], heard[:, : audio.shape[1]], atol=1e-6)
    assert codec.decode(tokens).shape == audio.shape


def test_frames_are_exact_for_every_remainder(codec: TransformersCodec) -> None:
    """Also of the stride, where a new chunk begins; and so is the sound that comes back."""
    assert codec.frame_rate == RATE * PER_CHUNK / STRIDE and codec.plan is None
    audio = sound(4 * CHUNK / RATE, channels=2)
    for n in (1, HOP, HOP + 1, STRIDE - 1, STRIDE, STRIDE + 1, CHUNK, CHUNK + 1, 2 * STRIDE, 2 * STRIDE + HOP):
        tokens = encode(codec, audio[:, :n])
        before = -(-n // STRIDE) - 1
        assert tokens.n_frames == codec.n_frames(n) == before * PER_CHUNK + -(-(n - before * STRIDE) // HOP)
        assert tokens.beside["vocals"]["scale"].shape == (1, before + 1)
        assert codec.decode(tokens).shape == (2, n)
    with pytest.raises(ValueError, match="at least 1"):
        codec.n_frames(0)


def test_batches_change_nothing_and_a_louder_sound_changes_the_scales_alone(codec: TransformersCodec) -> None:
    audio = sound(5.5 * CHUNK / RATE, channels=2)
    one, many, loud = encode(codec, audio), encode(codec, audio, batch_size=4), encode(codec, 2 * audio)
    assert all(torch.equal(one[track], many[track]) for track in TRACKS)
    assert torch.equal(one["vocals"], loud["vocals"])
    assert torch.allclose(2 * one.beside["vocals"]["scale"], loud.beside["vocals"]["scale"])


def test_a_token_file_keeps_the_scales(codec: TransformersCodec, tmp_path: Path) -> None:
    path, tokens = tmp_path / "song.safetensors", encode(codec, sound(2.5 * CHUNK / RATE, channels=2))
    save_tokens(path, tokens, codec)
    back, header = load_tokens(path)
    assert isinstance(back, StreamTokens) and set(back) == {*TRACKS} and header["format"] == 2
    assert all(torch.equal(back[track], tokens[track]) for track in TRACKS)
    assert all(torch.equal(back.beside[track]["scale"], tokens.beside[track]["scale"]) for track in TRACKS)
    assert torch.equal(codec.decode(back), codec.decode(tokens))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last array
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match="damaged"):
        load_tokens(path)


def test_codes_without_their_scales_are_not_decoded(codec: TransformersCodec) -> None:
    tokens = encode(codec, sound(2.5 * CHUNK / RATE, channels=2))
    with pytest.raises(BundleError, match=r"without `scale`, the loudness of each chunk.*torch.ones\(1, 3\)"):
        codec.decode(dict(tokens))
    short = {track: {"scale": torch.ones(1, 2)} for track in TRACKS}
    with pytest.raises(BundleError, match=r"`scale` \[1, 2\] where 3 chunks want \[1, 3\]"):
        codec.decode(StreamTokens(tokens.codes, beside=short))
    even = {track: {"scale": torch.ones(1, 3)} for track in TRACKS}
    assert codec.decode(StreamTokens(tokens.codes, beside=even)).isfinite().all()
    assert codec.embeddings(dict(tokens))["vocals"].shape == (tokens.n_frames, 8)  # the quantizer knows no loudness
    assert {len(table) for table in codec.codebook_vectors()["vocals"]} == {SIZE}


def test_chunks_have_no_window_plan(codec: TransformersCodec) -> None:
    with pytest.raises(ConfigError, match="codes chunks of its own; leave the window plan out"):
        TransformersCodec("x", codec.model, codec.family, codec.shape, "", CODEBOOKS, plan=WindowPlan(40, 10))

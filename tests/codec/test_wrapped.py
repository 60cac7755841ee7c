"""Other people's codecs keep the contract: frames, windows, prefixes, vectors, sound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.codec.tiny_codecs import CODEBOOKS, HOP, RATE, SIZE, make_codec, sound
from torch import Tensor

from duotok.audio.io import resample, write
from duotok.codec import StreamTokens, TransformersCodec
from duotok.errors import AudioError, BundleError, ConfigError
from duotok.tokens import WindowPlan
from duotok.tracks import TRACKS

KINDS = tuple(HOP)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("codecs")
    return {kind: make_codec(place, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def codecs(folders: dict[str, Path]) -> dict[str, TransformersCodec]:
    return {kind: TransformersCodec.from_pretrained(folder) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_of_itself(codecs: dict[str, TransformersCodec], kind: str) -> None:
    codec = codecs[kind]
    assert (codec.sample_rate, codec.frame_rate) == (RATE, RATE / HOP[kind])
    assert [(s.name, s.codebooks, s.codebook_sizes) for s in codec.streams] == [
        (track, CODEBOOKS, (SIZE,) * CODEBOOKS) for track in TRACKS
    ]
    assert codec.model_id == f"{kind}-8khz-4" and len(codec.model_hash) == 64
    assert codec.plan.window == round(20 * codec.frame_rate)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_exact_for_every_remainder(codecs: dict[str, TransformersCodec], kind: str) -> None:
    """Also where the song is a frame or less, and where the stems differ in length."""
    codec, hop = codecs[kind], HOP[kind]
    whole = sound(4 * hop / RATE)
    for n in (*range(1, hop + 2), *range(3 * hop - 1, 3 * hop + 2)):
        assert codec.n_frames(n) == -(-n // hop)
        tokens = codec.encode(rate=RATE, vocals=whole[:, :n], accompaniment=whole[:, : max(1, n - 7)])
        assert {codes.shape for codes in tokens.values()} == {(CODEBOOKS, -(-n // hop))}
        assert (tokens.n_samples, tokens["vocals"].dtype) == (n, torch.int64)
    with pytest.raises(ValueError, match="at least 1"):
        codec.n_frames(0)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_the_model(codecs: dict[str, TransformersCodec], kind: str) -> None:
    """Of whole frames in one window: exactly what transformers gives for that sound, a track at a time."""
    codec, a, b = codecs[kind], sound(1.0, 1), sound(1.0, 2)
    tokens = codec.encode(rate=RATE, vocals=a, accompaniment=b)
    with torch.inference_mode():
        for track, x in zip(TRACKS, (a, b), strict=True):
            found = codec.model.encode(x[None], **({"bandwidth": 3.2} if kind in ("encodec", "xcodec") else {}))
            assert torch.equal(tokens[track], found.audio_codes.reshape(CODEBOOKS, -1))
            assert all(len(row.unique()) > 2 for row in tokens[track])


def receptive_frames(ratios: tuple[int, ...]) -> int:
    """Frames on one side that a DAC encoder sees: its convolutions, added up."""
    samples, scale = 3, 1
    for ratio in ratios:
        samples += scale * (3 * (1 + 3 + 9) + ratio)
        scale *= ratio
    return -(-(samples + scale) // scale)


def windowed(codec: TransformersCodec, plan: WindowPlan) -> TransformersCodec:
    double = codec.model.double()  # so that rounding decides no code
    return TransformersCodec(
        "dac", double, codec.family, codec.shape, "", codec.codebooks, ("mix",), plan, codec.device
    )


def test_dac_in_windows_is_dac_whole(folders: dict[str, Path]) -> None:
    codec = TransformersCodec.from_pretrained(folders["dac"])
    audio, context = sound(3.0), receptive_frames((2, 4, 5))
    whole = windowed(codec, WindowPlan(1000, 0)).encode(audio, RATE)["mix"]
    cut = windowed(codec, WindowPlan(4 * context, context)).encode(audio, RATE, batch_size=3)["mix"]
    assert whole.shape[1] > 10 * context and torch.equal(whole, cut)
    tight = windowed(codec, WindowPlan(4 * context, 0)).encode(audio, RATE)["mix"]
    differs = (whole != tight).any(0).nonzero()[:, 0] % (4 * context)
    # Without context codes differ, and only near the edges.
    assert len(differs) and all(min(int(d), 4 * context - int(d)) <= context for d in differs)


@pytest.mark.parametrize("kind", ["encodec", "mimi"])
def test_causal_codecs_in_windows(folders: dict[str, Path], kind: str) -> None:
    """The first window is as coded whole, whatever comes later; Mimi is exact everywhere once the context is all it sees."""
    codec, audio = TransformersCodec.from_pretrained(folders[kind]), sound(3.0)
    whole = windowed(codec, WindowPlan(1000, 0)).encode(audio, RATE)["mix"]
    # Sliding attention over 20 steps of half a frame, and the convolutions before and after it.
    cut = windowed(codec, WindowPlan(60, 16)).encode(audio, RATE)["mix"]
    same = (whole == cut).all(0)
    assert same[: 60 - 16].all() and (kind != "mimi" or same.all())
    short = windowed(codec, WindowPlan(60, 0)).encode(audio, RATE)["mix"]
    assert not torch.equal(whole, short)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_the_other_track_change_nothing(folders: dict[str, Path], kind: str) -> None:
    plan = WindowPlan(40, 10)
    codec = TransformersCodec.from_pretrained(folders[kind], plan=plan)
    codec.model.double()
    a, b = sound(2.0, 1), sound(2.0, 2)
    one = codec.encode(rate=RATE, vocals=a, accompaniment=b)
    many = codec.encode(rate=RATE, vocals=a, accompaniment=b, batch_size=4)
    other = codec.encode(rate=RATE, vocals=a, accompaniment=a)
    assert all(torch.equal(one[track], many[track]) for track in TRACKS)
    assert torch.equal(one["vocals"], other["vocals"]) and torch.equal(other["vocals"], other["accompaniment"])


def test_windows_bound_what_the_model_sees(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    codec = TransformersCodec.from_pretrained(folders["dac"], plan=WindowPlan(40, 10))
    seen: list[int] = []
    real = codec.model.encode

    def encode(x: Tensor, **k: object) -> object:
        seen.append(x.shape[-1])
        return real(x, **k)

    monkeypatch.setattr(codec.model, "encode", encode)
    codec.encode(rate=RATE, vocals=sound(2.0), accompaniment=sound(2.0))
    assert {*seen} == {40 * HOP["dac"]} and len(seen) > 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_fewer_codebooks_are_the_first_ones(
    folders: dict[str, Path], codecs: dict[str, TransformersCodec], kind: str, count: int
) -> None:
    few = TransformersCodec.from_pretrained(folders[kind], codebooks=count)
    a = sound(0.5)
    all_of_them = codecs[kind].encode(rate=RATE, vocals=a, accompaniment=a)["vocals"]
    tokens = few.encode(rate=RATE, vocals=a, accompaniment=a)
    assert torch.equal(tokens["vocals"], all_of_them[:count])
    assert few.decode(tokens).shape == (1, len(a[0])) and few.embeddings(tokens)["vocals"].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_sound_comes_back_as_long_as_it_was(codecs: dict[str, TransformersCodec], kind: str) -> None:
    codec, a, b = codecs[kind], sound(1.003, 1), sound(1.003, 2)
    tokens = codec.encode(rate=RATE, vocals=a, accompaniment=b)
    voice, band, both = codec.decode(tokens, "vocals"), codec.decode(tokens, "accompaniment"), codec.decode(tokens)
    assert voice.shape == band.shape == both.shape == (1, tokens.n_samples) == a.shape
    assert torch.allclose(both, voice + band) and voice.isfinite().all() and not torch.equal(voice, band)
    bare = {track: codes for track, codes in tokens.items()}
    assert codec.decode(bare).shape == (1, tokens.n_frames * HOP[kind])


def test_decoding_in_windows_is_decoding_whole(folders: dict[str, Path]) -> None:
    codec = TransformersCodec.from_pretrained(folders["dac"])
    tokens = windowed(codec, WindowPlan(1000, 0)).encode(sound(2.0), RATE)
    whole = windowed(codec, WindowPlan(1000, 0)).decode(tokens)
    assert torch.allclose(windowed(codec, WindowPlan(100, 30)).decode(tokens), whole, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_the_output_of_the_quantizer(codecs: dict[str, TransformersCodec], kind: str) -> None:
    codec, a = codecs[kind], sound(0.5)
    tokens = codec.encode(rate=RATE, vocals=a, accompaniment=a)
    found = codec.embeddings(tokens)
    codes, quantizer = tokens["vocals"][None], codec.model.quantizer
    with torch.inference_mode():
        if kind == "dac":
            wanted = codec.model.encode(a[None]).quantized_representation
        elif kind == "mimi":
            wanted = quantizer.decode(codes)
        else:
            books = quantizer.layers if kind == "encodec" else quantizer.quantizers
            wanted = sum(book.codebook.embed[row] for book, row in zip(books, codes[0], strict=True)).T[None]
    assert found["vocals"].shape == (tokens.n_frames, wanted.shape[1]) and found.keys() == {*TRACKS}
    assert torch.allclose(found["vocals"].T[None], wanted, atol=1e-5)


def test_hash_follows_weights_codebooks_and_plan(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["dac"]
    opened = [
        TransformersCodec.from_pretrained(folder),
        TransformersCodec.from_pretrained(folder, codebooks=2),
        TransformersCodec.from_pretrained(folder, plan=WindowPlan(50, 5)),
        TransformersCodec.from_pretrained(make_codec(tmp_path, "dac", seed=1)),
    ]
    assert len({codec.model_hash for codec in opened}) == len(opened)
    # Not where it lies, nor how its weights are cut into files.
    moved = tmp_path / "elsewhere"
    opened[0].model.save_pretrained(moved, max_shard_size="10KB")
    assert not (moved / "model.safetensors").exists()
    again = TransformersCodec.from_pretrained(moved)
    assert (again.model_id, again.model_hash) == (opened[0].model_id, opened[0].model_hash)


def test_any_sound_is_brought_to_the_codec(codecs: dict[str, TransformersCodec], tmp_path: Path) -> None:
    """Stereo is folded to the mean, other rates are resampled, files and tensors give the same."""
    codec = codecs["dac"]
    a, b = sound(1.0, 1, 48_000, 2), sound(0.9, 2, 48_000, 2)
    write(tmp_path / "a.wav", a, 48_000)
    by_file = codec.encode(vocals=tmp_path / "a.wav", accompaniment=b)
    by_hand = codec.encode(
        rate=RATE, vocals=resample(a.mean(0, keepdim=True), 48_000, RATE),
        accompaniment=resample(b.mean(0, keepdim=True), 48_000, RATE),
    )  # fmt: skip
    assert by_file.n_samples == RATE == by_hand.n_samples
    assert all(torch.equal(by_file[track], by_hand[track]) for track in TRACKS)


def test_a_track_may_follow_from_the_others(folders: dict[str, Path], codecs: dict[str, TransformersCodec]) -> None:
    a, b = sound(1.0, 1), sound(1.0, 2)
    codec = codecs["dac"]
    given = codec.encode(rate=RATE, vocals=a, accompaniment=b)
    rest = codec.encode(a + b, RATE, vocals=b)["accompaniment"]
    assert torch.equal(rest, codec.encode(rate=RATE, vocals=b, accompaniment=(a + b) - b)["accompaniment"])
    assert torch.equal(codec.encode(a + b, RATE, vocals=a)["vocals"], given["vocals"])
    mix = TransformersCodec.from_pretrained(folders["dac"], tracks=("mix",))
    assert torch.equal(mix.encode(a + b, RATE)["mix"], mix.encode(rate=RATE, vocals=a, accompaniment=b)["mix"])
    assert torch.equal(mix.encode(a, RATE)["mix"], given["vocals"])
    for arguments, message in (
        ({"audio": a}, "vocals cannot be had from the mix alone"), ({}, "nothing to encode"),
        ({"vocals": a}, "accompaniment cannot be had from vocals alone"),
        ({"vocals": a, "accompaniment": torch.zeros(1, 0)}, "\\[channels, samples\\]"),
    ):  # fmt: skip
        with pytest.raises(AudioError, match=message):
            codec.encode(rate=RATE, **arguments)


def test_tokens_of_something_else_are_refused(codecs: dict[str, TransformersCodec]) -> None:
    codec, codes = codecs["dac"], torch.zeros(CODEBOOKS, 5, dtype=torch.int64)
    for tokens, message in (
        ({"vocals": codes}, "tokens with the streams vocals; dac-8khz-4 has vocals, accompaniment"),
        ({"vocals": codes, "accompaniment": codes[:2]}, r"accompaniment: torch.int64 \[2, 5\]"),
        ({"vocals": codes, "accompaniment": codes + SIZE}, "codebook 0: 16 is no code"),
        ({"vocals": codes, "accompaniment": codes[:, :4]}, r"unequal length \(vocals 5, accompaniment 4 frames\)"),
    ):  # fmt: skip
        with pytest.raises(BundleError, match=message):
            codec.decode(StreamTokens(tokens))
        with pytest.raises(BundleError, match=message):
            codec.embeddings(tokens)
    with pytest.raises(ConfigError, match="track 'drums' does not exist"):
        codec.decode({"vocals": codes, "accompaniment": codes}, "drums")


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_all_codes_add_up_to_what_the_quantizer_makes(folders: dict[str, Path], kind: str) -> None:
    codec = TransformersCodec.from_pretrained(folders[kind], codebooks=3)
    tables = codec.codebook_vectors()
    assert list(tables) == list(TRACKS) and all(len(of) == 3 for of in tables.values())
    codes = torch.randint(SIZE, (3, 7))
    nothing = codec.embeddings(dict.fromkeys(TRACKS, torch.zeros(3, 1, dtype=torch.int64)))["vocals"]
    wanted = codec.embeddings(dict.fromkeys(TRACKS, codes))["vocals"]
    found = torch.stack([table[row] for table, row in zip(tables["vocals"], codes, strict=True)]).sum(0)
    torch.testing.assert_close(nothing + found, wanted, atol=1e-5, rtol=1e-4)
    assert all(len(table.unique(dim=0)) > 2 for table in tables["vocals"])


def test_a_stem_that_is_not_in_the_mix_is_refused(codecs: dict[str, TransformersCodec], tmp_path: Path) -> None:
    """As DuoTok refuses it: the mix without it is no track."""
    codec, voice, band = codecs["dac"], sound(2.0, 1), sound(2.0, 2)
    late = torch.nn.functional.pad(voice, (80, 0))[:, : voice.shape[1]]
    for stem, words in (
        (sound(2.0, 3), "too loud"),
        (late, "10.0 ms"),
        (-voice, "turned over"),
        (voice / 4, "12.1 dB too soft"),
    ):
        with pytest.raises(AudioError, match=f"vocals: does not belong to audio: it .*{words}"):
            codec.encode(voice + band, RATE, vocals=stem)
    write(tmp_path / "other.wav", sound(2.0, 3), RATE)
    with pytest.raises(AudioError, match=r"other.wav: does not belong to audio"):
        codec.encode(voice + band, RATE, accompaniment=tmp_path / "other.wav")
    codec.encode(voice + band, RATE, vocals=torch.zeros(1, 16_000))


def test_a_channel_that_is_turned_over_does_not_cancel_the_other_one(
    codecs: dict[str, TransformersCodec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where channels are folded; a file and an array alike, at any rate."""
    codec, mono = codecs["dac"], sound(2.0, 1, 48_000)
    upright, turned = mono.repeat(2, 1), torch.cat([mono, -mono])
    write(tmp_path / "turned.wav", turned, 48_000)
    expected = codec.encode(vocals=upright, accompaniment=upright)["vocals"]
    assert not caplog.records
    found = codec.encode(vocals=turned, accompaniment=tmp_path / "turned.wav")
    assert all(torch.equal(found[track], expected) for track in TRACKS)
    assert ["turned.wav: one channel is the other one turned over" in r.getMessage() for r in caplog.records] == [
        False,
        True,
    ]

"""The published BS-RoFormer: documented names and shapes, its formulas written out by hand, its YAML, and conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from duotok import convert
from duotok.config import parse
from duotok.errors import ConfigError
from duotok.separation.published import (
    BANDS,
    ModelConfig,
    PublishedBSRoFormer,
    PublishedConfig,
    PublishedSeparator,
    load_published,
    read_config,
)

BANDS_YAML = "".join(f"    - {bins}\n" for bins in BANDS)
# What config_bs_roformer_384_8_2_485100.yaml says, as it says it.
YAML = f"""
audio:
  chunk_size: 485100
  dim_f: 1024
  dim_t: 801 # don't work (use in model)
  hop_length: 441 # don't work (use in model)
  n_fft: 2048
  num_channels: 2
  sample_rate: 44100
  min_mean_abs: 0.000

model:
  dim: 384
  depth: 8
  stereo: true
  num_stems: 4
  time_transformer_depth: 1
  freq_transformer_depth: 1
  linear_transformer_depth: 0
  freqs_per_bands: !!python/tuple
{BANDS_YAML}
  dim_head: 64
  heads: 8
  attn_dropout: 0.1
  ff_dropout: 0.1
  flash_attn: true
  dim_freqs_in: 1025
  stft_n_fft: 2048
  stft_hop_length: 441
  stft_win_length: 2048
  stft_normalized: false
  mask_estimator_depth: 2
  multi_stft_resolution_loss_weight: 1.0
  multi_stft_resolutions_window_sizes: !!python/tuple
  - 4096
  - 2048
  multi_stft_hop_size: 147
  multi_stft_normalized: False
  mlp_expansion_factor: 2

training:
  batch_size: 1
  instruments: ['drums', 'bass', 'other', 'vocals']
  target_instrument: null
  lr: 1.0e-5
  use_amp: true

augmentations:
  mixup_probs: !!python/tuple
    - 0.2
    - 0.02

inference:
  batch_size: 2
  dim_t: 1101
  num_overlap: 2
"""

TINY: dict[str, Any] = {
    "dim": 6,
    "depth": 1,
    "stereo": True,
    "num_stems": 2,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "freqs_per_bands": (2, 3, 12),
    "dim_head": 4,
    "heads": 2,
    "stft_n_fft": 32,
    "stft_hop_length": 7,
    "stft_win_length": 32,
    "mlp_expansion_factor": 2,
}
STEMS = ("drums", "vocals")


def tiny(**changes: Any) -> PublishedBSRoFormer:
    torch.manual_seed(0)
    model = PublishedBSRoFormer(ModelConfig.model_validate(TINY | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def separator(chunk: int = 400, **changes: Any) -> PublishedSeparator:
    config = PublishedConfig(model=ModelConfig.model_validate(TINY | changes), stems=STEMS, chunk_size=chunk)
    return PublishedSeparator(tiny(**changes), config)


def test_documented_names_shapes_and_size() -> None:
    """The published checkpoint: 1355 tensors, 131.70M parameters."""
    with torch.device("meta"):
        model = PublishedBSRoFormer(read_yaml_text(YAML).model)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"final_norm.gamma": (384,)}
    for layer in range(8):
        for axis in (0, 1):
            attention, feedforward = (f"layers.{layer}.{axis}.layers.0.{part}" for part in (0, 1))
            expected |= {
                f"{attention}.rotary_embed.freqs": (32,),
                f"{attention}.norm.gamma": (384,),
                f"{attention}.to_qkv.weight": (1536, 384),
                f"{attention}.to_gates.weight": (8, 384),
                f"{attention}.to_gates.bias": (8,),
                f"{attention}.to_out.0.weight": (384, 512),
                f"{feedforward}.net.0.gamma": (384,),
                f"{feedforward}.net.1.weight": (1536, 384),
                f"{feedforward}.net.1.bias": (1536,),
                f"{feedforward}.net.4.weight": (384, 1536),
                f"{feedforward}.net.4.bias": (384,),
            }
    for band, bins in enumerate(BANDS):
        values = 4 * bins
        expected[f"band_split.to_features.{band}.0.gamma"] = (values,)
        expected[f"band_split.to_features.{band}.1.weight"] = (384, values)
        expected[f"band_split.to_features.{band}.1.bias"] = (384,)
        for stem in range(4):
            expected |= {
                f"mask_estimators.{stem}.to_freqs.{band}.0.0.weight": (768, 384),
                f"mask_estimators.{stem}.to_freqs.{band}.0.0.bias": (768,),
                f"mask_estimators.{stem}.to_freqs.{band}.0.2.weight": (2 * values, 768),
                f"mask_estimators.{stem}.to_freqs.{band}.0.2.bias": (2 * values,),
            }
    assert len(expected) == 1355 and len(BANDS) == 62
    assert shapes == expected
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 131.70


def by_hand(state: dict[str, np.ndarray], audio: np.ndarray) -> np.ndarray:
    """The network of TINY with numpy and loops, from the published description: `[2, samples]` -> `[2, 2, samples]`."""
    n_fft, hop, bins_of, heads, width = 32, 7, (2, 3, 12), 2, 4
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(audio, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    frames = 1 + audio.shape[1] // hop
    spectra = np.stack([np.fft.rfft(padded[:, t * hop : t * hop + n_fft] * window) for t in range(frames)], axis=1)

    def norm(x: np.ndarray, gamma: np.ndarray) -> np.ndarray:
        length = np.sqrt((x**2).sum(-1, keepdims=True))
        return x / np.maximum(length, 1e-12) * np.sqrt(x.shape[-1]) * gamma

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def transformer(x: np.ndarray, name: str) -> np.ndarray:
        """`[length, dim]`."""
        from math import erf

        a = f"{name}.layers.0.0"
        h = norm(x, state[f"{a}.norm.gamma"])
        q, k, v = np.split(h @ state[f"{a}.to_qkv.weight"].T, 3, axis=-1)
        gates = sigmoid(h @ state[f"{a}.to_gates.weight"].T + state[f"{a}.to_gates.bias"])
        joined = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            angles = np.arange(len(x))[:, None] * np.array([1.0, 10_000.0**-0.5])

            def turn(y: np.ndarray, angles: np.ndarray = angles) -> np.ndarray:
                even, odd = y[:, 0::2], y[:, 1::2]
                out = np.empty_like(y)
                out[:, 0::2] = even * np.cos(angles) - odd * np.sin(angles)
                out[:, 1::2] = odd * np.cos(angles) + even * np.sin(angles)
                return out

            scores = np.exp(turn(q[:, part]) @ turn(k[:, part]).T / np.sqrt(width))
            joined.append(scores / scores.sum(-1, keepdims=True) @ v[:, part] * gates[:, head : head + 1])
        x = x + np.concatenate(joined, axis=-1) @ state[f"{a}.to_out.0.weight"].T
        f = f"{name}.layers.0.1.net"
        inner = norm(x, state[f"{f}.0.gamma"]) @ state[f"{f}.1.weight"].T + state[f"{f}.1.bias"]
        inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        return x + inner @ state[f"{f}.4.weight"].T + state[f"{f}.4.bias"]

    x = np.zeros((frames, len(bins_of), 6))
    first = 0
    for band, bins in enumerate(bins_of):
        for t in range(frames):
            values = []
            for b in range(first, first + bins):
                for channel in range(2):
                    values += [spectra[channel, t, b].real, spectra[channel, t, b].imag]
            name = f"band_split.to_features.{band}"
            h = norm(np.array(values), state[f"{name}.0.gamma"])
            x[t, band] = h @ state[f"{name}.1.weight"].T + state[f"{name}.1.bias"]
        first += bins
    for band in range(len(bins_of)):
        x[:, band] = transformer(x[:, band], "layers.0.0")
    for t in range(frames):
        x[t] = transformer(x[t], "layers.0.1")
    x = norm(x, state["final_norm.gamma"])

    stems = []
    for stem in range(2):
        product = np.zeros_like(spectra)
        first = 0
        for band, bins in enumerate(bins_of):
            name = f"mask_estimators.{stem}.to_freqs.{band}.0"
            hidden = np.tanh(x[:, band] @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"])
            value, gate = np.split(hidden @ state[f"{name}.2.weight"].T + state[f"{name}.2.bias"], 2, axis=-1)
            mask = (value * sigmoid(gate)).reshape(frames, bins, 2, 2)
            for b in range(bins):
                for channel in range(2):
                    factor = mask[:, b, channel, 0] + 1j * mask[:, b, channel, 1]
                    product[channel, :, first + b] = spectra[channel, :, first + b] * factor
            first += bins
        total, weight = np.zeros_like(padded), np.zeros(padded.shape[1])
        for t in range(frames):
            span = slice(t * hop, t * hop + n_fft)
            total[:, span] += np.fft.irfft(product[:, t], n=n_fft) * window
            weight[span] += window**2
        inside = slice(n_fft // 2, n_fft // 2 + audio.shape[1])
        stems.append(total[:, inside] / weight[inside])
    return np.stack(stems)


def test_numbers_against_the_formulas_by_hand() -> None:
    model = tiny()
    audio = torch.randn(2, 60) * torch.logspace(0, -4, 60)
    expected = by_hand({name: value.double().numpy() for name, value in model.state_dict().items()}, audio.numpy())
    assert np.abs(expected).max() > 0.01
    got = model(audio[None])[0].numpy()
    np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(model(audio[None], [1])[0, 0].numpy(), expected[1], atol=2e-6)


def test_positions_are_one_module_for_all_layers() -> None:
    model = tiny(depth=2)
    first, second = (model.layers[n][0].layers[0][0].rotary_embed for n in (0, 1))  # type: ignore[index]
    assert first is second and not first.freqs.requires_grad


def test_masks_are_unbounded_and_complex_and_dc_can_be_silenced() -> None:
    audio = torch.randn(1, 2, 200)
    plain, silenced = tiny()(audio), tiny(zero_dc=True)(audio)
    assert not torch.allclose(plain.sum(1), audio, atol=1e-2)
    assert not torch.equal(plain, silenced)


# -- the separator ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 17, 400, 435, 436, 3000])
def test_lengths_sums_and_streams(samples: int) -> None:
    mix = torch.randn(2, samples)
    sep = separator()
    assert (sep.sample_rate, sep.rate, sep.chunk, sep.overlap) == (48_000, 44_100, 400, 200)
    stems = sep.separate(mix)
    assert all(stem.shape == mix.shape for stem in stems.values())
    torch.testing.assert_close(stems["vocals"] + stems["accompaniment"], mix, atol=1e-5, rtol=0)
    pieces = list(sep.stream(mix.split(333, dim=-1)))
    assert torch.equal(torch.cat([piece["vocals"] for piece in pieces], dim=-1), stems["vocals"])


def test_plan_at_its_own_rate() -> None:
    """Chunks overlap by half; in the middle of an overlap both count the same, and fades are a tenth of a chunk."""
    sep = separator()
    sep._outside = sep.rate
    mix = torch.randn(2, 1000)
    vocals = sep.separate(mix)["vocals"]
    first, second = (sep.model(mix[None, :, start : start + 400], [1])[0, 0] for start in (0, 200))
    torch.testing.assert_close(vocals[:, :200], first[:, :200])
    middle = (first[:, 240:360] + second[:, 40:160]) / 2
    torch.testing.assert_close(vocals[:, 240:360], middle, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(vocals[:, 200], first[:, 200])


def test_two_whole_chunks_and_no_overlap() -> None:
    config = PublishedConfig(model=ModelConfig.model_validate(TINY), stems=STEMS, chunk_size=400, num_overlap=1)
    sep = PublishedSeparator(tiny(), config, ("drums",), sample_rate=44_100)
    mix = torch.randn(2, 800)
    expected = torch.cat([sep.model(part[None], [0])[0, 0] for part in mix.split(400, dim=-1)], dim=-1)
    torch.testing.assert_close(sep.separate(mix)["drums"], expected)


def test_silence_and_mono_models() -> None:
    assert separator().separate(torch.zeros(2, 900))["vocals"].abs().max() == 0.0
    mono = separator(stereo=False)
    mix = torch.randn(2, 700)
    swapped = mono.separate(mix.flip(0))["vocals"].flip(0)
    torch.testing.assert_close(mono.separate(mix)["vocals"], swapped, atol=1e-6, rtol=0)


# -- the YAML -----------------------------------------------------------------------------------------------------------


def read_yaml_text(text: str, folder: Path | None = None) -> PublishedConfig:
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        path = (folder or Path(made)) / "config_bs_roformer_384_8_2_485100.yaml"
        path.write_text(text)
        return read_config(path)


def test_published_yaml() -> None:
    config = read_yaml_text(YAML)
    assert config.stems == ("drums", "bass", "other", "vocals")
    assert (config.sample_rate, config.chunk_size, config.num_overlap) == (44_100, 485_100, 2)
    assert (config.model.dim, config.model.depth, config.model.stft_hop_length) == (384, 8, 441)
    assert config.model.freqs_per_bands == BANDS and config.model.mlp_expansion_factor == 2


def test_a_model_of_one_stem_has_the_name_of_its_target() -> None:
    text = YAML.replace("num_stems: 4", "num_stems: 1").replace("target_instrument: null", "target_instrument: vocals")
    assert read_yaml_text(text).stems == ("vocals",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dim_f: 1024", "dim_f: !!python/object/apply:os.system ['true']", "not plain YAML.*os.system"),
        ("dim_f: 1024", "dim_f: !!python/name:os.system", "not plain YAML.*os.system"),
        ("dim_f: 1024", "dim_f: !!python/object/new:tuple [[1]]", "not plain YAML"),
        ("dim_f: 1024", "dim_f: [", "not plain YAML"),
        ("depth: 8", "depth: 8\n  use_pope: true", "unknown key 'model.use_pope'"),
        ("linear_transformer_depth: 0", "linear_transformer_depth: 1", "linear_transformer_depth"),
        ("mlp_expansion_factor: 2", "mlp_expansion_factor: 2\n  skip_connection: true", "skip_connection"),
        ("    - 129\n", "    - 130\n", "add up to 1026"),
        ("'other', 'vocals'", "'vocals'", "4 stems"),
        ("'other', 'vocals'", "'other', 'piano'", "none of the stems"),
        ("  instruments: ['drums', 'bass', 'other', 'vocals']\n", "", "training.instruments"),
        ("training:", "practice:", "no section 'training'"),
        ("chunk_size: 485100", "chunk_size: 2000", "chunk_size"),
    ],
)
def test_other_yaml_is_refused(old: str, new: str, message: str) -> None:
    assert old in YAML
    with pytest.raises(ConfigError, match=rf"config_bs_roformer_384_8_2_485100\.yaml: .*{message}"):
        read_yaml_text(YAML.replace(old, new, 1))


# -- weights ------------------------------------------------------------------------------------------------------------


def write_yaml(folder: Path) -> Path:
    import yaml

    model = {key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()}
    values = {"audio": {"chunk_size": 400}, "model": model, "training": {"instruments": list(STEMS)}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "state"])
def test_checkpoint_to_separator(tmp_path: Path, wrapper: str | None) -> None:
    state = tiny().state_dict()
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 17}, tmp_path / "model.ckpt")
    config = write_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.ckpt: is a pickle.*duotok\.convert model\.ckpt model\.safetensors"):
        load_published(tmp_path / "model.ckpt", config)
    out = tmp_path / "model.safetensors"
    assert convert.main([str(tmp_path / "model.ckpt"), str(out)]) == 0
    assert convert.main([str(tmp_path / "model.ckpt"), str(out)]) == 1, "what is there stays"
    assert convert.main([str(tmp_path / "model.ckpt"), str(out), "--force"]) == 0
    assert set(load_file(out)) == set(state)
    mix = torch.randn(2, 1500)
    expected = separator().separate(mix)
    for given in (config, None):  # the only YAML beside the weights is theirs
        for stem, audio in load_published(out, given).separate(mix).items():
            assert torch.equal(audio, expected[stem])
    assert load_published(out, config, stems=STEMS).stems == STEMS


class _Evil:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch /tmp/duotok-evil",)


def test_conversion_opens_tensors_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    torch.save({"a": _Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "noise.ckpt").write_bytes(b"not a checkpoint at all")
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name, message in (
        ("evil", "system"),
        ("noise", "it is no checkpoint of torch, or a damaged one"),
        ("list", "no plain dictionary"),
        ("gone", "read"),
    ):
        assert convert.main([str(tmp_path / f"{name}.ckpt"), str(out)]) == 1
        assert message in capsys.readouterr().err
    assert not Path("/tmp/duotok-evil").exists()
    torch.save({"a": torch.zeros(1)}, tmp_path / "good.ckpt")
    assert convert.main([str(tmp_path / "good.ckpt"), str(tmp_path / "out.pt")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == []


def edited(change: str) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in tiny().state_dict().items()}
    if change == "missing":
        del state["final_norm.gamma"]
    elif change == "unexpected":
        state["layers.0.0.norm.gamma"] = torch.ones(6)
    elif change == "of another shape":
        state["final_norm.gamma"] = torch.ones(7)
    elif change == "not finite":
        state["final_norm.gamma"][0] = torch.nan
    return state


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("missing", "final_norm.gamma"),
        ("unexpected", "layers.0.0.norm.gamma"),
        ("of another shape", "final_norm.gamma"),
        ("not finite", "final_norm.gamma"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: str, name: str) -> None:
    save_file(edited(change), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=rf"w\.safetensors: does not fit its configuration; 1 {change}: {name}"):
        load_published(tmp_path / "w.safetensors", write_yaml(tmp_path))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such weights"):
        load_published(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="0 YAML files"):
        load_published(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="damaged weights"):
        load_published(tmp_path / "w.safetensors", write_yaml(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_published(tmp_path / "w.safetensors", tmp_path / "none.yaml")


def test_unknown_keys_of_a_config_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dim_head'"):
        parse(ModelConfig, TINY | {"dim_heads": 3})

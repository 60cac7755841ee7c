"""Stand-ins with the calls, argument names and shapes of the public code that the adapters were written from."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module `name`, and the packages that it lies in."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        made = types.ModuleType(".".join(parts[:end]))
        made.__path__ = []  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, made.__name__, made)
    for key, value in content.items():
        setattr(sys.modules[name], key, value)


def codes_of(x: Tensor, hop: int, codebooks: int, size: int) -> Tensor:
    """[codebooks, frames] of `[..., samples]`: any numbers that follow from the sound."""
    loud = x.reshape(-1, x.shape[-1])[0][: x.shape[-1] // hop * hop].reshape(-1, hop).abs().mean(1)
    return torch.stack([(loud * 1e4 + k).long() % size for k in range(codebooks)])


def write(path: Path, text: str = "weights") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Quantizer(nn.Module):
    def from_codes(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # DAC's: [batch, codebooks, frames]
        return codes.float().repeat(1, 4, 1), codes, codes


# -- the public code, as far as it is called ----------------------------------------------------------------------------


def wavtokenizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    class WavTokenizer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            encodec = types.SimpleNamespace(
                encoder=types.SimpleNamespace(hop_length=320), quantizer=types.SimpleNamespace(bins=4096)
            )
            self.feature_extractor = types.SimpleNamespace(encodec=encodec)

        @classmethod
        def from_pretrained0802(cls, config_path: str, model_path: str) -> Any:
            assert config_path == "config.yaml" and model_path.endswith("w.ckpt")
            return cls()

        def encode_infer(self, audio_input: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
            assert audio_input.ndim == 2 and kwargs["bandwidth_id"].tolist() == [0]
            return torch.zeros(1), codes_of(audio_input, 320, 1, 4096)[:, None]

        def codes_to_features(self, codes: Tensor) -> Tensor:
            assert codes.ndim == 2
            return codes[None].float().repeat(1, 512, 1).reshape(1, 512, -1)

        def decode(self, features_input: Tensor, **kwargs: Any) -> Tensor:
            return torch.zeros(1, features_input.shape[-1] * 320)

    module(monkeypatch, "decoder.pretrained", WavTokenizer=WavTokenizer)
    return {"weights": str(tmp_path / "w.ckpt"), "options": {"config": "config.yaml"}}


def semanticodec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    class Encoder(nn.Module):
        codebook_size = 8192
        centroid_npy = torch.zeros(16384, 768)

        def forward(self, mel: Tensor) -> Tensor:
            assert mel.ndim == 3 and mel.shape[1] % 1024 == 0 and mel.shape[2] == 128
            segments = mel.shape[1] // 1024
            return torch.stack([torch.arange(512 * segments) % 16384, torch.arange(512 * segments) % 8192], -1)[None]

        def token_to_quantized_feature(self, tokens: Tensor) -> Tensor:
            assert tokens.shape[-1] == 2
            return torch.zeros(1, tokens.shape[1], 1536)

    class SemantiCodec(nn.Module):
        device = torch.device("cpu")

        def __init__(
            self, token_rate: int, semantic_vocab_size: int, ddim_sample_step: int = 50, cfg_scale: float = 2.0,
            checkpoint_path: Any = None, cache_path: str = "pretrained",
        ) -> None:  # fmt: skip
            super().__init__()
            assert (token_rate, semantic_vocab_size) == (100, 16384)
            if checkpoint_path is None:  # then its paths are those of the hub, and what is not there it fetches
                folder, codebooks = "semanticodec_tokenrate_100", "codebook_idx"
            else:
                folder, codebooks = checkpoint_path, f"{checkpoint_path}/codebook_idx"
            assert all(Path(folder, name).is_file() for name in ("encoder.ckpt", "decoder.ckpt"))
            assert Path(codebooks, "combine_512_audioset_dominate", "codebook_8192_0.npy").is_file()
            self.encoder = Encoder()

        def decode(self, tokens: Tensor) -> Tensor:
            return torch.zeros(1, 1, tokens.shape[1] * 320)

    def fbank(waveform: Tensor, sampling_rate: int, target_length: int) -> dict[str, Tensor]:
        assert waveform.shape[1] == target_length // 1024 * 163_840 and sampling_rate == 16_000
        return {"ta_kaldi_fbank": torch.zeros(1, target_length, 128)}

    module(monkeypatch, "semanticodec.main", SemantiCodec=SemantiCodec)
    module(monkeypatch, "semanticodec.utils", extract_kaldi_fbank_feature=fbank)
    sys.modules["semanticodec.main"] = types.SimpleNamespace(SemantiCodec=SemantiCodec)  # type: ignore[assignment]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    folder = tmp_path / "semanticodec"
    for name in ("encoder.ckpt", "decoder.ckpt"):
        write(folder / "semanticodec_tokenrate_100" / name)
    write(folder / "codebook_idx" / "combine_512_audioset_dominate" / "codebook_8192_0.npy")
    return {"weights": str(folder), "options": {}}


def yue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    class SoundStream(nn.Module):
        hop_length, sample_rate, bits_per_codebook = np.int64(320), 16_000, 10

        def __init__(self, n_filters: int = 32, D: int = 128) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(D))

        def encode(self, x: Tensor, target_bw: Any = None) -> Tensor:
            assert x.ndim == 3
            return codes_of(x, 320, int(target_bw * 1000 // 500), 1024)[:, None]

        def get_embed(self, codes: Tensor) -> Tensor:
            return torch.zeros(codes.shape[1], 1024, codes.shape[2])

        def decode(self, codes: Tensor) -> Tensor:
            assert codes.shape[1] == 1  # [codebooks, batch, frames]
            return torch.zeros(1, 1, codes.shape[2] * 320)

    module(monkeypatch, "models.soundstream_hubert_new", SoundStream=SoundStream)
    (tmp_path / "final_ckpt").mkdir()
    generator = {"name": "SoundStream", "config": {"n_filters": 32, "D": 256}}
    (tmp_path / "final_ckpt" / "config.yaml").write_text(json.dumps({"generator": generator}))
    save_file({"weight": torch.ones(256)}, tmp_path / "x.safetensors")
    return {"weights": str(tmp_path / "x.safetensors"), "options": {}, "codebooks": 8}


def mucodec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    class MuCodec:
        def __init__(
            self, model_path: str, layer_num: int, load_main_model: bool = True, device: str = "cuda:0"
        ) -> None:
            assert (layer_num, load_main_model) == (7, True)
            self.device = device
            self.model = types.SimpleNamespace(rvq_muencoder_emb=Quantizer())

        def sound2code(self, orig_samples: Tensor, batch_size: int = 3) -> Tensor:
            assert orig_samples.ndim == 2
            frames = int(orig_samples.shape[-1] / 48_000.0 * 25) + 1
            return torch.arange(frames)[None, None] % 16_384

        def code2sound(
            self, codes: Tensor, prompt: Any = None, duration: float = 40.96, guidance_scale: float = 1.5,
            num_steps: int = 20, disable_progress: bool = False,
        ) -> Tensor:  # fmt: skip
            return torch.randn(2, codes.shape[-1] * 1920)

    module(monkeypatch, "generate", MuCodec=MuCodec)
    monkeypatch.setattr("os.chdir", lambda _: None)
    return {"weights": str(tmp_path / "ckpt" / "mucodec.pt"), "options": {}}


def levo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    class Tango:
        def __init__(
            self,
            model_path: str,
            vae_config: str,
            vae_model: str,
            layer_vocal: int = 7,
            layer_bgm: int = 3,
            device: str = "cuda:0",
        ) -> None:
            self.device = device
            self.model = types.SimpleNamespace(rvq_bestrq_emb=Quantizer(), rvq_bestrq_bgm_emb=Quantizer())

        def sound2code(self, orig_vocal: Tensor, orig_bgm: Tensor, batch_size: int = 8) -> tuple[Tensor, Tensor]:
            frames = int(orig_vocal.shape[-1] / 48_000.0 * 25) + 1
            return torch.arange(frames)[None, None], 1 + torch.arange(frames)[None, None]

        def code2sound(
            self, codes: Any, prompt_vocal: Any = None, prompt_bgm: Any = None, duration: int = 40, guidance_scale: float = 1.5,
            num_steps: int = 20, disable_progress: bool = False, chunked: bool = False, chunk_size: int = 128,
        ) -> Tensor:  # fmt: skip
            vocal, bgm = codes
            assert vocal.shape == bgm.shape
            return torch.randn(2, vocal.shape[-1] * 1920)

    module(monkeypatch, "codeclm.tokenizer.Flow1dVAE.generate_septoken", Tango=Tango)
    monkeypatch.setattr("os.chdir", lambda _: None)
    return {"weights": "model_2.safetensors", "options": {"vae_config": "c.json", "vae_model": "v.ckpt"}}


def moss_model(rate: int, hop: int, codebooks: int, channels: int | None) -> nn.Module:
    """channels None: the code of 24 kHz, which knows none."""

    class Model(nn.Module):
        quantizer = types.SimpleNamespace(decode_codes=lambda codes: torch.zeros(codes.shape[1], 768, codes.shape[2]))
        causal_transformer_context_duration = 10.0 if channels is None else 4.0  # of the layers' the shortest

        def __init__(self) -> None:
            super().__init__()
            quantizer = {"num_quantizers": codebooks, "codebook_size": 1024}
            self.config = types.SimpleNamespace(sampling_rate=rate, downsample_rate=hop, quantizer_kwargs=quantizer)
            self.asked: dict[str, Any] = {}
            if channels is not None:
                self.config.number_channels = channels
                self.set_attention_implementation = lambda name: self.asked.update(attention=name)
                self.set_compute_dtype = lambda name: self.asked.update(dtype=name)

        def whole_frames(self, chunk_duration: float | None) -> None:
            if chunk_duration is not None:
                assert 0 < chunk_duration <= self.causal_transformer_context_duration
                if round(chunk_duration * rate) % hop:
                    raise ValueError(
                        "`chunk_duration * config.sampling_rate` must be divisible by `config.downsample_rate`."
                    )
            self.asked["chunk_duration"] = chunk_duration

        def encode(
            self, input_values: Tensor, padding_mask: Any = None, num_quantizers: int | None = None, return_dict: Any = None,
            chunk_duration: float | None = None,
        ) -> Any:  # fmt: skip
            assert input_values.ndim == 3 and return_dict
            if channels is not None and input_values.shape[1] != channels:
                raise ValueError(f"Expected `input_values.shape[1] == {channels}`, got {input_values.shape[1]}.")
            self.whole_frames(chunk_duration)
            codes = codes_of(input_values, hop, min(num_quantizers or codebooks, codebooks), 1024)
            return types.SimpleNamespace(audio_codes=codes[:, None])

        def decode(
            self,
            audio_codes: Tensor,
            padding_mask: Any = None,
            return_dict: Any = None,
            chunk_duration: float | None = None,
        ) -> Any:
            assert audio_codes.ndim == 3 and audio_codes.dtype == torch.long and return_dict
            self.whole_frames(chunk_duration)
            return types.SimpleNamespace(audio=torch.zeros(1, channels or 1, audio_codes.shape[2] * hop))

    return Model()


def moss(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: Callable[[], nn.Module] = lambda: moss_model(24_000, 1920, 32, None),
    unexpected: tuple[str, ...] = (),
) -> dict[str, Any]:
    class AutoModel:
        @staticmethod
        def from_pretrained(place: str, **how: Any) -> Any:
            assert how["trust_remote_code"] and how["local_files_only"] and how["output_loading_info"]
            return model(), {"missing_keys": set(), "unexpected_keys": set(unexpected)}

    module(monkeypatch, "transformers", AutoModel=AutoModel, __version__="5.0.0")
    return {"weights": str(tmp_path), "options": {}, "codebooks": 8}


def moss_nano(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    return moss(monkeypatch, tmp_path, lambda: moss_model(48_000, 3840, 16, 2))


def codicodec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    class EncoderDecoder:
        def __init__(self, load_path_inference: Any = None, device: Any = None) -> None:
            sys.modules["codicodec.inference"].download_model()  # as the package does
            self.device = device
            fsq = types.SimpleNamespace(
                codebook_size=14_641, indexes_to_codes=lambda x: x[..., None].float().repeat(1, 1, 4)
            )
            self.gen = types.SimpleNamespace(fsq=fsq)

        def encode(self, path_or_audio: Tensor, max_batch_size: Any = None, discrete: bool = False) -> Tensor:
            assert discrete and path_or_audio.shape[0] == 2
            return torch.arange(128, dtype=torch.int32).repeat(path_or_audio.shape[1] // 32_768, 1)

        def decode(
            self, latent: Tensor, mode: str = "parallel", max_batch_size: Any = None, denoising_steps: Any = None
        ) -> Tensor:
            assert not latent.is_floating_point() and latent.shape[1] == 128
            return torch.randn(2, len(latent) * 32_768 + 1024)

    def never() -> None:
        raise AssertionError("fetched")

    module(monkeypatch, "codicodec.inference", EncoderDecoder=EncoderDecoder, download_model=never)
    hparams = types.SimpleNamespace(spec_length=32, hop=1024, num_latents=128)
    monkeypatch.setitem(sys.modules, "codicodec.hparams", hparams)
    return {"weights": "codicodec.pt", "options": {}}


def open_qwen_music(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """weights: the folder of its release, whose tokenizer is config.json and model.safetensors."""
    from safetensors.torch import save_file

    class DeploymentMusicTokenizer(nn.Module):
        quantizer = types.SimpleNamespace(effective_codebook=lambda: torch.randn(32_768, 16))

        def __init__(self, artifact: dict[str, Any], revision: str = "unknown") -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(int(artifact["model"]["dim"])))
            self.load_state_dict(artifact["state_dict"], strict=True)

        @classmethod
        def from_file(cls, path: Any, *, map_location: Any = "cpu") -> Any:
            return cls(torch.load(path, map_location=map_location, weights_only=True))

        def encode_audio(self, waveform: Tensor, sample_rate: int, *, attention_mask: Any = None) -> Any:
            assert waveform.ndim == 2 and sample_rate == 24_000
            return types.SimpleNamespace(token_ids=codes_of(waveform, 960, 1, 32_768))

    module(
        monkeypatch, "open_qwen_music.tokenizer.deployment", DeploymentMusicTokenizer=DeploymentMusicTokenizer, SAMPLE_RATE=24_000,
        CODEBOOK_SIZE=32_768,
    )  # fmt: skip
    artifact = {"model": {"dim": 4}}
    write(tmp_path / "open_qwen_music.json", json.dumps({"components": {"semantic_tokenizer": {"path": "tokenizer"}}}))
    write(tmp_path / "tokenizer" / "config.json", json.dumps(artifact))
    save_file({"weight": torch.ones(4)}, tmp_path / "tokenizer" / "model.safetensors")
    torch.save({**artifact, "state_dict": {"weight": torch.ones(4)}}, tmp_path / "tokenizer.pt")
    return {"weights": str(tmp_path), "options": {}}


def heartcodec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    class HeartCodec(nn.Module):
        config = types.SimpleNamespace(sample_rate=48_000, codebook_size=8192, num_quantizers=8)
        flow_matching = types.SimpleNamespace(
            vq_embed=types.SimpleNamespace(get_output_from_indices=lambda codes: torch.zeros(1, codes.shape[1], 512))
        )

        @classmethod
        def from_pretrained(cls, place: str, **how: Any) -> Any:
            assert how["output_loading_info"]
            return cls(), {"missing_keys": set()}

        def detokenize(
            self,
            codes: Tensor,
            duration: float = 29.76,
            num_steps: int = 10,
            disable_progress: bool = False,
            guidance_scale: float = 1.25,
        ) -> Tensor:
            assert codes.ndim == 2 and len(codes) == 8
            return torch.randn(2, codes.shape[1] * 3840)

    module(monkeypatch, "heartlib.heartcodec.modeling_heartcodec", HeartCodec=HeartCodec)
    return {"weights": str(tmp_path), "options": {}}


FAKES: dict[str, Callable[[pytest.MonkeyPatch, Path], dict[str, Any]]] = {
    "wavtokenizer": wavtokenizer, "semanticodec": semanticodec, "yue-xcodec": yue, "mucodec": mucodec, "levo": levo, "moss": moss,
    "moss-nano": moss_nano, "codicodec": codicodec, "open-qwen-music": open_qwen_music, "heartcodec": heartcodec,
}  # fmt: skip

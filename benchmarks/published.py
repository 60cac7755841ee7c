"""Our modules against the published code of the same parts, with the same random weights; and what the ear-VAE takes of memory.

The checkouts lie beside the project and nothing of them is copied; what they import and do not need here is stood in for.

python -m benchmarks.published --ear-vae EAR_VAE --json EAR_VAE/config/model_config.json
python -m benchmarks.published --ear-vae2 EAR_VAE2               with the JSON of its checkout
python -m benchmarks.published --stable-audio stable-audio-tools
python -m benchmarks.published --simvq SimVQ --packages          with vector-quantize-pytorch and k-diffusion, where installed
python -m benchmarks.published --memory 30 180                   seconds of 48 kHz stereo, each decoded in a fresh process
python -m benchmarks.published --memory 30 1800 --channels 8     the same lengths at less cost: a narrow network
python -m benchmarks.published --memory 30 180 --kind ear-vae2 --channels 8 --block 50
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.calling import existing_folder, mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import table
from duotok.config import parse
from duotok.model.bestrq import BestRQConfig, RandomProjectionQuantizer
from duotok.model.simvq import SimVQ, vq_loss
from duotok.renderer import ear_vae2_state
from duotok.renderer.diffusion import alpha_sigma
from duotok.renderer.ear_vae import EarVAE, EarVAEConfig, PublishedConfig
from duotok.renderer.ear_vae2 import EarVAE2, EarVAE2Config, PublishedConfig2
from duotok.renderer.ear_vae_files import read_published, to_published
from duotok.renderer.render import decode_blocks
from duotok.renderer.samplers import Path as Times
from duotok.renderer.samplers import dpmpp_2m, dpmpp_3m_sde, sample
from duotok.renderer.stable_audio import StableAudioConfig, from_published
from duotok.renderer.stable_audio import to_published as dit_to_published

Row = tuple[str, str, str]


def stand_in(name: str, **members: Any) -> None:
    """A module of that name with these members, and its packages, where there is none."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        place = ".".join(parts[:length])
        module = sys.modules.setdefault(place, types.ModuleType(place))
        if length > 1:
            setattr(sys.modules[".".join(parts[: length - 1])], parts[length - 1], module)
    for key, value in members.items():
        setattr(sys.modules[name], key, value)


def shake(module: nn.Module, std: float) -> None:
    """Weights that start at zero, or at one value, get random ones, so that nothing is compared by its absence."""
    for parameter in module.parameters():
        if float(parameter.detach().std()) == 0 or parameter.numel() == 1:
            nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=std)


def told(name: str, what: str, ours: Tensor, theirs: Tensor) -> Row:
    """The largest difference, and the largest value it is to be seen beside."""
    return name, what, f"{float((ours - theirs).abs().max()):.1e} of {float(theirs.abs().max()):.2g}"


@torch.no_grad()
def ear_vae(checkout: Path, settings: Path) -> Iterator[Row]:
    """The published class with random weights, saved as it is published, read by ours; sound both ways."""
    weight_norm = torch.nn.utils.weight_norm
    stand_in(
        "dac.nn.layers",
        WNConv1d=lambda *a, **k: weight_norm(nn.Conv1d(*a, **k)),
        WNConvTranspose1d=lambda *a, **k: weight_norm(nn.ConvTranspose1d(*a, **k)),
    )
    stand_in("alias_free_torch", Activation1d=nn.Identity)
    sys.path.insert(0, str(checkout))
    torch.manual_seed(0)
    theirs = import_module("model.ear_vae").EAR_VAE(json.loads(settings.read_text())).eval()
    shake(theirs, 0.3)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs.state_dict(), Path(folder) / "ear_vae.pyt")
        ours = read_published(Path(folder) / "ear_vae.pyt", settings)
        assert isinstance(ours, EarVAE)
    name = f"ear-VAE, hop {ours.config.hop}, {len(theirs.state_dict())} tensors"
    audio = 0.3 * torch.randn(1, 2, 20 * ours.config.hop)
    mean = theirs.encode(audio, use_sample=False)
    yield told(name, "posterior mean", ours.encode(audio), mean.transpose(1, 2))
    latents = torch.randn_like(mean)
    sound = theirs.decode(latents)
    yield told(name, "sound", ours.decode(latents.transpose(1, 2)), sound)
    windows = torch.cat(list(ours.decode_windows(latents[0].T, 4)), dim=1)
    yield told(name, "sound, ours in windows of 4 latents", windows, sound[0])
    theirs.load_state_dict(to_published(ours))
    yield told(name, "sound, our weights in their code", theirs.decode(latents), sound)


@torch.no_grad()
def ear_vae2(checkout: Path) -> Iterator[Row]:
    """As `ear_vae`. The last 10 ms are left out, where the published code divides by a window that ends at 0."""
    sys.path.insert(0, str(checkout))
    settings = checkout / "configs" / "ear_vae2.json"
    values = json.loads(settings.read_text())["model"]["gen"]["config"]
    torch.manual_seed(0)
    theirs = import_module("ear_vae2").EarVAE2(values).eval()
    shake(theirs, 0.3)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"gen": theirs.state_dict()}, Path(folder) / "ear_vae2.pt")
        ours = read_published(Path(folder) / "ear_vae2.pt", settings)
    assert isinstance(ours, EarVAE2)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    name = f"ear-VAE2, {len(theirs.state_dict())} tensors, {count / 1e6:.2f} M"
    audio = 0.3 * torch.randn(1, 2, 20 * ours.hop)
    mean = theirs.encode(audio, deterministic=True)
    yield told(name, "posterior mean", ours.encode(audio), mean.transpose(1, 2))
    latents, end = torch.randn_like(mean), audio.shape[-1] - ours.hop // 4
    sound = theirs.decode(latents, audio.shape[-1])
    yield told(name, "sound", ours.decode(latents.transpose(1, 2))[..., :end], sound[..., :end])
    windows = torch.cat(list(ours.decode_windows(latents[0].T, 4)), dim=1)
    yield told(name, "sound, ours in windows of 4 latents", windows[..., :end], sound[0, :, :end])
    last = f"{float(windows[..., end:].abs().max()):.1e}; {float(sound[..., end:].abs().max()):.1e}"
    yield name, "largest sample of the last 10 ms, ours; theirs", last
    theirs.load_state_dict(ear_vae2_state.to_published(ours))
    again = theirs.decode(latents, audio.shape[-1])
    yield told(name, "sound, our weights in their code", again[..., :end], sound[..., :end])


@torch.no_grad()
def stable_audio(checkout: Path) -> Iterator[Row]:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    sys.path.insert(0, str(checkout))
    build = import_module("stable_audio_tools.models.dit").DiffusionTransformer
    sizes = {"io_channels": 64, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    for width in (64, 512, 1024):
        with torch.device("meta"):
            count = sum(p.numel() for p in build(**sizes, input_concat_dim=width).parameters())
        yield f"stable-audio-tools' DiT, 1024 x 24 x 16, concat {width}", "parameters of their code", f"{count:,}"
    torch.manual_seed(0)
    theirs = build(**{**sizes, "embed_dim": 512, "depth": 4, "num_heads": 8}, input_concat_dim=16).eval()
    shake(theirs, 0.05)
    config = StableAudioConfig(kind="stable-audio", width=512, heads=8, blocks=4)
    ours = from_published(theirs.state_dict(), config, checkout)
    noisy, t, condition = torch.randn(2, 300, 64), torch.rand(2), torch.randn(2, 150, 16)
    name = "stable-audio-tools' DiT, 512 x 4 x 8, concat 16"
    wanted = theirs(noisy.transpose(1, 2), t, input_concat_cond=condition.transpose(1, 2)).transpose(1, 2)
    yield told(name, "velocity", ours(noisy, t, condition), wanted)
    theirs.load_state_dict(dit_to_published(ours))
    again = theirs(noisy.transpose(1, 2), t, input_concat_cond=condition.transpose(1, 2)).transpose(1, 2)
    yield told(name, "velocity, our weights in their code", again, wanted)
    stand_in("k_diffusion")  # their samplers need the name, not what is in it
    sampling = import_module("stable_audio_tools.inference.sampling")

    def model(x: Tensor, t: Tensor, **_: Any) -> Tensor:
        return theirs(x, t, input_concat_cond=condition.transpose(1, 2))

    start = noisy.transpose(1, 2)
    found = sampling.sample(model, start, 8, 0.0).transpose(1, 2)
    yield told(name, "8 steps of v-ddim", sample(ours, noisy, condition, 8, "ddim"), found)
    found = sampling.sample_flow_dpmpp(model, start, 8, disable_tqdm=True).transpose(1, 2)
    flow = sample(ours, noisy, condition, 8, "dpmpp-2m", objective="flow")
    yield told(name, "8 steps of DPM-Solver++, flow", flow, found)


def k_diffusion() -> Iterator[Row]:
    """Its samplers on a model of one weight, from sigma 80 to 0, the noise of each step given to both."""
    spec = find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        return
    package = types.ModuleType("k_diffusion")  # without what its __init__ imports: training, pictures
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    stand_in("torchvision.transforms.functional")
    sampling, external = import_module("k_diffusion.sampling"), import_module("k_diffusion.external")
    sigmas = torch.cat([torch.logspace(1.9, -2, 12, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    weight = torch.randn(6, 6, dtype=torch.float64)
    denoiser = external.VDenoiser(lambda x, t: torch.tanh(x @ weight) + t.view(-1, 1, 1))
    t = torch.atan(sigmas) * 2 / torch.pi
    alpha, sigma = alpha_sigma(t)
    way = Times(t, alpha, sigma, alpha.log() - sigma.log())
    start, fresh = sigmas[0] * torch.randn(1, 8, 6, dtype=torch.float64), torch.randn(12, 1, 8, 6, dtype=torch.float64)
    order = iter(range(12))
    for name, steps, options in (
        ("sample_dpmpp_2m", dpmpp_2m, {}),
        ("sample_dpmpp_3m_sde", dpmpp_3m_sde, {"noise_sampler": lambda *_: fresh[next(order)]}),
    ):
        theirs = getattr(sampling, name)(denoiser, start.clone(), sigmas, disable=True, **options)
        ours = steps(
            start * alpha[0], way, lambda y, i: denoiser(y / alpha[i], sigmas[i].expand(1)), lambda i: fresh[i]
        )
        yield told("k-diffusion", name, ours, theirs)


def simvq(checkout: Path) -> Iterator[Row]:
    """The reference's own class: indices, loss in both conventions, gradient of its linear layer."""
    sys.path.insert(0, str(checkout))
    build = import_module("taming.modules.vqvae.quantize").SimVQ1D
    z = 0.3 * torch.randn(400, 16)
    for legacy in (False, True):
        theirs, ours = build(512, 16, legacy=legacy), SimVQ(512, 16)
        ours.basis.copy_(theirs.embedding.weight)
        ours.map.load_state_dict(theirs.embedding_proj.state_dict())
        (_, _, indices), losses = theirs(z.T[None])
        found = ours(z)
        loss = vq_loss(z, found.z_q, 0.25, "legacy" if legacy else "paper")["vq"]
        name = f"SimVQ reference, legacy={legacy}"
        yield name, "equal indices", f"{int((found.codes == indices).sum())} of {len(z)}"
        yield told(name, "loss", loss.detach(), losses.commitment.detach())
        mine = torch.autograd.grad(loss, ours.map.weight)[0]
        yield told(
            name, "gradient of the map", mine, torch.autograd.grad(losses.commitment, theirs.embedding_proj.weight)[0]
        )


def elapsed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def vector_quantize() -> Iterator[Row]:
    """vector-quantize-pytorch at the size of the paper: 1,500 frames, 32,768 codes of 16."""
    if find_spec("vector_quantize_pytorch") is None:
        return
    package: Any = import_module("vector_quantize_pytorch")
    ours, theirs = SimVQ(32_768, 16, bias=False), package.SimVQ(dim=16, codebook_size=32_768, rotation_trick=False)
    theirs.frozen_codebook.copy_(ours.basis)
    theirs.code_transform.load_state_dict(ours.map.state_dict())
    z = 0.25 * torch.randn(1500, 16)
    found, (_, indices, commit) = ours(z), theirs(z[None])
    name = "vector-quantize-pytorch SimVQ"
    yield name, "equal indices", f"{int((found.codes == indices[0]).sum())} of {len(z)}"
    yield told(name, "loss", vq_loss(z, found.z_q)["vq"].detach(), commit.detach())
    looks = (lambda: ours.eval().search(z), lambda: theirs(z[None]))
    ratios, mine = [], []
    with torch.no_grad():
        for _ in range(30):  # in turns: the machine may be busy
            took = [elapsed(look) for look in looks]
            ratios.append(took[1] / took[0])
            mine.append(1000 * took[0])
    low, middle, high = quantiles(ratios, n=4)
    ratio = f"{middle:.1f} (quartiles {low:.1f}, {high:.1f}; ours {median(mine):.0f} ms)"
    yield name, "time of a look-up, theirs over ours, 30 pairs", ratio
    targets = RandomProjectionQuantizer(128, BestRQConfig())
    published = package.RandomProjectionQuantizer(dim=512, codebook_size=8192, codebook_dim=16, norm=False)
    published.rand_projs.copy_(targets.projection)
    published.vq._codebook.embed.data.copy_(targets.codebook)
    mel = torch.randn(1, 4 * 1500, 128)
    right = published(mel.view(1, 1500, 512)).reshape(-1)
    same = int((targets(mel, torch.ones(1, 1500, dtype=torch.bool))[:, 0] == right).sum())
    yield "vector-quantize-pytorch RandomProjectionQuantizer", "equal targets", f"{same} of 1500"


V2 = {"channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 2, 4, 6, 10], "use_snake": True}


def network(kind: str, channels: int) -> EarVAE | EarVAE2:
    """With random weights, at published sizes but for the width."""
    if kind == "ear-vae2":
        refiner = {"dim": 256, "intermediate_dim": 1024, "num_layers": 12, "layer_norm_eps": 1e-5}
        values = {"C0": channels, "D": 128, "use_vae": True, "refiner": refiner}
        return EarVAE2(EarVAE2Config(kind="ear-vae2", model=parse(PublishedConfig2, values))).eval()
    sizes = {**V2, "channels": channels}
    values = {
        "encoder": {"config": {**sizes, "latent_dim": 128}},
        "decoder": {"config": {**sizes, "latent_dim": 64, "final_tanh": False}},
        "latent_dim": 64, "downsampling_ratio": 960, "io_channels": 2,
    }  # fmt: skip
    return EarVAE(EarVAEConfig(kind="ear-vae", model=parse(PublishedConfig, values))).eval()


def decode_once(seconds: float, kind: str, channels: int, block: int) -> None:
    """In a process of its own: decode random latents as a renderer would hand them over, and print what it took."""
    vae = network(kind, channels)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames, dim, begun, samples = round(48_000 * seconds / vae.hop), vae.config.latent_dim, time.perf_counter(), 0
    pieces = (torch.randn(min(256, frames - start), dim) for start in range(0, frames, 256))
    for sound in decode_blocks(vae, pieces, block):
        samples += sound.shape[1]
    took, most = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([samples / 48_000, loaded / 1024, most / 1024, took]))


def memory(lengths: list[float], kind: str, channels: int, block: int) -> Iterator[tuple[str, ...]]:
    for seconds in lengths:
        command = [sys.executable, "-m", "benchmarks.published", "--decode-once", str(seconds), "--kind", kind]
        command += ["--channels", str(channels), "--block", str(block)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        length, loaded, most, took = json.loads(done.stdout)
        yield f"{length:g}", f"{loaded:.0f}", f"{most:.0f}", f"{took:.0f}"


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ear-vae", type=existing_folder, metavar="CHECKOUT", help="of Eps-Acoustic-Revolution-Lab/EAR_VAE"
    )
    parser.add_argument("--json", type=Path, nargs="+", default=[], help="published configurations to compare it with")
    parser.add_argument(
        "--ear-vae2", type=existing_folder, metavar="CHECKOUT", help="of Eps-Acoustic-Revolution-Lab/EAR_VAE2"
    )
    parser.add_argument(
        "--stable-audio", type=existing_folder, metavar="CHECKOUT", help="of Stability-AI/stable-audio-tools"
    )
    parser.add_argument("--simvq", type=existing_folder, metavar="CHECKOUT", help="of youngsheen/SimVQ")
    parser.add_argument("--packages", action="store_true", help="compare with installed packages")
    parser.add_argument(
        "--memory", type=positive_number, nargs="+", default=[], metavar="SECONDS", help="decode so much sound"
    )
    parser.add_argument("--kind", choices=("ear-vae", "ear-vae2"), default="ear-vae", help="network for --memory")
    parser.add_argument(
        "--channels",
        type=positive_int,
        default=128,
        help="width of the network for --memory; published: 128, ear-VAE2: 64",
    )
    parser.add_argument("--block", type=positive_int, default=100, help="latent frames decoded at once for --memory")
    parser.add_argument("--decode-once", type=positive_number, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.json and not options.ear_vae:
        parser.error("--json compares with a checkout of EAR_VAE: name it with --ear-vae")
    torch.manual_seed(0)
    if options.decode_once is not None:
        decode_once(options.decode_once, options.kind, options.channels, options.block)
        return
    rows: list[Row] = []
    for settings in options.json:
        rows += ear_vae(options.ear_vae.resolve(), settings)
    rows += ear_vae2(options.ear_vae2.resolve()) if options.ear_vae2 else []
    # k-diffusion before what stands in for it
    rows += [*vector_quantize(), *k_diffusion()] if options.packages else []
    rows += stable_audio(options.stable_audio.resolve()) if options.stable_audio else []
    rows += simvq(options.simvq.resolve()) if options.simvq else []
    if rows:
        print(table(("part", "what", "largest difference"), rows))
    if options.memory:
        heads = ("seconds of sound", "MB with the network", "MB at most", "seconds taken")
        print(table(heads, []))
        for row in memory(
            options.memory, options.kind, options.channels, options.block
        ):  # as they come: a long one takes its time
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()

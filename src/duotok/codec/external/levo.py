"""LeVo's two-stream tokenizer: vocals and accompaniment with a codebook each, decoded together."""

from __future__ import annotations

from duotok.codec.entry import TOGETHER, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="levo",
        what="LeVo (SongGeneration) at 48 kHz stereo: two codebooks of 16,384 at 25 frames a second, one a track",
        sample_rate=48_000,
        channels=2,
        frame_rate=25.0,
        codebooks=1,
        codebook_size=16_384,
        streams=TOGETHER + "; decodes to the mix only",
        code_licence="Tencent's own: academic, research and education only",
        weights_licence="the same: no commercial use",
        needs="own environment, its repository, weights, a GPU to decode in reasonable time",
        get=(
            "git clone https://github.com/tencent-ailab/SongGeneration",
            "hf download lglg666/SongGeneration-Runtime --local-dir SongGeneration",
        ),
        use="--model external:levo.yaml",
        windows="the whole sound at once: it cuts windows of 40 s itself without overlap and repeats a short sound until one is full; a code "
        "depends on its place in the window. Its extra last frame is left out. Its third stream, of the mix, is not read",
        verified="its own code with small random weights: codes, sound and vectors as by its own calls; official weights and the code that "
        "comes with them were not there",
        cite="Lei et al., LeVo: High-Quality Song Generation with Multi-Preference Alignment, 2025, arXiv:2506.07520",
        read="github.com/tencent-ailab/SongGeneration b1b03ec93a38",
    ),
    ADAPTERS / "levo.py",
    rates=(48_000,),
    hops=(1920,),
    environment="python3.10 -m venv ~/envs/levo && ~/envs/levo/bin/pip install -r SongGeneration/requirements.txt && "
    "~/envs/levo/bin/pip install --no-deps -r SongGeneration/requirements_nodeps.txt",
    weights="SongGeneration/ckpt/model_septoken/model_2.safetensors",
    options="vae_config: PATH, vae_model: PATH, steps: 10, seed: 0",
)

"""SemantiCodec: a semantic and an acoustic code a frame, AudioMAE and k-means below, diffusion above."""

from __future__ import annotations

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="semanticodec",
        what="SemantiCodec at 16 kHz: a semantic code of 4096 to 32,768 and an acoustic one of 8192 a frame, 12.5 to 50 frames a second",
        sample_rate=16_000,
        channels=1,
        frame_rate=50.0,
        codebooks=2,
        codebook_size=(16384, 8192),
        streams=EACH_TRACK,
        code_licence="MIT (setup.py; its licence file names somebody else)",
        weights_licence="none stated where it was read",
        needs="own environment, weights",
        get=("hf download haoheliu/SemantiCodec --local-dir models/semanticodec",),
        use="--model external:semanticodec.yaml",
        windows="the whole sound at once: it cuts segments of 10.24 s itself; a code sees its segment, and the silence that fills the "
        "last one changes its codes. 8, 4 or 2 frames (of 0.16 s) are patches from low to high of one moment, not one after another",
        verified="its own code with random weights in the published sizes: codes, sound and vectors as by its own calls; official weights "
        "were not there",
        cite="Liu et al., SemantiCodec: An Ultra Low Bitrate Semantic Audio Codec for General Sound, 2024, arXiv:2405.00233",
        read="github.com/haoheliu/SemantiCodec-inference 7c05d426d",
    ),
    ADAPTERS / "semanticodec.py",
    rates=(16_000,),
    hops=(320, 640, 1280),
    environment="python3 -m venv ~/envs/semanticodec && ~/envs/semanticodec/bin/pip install "
    "git+https://github.com/haoheliu/SemantiCodec-inference.git requests",  # imported, and no longer brought by huggingface_hub
    checkout=False,
    weights="models/semanticodec",
    options="token_rate: 100, semantic_vocab_size: 16384, steps: 50, guidance: 2.0, seed: 0",
)

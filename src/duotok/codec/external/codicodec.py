"""CoDiCodec: summaries of chunks, continuous or quantized by scalars."""

from __future__ import annotations

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="codicodec",
        what="CoDiCodec at 44.1 or 48 kHz stereo: 128 codes of 14,641 (4 scalars of 11 levels) for every 32,768 samples",
        sample_rate=44_100,
        channels=2,
        frame_rate=44_100 / 256,
        codebooks=1,
        codebook_size=14_641,
        streams=EACH_TRACK,
        code_licence="CC BY-NC 4.0",
        weights_licence="CC BY-NC 4.0: to compare with, not to build upon",
        needs="own environment, weights",
        get=("hf download SonyCSLParis/codicodec codicodec.pt --local-dir models/codicodec",),
        use="--model external:codicodec.yaml",
        windows="a chunk of 0.74 s is coded by itself but for the edges of its Fourier transform: windows of 40 chunks with 2 of context. The "
        "128 codes of a chunk are a set: their order is no time, and frames are exact for chunks only",
        verified="pip codicodec 0.1.2 with random weights in its architecture: codes and frames as by its own calls, windows as the whole; "
        "official weights were not there",
        cite="Pasini et al., CoDiCodec: Unifying Continuous and Discrete Compressed Representations of Audio, 2025, arXiv:2509.09836",
        read="github.com/SonyCSLParis/codicodec 8e19014e2ce6; pip codicodec 0.1.2",
    ),
    ADAPTERS / "codicodec.py",
    rates=(44_100, 48_000),
    hops=(256,),
    environment="python3 -m venv ~/envs/codicodec && ~/envs/codicodec/bin/pip install codicodec",
    checkout=False,
    options="rate: 44100, seed: 0",
    more=("steps",),
)

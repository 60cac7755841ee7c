"""HeartCodec: codes to sound; the other way was not published."""

from __future__ import annotations

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="heartcodec",
        what="HeartCodec at 48 kHz stereo: 8 codebooks of 8192 at 12.5 frames a second, decoding only",
        sample_rate=48_000,
        channels=2,
        frame_rate=12.5,
        codebooks=8,
        codebook_size=8192,
        streams=EACH_TRACK,
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        needs="own environment, weights",
        get=("hf download HeartMuLa/HeartCodec-oss-20260123 --local-dir models/heartcodec",),
        use="--model external:heartcodec.yaml",
        windows="the whole song at once: it decodes windows of 29.76 s itself, which overlap, from noise (seed). No encoder of it was "
        "published, so it codes no sound and cannot be packed or compared",
        verified="its own code with small random weights: sound as by its own call with the same seed; official weights were not there",
        cite="HeartMuLa: A Family of Open Sourced Music Foundation Models, 2026",
        read="github.com/HeartMuLa/heartlib 3981c52f2cab",
        encodes=False,
    ),
    ADAPTERS / "heartcodec.py",
    rates=(48_000,),
    hops=(3840,),
    environment="python3.10 -m venv ~/envs/heartcodec && ~/envs/heartcodec/bin/pip install git+https://github.com/HeartMuLa/heartlib",
    checkout=False,
    options="steps: 10, guidance: 1.25, seed: 0",
    pickle=False,
)

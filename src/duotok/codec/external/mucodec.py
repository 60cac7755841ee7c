"""MuCodec: MuQ's features in one codebook, flow matching above."""

from __future__ import annotations

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="mucodec",
        what="MuCodec at 48 kHz stereo: one codebook of 16,384 at 25 frames a second",
        sample_rate=48_000,
        channels=2,
        frame_rate=25.0,
        codebooks=1,
        codebook_size=16_384,
        streams=EACH_TRACK,
        code_licence="MIT",
        weights_licence="CC BY-NC 4.0: to compare with, not to build upon",
        needs="own environment (Python 3.8, fairseq), its repository, weights, a GPU to decode in reasonable time",
        get=(
            "git clone https://github.com/xuyaoxun/MuCodec",
            "hf download yaoxunxu/mucodec --local-dir MuCodec  # then muq.pt into muq_dev/, mucodec.pt into ckpt/, audioldm_48k.pth into tools/",
        ),
        use="--model external:mucodec.yaml",
        windows="the whole sound at once: it cuts windows of 40.97 s itself without overlap, repeats a short sound until one is full, and "
        "scales what is louder than 0.8; a code depends on its place in the window. Its extra last frame is left out",
        verified="its own code with small random weights, MuQ without fairseq: codes, sound and vectors as by its own calls; official weights "
        "were not there",
        cite="Xu et al., MuCodec: Ultra Low-Bitrate Music Codec, 2024, arXiv:2409.13216",
        read="github.com/xuyaoxun/MuCodec 128f91be6c14",
    ),
    ADAPTERS / "mucodec.py",
    rates=(48_000,),
    hops=(1920,),
    # Not its requirements.txt: torch 2.2.0+cu118 is not on PyPI, and av 11 is built against FFmpeg. These are its versions of what is
    # imported. fairseq's omegaconf is refused by pip 24.1 and later; Python 3.8 comes with an older pip.
    environment="python3.8 -m venv ~/envs/mucodec && ~/envs/mucodec/bin/pip install torch==2.2.0 torchaudio==2.2.0 fairseq==0.12.2 "
    "transformers==4.42.4 diffusers==0.27.2 huggingface-hub==0.23.5 einops librosa==0.9.2 nnAudio==0.3.3 numpy==1.23.5 scipy safetensors",
    options="steps: 20, seed: 0",
    weights="MuCodec/ckpt/mucodec.pt",
)

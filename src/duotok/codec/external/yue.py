"""X-Codec as YuE uses it: vocals and instruments with the same codebooks, two streams."""

from __future__ import annotations

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="yue-xcodec",
        what="X-Codec of YuE at 16 kHz: 8 of 12 codebooks, one set for both tracks",
        sample_rate=16_000,
        channels=1,
        frame_rate=50.0,
        codebooks=12,
        codebook_size=1024,
        streams=EACH_TRACK,
        code_licence="Apache-2.0 (YuE; xcodec_mini_infer holds code of others)",
        weights_licence="Apache-2.0 (m-a-p/xcodec_mini_infer, as its card says)",
        needs="own environment, its repository, weights",
        get=(
            "git clone https://huggingface.co/m-a-p/xcodec_mini_infer",
            "python -m duotok.convert xcodec_mini_infer/final_ckpt/ckpt_00360000.pth xcodec.safetensors",
        ),
        use="--model external:yue.yaml --codebooks 8",
        windows="HuBERT's attention spans the window: windows of 20 s with 2 s of context; only sounds of up to 20 s are as coded whole. "
        "Decodes to 16 kHz; YuE's Vocos decoders to 44.1 kHz are not used",
        verified="its own code with random weights in the published configuration: codes, sound and vectors as by its own calls, frames at "
        "every remainder; official weights were not there",
        cite="Yuan et al., YuE: Scaling Open Foundation Models for Long-Form Music Generation, 2025, arXiv:2503.08638",
        read="github.com/multimodal-art-projection/YuE 9f1394bae1d8; the codec as copied in github.com/thr3a/YuE-for-Docker b45f8e226b4d "
        "and github.com/xwzliang/ComfyUI_YuE 7f5edfa56b05",
    ),
    ADAPTERS / "yue.py",
    rates=(16_000,),
    hops=(320,),
    environment="python3 -m venv ~/envs/yue-xcodec && ~/envs/yue-xcodec/bin/pip install torch torchaudio transformers einops pyyaml "
    "omegaconf safetensors descript-audiotools numpy",
    options="config: xcodec_mini_infer/final_ckpt/config.yaml",
    pickle=False,
)

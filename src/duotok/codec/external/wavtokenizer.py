"""WavTokenizer: one codebook at 40 or 75 frames a second."""

from __future__ import annotations

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="wavtokenizer",
        what="WavTokenizer at 24 kHz: one codebook of 4096, 75 frames a second (40 with hop 600)",
        sample_rate=24_000,
        channels=1,
        frame_rate=75.0,
        codebooks=1,
        codebook_size=4096,
        streams=EACH_TRACK,
        code_licence="MIT",
        weights_licence="see the card of novateur/WavTokenizer",
        needs="own environment, its repository, weights",
        get=(
            "git clone https://github.com/jishengpeng/WavTokenizer",
            "hf download novateur/WavTokenizer WavTokenizer_small_320_24k_4096.ckpt --local-dir models",
        ),
        use="--model external:wavtokenizer.yaml",
        windows="convolutions, a bidirectional LSTM and attention in the decoder: windows of 20 s with 2 s of context; only sounds of "
        "up to 20 s are as coded whole",
        verified="its own code with random weights in the published architecture: frames, shapes, codes as by its own calls; official "
        "weights were not there",
        cite="Ji et al., WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language Modeling, 2024, "
        "arXiv:2408.16532",
        read="github.com/jishengpeng/WavTokenizer 5cf440d91ac4",
    ),
    ADAPTERS / "wavtokenizer.py",
    rates=(24_000,),
    hops=(320, 600),
    environment="python3 -m venv ~/envs/wavtokenizer && ~/envs/wavtokenizer/bin/pip install torch torchaudio encodec einops "
    "huggingface_hub pyyaml safetensors transformers pytorch-lightning numpy scipy matplotlib soundfile",
    options="config: WavTokenizer/configs/wavtokenizer_smalldata_frame75_3s_nq1_code4096_dim512_kmeans200_attn.yaml",
)

"""The semantic tokenizer of Open-Qwen-Music: the numbers of DuoTok, of the mix."""

from __future__ import annotations

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

KNOWN = Known(
    Entry(
        name="open-qwen-music",
        what="Open-Qwen-Music at 24 kHz: one codebook of 32,768 at 25 frames a second, causal",
        sample_rate=24_000,
        channels=1,
        frame_rate=25.0,
        codebooks=1,
        codebook_size=32_768,
        streams=EACH_TRACK,
        code_licence="Apache-2.0",
        weights_licence="see the card of oqmtest1451/open-qwen-music-weights",
        needs="own environment, its repository, weights",
        get=(
            "git clone https://github.com/biang15343100-source/Open-Qwen-Music",
            "hf download oqmtest1451/open-qwen-music-weights --local-dir models/open-qwen-music",
        ),
        use="--model external:open-qwen-music.yaml --mix",
        windows="causal, trained on songs of up to 300 s as they are: windows of 300 s with 30 s of context, which a song rarely needs. Encodes "
        "only: sound comes from a renderer, an autoencoder and a refiner beside the tokenizer, which are not used here",
        verified="the files of its encoder with random weights in the published configuration: codes and vectors as by its own calls; "
        "official weights were not there",
        cite="Yu and Yang, Open-Qwen-Music, 2026; Xu et al., Qwen-Music Technical Report, 2026, arXiv:2607.11699",
        read="github.com/biang15343100-source/Open-Qwen-Music e670a01944ee",
        decodes=False,
    ),
    ADAPTERS / "open_qwen_music.py",
    rates=(24_000,),
    hops=(960,),
    environment="python3 -m venv ~/envs/open-qwen-music && ~/envs/open-qwen-music/bin/pip install -e Open-Qwen-Music safetensors",
    pickle=False,
    weights="models/open-qwen-music    # or a tokenizer.pt, a pickle, as its training exports",
)

"""MOSS-Audio-Tokenizer, and its small one for stereo."""

from __future__ import annotations

from dataclasses import replace

from duotok.codec.entry import EACH_TRACK, Entry
from duotok.codec.external.known import ADAPTERS, Known

ENTRY = Entry(
    name="moss",
    what="MOSS-Audio-Tokenizer at 24 kHz: transformers of 1.6 billion parameters, 32 codebooks at 12.5 frames a second",
    sample_rate=24_000,
    channels=1,
    frame_rate=12.5,
    codebooks=32,
    codebook_size=1024,
    streams=EACH_TRACK,
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0 (its README, with a TODO beside it)",
    needs="own environment, weights with their code",
    get=("hf download OpenMOSS-Team/MOSS-Audio-Tokenizer --local-dir models/moss",),
    use="--model external:moss.yaml --codebooks 8",
    windows="causal, every layer looks back 10 s: windows of 30 s with 10 s of context; the first is as coded whole",
    verified="its own code with small random weights: codes, sound and frames as by its own calls; official weights were not there",
    cite="MOSS-Audio-Tokenizer: Scaling Audio Tokenizers for Future Audio Foundation Models, 2026, arXiv:2602.10934",
    read="github.com/OpenMOSS/MOSS-Audio-Tokenizer 56df9eeb88f7",
)
KNOWN = Known(
    ENTRY,
    ADAPTERS / "moss.py",
    rates=(24_000,),
    hops=(1920,),
    environment="python3 -m venv ~/envs/moss && ~/envs/moss/bin/pip install torch transformers==5.0.0 safetensors numpy",
    checkout=False,
    more=("channels",),
    pickle=False,
    weights="models/moss",
)
NANO = replace(
    KNOWN,
    entry=replace(
        ENTRY,
        name="moss-nano",
        what="MOSS-Audio-Tokenizer-Nano at 48 kHz stereo: transformers of 22 million parameters, 16 codebooks at 12.5 frames a second",
        sample_rate=48_000,
        channels=2,
        codebooks=16,
        get=("hf download OpenMOSS-Team/MOSS-Audio-Tokenizer-Nano --local-dir models/moss-nano",),
        use="--model external:moss-nano.yaml --codebooks 8",
        windows="causal, layers look back 4 to 10 s: the whole, in pieces of 4 s that keep the memory of every layer; as coded at once",
        verified="its code's encode and decode, transcribed from an indexed copy, with random weights in the published sizes: codes, "
        "sound and vectors as by its own calls; official weights, and the very files of the hub, were not there",
        read="github.com/OpenMOSS/MOSS-TTS-Nano 42b46456f414, and copies of its modeling_moss_audio_tokenizer.py",
    ),
    rates=(48_000,),
    hops=(3840,),
    environment=KNOWN.environment.replace("envs/moss", "envs/moss-nano"),
    weights="models/moss-nano",
)

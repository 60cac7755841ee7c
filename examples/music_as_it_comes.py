"""Music of the language model, heard while it is written: tokens go to the renderer as they come, sound goes out as it comes.

python examples/music_as_it_comes.py 30 > music.raw            float32 stereo at 48 kHz, block by block
python examples/music_as_it_comes.py 30 | ffplay -f f32le -ar 48000 -ch_layout stereo -i -
python examples/music_as_it_comes.py 30 --wav music.wav
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from duotok import DuoTok
from duotok.audio.io import Writer
from duotok.lm.generate import generate_pieces
from duotok.lm.sampling import TokenSampling
from duotok.lm.saved import open_lm
from duotok.renderer.render import RenderPlan, RenderSettings


def plan_of(window: int) -> RenderPlan:
    """window: latent frames (20 ms) of the renderer, which is what the first sound waits for. Raises ValueError for too few."""
    return RenderPlan(window=window, context=32, crossfade=16, decode_block=window // 4)


def music(seconds: float, seed: int, plan: RenderPlan) -> Iterator[Tensor]:
    """Blocks `[2, samples]`."""
    model, lm = DuoTok.from_pretrained("mini"), open_lm("mini")
    stream = model.stream(settings=RenderSettings(steps=8, seed=seed, plan=plan))
    print(f"sound comes at most {stream.look_ahead.decoding:.1f} s of music after its tokens", file=sys.stderr)
    pieces = generate_pieces(lm, seed, seconds, sampling=TokenSampling(), frames=5)
    for block in stream.decode(pieces):
        yield block if len(block) == 2 else block.expand(2, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=int, default=256, help="latent frames of 20 ms that the first sound waits for; 96 and more")
    parser.add_argument("--wav", help="a file instead of standard output")
    options = parser.parse_args()
    try:
        plan = plan_of(options.window)
    except ValueError:
        parser.error(f"--window {options.window}: too short for its context and crossfade; give 96 or more")
    began, heard, blocks = time.monotonic(), 0.0, music(options.seconds, options.seed, plan)

    def told() -> Iterator[Tensor]:
        nonlocal heard
        for block in blocks:
            heard += block.shape[1] / 48_000
            print(f"{time.monotonic() - began:6.1f} s: {heard:.1f} s of music", file=sys.stderr)
            yield block

    if options.wav:
        with Writer(options.wav, 48_000, 2, comment="duotok generated") as writer:
            for block in told():
                writer.write(block)
    else:
        for block in told():
            sys.stdout.buffer.write(block.T.contiguous().to(torch.float32).numpy().tobytes())
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

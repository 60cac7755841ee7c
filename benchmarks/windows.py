"""How far rendering in windows is from rendering whole, by the context that each window throws away.

    python -m benchmarks.windows                          the bundle's renderers on the codes of the packaged song
    python -m benchmarks.windows --steps 1 8 --context 0 32 64 128

Root mean square of the difference of latents (they have unit variance) over all frames of the middle of the song. Windows of 256
latent frames, blended over 32. Whole: one window as long as the song.
"""

from __future__ import annotations

import torch

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import conditions, parser, show, table
from duotok.audio.io import read
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.demo.report import demo_song
from duotok.renderer.render import RenderPlan, RenderSettings, latents
from duotok.tracks import TRACKS

WINDOW, CROSSFADE = 256, 32


def measure(model: DuoTok, seconds: float, steps: list[int], contexts: list[int]) -> list[dict[str, float | str]]:
    """One row for each track, number of steps and context."""
    song = demo_song()
    assert song.truth is not None
    stems = [read(path, SAMPLE_RATE, seconds=seconds) for path in song.truth]
    tokens = model.encode(vocals=stems[0], accompaniment=stems[1])
    frames = 2 * tokens.n_frames
    rows: list[dict[str, float | str]] = []
    for track in TRACKS:
        vectors = model.code_vectors(tokens, track)
        for count in steps:
            whole = latents(
                model.dit(track),
                vectors,
                RenderSettings(count, plan=RenderPlan(window=frames, context=0, crossfade=0)),
                track=track,
            )
            for context in contexts:
                plan = RenderPlan(window=WINDOW, context=context, crossfade=CROSSFADE)
                cut = latents(model.dit(track), vectors, RenderSettings(count, plan=plan), track=track)
                error = float((cut - whole).square().mean().sqrt())
                rows.append({"track": track, "steps": count, "context": context, "rms": error})
    return rows


@mistakes_in_one_line
def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--seconds", type=positive_number, default=30.0)
    arguments.add_argument("--steps", type=positive_int, nargs="+", default=[1, 8])
    arguments.add_argument("--context", type=int_from_0, nargs="+", default=[0, 32, 64])
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model = DuoTok.from_pretrained(options.model, options.device)
    rows = measure(model, options.seconds, options.steps, options.context)
    cells = [[row[name] for name in ("track", "steps", "context", "rms")] for row in rows]
    head = ["track", "steps", "context, latent frames", "rms against whole"]
    show({"conditions": conditions(model, options.threads), "rows": rows}, [table(head, cells)], options.json)


if __name__ == "__main__":
    main()

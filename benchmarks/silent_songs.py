"""How often a generated song is silent, by how much of the distribution sampling cuts off.

    python -m benchmarks.silent_songs                  the packaged language model: 8 songs of 10 s each, two settings
    python -m benchmarks.silent_songs --lm RUN --songs 32

Silent: the decoded track stays under -50 dBFS (root mean square of 0.1 s) for nine tenths of its length. Settings: the defaults of
`duotok generate`, and `--temperature 0.9 --top-k 200 --top-p 0.95`.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import conditions, parser, show, table
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError
from duotok.lm.generate import generate
from duotok.lm.sampling import TokenSampling
from duotok.lm.saved import open_lm
from duotok.lm.streams import codec_identity
from duotok.tokens import DualTokens
from duotok.tracks import TRACKS

SETTINGS = {"defaults": TokenSampling(), "temperature 0.9, top-k 200, top-p 0.95": TokenSampling(0.9, 200, 0.95)}
SILENT = 10 ** (-50 / 20)


def silent(sound: torch.Tensor) -> bool:
    """Whether `[channels, samples]` at 48 kHz is silent nearly all the time."""
    mono = sound.mean(0)
    blocks = mono[: len(mono) // 4800 * 4800].view(-1, 4800).square().mean(1).sqrt()
    return float((blocks > SILENT).float().mean()) < 0.1


@mistakes_in_one_line
def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--lm", default="mini", help="a run of `duotok train lm`, its export, or the packaged one's name"
    )
    arguments.add_argument("--songs", type=positive_int, default=8)
    arguments.add_argument("--seconds", type=positive_number, default=10.0)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model, lm = DuoTok.from_pretrained(options.model, options.device), open_lm(options.lm, options.device)
    learned, given = lm.protocol.codec, codec_identity(model)
    if (learned.hash, learned.streams) != (given.hash, given.streams):
        raise DuoTokError(
            f"--lm {options.lm}: its tokens are not those of {options.model}; name the --model that made them"
        )
    rows: list[dict[str, Any]] = []
    for name, sampling in SETTINGS.items():
        counts = [0, 0, 0]
        for song in generate(lm, range(options.songs), options.seconds, sampling=sampling):
            codes = [torch.from_numpy(song.tokens[track][0]).long() for track in TRACKS]
            tokens = DualTokens.from_codes(*codes, codebook_sizes=model.codebook_sizes, model_hash=model.model_hash)
            counts[sum(silent(model.decode(tokens, track)) for track in TRACKS)] += 1
        rows.append({"setting": name, "none silent": counts[0], "one": counts[1], "both": counts[2]})
    head = ["setting", "none silent", "one", "both"]
    result = {"conditions": conditions(model, options.threads), "rows": rows}
    show(result, [table(head, [[row[key] for key in head] for row in rows])], options.json)


if __name__ == "__main__":
    main()

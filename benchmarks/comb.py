"""Lines at multiples of the decoder's frame rate (the comb) in decoded steady notes.

A steady note of --partials partials (1 / number each) is encoded as one track, the other is silence, and that track is decoded.
Of the decoded sound's spectrum, in lines of 1 Hz up to 4 kHz, in dB: the note (all lines of its partials) and the comb (all
lines at multiples of 50 Hz, the rate of the latents, that are no partials; half of them are those of 100 Hz, the decoder's
frames) against the note that went in; comb against note; by how much the lines at multiples of 100 Hz stand out of what is
beside them; the same of the odd multiples of 50 Hz, of 25 Hz (the tokens), and of lines 12 Hz off, where nothing makes any.

    python -m benchmarks.comb
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import show, table
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError
from duotok.tracks import TRACKS

TOP = 4000.0
LEVEL_DB = -18.0
"""RMS of a note, dB below full scale."""
NEAR = 12.0
"""Hz: a line of the comb so near to a partial does not count."""
SHORTEST = 2.0
COMBS = {
    "excess at 100 Hz": (100.0, 100.0), "excess at 50 Hz": (50.0, 100.0), "excess at 25 Hz": (75.0, 50.0),
    "excess beside": (112.0, 50.0),
}  # fmt: skip
"""First line and the distance to the next, Hz."""


def spectrum(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    """Power in bins of 1 Hz: Hann windows of a second, half overlapped; a sine of amplitude 1 has 0.5 in three bins."""
    window = np.hanning(SAMPLE_RATE + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(sound, SAMPLE_RATE)[:: SAMPLE_RATE // 2]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    found: NDArray[np.float64] = 2 * power.mean(0) / (SAMPLE_RATE * float((window**2).sum()))
    return found


def line(power: NDArray[np.float64], hertz: float) -> float:
    """Power within 2 Hz of a frequency."""
    at = round(hertz)
    return float(power[at - 2 : at + 3].sum())


def excess(power: NDArray[np.float64], lines: NDArray[np.float64]) -> float:
    """dB by which lines stand out of what is 5 to 8 Hz beside them, mean."""
    found = []
    for hertz in lines:
        at = round(float(hertz))
        beside = np.concatenate([power[at - 8 : at - 4], power[at + 5 : at + 9]])
        found.append(10 * math.log10(max(line(power, hertz), 1e-20) / max(5 * float(np.mean(beside)), 1e-20)))
    return float(np.mean(found))


def comb_lines(note: float, partials: int, first: float, step: float) -> NDArray[np.float64]:
    """Frequencies of a comb that no partial of the note is near."""
    own = note * np.arange(1, partials + 1, dtype=np.float64)
    every = np.arange(first, TOP + 1, step)
    kept: NDArray[np.float64] = every[np.abs(every[:, None] - own).min(1) > NEAR]
    return kept


def check(notes: list[float], partials: int, seconds: float) -> None:
    """Raises DuoTokError for notes of which nothing could be said, before any is decoded."""
    if seconds < SHORTEST:
        raise DuoTokError(
            f"--seconds {seconds:g}: give {SHORTEST:g} or more; a window of 1 s, and half a second at each end is left out"
        )
    for note in notes:
        if note >= TOP:
            raise DuoTokError(f"--notes {note:g}: give less than {TOP:g} Hz")
        if not all(len(comb_lines(note, partials, first, step)) for first, step in COMBS.values()):
            raise DuoTokError(
                f"--notes {note:g}: its {partials} partials are near to every line of a comb; give a higher note, or fewer --partials"
            )


def measure(sound: NDArray[np.float32], note: float, partials: int, given: float) -> dict[str, float]:
    """The figures of a decoded note; given: the power of the one that went in."""
    power = spectrum(sound)
    own = note * np.arange(1, partials + 1, dtype=np.float64)

    def level(found: NDArray[Any]) -> float:
        return 10 * math.log10(max(sum(line(power, hertz) for hertz in found), 1e-20) / given)

    kept, comb = level(own[own < TOP]), level(comb_lines(note, partials, 50, 50))
    return {
        "note": kept, "comb": comb, "comb over note": comb - kept,
        **{name: excess(power, comb_lines(note, partials, *lines)) for name, lines in COMBS.items()},
    }  # fmt: skip


def decoded(model: DuoTok, track: str, sound: Tensor, steps: int | None) -> NDArray[np.float32]:
    """One track of its tokens; half a second at each end is left out: there the note begins and ends."""
    stems = {name: sound if name == track else torch.zeros_like(sound) for name in TRACKS}
    found = model.decode(model.encode(**stems), track, steps=steps).mean(0)  # type: ignore[arg-type]
    edge = SAMPLE_RATE // 2
    kept: NDArray[np.float32] = found[edge:-edge].numpy()
    return kept


def steady(note: float, partials: int, seconds: float) -> Tensor:
    time = torch.arange(round(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    sound = sum(torch.sin(2 * math.pi * k * note * time + k * k) / k for k in range(1, partials + 1))
    assert isinstance(sound, Tensor)
    return (sound * 10 ** (LEVEL_DB / 20) / sound.square().mean().sqrt()).float()


@mistakes_in_one_line
def main() -> None:
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--model", default="mini", help="a bundle: its folder, its name, or owner/name on the hub")
    options_of.add_argument("--notes", type=positive_number, nargs="+", default=[131.0, 233.0, 440.0, 784.0], help="Hz")
    options_of.add_argument("--partials", type=positive_int, default=12, help="1: a sine")
    options_of.add_argument("--seconds", type=positive_number, default=4.0, help="of each note")
    options_of.add_argument("--steps", type=positive_int, help="of decoding; default: the bundle's")
    options_of.add_argument("--threads", type=positive_int, default=2, help="CPU threads of torch")
    options_of.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = options_of.parse_args()
    check(options.notes, options.partials, options.seconds)
    torch.set_num_threads(options.threads)
    model = DuoTok.from_pretrained(options.model)
    rows: list[dict[str, Any]] = []
    for track in TRACKS:
        for note in options.notes:
            sound = steady(note, options.partials, options.seconds)
            found = decoded(model, track, sound, options.steps)
            rows.append({"track": track, "Hz": note, **measure(found, note, options.partials, 10 ** (LEVEL_DB / 10))})
    names = [name for name in rows[0] if name != "track"]
    means: dict[str, Any] = {
        track: {name: float(np.mean([row[name] for row in rows if row["track"] == track])) for name in names[1:]}
        for track in TRACKS
    }
    shown = [[row["track"], f"{row['Hz']:g}", *(f"{row[name]:.1f}" for name in names[1:])] for row in rows]
    shown += [[track, "mean", *(f"{value:.1f}" for value in means[track].values())] for track in TRACKS]
    conditions = {
        "model": model.model_id,
        "partials": options.partials,
        "seconds": options.seconds,
        "threads": options.threads,
    }
    result = {"conditions": conditions, "notes": rows, "means": means}
    show(result, [table(["track", *names], shown)], options.json)


if __name__ == "__main__":
    main()

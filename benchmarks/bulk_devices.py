"""`duotok tokenize` on a device against the CPU: the tokens of stores, in batches, by several processes, killed and gone on; and a device that fails.

    python -m benchmarks.bulk_devices -o bulk.json                     songs that it makes itself; two or three minutes on a GPU
    python -m benchmarks.bulk_devices --music FOLDER -o bulk.json      songs of your own
    python -m benchmarks.bulk_devices --device cpu                     the same path without a GPU: every token has to be equal

Every run is the command itself. "needed" is what a row is held to; the exit code is 1 when one falls short. What it compares are tokens,
not bytes: on a GPU a token near a tie may fall to the other side with another batch (docs/tokens.md).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int
from benchmarks.gpu import EQUAL_TOKENS, Row, made_clip
from benchmarks.output import conditions, parser, show, table
from duotok.audio.io import write
from duotok.cli.files import check_writable
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError
from duotok.files import write_bytes
from duotok.lm.token_store import TokenStore
from duotok.records import SPLITS
from duotok.tracks import TRACKS

SONGS = 16
BATCH = 16
SHORTEST, LONGEST = 4.0, 40.0
LEFT_FREE = 1 << 28
"""Bytes that stay free on a full device: too few for a model and its windows."""
Tokens = dict[str, dict[str, Any]]


def make_songs(folder: Path, number: int, mixes: bool) -> None:
    """Songs of several lengths (s): every second one a mix, if mixes are to be separated, the others given stems."""
    folder.mkdir()
    for k in range(number):
        seconds = SHORTEST + (LONGEST - SHORTEST) * k / max(1, number - 1)
        vocals, accompaniment = made_clip(2 * k, seconds), made_clip(2 * k + 1, seconds)
        if mixes and k % 2:
            write(folder / f"song-{k}.flac", vocals + accompaniment, SAMPLE_RATE)
        else:
            write(folder / f"song-{k}.vocals.flac", vocals, SAMPLE_RATE)
            write(folder / f"song-{k}.accompaniment.flac", accompaniment, SAMPLE_RATE)


def tokens_of(folder: Path) -> Tokens:
    """id -> track -> tokens of every song of a store. Raises TokenFileError."""
    store = TokenStore(folder)
    songs = (
        song for split in SPLITS for shard in store.of(split) for k in range(len(shard.groups)) for song in store.group(shard, k)
    )  # fmt: skip
    return {song.id: {track: np.asarray(song.tokens[track]) for track in TRACKS} for song in songs}


def shares(true: Tokens, found: Tokens) -> dict[str, float]:
    """Share of equal tokens of each track; a song that one of the two lacks, or has in another length, counts as unequal."""
    result: dict[str, float] = {}
    for track in TRACKS:
        same = total = 0
        for id in true.keys() | found.keys():
            pair = [tokens[id][track] for tokens in (true, found) if id in tokens]
            total += max(one.size for one in pair)
            if len(pair) == 2 and pair[0].shape == pair[1].shape:
                same += int((pair[0] == pair[1]).sum())
        result[track] = same / max(1, total)
    return result


@dataclass
class Ran:
    """code: of the command; facts: its --json; said: what it said besides; seconds: of all of it."""

    code: int
    facts: dict[str, Any]
    said: str
    seconds: float

    @property
    def last(self) -> str:
        return (self.said.strip().splitlines() or [""])[-1]


class Tokenizer:
    """Runs `duotok tokenize` on the songs of a folder."""

    def __init__(self, music: Path, stores: Path, model: str) -> None:
        self.music, self.stores, self.model = music, stores, model

    def command(self, store: str, device: str, *more: str) -> list[str]:
        words = [str(self.music), "-o", str(self.stores / store), "--model", self.model, "--device", device]
        return [sys.executable, "-m", "duotok", "tokenize", *words, "--json", *more]

    def run(self, store: str, device: str, *more: str) -> Ran:
        began = time.perf_counter()
        done = subprocess.run(self.command(store, device, *more), capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        facts = json.loads(done.stdout) if done.stdout.strip() else {}
        return Ran(done.returncode, facts, done.stderr, seconds)

    def killed(self, store: str, device: str, songs: int, *more: str) -> bool:
        """Begin, and kill everything once the ledgers have so many songs. False: it was over before."""
        process = subprocess.Popen(
            self.command(store, device, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )  # fmt: skip
        while process.poll() is None:
            if sum(path.read_bytes().count(b"\n") for path in (self.stores / store).glob("ledger/*.jsonl")) >= songs:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.02)
        return False

    def compared(self, what: str, against: str, true: Tokens, store: str, ran: Ran, needed: float | None) -> Row:
        """The tokens of a store against others; a run that did not end well is an error of the row."""
        if ran.code or not ran.facts or "Traceback" in ran.said:
            return Row(what, against, {}, needed, error=f"exit code {ran.code}: {ran.last}"[:300])
        return Row(what, against, shares(true, tokens_of(self.stores / store)), needed)


def speed(ran: Ran) -> float:
    """Seconds of music that a second gave, start and all."""
    return float(ran.facts.get("seconds", 0.0)) / ran.seconds


@contextmanager
def filled(device: str) -> Iterator[None]:
    """Nearly all memory of a GPU is taken for the block."""
    free, _ = torch.cuda.mem_get_info(device)
    block = torch.empty(max(0, free - LEFT_FREE), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del block
        torch.cuda.empty_cache()


def failing(told: str, ran: Ran, *needed: str) -> Row:
    """A run that cannot work ends with a line that says why: 1 when it does."""
    good = ran.code == 1 and "Traceback" not in ran.said and all(word in ran.said for word in needed)
    return Row(
        told, "one line", {"told": float(good)}, 1.0, error="" if good else f"exit code {ran.code}: {ran.last}"[:300]
    )


def measure(tokenizer: Tokenizer, device: str) -> tuple[list[Row], dict[str, float]]:
    """Rows, and seconds of music a second of each run."""
    needed = 1.0 if device == "cpu" else EQUAL_TOKENS
    rows: list[Row] = []
    speeds: dict[str, float] = {}

    def tried(what: str, against: str, true: Tokens, needed: float | None, *more: str, on: str = device) -> Ran:
        store = what.replace(" ", "-").replace(",", "").replace(":", "")
        ran = tokenizer.run(store, on, *more)
        rows.append(tokenizer.compared(what, against, true, store, ran, needed))
        speeds[what] = speed(ran)
        return ran

    first = tokenizer.run("cpu", "cpu", "--workers", str(min(4, os.cpu_count() or 1)))
    if first.code or not first.facts:
        raise DuoTokError(f"{tokenizer.music}: the CPU could not tokenize it ({first.last})")
    speeds["the CPU"] = speed(first)
    true = tokens_of(tokenizer.stores / "cpu")
    half = len(true) // 2
    batches = ("--batch-size", str(BATCH))
    tried(f"{device}, one at once", "the CPU", true, needed)
    verified = tried(f"{device}, batches of {BATCH}", "the CPU", true, needed, *batches, "--shard-songs", "4")
    base = tokens_of(tokenizer.stores / f"{device}-batches-of-{BATCH}".replace(":", "")) if verified.facts else {}
    tried(f"{device}, two processes", f"{device}, batches", base, needed, *batches, "--workers", "2")
    checks = tokenizer.run("verified", device, *batches, "--verify", "3").facts.get("verified", [])
    counted = sum(one["tokens"] for one in checks)
    share = 1.0 - sum(one["differing"] for one in checks) / counted if counted else 0.0
    rows.append(
        Row(f"{device}, --verify 3", f"{device}, alone", {"tokens": share, "songs": float(len(checks))}, needed)
    )
    hit = tokenizer.killed("killed", device, half, *batches)
    again = tokenizer.run("killed", device, *batches)
    if hit:
        rows.append(
            tokenizer.compared(f"{device}, killed and gone on", f"{device}, batches", base, "killed", again, needed)
        )
        kept = float(again.facts.get("kept", 0))
        rows.append(Row("songs that were kept then", "at the kill", {"songs": kept}, float(half)))
    else:
        rows.append(
            Row(
                f"{device}, killed and gone on",
                f"{device}, batches",
                {},
                needed,
                error="over before the kill: give it more --songs",
            )
        )
    third = tokenizer.run("killed", device, *batches)
    rows.append(
        Row(
            "the same command once more",
            "nothing to do",
            {"encoded": float(third.facts.get("encoded", -1))},
            0.0,
            most=True,
        )
    )
    tried(f"{device}, bf16", "the CPU", true, None, *batches, "--precision", "bf16")
    if device != "cpu":
        rows.append(
            failing(
                f"{device.split(':')[0]}:99, which is not there",
                tokenizer.run("none", f"{device.split(':')[0]}:99"),
                ":99",
            )
        )
    if device.startswith("cuda"):
        with filled(device):
            ran = tokenizer.run("full", device, *batches)
        rows.append(failing(f"{device}, full", ran, "memory"))
        again = tokenizer.run("full", device, *batches, "--retry")
        rows.append(tokenizer.compared(f"{device}, free again", f"{device}, batches", base, "full", again, needed))
    return rows, speeds


@mistakes_in_one_line
def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.set_defaults(device="cuda")
    options_of.add_argument("-o", "--out", type=Path, help="write everything as JSON there")
    options_of.add_argument("--music", type=Path, help="a folder of songs (default: made ones)")
    options_of.add_argument("--songs", type=positive_int, default=SONGS, help="to be made")
    options = options_of.parse_args()
    if options.out is not None:
        check_writable(options.out)
    device = options.device
    model = DuoTok.from_pretrained(options.model)
    with tempfile.TemporaryDirectory(prefix="duotok-bulk-") as place:
        music = options.music
        if music is None:
            music = Path(place) / "music"
            make_songs(music, options.songs, mixes=model.separator is not None)
        rows, speeds = measure(Tokenizer(music, Path(place), options.model), device)
    facts = conditions(model, options.threads) | {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    }
    result = {
        "conditions": facts,
        "rows": [{**asdict(row), "passes": row.passes} for row in rows],
        "times_real_time": speeds,
    }
    if options.out is not None:
        write_bytes(options.out, json.dumps(result, indent=1).encode())
    tables = [
        table(["what", "against", "found", "needed", "passes"], [row.cells for row in rows]),
        table(["a run, its start with it", "x real time"], [[name, value] for name, value in speeds.items()]),
    ]
    show(result, tables, options.json)
    if not all(row.passes for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

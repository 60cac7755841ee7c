"""The calls to a borrowed machine that lets few bytes in and out: how long each run trains, and what each call brings and says.

Nothing is read or run here: sizes and times in, text out.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from duotok.errors import ConfigError
from duotok.recipes.mini_bundle import TASKS

SHARES = {
    "separator": 0.15, "stage1": 0.12, "stage2": 0.28, "stage3": 0.12, "stage4.accompaniment": 0.35, "stage4.vocals": 0.35,
    "adapt": 0.10, "autoencoder": 0.40, "adversarial": 0.45,
}  # fmt: skip
"""Of the time in which anything trains. What waits for nothing runs beside the rest: separator, stages 2 to 4 and adapt make 1."""
POLL = 5  # seconds between two looks at whether the training has ended


@dataclass(frozen=True)
class Door:
    """What the machine allows, in minutes and bytes, and how it is addressed.

    minutes: lent in all; start: until the first call begins; call: of each call besides its command; limit: of one command;
    length: characters of a command; piece: of one file that comes back; back: of all files of a call; files: how many of
    them; calls_back: calls for the way back; runs_back: the runs whose weights come back beside the bundle, with commas, all if
    empty; there: a folder of that machine; outbox: how its shell names the folder whose files come back.
    """

    minutes: float
    start: float = 1.0
    call: float = 0.15
    limit: float = 10.0
    length: int = 2000
    piece: int = 15 << 20
    back: int = 60 << 20
    files: int = 8
    calls_back: int = 3
    runs_back: str = ""
    there: str = "/tmp/duotok-kit"
    outbox: str = '"$OUT"'
    python: str = "python3"
    workers: int = 14
    parallel: int = 8

    @property
    def pieces(self) -> int:
        """How many pieces of results come back in one call, besides two small files."""
        return max(1, min(self.files - 2, self.back // self.piece))


@dataclass(frozen=True)
class Call:
    """bring: paths that travel with the call; command: what it runs there; about: what it is for."""

    about: str
    bring: tuple[str, ...]
    command: str
    minutes: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Minutes of all phases: getting there, preparing the data there, training, the way back; runs: of each training."""

    there: float
    setup: float
    training: float
    back: float
    runs: dict[str, float] = field(default_factory=dict)


def longest(weights: Mapping[str, float]) -> float:
    """The weight of the heaviest chain of runs that wait for each other, where all others run beside it."""
    ends: dict[str, float] = {}

    def end(name: str) -> float:
        if name not in ends:
            ends[name] = weights.get(name, 0.0) + max((end(other) for other in TASKS[name].after), default=0.0)
        return ends[name]

    return max(map(end, weights), default=0.0)


def schedule(door: Door, parts: int, hours: float, hour_minutes: float, runs: Sequence[str], shares: Mapping[str, float]) -> Schedule:  # fmt: skip
    """Minutes of each phase and of each run, so that the longest chain of runs fills what is left for training.

    parts: calls that bring something; hours: of sound that is prepared there, at `hour_minutes` each; shares: of each run, as
    SHARES. Raises ConfigError when nothing is left.
    """
    there, setup, back = (
        door.start + parts * door.call,
        0.5 + hours * hour_minutes,
        (1 + door.calls_back) * door.call + 0.3,
    )
    left = door.minutes - there - setup - back
    if left <= 0:
        raise ConfigError(
            f"--minutes {door.minutes:g}: {there:.1f} to bring {parts} parts, {setup:.1f} to prepare {hours:.1f} hours of sound and "
            f"{back:.1f} for the way back leave none to train; take fewer --parts, or say how long these take on that machine"
        )
    weights = {run: shares[run] for run in runs}
    scale = left / longest(weights) if weights else 0.0
    return Schedule(there, setup, left, back, {run: round(scale * weight, 2) for run, weight in weights.items()})


def parse_shares(texts: Sequence[str]) -> dict[str, float]:
    """SHARES with `RUN=NUMBER` laid over them. Raises ConfigError."""
    shares = dict(SHARES)
    for text in texts:
        run, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if run not in SHARES or not 0 < number < math.inf:
            raise ConfigError(f"--share {text}: write RUN=NUMBER above 0; runs are {', '.join(SHARES)}")
        shares[run] = number
    return shares


def calls(
    door: Door,
    plan: Schedule,
    kit: str,
    parts: Sequence[str],
    name: str,
    bundle: Sequence[str] | None,
    unpack: str = "",
) -> list[Call]:
    """The calls in their order, from the first part of the kit to the last piece of the results, and last one to go on with.

    kit: its folder, as the calls name what they bring; parts: names in it; name, bundle: the model and further options of
    `duotok bundle`, None where the runs make none; unpack: a packaged model whose parts are unpacked first. The first call
    starts a clock there; when the time for training is over what still trains is ended, and its newest checkpoints are packed.
    Raises ConfigError for a command that is too long.
    """
    arrive = f"set -e; mkdir -p {door.there}; mv {shlex.quote(kit)}/* {door.there}/; cd {door.there}; set +e"
    look = f"{door.python} --version; {door.python} -m pip --version; nvidia-smi -L; nproc; df -m . | tail -1"
    small = tuple(f"{kit}/{file}" for file in ("run.py", "PARTS.json", "README.md"))
    start = _start(door, unpack)
    waiting = plan.setup + plan.training
    first = min(waiting, door.limit - 0.5)
    made: list[Call] = []
    for number, part in enumerate(parts, 1):
        bring = (*(small if number == 1 else ()), f"{kit}/{part}")
        words = [arrive, *(["date +%s > began"] if number == 1 else [])]
        if number < len(parts):
            words += ["ls -l", *([look] if number == 1 else [])]
            made.append(Call(f"part {number} of {len(parts)}", bring, "; ".join(words), door.call))
            continue
        about = f"part {number} of {len(parts)}; the training starts and goes on after the call"
        command = f"{'; '.join(words)}; {start} {_wait(door, plan, door.limit - 0.5)}; {_look(door)}"
        made.append(Call(about, bring, command, first + door.call))
    made.append(
        Call(
            "wait for the end; pack; the first pieces come back. Again, if it says so",
            (),
            f"cd {door.there}; {_wait(door, plan, door.limit - 2)}; {_look(door)}; {_pack(door, name, bundle)}; {_take(door, 1)}",
            waiting - first + door.call,
        )
    )
    for number in range(2, 2 + door.calls_back):
        made.append(Call("the next pieces, if any are left", (), f"cd {door.there}; {_take(door, number)}", door.call))
    made.append(
        Call(
            "only after a training failed: go on, with `--set RUN.KEY=VALUE` after --parallel to mend it",
            (),
            f"cd {door.there}; {start} {_wait(door, plan, door.limit - 0.5)}; {_look(door)}",
        )
    )
    for call in made:
        if len(call.command) > door.length:
            raise ConfigError(
                f"{call.about}: its command has {len(call.command)} characters, over {door.length}; choose shorter names for --out "
                "and --there"
            )
    return made


def _run(door: Door) -> str:
    return f"{door.python} run.py --out out"


def _start(door: Door, unpack: str) -> str:
    """Start the training in a session of its own, so that it goes on when the call is over."""
    train = f"{_run(door)} --workers {door.workers} --parallel {door.parallel}"
    if unpack:
        train = f"([ -d out/released ] || {_run(door)} duotok bundle --unpack {unpack} --runs out/released) && {train}"
    inner = f"echo $$ > pid; ({train}) > run.log 2>&1; echo $? > ended"
    return f"rm -f ended; setsid nohup sh -c '{inner}' > /dev/null 2>&1 < /dev/null &"


def _wait(door: Door, plan: Schedule, minutes: float) -> str:
    """Until the training has ended, its time is over, or this call has waited for `minutes`."""
    span = round((plan.there - door.start - door.call + plan.setup + plan.training) * 60)
    return (
        f"E=$(($(cat began)+{span})); L=$(($(date +%s)+{max(0, round(minutes * 60))})); "
        f"until [ -f ended ] || [ $(date +%s) -ge $E ] || [ $(date +%s) -ge $L ]; do sleep {POLL}; done"
    )


def _look(door: Door) -> str:
    return f"tail -n 20 run.log; {_run(door)} --status"


def _pack(door: Door, name: str, bundle: Sequence[str] | None) -> str:
    """End what still trains, if its time is over; then weights, and the bundle, as pieces in the folder `back`."""
    pack = (
        "if [ ! -f ended ] && [ $(date +%s) -lt $E ]; then echo NOT OVER: make this call again; exit; fi; "
        "[ -f ended ] || { kill -- -$(cat pid); sleep 3; }; "
        f"rm -rf back; {_run(door)} --collect back --weights-only --piece-size {door.piece}"
        + (f" --stages {door.runs_back}" if door.runs_back else "")
    )
    if bundle is None:
        return pack
    words = " ".join([f"--runs {{runs}} --data {{work}} -o {{out}}/bundle --name {name} --force", *bundle])
    # The tables of the shards, without their sound: a bundle that is made here needs them for licences and names.
    held = "bundle work/shards/manifest.parquet work/shards/shards.json"
    return f"{pack}; {_run(door)} duotok bundle {words} && tar -cf - -C out {held} | split -b {door.piece} - back/bundle.tar."


def _take(door: Door, number: int) -> str:
    """Copy the pieces of call `number` of the way back, the bundle's first, and say how many there are in all."""
    first, last = (number - 1) * door.pieces + 1, number * door.pieces
    return (
        f"ls back/bundle.tar.* back/results.[0-9]* 2>/dev/null > pieces; sed -n {first},{last}p pieces | xargs -I% cp % {door.outbox}; "
        f"cp back/results.json run.log {door.outbox}; echo pieces {first} to {last} of $(wc -l < pieces)"
    )


def page(
    door: Door, plan: Schedule, made: Sequence[Call], hidden: Collection[str], out: str, join: Sequence[str]
) -> str:
    """All of it as text: what to hide, the calls, what to do with what came back."""
    lines = [
        "# The calls, in this order",
        "",
        f"{plan.there:.1f} minutes to get there, {plan.setup:.1f} to prepare, {plan.training:.1f} to train, {plan.back:.1f} for the way back.",
        "Training: " + ", ".join(f"{run} {minutes:g}" for run, minutes in plan.runs.items()),
        "",
    ]
    if hidden:
        patterns = " ".join(f"'!/{path}/'" for path in hidden)
        lines += [
            "## Before: hide what should not travel",
            "",
            f"    git sparse-checkout set --no-cone '/*' {patterns}",
            "",
        ]
    for number, call in enumerate(made, 1):
        title = (
            f"## Call {number}: {call.about} ({call.minutes:.1f} minutes)"
            if call.minutes
            else f"## {call.about.capitalize()}"
        )
        lines += [title, "", "bring:"]
        lines += [f"    {path}" for path in call.bring] or ["    nothing"]
        lines += ["", f"command ({len(call.command)} characters):", "", f"    {call.command}", ""]
    lines += [f"## After: all that came back lies in {out}/back", ""]
    lines += [f"    {line}" for line in ([*(["git sparse-checkout disable"] if hidden else []), *join])]
    return "\n".join(lines) + "\n"

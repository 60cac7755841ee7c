"""`run.py` after its files were checked: its options, and what they do. Python's standard library only."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from duotok.training.kit import collect
from duotok.training.kit.plan import KitError, KitPlan, Training, assignments_for, budget, first_unmatched, read_plan
from duotok.training.kit.start import split
from duotok.training.kit.status import only_one, say, status
from duotok.training.kit.steps import KitWork


def arguments_of(plan: KitPlan) -> argparse.ArgumentParser:
    """The options of a kit's script."""
    runs = ", ".join(training.run for training in plan.trainings) or "none"
    parser = argparse.ArgumentParser(
        prog="run.py",
        usage="run.py [options] [duotok ARGUMENTS... | python ARGUMENTS...]",
        description=f"Set up, prepare, train ({runs}). Run the same command again to go on where it was stopped.",
        epilog="With `duotok ARGUMENTS` or `python ARGUMENTS` it only sets up, and runs that command in the kit's environment.",
    )
    add = parser.add_argument
    add("-o", "--out", metavar="OUT", help="folder for everything that comes out (default: out beside this script)")
    add(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that prepare (default: %(default)s)",
    )
    add("--stages", metavar="RUN,...", help=f"only these of {runs}")
    add("--minutes", action="append", default=[], metavar="[RUN=]M", help="another budget than the kit's; repeatable")
    add(
        "--set",
        action="append",
        default=[],
        metavar="[RUN.]KEY=VALUE",
        help="override a key of the configs; repeatable",
    )
    add(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="train up to N runs side by side, each when what it needs is over",
    )
    add("--processes", type=int, default=1, metavar="N", help="train with N processes, one for each GPU")
    add("--device", metavar="DEVICE", help="of the separator that prepares data: cpu or cuda")
    add("--python", default=sys.executable, metavar="PATH", help="the Python to use (default: the one that runs this)")
    add("--no-install", action="store_true", help="take packages from that Python's environment only")
    add("--prepare-only", action="store_true", help="stop before the trainings")
    add("--check", action="store_true", help="check the kit's files, packages and imports, and stop")
    add("--status", action="store_true", help="say what is done")
    add("--json", action="store_true", help="with --status: as JSON")
    add("--collect", metavar="FOLDER", help="pack the newest checkpoints into pieces for the way back, and stop")
    add("--piece-size", default="16MiB", metavar="SIZE", help="with --collect: largest piece (default: %(default)s)")
    add(
        "--weights-only",
        action="store_true",
        help="with --collect: no optimizer state; such runs cannot be trained further",
    )
    return parser


def run(kit: Path, out: Path, arguments: Sequence[str]) -> int:
    """The script's work, after its files were checked. Returns the exit code."""
    plan = read_plan(kit)
    script_arguments, command = split(arguments)
    options = arguments_of(plan).parse_args(script_arguments)
    try:
        chosen = _chosen(plan, options)
        if options.status:
            status(kit, out, plan, chosen, options.json)
            return 0
        if options.collect:
            _collect(out, chosen, options)
            return 0
        out.mkdir(parents=True, exist_ok=True)
        work = KitWork(kit, out, plan, options)
        work.check_out()
        if command:
            with only_one(out):
                work.packages()
            return work.hand_over(command)
        with only_one(out):
            work.begin()
            work.packages()
            work.check()
            if options.check:
                return 0
            work.songs()
            work.data()
            if not options.prepare_only:
                work.train_all(chosen)
        say("all done" if chosen and not options.prepare_only else "ready")
    except (KitError, ValueError) as error:
        say(f"error: {error}", sys.stderr)
        return 1
    return 0


def _chosen(plan: KitPlan, options: argparse.Namespace) -> list[Training]:
    names = [name.strip() for name in (options.stages or "").split(",") if name.strip()]
    run_names = [training.run for training in plan.trainings]
    if options.stages and not names:
        raise KitError(
            f"--stages '{options.stages}': names no run; this kit has {', '.join(run_names) or 'no trainings'}"
        )
    for name in names:
        if name not in run_names:
            raise KitError(f"--stages {name}: this kit has {', '.join(run_names) or 'no trainings'}")
    if unmatched := first_unmatched(options.minutes, plan.trainings):
        raise KitError(f"--minutes {unmatched}: this kit has {', '.join(run_names) or 'no trainings'}")
    chosen = []
    for training in plan.trainings:
        try:
            minutes = budget(options.minutes, training)
        except ValueError:
            raise KitError(f"--minutes {' '.join(options.minutes)}: write minutes above 0, or RUN=MINUTES") from None
        added = tuple(assignments_for(options.set, training, plan.trainings))
        if not names or training.run in names:
            needs = (*training.needs, *_named_runs(added))
            chosen.append(replace(training, overrides=(*training.overrides, *added), minutes=minutes, needs=needs))
    return chosen


def _named_runs(overrides: Sequence[str]) -> list[str]:
    """The runs that `start_from=RUN`, `renderer_from.vocals=RUN` and the like name."""
    pairs = [(key.split(".")[0], value) for key, _, value in (text.partition("=") for text in overrides)]
    return [value.removeprefix("{runs}/") for key, value in pairs if key.endswith("_from")]


def _collect(out: Path, chosen: Sequence[Training], options: argparse.Namespace) -> None:
    size = collect.parse_size(options.piece_size)
    names = [training.run for training in chosen if collect.checkpoints(out / "runs" / training.run)]
    if not names:
        raise KitError(f"{out / 'runs'}: no checkpoint of {', '.join(t.run for t in chosen)} yet; train it first")
    packed = collect.pack(out / "runs", names, Path(options.collect), size, options.weights_only)
    for name, step in packed["steps"].items():
        say(f"{name}: step {step:,}")
    total = sum(piece["bytes"] for piece in packed["pieces"]) / 2**20
    say(f"{options.collect}: {len(packed['pieces'])} pieces and {collect.TABLE}, {total:.1f} MiB")

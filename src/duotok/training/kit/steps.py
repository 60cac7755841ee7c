"""What a kit does where it runs: packages, songs, data, trainings, one after the other, each where it was stopped.

Python's standard library only: the packages come with the kit. Everything is written into the folder OUT:

    OUT/packages    the wheels, installed
    OUT/songs       generated songs
    OUT/work        shards and derived arrays (docs/data.md)
    OUT/runs        checkpoints and logs of the trainings (docs/training.md)
    OUT/logs        what each command said
    OUT/state.json  which steps are done, and how long they took
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from duotok.durable import put
from duotok.training.kit import collect
from duotok.training.kit.pieces import write_text
from duotok.training.kit.plan import Plan, Training, budget, meant, read_plan, stray
from duotok.training.kit.start import MANIFEST, read, split
from duotok.training.kit.trainers import POLL, Child, CommandError, dies_with_us, side_by_side

FOUND = """
import importlib.metadata as found, json, platform, sys
lost = []
for name in json.loads(sys.argv[1]):
    try:
        found.version(name)
    except found.PackageNotFoundError:
        lost.append(name)
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "lost": lost}))
"""
TRIED = """
import torch, accelerate, duotok.cli.main, duotok.corpora.prepare, duotok.training.engine
gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
print("torch", torch.__version__ + ",", ", ".join(gpus) or "no GPU")
"""


class KitError(Exception):
    """What stops a kit, in one line."""


def arguments_of(plan: Plan) -> argparse.ArgumentParser:
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
    own, command = split(arguments)
    options = arguments_of(plan).parse_args(own)
    try:
        chosen = _chosen(plan, options)
        if options.status:
            status(out, chosen, options.json)
            return 0
        if options.collect:
            _collect(out, chosen, options)
            return 0
        out.mkdir(parents=True, exist_ok=True)
        kit_at_work = Work(kit, out, plan, options)
        if command:
            with only_one(out):
                kit_at_work.packages()
            return kit_at_work.hand_over(command)
        with only_one(out):
            kit_at_work.begin()
            kit_at_work.packages()
            kit_at_work.check()
            if options.check:
                return 0
            kit_at_work.songs()
            kit_at_work.data()
            if not options.prepare_only:
                kit_at_work.train_all(chosen)
        say("all done" if chosen and not options.prepare_only else "ready")
    except (KitError, CommandError, ValueError) as error:
        say(f"error: {error}", sys.stderr)
        return 1
    return 0


def say(text: str, file: Any = None) -> None:
    print(text, file=file or sys.stdout, flush=True)


def _chosen(plan: Plan, options: argparse.Namespace) -> list[Training]:
    names = [name for name in (options.stages or "").split(",") if name]
    known = [training.run for training in plan.trainings]
    for name in names:
        if name not in known:
            raise KitError(f"--stages {name}: this kit has {', '.join(known) or 'no trainings'}")
    if wrong := stray(options.minutes, plan.trainings):
        raise KitError(f"--minutes {wrong}: this kit has {', '.join(known) or 'no trainings'}")
    found = []
    for training in plan.trainings:
        try:
            minutes = budget(options.minutes, training)
        except ValueError:
            raise KitError(f"--minutes {' '.join(options.minutes)}: write minutes above 0, or RUN=MINUTES") from None
        overrides = (*training.overrides, *meant(options.set, training, plan.trainings))
        if not names or training.run in names:
            found.append(Training(training.run, training.stage, training.config, overrides, minutes))
    return found


def _collect(out: Path, chosen: Sequence[Training], options: argparse.Namespace) -> None:
    size = collect.parse_size(options.piece_size)
    names = [training.run for training in chosen if collect.checkpoints(out / "runs" / training.run)]
    if not names:
        raise KitError(f"{out / 'runs'}: no checkpoint of {', '.join(t.run for t in chosen)} yet")
    packed = collect.pack(out / "runs", names, Path(options.collect), size, options.weights_only)
    for name, step in packed["steps"].items():
        say(f"{name}: step {step:,}")
    total = sum(piece["bytes"] for piece in packed["pieces"]) / 2**20
    say(f"{options.collect}: {len(packed['pieces'])} pieces and {collect.TABLE}, {total:.1f} MiB")


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold OUT; the system lets go of it when this process ends, however it ends."""
    import fcntl

    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KitError(f"{out}: another run.py is at work there; wait for it, or name another --out") from None
        yield


def busy(out: Path) -> bool:
    """Whether some run.py is at work in OUT."""
    if not (out / ".lock").is_file():
        return False
    try:
        with only_one(out):
            return False
    except KitError:
        return True


def fingerprint(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class Work:
    """A kit at work in OUT."""

    def __init__(self, kit: Path, out: Path, plan: Plan, options: argparse.Namespace) -> None:
        self.kit, self.out, self.plan, self.options = kit, out, plan, options
        self.hashes = {entry["name"]: entry["sha256"] for entry in read(kit / MANIFEST)["files"]}
        self.python = shutil.which(options.python)
        if self.python is None:
            raise KitError(f"--python {options.python}: no such program")
        self.environment = {"COLUMNS": "150", **os.environ, "PYTHONPATH": os.pathsep.join(self._path())}

    def _path(self) -> list[str]:
        inherited = os.environ.get("PYTHONPATH")
        return [str(self.kit / "code"), str(self.out / "packages"), *([inherited] if inherited else [])]

    def _fill(self, text: str) -> str:
        places = {"kit": self.kit, "out": self.out, "work": self.out / "work", "runs": self.out / "runs"}
        for name, folder in places.items():
            text = text.replace(f"{{{name}}}", str(folder))
        return text

    def _hashes(self, folder: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.hashes.items() if name.startswith(f"{folder}/")]

    # State: a step is done when its name has the fingerprint of what it was asked to do.

    def _done(self, step: str, asked: str) -> bool:
        return bool(read(self.out / "state.json").get(step, {}).get("asked") == asked)

    def _note(self, step: str, asked: str, seconds: float) -> None:
        self._put(step, {"asked": asked, "seconds": round(seconds, 1)})

    def _put(self, key: str, value: dict[str, Any]) -> None:
        state = read(self.out / "state.json")
        state[key] = value
        write_text(self.out / "state.json", json.dumps(state, indent=1) + "\n")

    def begin(self) -> None:
        """Nothing runs yet, whatever a killed run.py has left."""
        self._put("now", {})

    def packages(self) -> None:
        """The kit's wheels in OUT/packages, and whether everything is there that the kit counts on."""
        plan = self.plan
        if plan.wheels and not self.options.no_install:
            self._fits()
            target, partial = self.out / "packages", self.out / ".packages.partial"
            asked = fingerprint(self._hashes("wheels"), plan.python)
            if not self._done("packages", asked) or not target.is_dir():
                began = time.monotonic()
                say(f"packages: installing {len(plan.wheels)} wheels into {target}")
                shutil.rmtree(partial, ignore_errors=True)
                self._pip(partial)
                shutil.rmtree(target, ignore_errors=True)
                put(partial, target)
                self._note("packages", asked, time.monotonic() - began)
        lost = self._ask(FOUND, json.dumps(plan.requires))["lost"]
        if lost:
            raise KitError(
                f"this Python ({self.python}) lacks {', '.join(lost)}, and the kit has no wheel of it; "
                "make the kit without naming it in --have, or name a Python that has it with --python"
            )

    def _fits(self) -> None:
        plan = self.plan
        found = self._ask(FOUND, "[]")["python"]
        if plan.python and found != plan.python:
            raise KitError(
                f"the kit's wheels are for Python {plan.python}, this is {found}; name another one with --python, "
                f"or make the kit with --python {found}"
            )
        here = (platform.system(), platform.machine())
        if plan.system and here != (plan.system, plan.machine):
            raise KitError(
                f"the kit's wheels are for {plan.system} on {plan.machine}, this is {' on '.join(here)}; "
                "make the kit with another --platform"
            )

    def _pip(self, target: Path) -> None:
        done = subprocess.run(
            [str(self.python), "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet", "--no-index",
             "--no-deps", "--no-warn-script-location", "--target", str(target),
             *(str(self.kit / wheel) for wheel in self.plan.wheels)],
            env={**os.environ, "PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            if "No module named pip" in done.stderr:
                raise KitError(
                    f"{self.python} has no pip: run `{self.python} -m ensurepip`, or name another with --python"
                )
            problem = next((line for line in done.stderr.splitlines() if "ERROR" in line), done.stderr.strip()[-300:])
            raise KitError(f"the wheels were not installed: {problem}")

    def _ask(self, code: str, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [str(self.python), "-c", code, *words], env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise KitError(f"{self.python} does not run ({_last_line(done.stderr)})")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def check(self) -> None:
        """Whether the packages can be imported, which a missing system library would prevent; tells torch and GPUs. Once."""
        asked, began = fingerprint(self.python, self.hashes), time.monotonic()
        if self._done("imports", asked) and not self.options.check:
            return
        done = subprocess.run([str(self.python), "-c", TRIED], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise KitError(
                f"the packages cannot be imported ({_last_line(done.stderr)}); see `run.py python -c 'import torch'`"
            )
        say(f"packages: {done.stdout.strip()}")
        self._note("imports", asked, time.monotonic() - began)

    def hand_over(self, command: Sequence[str]) -> int:
        """Run `duotok ...` or `python ...` in the kit's environment."""
        words = [self._fill(word) for word in command[1:]]
        words = ["-m", "duotok", *words] if command[0] == "duotok" else words
        return subprocess.run([str(self.python), *words], env=self.environment, preexec_fn=dies_with_us).returncode

    def songs(self) -> None:
        """Generated songs in OUT/songs."""
        if self.plan.songs:
            words = ("songs", "-n", str(self.plan.songs), "-o", "{out}/songs", "--format", "opus")
            asked = fingerprint(words)
            if not self._done("songs", asked):
                self._command("songs", asked, *words, "--workers", str(self.options.workers))

    def data(self) -> None:
        """Shards in OUT/work, where recordings came along or were generated."""
        if not self.plan.prepare:
            return
        words = (*self.plan.prepare, *(("--device", self.options.device) if self.options.device else ()))
        asked = fingerprint(words, self._hashes("audio"), self.plan.songs)
        if not self._done("data", asked) or not (self.out / "work" / "shards" / "shards.json").is_file():
            self._command(
                "data", asked, "data", "prepare", "--work", "{work}", "--workers", str(self.options.workers), *words
            )

    def train_all(self, trainings: Sequence[Training]) -> None:
        """Every training from its newest checkpoint to its end, in order or side by side."""
        self._bring()
        if self.options.parallel > 1:
            left = [training for training in trainings if not self._trained(training)]
            side_by_side(left, self.options.parallel, self._arrays, self._begin, self._end)
            return
        for training in trainings:
            if not self._trained(training):
                child = self._begin(training)
                while not child.ended():
                    time.sleep(POLL)
                self._end(training, child)

    def words(self, training: Training) -> list[str]:
        """`duotok train` for a training, with places in braces."""
        words = ["train", training.stage, "-c", f"{{kit}}/{training.config}", "--data", "{work}", "--runs", "{runs}"]
        if self.plan.shards:
            words += ["--shards", f"{{kit}}/{self.plan.shards}"]
        if training.minutes is not None:
            words += ["--minutes", f"{training.minutes:g}"]
        for override in training.overrides:
            words += ["--set", override]
        return words

    def _asked(self, training: Training) -> str:
        return fingerprint(self.words(training), self.hashes[training.config])

    def _trained(self, training: Training) -> bool:
        done = self._done(training.run, self._asked(training))
        if done and collect.checkpoints(self.out / "runs" / training.run):
            say(f"{training.run}: done before")
            return True
        return False

    def _arrays(self, training: Training) -> Child:
        return self._start(f"{training.run}.arrays", [*self.words(training), *self._workers(), "--prepare"])

    def _begin(self, training: Training) -> Child:
        return self._start(training.run, [*self.words(training), *self._workers()], self.options.processes)

    def _end(self, training: Training, child: Child) -> None:
        self._over(training.run, self._asked(training), child)

    def _workers(self) -> list[str]:
        return ["--workers", str(self.options.workers)]

    def _bring(self) -> None:
        """Checkpoints of earlier runs that came along take their place in OUT/runs, where none is yet."""
        brought = self.kit / "runs"
        for source in sorted(brought.iterdir()) if brought.is_dir() else ():
            target, partial = self.out / "runs" / source.name, self.out / f".{source.name}.partial"
            if not target.exists():
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(source, partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                put(partial, target)

    def _command(self, step: str, asked: str, *words: str) -> None:
        """Run `duotok WORDS`, show what it says and keep it in OUT/logs. Raises CommandError when it fails."""
        child = self._start(step, words)
        while not child.ended():
            time.sleep(POLL)
        self._over(step, asked, child)

    def _start(self, step: str, words: Sequence[str], processes: int = 1) -> Child:
        filled = [self._fill(word) for word in words]
        launcher = ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
        say(f"{step}: duotok {' '.join(filled)}")
        self._put("now", {**read(self.out / "state.json").get("now", {}), step: time.time()})
        command = [str(self.python), "-m", *launcher, "duotok", *filled]
        return Child(command, self.environment, self.out / "logs" / f"{step}.log")

    def _over(self, step: str, asked: str, child: Child) -> None:
        took = child.check(step)
        self._note(step, asked, took)
        now = read(self.out / "state.json").get("now", {})
        self._put("now", {name: since for name, since in now.items() if name not in (step, f"{step}.arrays")})
        say(f"{step}: done in {took / 60:.1f} minutes")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def status(out: Path, chosen: Sequence[Training], as_json: bool) -> None:
    """What is done in OUT, and how far each training is."""
    state = read(out / "state.json")
    rows: dict[str, dict[str, Any]] = {}
    for training in chosen:
        folder = out / "runs" / training.run
        kept = collect.checkpoints(folder)
        line = _last_log(folder / "log.jsonl")
        rows[training.run] = {
            "done": training.run in state,
            "checkpoint": collect.step_of(kept[-1]) if kept else None,
            "step": line.get("step"),
            "steps": read(folder / "config.json").get("steps"),
            "minutes": training.minutes,
            **{key: line[key] for key in ("loss", "rate") if key in line},
        }
    running = busy(out)
    facts = {
        "out": str(out),
        "running": running,
        "now": sorted(state.get("now", {})) if running else [],
        **{step: state.get(step, {}).get("seconds") for step in ("packages", "songs", "data")},
        "trainings": rows,
    }
    if as_json:
        say(json.dumps(facts, indent=1))
        return
    work = [f"{step} for {(time.time() - since) / 60:.1f} minutes" for step, since in state.get("now", {}).items()]
    say(f"{out}: " + (f"at work, {', '.join(work) or 'packages'}" if running else "not running"))
    for step in ("packages", "songs", "data"):
        if step in state:
            say(f"{step:<24}done in {state[step]['seconds'] / 60:.1f} minutes")
    for name, row in rows.items():
        say(f"{name:<24}{_progress(row)}")


def _progress(row: dict[str, Any]) -> str:
    if row["checkpoint"] is None and row["step"] is None:
        return "not begun"
    told = f"step {row['step'] or 0:,}" + (f" of {row['steps']:,}" if row["steps"] and row["minutes"] is None else "")
    told += f" in {row['minutes']:g} minutes" if row["minutes"] is not None else ""
    told += "" if row["checkpoint"] is None else f", checkpoint {row['checkpoint']:,}"
    told += "".join(f", {key} {row[key]:.4g}" for key in ("loss", "rate") if key in row)
    return ("done: " if row["done"] else "under way: ") + told


def _last_log(path: Path) -> dict[str, Any]:
    """The last line that a training logged of its steps."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65_536))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("kind") == "train":
                return row
    return {}

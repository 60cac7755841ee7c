"""The steps of a running kit: packages, songs, data, trainings. Each goes on where it was stopped.

Python's standard library only: the packages come with the kit. Everything is written into the folder OUT:

    OUT/packages    the wheels, installed
    OUT/songs       generated songs
    OUT/work        shards and derived arrays (docs/data.md)
    OUT/runs        checkpoints and logs of the trainings (docs/training.md)
    OUT/logs        the output of each command
    OUT/state.json  which steps are done, and how long they took
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.files import put, write_bytes
from duotok.training.kit import collect
from duotok.training.kit.plan import (
    KitError,
    KitPlan,
    Training,
    fingerprint,
    songs_words,
    step_hashes,
    train_words,
    training_hash,
)
from duotok.training.kit.start import MANIFEST, read
from duotok.training.kit.status import say
from duotok.training.kit.trainers import Child, end_and_wait, kill_with_parent, side_by_side

LIST_MISSING = """
import importlib.metadata, json, platform, sys
missing = []
for name in json.loads(sys.argv[1]):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        missing.append(name)
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "missing": missing}))
"""
TRY_IMPORTS = """
import torch, accelerate, duotok.cli.main, duotok.data.pipeline, duotok.training.engine
gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
print("torch", torch.__version__ + ",", ", ".join(gpus) or "no GPU")
"""


MARK = ".duotok-kit"
"""In OUT/packages: marks a folder that a kit installed and may replace."""


class KitWork:
    """A kit running in OUT."""

    def __init__(self, kit: Path, out: Path, plan: KitPlan, options: argparse.Namespace) -> None:
        self.kit, self.out, self.plan, self.options = kit, out, plan, options
        self.hashes = {entry["name"]: entry["sha256"] for entry in read(kit / MANIFEST)["files"]}
        self.step_hashes = step_hashes(plan, self.hashes)
        self.python = shutil.which(options.python)
        if self.python is None:
            raise KitError(f"--python {options.python}: no such program; check the path")
        self.environment = {"COLUMNS": "150", **os.environ, "PYTHONPATH": os.pathsep.join(self._path())}

    def _path(self) -> list[str]:
        inherited = os.environ.get("PYTHONPATH")
        return [str(self.kit / "code"), str(self.out / "packages"), *([inherited] if inherited else [])]

    def _fill_places(self, text: str) -> str:
        places = {"kit": self.kit, "out": self.out, "work": self.out / "work", "runs": self.out / "runs"}
        for name, folder in places.items():
            text = text.replace(f"{{{name}}}", str(folder))
        return text

    # State: a step is done when state.json has the fingerprint of its arguments under its name.

    def _done(self, step: str, task_hash: str) -> bool:
        return bool(read(self.out / "state.json").get(step, {}).get("asked") == task_hash)

    def _record(self, step: str, task_hash: str, seconds: float) -> None:
        self._set_state(step, {"asked": task_hash, "seconds": round(seconds, 1)})

    def _set_state(self, key: str, value: dict[str, Any]) -> None:
        state = read(self.out / "state.json")
        state[key] = value
        write_bytes(self.out / "state.json", (json.dumps(state, indent=1) + "\n").encode())

    def check_out(self) -> None:
        """Raises KitError when OUT has a `state.json` that is not a kit's and would be replaced."""
        path = self.out / "state.json"
        state = read(path)
        if path.exists() and not (state and all(isinstance(value, dict) for value in state.values())):
            raise KitError(f"{path}: is there, and not of a kit; name another folder with --out")

    def begin(self) -> None:
        """Clear the running steps that a killed run.py may have left."""
        self._set_state("now", {})

    def packages(self) -> None:
        """Install the kit's wheels into OUT/packages, and check that every required distribution is there."""
        plan = self.plan
        if plan.wheels and not self.options.no_install:
            self._check_target()
            target, partial = self.out / "packages", self.out / ".packages.partial"
            task_hash = self.step_hashes["packages"]
            if not self._done("packages", task_hash) or not target.is_dir():
                self._check_packages(target)
                began = time.monotonic()
                say(f"packages: installing {len(plan.wheels)} wheels into {target}")
                shutil.rmtree(partial, ignore_errors=True)
                self._pip(partial)
                (partial / MARK).touch()
                shutil.rmtree(target, ignore_errors=True)
                os.sync()  # once, not for each of ten thousand files
                partial.rename(target)
                self._record("packages", task_hash, time.monotonic() - began)
        missing = self._run_code(LIST_MISSING, json.dumps(plan.requires))["missing"]
        if missing:
            raise KitError(
                f"this Python ({self.python}) lacks {', '.join(missing)}, and the kit has no wheel of it; "
                "make the kit without naming it in --have, or name a Python that has it with --python"
            )

    def _check_packages(self, target: Path) -> None:
        """Raises KitError when OUT has a folder of this name that no kit has installed."""
        if target.exists() and not (target / MARK).is_file() and "packages" not in read(self.out / "state.json"):
            raise KitError(f"{target}: is there, and no kit has installed it; name another folder with --out")

    def _check_target(self) -> None:
        plan = self.plan
        version = self._run_code(LIST_MISSING, "[]")["python"]
        if plan.python and version != plan.python:
            raise KitError(
                f"the kit's wheels are for Python {plan.python}, this is {version}; name another one with --python, "
                f"or make the kit with --python {version}"
            )
        this_platform = (platform.system(), platform.machine())
        if plan.system and this_platform != (plan.system, plan.machine):
            raise KitError(
                f"the kit's wheels are for {plan.system} on {plan.machine}, this is {' on '.join(this_platform)}; "
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
            raise KitError(
                f"the wheels were not installed: {problem}; make the kit for this Python and platform, or name another with --python"
            )

    def _run_code(self, code: str, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [str(self.python), "-c", code, *words], env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise KitError(f"{self.python} does not run ({_last_line(done.stderr)}); name another with --python")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def check(self) -> None:
        """Check once that the packages can be imported (a system library may be missing), and print torch and GPUs."""
        task_hash, began = fingerprint(self.python, self.hashes), time.monotonic()
        if self._done("imports", task_hash) and not self.options.check:
            return
        done = subprocess.run(
            [str(self.python), "-c", TRY_IMPORTS], env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise KitError(
                f"the packages cannot be imported ({_last_line(done.stderr)}); see `run.py python -c 'import torch'`"
            )
        say(f"packages: {done.stdout.strip()}")
        self._record("imports", task_hash, time.monotonic() - began)

    def hand_over(self, command: Sequence[str]) -> int:
        """Run `duotok ...` or `python ...` in the kit's environment."""
        words = [self._fill_places(word) for word in command[1:]]
        words = ["-m", "duotok", *words] if command[0] == "duotok" else words
        process = subprocess.Popen([str(self.python), *words], env=self.environment, preexec_fn=kill_with_parent)
        try:
            return process.wait()
        finally:
            end_and_wait([process])

    def songs(self) -> None:
        """Generate songs into OUT/songs."""
        if self.plan.songs:
            task_hash = self.step_hashes["songs"]
            if not self._done("songs", task_hash):
                self._command("songs", task_hash, *songs_words(self.plan), "--workers", str(self.options.workers))

    def data(self) -> None:
        """Make shards in OUT/work, where recordings are in the kit or were generated."""
        if not self.plan.prepare:
            return
        words = (*self.plan.prepare, *(("--device", self.options.device) if self.options.device else ()))
        task_hash = self.step_hashes["data"]
        if not self._done("data", task_hash) or not (self.out / "work" / "shards" / "shards.json").is_file():
            self._command(
                "data", task_hash, "data", "prepare", "--work", "{work}", "--workers", str(self.options.workers), *words
            )

    def train_all(self, trainings: Sequence[Training]) -> None:
        """Run every training from its newest checkpoint to its end, in order or in parallel."""
        self._copy_runs()
        if self.options.parallel > 1:
            remaining = [training for training in trainings if not self._trained(training)]
            side_by_side(
                remaining, self.options.parallel, self._start_arrays, self._start_training, self._finish_training
            )
            return
        for training in trainings:
            if not self._trained(training):
                child = self._start_training(training)
                child.wait()
                self._finish_training(training, child)

    def _task_hash(self, training: Training) -> str:
        return training_hash(self.plan, training, self.hashes)

    def _trained(self, training: Training) -> bool:
        done = self._done(training.run, self._task_hash(training))
        if done and collect.checkpoints(self.out / "runs" / training.run):
            say(f"{training.run}: done before")
            return True
        return False

    def _start_arrays(self, training: Training) -> Child:
        return self._start(f"{training.run}.arrays", [*train_words(self.plan, training), *self._workers(), "--prepare"])

    def _start_training(self, training: Training) -> Child:
        return self._start(training.run, [*train_words(self.plan, training), *self._workers()], self.options.processes)

    def _finish_training(self, training: Training, child: Child) -> None:
        self._finish(training.run, self._task_hash(training), child)

    def _workers(self) -> list[str]:
        return ["--workers", str(self.options.workers)]

    def _copy_runs(self) -> None:
        """Copy the kit's earlier runs into OUT/runs, where they do not exist yet."""
        included_runs = self.kit / "runs"
        for source in sorted(included_runs.iterdir()) if included_runs.is_dir() else ():
            target, partial = self.out / "runs" / source.name, self.out / f".{source.name}.partial"
            if not target.exists():
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    shutil.copytree(source, partial)
                except shutil.Error as error:  # one reason for each file
                    raise KitError(
                        f"{target}: not copied from the kit ({error.args[0][0][2]}); run the same command again"
                    ) from None
                target.parent.mkdir(parents=True, exist_ok=True)
                put(partial, target)

    def _command(self, step: str, task_hash: str, *words: str) -> None:
        """Run `duotok WORDS`; its output is shown and kept in OUT/logs. Raises KitError when it fails."""
        child = self._start(step, words)
        child.wait()
        self._finish(step, task_hash, child)

    def _start(self, step: str, words: Sequence[str], processes: int = 1) -> Child:
        filled = [self._fill_places(word) for word in words]
        launcher = ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
        say(f"{step}: duotok {' '.join(filled)}")
        self._set_state("now", {**read(self.out / "state.json").get("now", {}), step: time.time()})
        command = [str(self.python), "-m", *launcher, "duotok", *filled]
        return Child(command, self.environment, self.out / "logs" / f"{step}.log")

    def _finish(self, step: str, task_hash: str, child: Child) -> None:
        seconds = child.check(step)
        self._record(step, task_hash, seconds)
        now = read(self.out / "state.json").get("now", {})
        self._set_state("now", {name: since for name, since in now.items() if name not in (step, f"{step}.arrays")})
        say(f"{step}: done in {seconds / 60:.1f} minutes")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")

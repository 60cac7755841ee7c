"""The whole recipe from audio and the song generator to a bundle: `make mini`. Every step resumes where it was stopped.

    separator -- masks --.
                 stage1 -+- stage2 -- stage3 --.
                autoencoder -- latents --------+-- codes -- stage4 of each track --.
                          '-- adversarial -----------------------------------------+-- adapt

On a CPU the stages run one after the other; with --parallel those that wait for nothing run side by side, which is what
fills a large GPU. With --minutes they are trained by time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from duotok.corpora.base import Corpus
from duotok.data import catalog as catalogs
from duotok.data import transcribe
from duotok.data.catalog import Catalog
from duotok.data.jobs import LocalEngine
from duotok.data.pipeline import PipelineOptions, prepare
from duotok.data.segments import SegmentConfig
from duotok.errors import ConfigError, DuoTokError
from duotok.shards.store import ShardStore
from duotok.training.assemble import assemble


@dataclass(frozen=True)
class Task:
    """One `duotok train`: a stage, what it is told, what must be done before. prepare: derive its arrays only."""

    stage: str
    after: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    prepare: bool = False


RECIPE: dict[str, Task] = {
    "samples": Task("autoencoder", prepare=True),
    "features": Task("stage1", prepare=True),
    "separator": Task("separator", ("samples",)),
    "autoencoder": Task("autoencoder", ("samples",)),
    "stage1": Task("stage1", ("features",)),
    "masks": Task("stage2", ("features", "separator"), prepare=True),
    "stage2": Task("stage2", ("stage1", "masks")),
    "stage3": Task("stage3", ("stage2",)),
    "latents": Task("stage4", ("features", "autoencoder"), prepare=True),
    "codes": Task("stage4", ("stage3", "latents"), prepare=True),
    "stage4.accompaniment": Task("stage4", ("codes",), ("track=accompaniment",)),
    "stage4.vocals": Task("stage4", ("codes",), ("track=vocals",)),
    "adversarial": Task("adversarial", ("autoencoder",)),
    "adapt": Task("adapt", ("stage4.accompaniment", "stage4.vocals", "adversarial")),
}
CONFIGS = Path("configs/mini")
HELD_OUT, TEST = "held_out.txt", "test.txt"


def names_in(path: Path) -> list[str]:
    """The names that a list holds; none where there is no list."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in lines if line and not line.startswith("#")]


def corpora_of(folders: Sequence[Path], configs: Path = CONFIGS) -> tuple[list[str], list[str]]:
    """`--corpus` and `--set` of folders: with INDEX.tsv, of generated songs, or any others.

    What configs/mini/held_out.txt names goes to validation, what test.txt names to test, nothing else of an index does:
    the bundle's own split.
    """
    held_out, test = names_in(configs / HELD_OUT), names_in(configs / TEST)
    chosen: list[str] = []
    settings: list[str] = []
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; name a folder of audio")
        name = "index" if (folder / "INDEX.tsv").is_file() else "folder"
        if name == "folder" and next(folder.glob("*/song.json"), None) is not None:
            name = "songs"
        taken = any(text.startswith(f"{name}=") for text in chosen)
        alias = f"{name}{number}" if taken else name
        chosen.append(f"{alias}:{name}={folder}" if taken else f"{name}={folder}")
        if name == "index":
            listed = (folder / "INDEX.tsv").read_text(encoding="utf-8")
            here = [[name for name in names if f"/{name}." in listed] for names in (held_out, test)]
            settings += [f"{alias}.held_out={','.join(here[0])}", f"{alias}.validation=0"]
            settings += [f"{alias}.held_out_test={','.join(here[1])}"]
    return chosen, settings


def open_audio(folders: Sequence[Path]) -> list[Corpus]:
    """The corpora of folders, as `corpora_of` reads them."""
    return catalogs.open_corpora(*corpora_of(folders))


def catalog(folders: Sequence[Path]) -> Catalog:
    """All recordings of folders, split as the bundled model was trained."""
    return catalogs.build(open_audio(folders))


def prepare_data(folders: Sequence[Path], work: Path, workers: int, configs: Path = CONFIGS) -> ShardStore:
    """Shards of folders in WORK, through every step of the data path but separation."""
    corpora, settings = corpora_of(folders, configs)
    options = PipelineOptions(
        corpora=corpora,
        settings=settings,
        transcribe=transcribe.TranscriptionOptions(bundle=""),  # no times from the head that is about to be trained
        segment=SegmentConfig(whole_seconds=1.0),  # speech, sounds and loops are short
        shard_segments=64,  # arrays are derived shard by shard: as many as there are processors
    )
    console = Console(stderr=True)
    for step in prepare(work, options, LocalEngine(workers)):
        console.print(f"[bold]{step.name}[/]: {step.done} done, {len(step.failed)} failed, {step.took:.0f} s")
        for unit, reason in step.failed.items():
            console.print(f"  {unit}: {reason}", highlight=False)
        if step.name == "scan":
            _none_lost(work, step.failed)
    return ShardStore(work / "shards", work / "derived")


def _none_lost(work: Path, failed: Mapping[str, str]) -> None:
    """A recording may fail, a whole corpus may not: hours of training would do without it. Raises DuoTokError."""
    recordings = catalogs.read(work)
    for corpus in dict.fromkeys(recording.corpus for recording in recordings):
        ids = [recording.id for recording in recordings if recording.corpus == corpus]
        if set(ids) <= failed.keys():
            raise DuoTokError(
                f"{corpus}: none of its {len(ids)} recordings can be read ({failed[ids[0]]}); mend it or leave it out"
            )


@dataclass
class Runner:
    """Runs tasks as processes of their own, `parallel` at a time, each as soon as what it needs is done."""

    runs: Path
    stages: Path
    workers: int
    parallel: int
    minutes: Mapping[str, float]
    settings: Sequence[str]

    def command(self, name: str) -> list[str]:
        task = RECIPE[name]
        made = [
            sys.executable,
            "-m",
            "duotok",
            "train",
            task.stage,
            "--config",
            str(self.stages / f"{task.stage}.yaml"),
        ]
        made += ["--data", str(self.runs / "data"), "--runs", str(self.runs), "--workers", str(self.workers)]
        for text in (*task.settings, *self.settings):
            stage, _, rest = text.partition(".")
            if text in task.settings:
                made += ["--set", text]
            elif stage in (task.stage, "all") and rest:
                made += ["--set", rest]
        if task.prepare:
            made.append("--prepare")
        elif name in self.minutes:
            made += ["--minutes", str(self.minutes[name])]
        return made

    def run(self, names: Sequence[str]) -> None:
        """Run these tasks; what the others would give is taken as it is. Raises DuoTokError when one fails."""
        console = Console(stderr=True)
        waiting, done = list(names), set(RECIPE) - set(names)
        running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        (self.runs / "logs").mkdir(parents=True, exist_ok=True)
        failed: list[str] = []
        try:
            while waiting or running:
                for name in [n for n in waiting if set(RECIPE[n].after) <= done]:
                    if failed or len(running) >= self.parallel:
                        break
                    waiting.remove(name)
                    console.print(
                        f"[bold]{name}[/] begins; its words are in {self.runs / 'logs' / name}.log", highlight=False
                    )
                    with (self.runs / "logs" / f"{name}.log").open("ab") as log:
                        running[name] = (subprocess.Popen(self.command(name), stdout=log, stderr=log), time.monotonic())
                for name, (process, began) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[name]
                    took = f"{time.monotonic() - began:.0f} s"
                    if process.returncode:
                        failed.append(name)
                        console.print(
                            f"[bold red]{name}[/] failed after {took}: {self.last_words(name)}", highlight=False
                        )
                    else:
                        done.add(name)
                        console.print(f"[bold]{name}[/] done in {took}", highlight=False)
                if failed and not running:
                    break
                time.sleep(0.2)
        finally:
            for process, _ in running.values():
                process.terminate()
        if failed:
            raise DuoTokError(
                f"{self.runs}: {', '.join(failed)} failed; mend it and run the same command again: it goes on"
            )

    def last_words(self, name: str) -> str:
        lines = (self.runs / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "it said nothing")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--audio", type=Path, action="append", required=True, help="folder of training audio; repeatable"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/mini"), help="where everything is kept (default %(default)s)"
    )
    parser.add_argument(
        "--configs", type=Path, default=CONFIGS, help="held_out.txt, test.txt and one YAML for each stage"
    )
    parser.add_argument("--stages", type=Path, help="the YAMLs, if others: configs/gpu")
    parser.add_argument(
        "--songs", type=int, default=120, help="generated songs of 30 s added to the audio (default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that generate songs and prepare data")
    parser.add_argument("--parallel", type=int, default=1, help="stages that run side by side (default %(default)s)")
    parser.add_argument(
        "--minutes", action="append", default=[], metavar="TASK=M",
        help=f"train by time: {', '.join(n for n, t in RECIPE.items() if not t.prepare)}; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--prepared", action="store_true", help="take the shards in RUNS/data as they are, look at no audio"
    )
    parser.add_argument("--only", help="these tasks, with commas; the bundle is made when adapt is among them")
    parser.add_argument(
        "--steps", type=int, help="the same number of steps for every stage: a short run to try the recipe"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="override a config's key; all.KEY: of every stage",
    )
    parser.add_argument("--bundle", type=Path, help="where the bundle goes (default RUNS/bundle)")
    parser.add_argument("--name", default="duotok-mini")
    return parser


def _minutes(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in RECIPE or RECIPE[name].prepare:
            raise ConfigError(f"--minutes {text}: '{name}' is no task that trains; there are {', '.join(RECIPE)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--minutes {text}: write TASK=MINUTES, e.g. stage1=90") from None
    return found


def make_mini(options: argparse.Namespace) -> Path | None:
    """Run the recipe; returns the bundle's folder, None when `--only` leaves it out."""
    runs: Path = options.runs
    minutes = _minutes(options.minutes)
    names = options.only.split(",") if options.only else list(RECIPE)
    unknown = [name for name in names if name not in RECIPE]
    if unknown:
        raise ConfigError(f"--only: '{unknown[0]}' is no task; there are {', '.join(RECIPE)}")
    folders = list(options.audio)
    if options.songs:
        from duotok.songs import generate_many

        folder = runs / "songs"
        generate_many(range(options.songs), folder, workers=options.workers)
        folders.append(folder)
    if options.prepared:
        store = ShardStore(runs / "data" / "shards", runs / "data" / "derived")
    else:
        store = prepare_data(folders, runs / "data", options.workers, options.configs)
    settings = [*options.set, *([] if options.steps is None else [f"all.steps={options.steps}"])]
    stages = options.stages or options.configs
    Runner(runs, stages, options.workers, options.parallel, minutes, settings).run(names)
    if "adapt" not in names:
        return None
    bundle = options.bundle or runs / "bundle"
    assemble(runs, store, bundle, options.name, f"make mini AUDIO={options.audio[0]}")
    return Path(bundle)


def main() -> int:
    try:
        bundle = make_mini(arguments().parse_args())
    except DuoTokError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if bundle is not None:
        print(f"bundle: {bundle}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The whole mini recipe: recordings and generated songs in, a bundle out. `make mini` runs it; every step goes on where it stopped.

    recordings, songs -- shards --.
       .--------------------------'
       |-- separator -- masks --.
       |-- stage 1 -------------+- stage 2 -- stage 3 --.
       '-- autoencoder -- latents ----------------------+-- codes -- stage 4 of each track --.
                   '-- adversarial ----------------------------------------------------------+-- adapt -- bundle

On a CPU the stages run one after the other; with --parallel those that wait for nothing run side by side, which is what
fills a large GPU. With --minutes they are trained by time.

  python -m duotok.recipes.mini_bundle --audio music --songs 4 --steps 5 --runs runs/try    does it run at all?
  python -m duotok.recipes.mini_bundle --audio music --audio speech --runs runs/mini        hours
  python -m duotok.recipes.mini_bundle --audio music --stages gpu --parallel 6 --minutes stage1=1 --minutes stage2=3

All is kept in RUNS: songs/, data/ (shards), a folder for each stage, logs/, and at the end bundle/.
"""

from __future__ import annotations

import argparse
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from duotok.codec.bundle import is_bundle
from duotok.config import RECIPES, config_folder, load_config, recipe_name
from duotok.corpora.base import Corpus
from duotok.data import catalog as catalogs
from duotok.data import transcribe
from duotok.data.catalog import Catalog
from duotok.data.jobs import LocalEngine
from duotok.data.pipeline import PipelineOptions, prepare
from duotok.data.segments import SegmentConfig
from duotok.errors import ConfigError, DuoTokError, of_system
from duotok.shards.store import ShardStore
from duotok.training.assemble import assemble
from duotok.training.kit.trainers import end_and_wait
from duotok.training.stages.registry import config_class

INTERRUPTED = 130
STAGES = "mini"
LISTS = RECIPES / "mini"
HELD_OUT, TEST = "held_out.txt", "test.txt"


@dataclass(frozen=True)
class Task:
    """One `duotok train`: a stage, its settings, and the tasks that must be done before. prepare: only derive its arrays."""

    stage: str
    after: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    prepare: bool = False


TASKS: dict[str, Task] = {
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
LAST = "adapt"


def main() -> int:
    try:
        bundle = make_mini(arguments().parse_args())
    except DuoTokError as error:
        return _print_error(str(error))
    except OSError as error:
        return _print_error(of_system(error))
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    if bundle is not None:
        print(f"bundle: {bundle}")
    return 0


def _print_error(line: str) -> int:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 1


def make_mini(options: argparse.Namespace) -> Path | None:
    """Run the recipe; returns the bundle's folder, None when `--only` leaves it out. Raises DuoTokError, OSError."""
    # All inputs are checked first, because the run takes many hours.
    runs: Path = options.runs
    bundle: Path = options.bundle or runs / "bundle"
    names = _names(options.only)
    runner = Runner(
        runs, config_folder(options.stages), options.workers, options.parallel, _minutes(options.minutes),
        [*options.set, *([] if options.steps is None else [f"all.steps={options.steps}"])],
    )  # fmt: skip
    check_places(options.audio, runs, bundle if LAST in names else None)
    runner.check(names)
    if not options.prepared:
        for folder in options.audio:
            check_outside(folder, runs, "--runs")
        corpora_of(options.audio, options.lists)

    # 1. Generated songs, whose stems and words are known exactly.
    folders = list(options.audio)
    if options.songs and not options.prepared:
        from duotok.songs import generate_many

        generate_many(range(options.songs), runs / "songs", workers=options.workers)
        folders.append(runs / "songs")

    # 2. Recordings and songs as shards.
    if options.prepared:
        store = ShardStore(runs / "data" / "shards", runs / "data" / "derived")
    else:
        store = prepare_data(folders, runs / "data", options.workers, options.lists, options.corpus_set)

    # 3. The stages, each as a process of its own.
    runner.run(names)

    # 4. The trained parts, as one folder with a model card.
    if LAST not in names:
        return None
    assemble(runs, store, bundle, options.name, command_of(options))
    return bundle


def command_of(options: argparse.Namespace) -> str:
    """The command with all that it was told, for the card of the bundle."""
    words = ["python", "-m", "duotok.recipes.mini_bundle"]
    for action in arguments()._actions:
        value = getattr(options, action.dest, action.default)
        if value != action.default:
            for one in value if isinstance(value, list) else [value]:
                words += [action.option_strings[0], *([] if one is True else [str(one)])]
    return shlex.join(words)


# -- recordings to shards --------------------------------------------------------------------------------------------


def prepare_data(
    folders: Sequence[Path], work: Path, workers: int, lists: Path = LISTS, told: Sequence[str] = ()
) -> ShardStore:
    """Shards of folders in WORK, through every step of the data path but separation.

    lists: as for `corpora_of`; told: `CORPUS.OPTION=VALUE`, as `duotok data prepare --set` has them.
    """
    corpora, settings = corpora_of(folders, lists)
    settings += told
    options = PipelineOptions(
        corpora=corpora,
        settings=settings,
        transcribe=transcribe.TranscriptionOptions(bundle=""),  # no times from the head, which is not trained yet
        segment=SegmentConfig(whole_seconds=1.0),  # speech, sounds and loops are short
        shard_segments=64,  # arrays are derived in parallel over shards, so small shards occupy all processors
    )
    console = Console(stderr=True)
    for step in prepare(work, options, LocalEngine(workers)):
        console.print(f"[bold]{step.name}[/]: {step.done} done, {len(step.failed)} failed, {step.took:.0f} s")
        for unit, reason in step.failed.items():
            console.print(f"  {unit}: {reason}", highlight=False, markup=False)
        if step.name == "scan":
            _check_corpora(work, step.failed)
    return ShardStore(work / "shards", work / "derived")


def corpora_of(folders: Sequence[Path], lists: Path = LISTS) -> tuple[list[str], list[str]]:
    """The `--corpus` and `--set` arguments of folders: with INDEX.tsv, of generated songs, or of any audio.

    lists: the folder of held_out.txt, whose names go to validation, and test.txt, whose names go to test. All other recordings
    of an index are for training. The lists of the package are the split of the bundled model. Raises ConfigError for a name of
    other lists that no index has, which would be trained on.
    """
    named = {file: names_in(lists / file) for file in (HELD_OUT, TEST)}
    chosen: list[str] = []
    settings: list[str] = []
    known: set[str] = set()
    for number, folder in enumerate(folders):
        _check_audio(folder)
        name = "index" if (folder / "INDEX.tsv").is_file() else "folder"
        if name == "folder" and next(folder.glob("*/song.json"), None) is not None:
            name = "songs"
        taken = any(text.startswith(f"{name}=") for text in chosen)
        alias = f"{name}{number}" if taken else name
        chosen.append(f"{alias}:{name}={folder}" if taken else f"{name}={folder}")
        if name == "index":
            (corpus,) = catalogs.open_corpora([f"index={folder}"])
            songs = {recording.identity for recording in corpus.recordings()}
            known |= songs
            held_out, test = (",".join(song for song in names if song in songs) for names in named.values())
            settings += [f"{alias}.held_out={held_out}", f"{alias}.validation=0", f"{alias}.held_out_test={test}"]
    if lists != LISTS:
        for file, names in named.items():
            if missing := next((song for song in names if song not in known or "," in song), None):
                raise ConfigError(
                    f"{lists / file}: '{missing}' is no song of an INDEX.tsv of --audio; write names without folder, ending and comma"
                )
    return chosen, settings


def names_in(path: Path) -> list[str]:
    """The names in a list; none if the file does not exist."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in lines if line and not line.startswith("#")]


def open_audio(folders: Sequence[Path]) -> list[Corpus]:
    """The corpora of folders, as `corpora_of` reads them."""
    return catalogs.open_corpora(*corpora_of(folders))


def catalog(folders: Sequence[Path]) -> Catalog:
    """All recordings of folders, with the split of the bundled model."""
    return catalogs.build(open_audio(folders))


def _check_corpora(work: Path, failed: Mapping[str, str]) -> None:
    """Raises DuoTokError when all recordings of a corpus failed, which would be missing in hours of training."""
    recordings = catalogs.read(work)
    for corpus in dict.fromkeys(recording.corpus for recording in recordings):
        ids = [recording.id for recording in recordings if recording.corpus == corpus]
        if set(ids) <= failed.keys():
            raise DuoTokError(
                f"{corpus}: none of its {len(ids)} recordings can be read ({failed[ids[0]]}); fix it or leave it out"
            )


# -- the stages ------------------------------------------------------------------------------------------------------


@dataclass
class Runner:
    """Runs tasks as processes of their own, `parallel` at a time, each as soon as what it needs is done.

    stages: the folder of the YAML files; minutes: of the tasks that are trained by time; settings: `STAGE.KEY=VALUE`, or
    `all.KEY=VALUE`.
    """

    runs: Path
    stages: Path
    workers: int
    parallel: int
    minutes: Mapping[str, float]
    settings: Sequence[str]

    def check(self, names: Sequence[str]) -> None:
        """Read the config of every task with its settings. Raises ConfigError."""
        stages = {task.stage for task in TASKS.values()}
        for text in self.settings:
            stage, _, rest = text.partition(".")
            if stage not in (*stages, "all") or not rest:
                raise ConfigError(
                    f"--set {text}: write STAGE.KEY=VALUE; stages are {', '.join(sorted(stages))}, or all"
                )
        for name in names:
            load_config(config_class(TASKS[name].stage), self.config(name), self.told(name))

    def config(self, name: str) -> str:
        """The `--config` of a task: a path, or the name of a packaged recipe."""
        return recipe_name(self.stages / f"{TASKS[name].stage}.yaml")

    def told(self, name: str) -> list[str]:
        """The `KEY=VALUE` settings of a task: its own, and those that were set for its stage."""
        split = [text.partition(".") for text in self.settings]
        return [*TASKS[name].settings, *(rest for stage, _, rest in split if stage in (TASKS[name].stage, "all"))]

    def command(self, name: str) -> list[str]:
        task = TASKS[name]
        words = [sys.executable, "-m", "duotok", "train", task.stage, "--config", self.config(name)]
        words += ["--data", str(self.runs / "data"), "--runs", str(self.runs), "--workers", str(self.workers)]
        for text in self.told(name):
            words += ["--set", text]
        if task.prepare:
            words.append("--prepare")
        elif name in self.minutes:
            words += ["--minutes", str(self.minutes[name])]
        return words

    def run(self, names: Sequence[str]) -> None:
        """Run these tasks; the results of other tasks are used as they are. Raises DuoTokError when one fails."""
        console = Console(stderr=True)
        waiting, done = list(names), set(TASKS) - set(names)
        running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        (self.runs / "logs").mkdir(parents=True, exist_ok=True)
        failed: list[str] = []
        try:
            while waiting or running:
                for name in [n for n in waiting if set(TASKS[n].after) <= done]:
                    if failed or len(running) >= self.parallel:
                        break
                    waiting.remove(name)
                    console.print(f"[bold]{name}[/] begins; its words are in {self.log(name)}", highlight=False)
                    with self.log(name).open("ab") as log:
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
            end_and_wait([process for process, _ in running.values()])
        if failed:
            raise DuoTokError(
                f"{self.runs}: {', '.join(failed)} failed; fix it and run the same command again: it goes on"
            )

    def log(self, name: str) -> Path:
        return self.runs / "logs" / f"{name}.log"

    def last_words(self, name: str) -> str:
        lines = self.log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "it said nothing")


# -- command line ----------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    # fmt: off
    trained = ", ".join(name for name, task in TASKS.items() if not task.prepare)
    parser = argparse.ArgumentParser(
        prog="python -m duotok.recipes.mini_bundle", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--audio", type=Path, action="append", required=True, metavar="FOLDER", help="training audio; repeatable")
    add("--runs", type=Path, default=Path("runs/mini"), help="where everything is kept (default %(default)s)")
    add("--stages", default=STAGES, metavar="SET", help="YAML files: a set of `duotok recipes list`, or a folder (default %(default)s)")
    add("--lists", type=Path, default=LISTS, metavar="FOLDER", help="of held_out.txt and test.txt, never trained on (default: the bundled model's)")
    add("--corpus-set", action="append", default=[], metavar="CORPUS.OPTION=VALUE", help="as folder.validation=0.25 where songs are few")
    add("--songs", type=_count, default=120, metavar="N", help="generated songs of 30 s added to the audio (default %(default)s)")
    add("--workers", type=_positive, default=2, metavar="N", help="processes that generate songs and prepare data (default %(default)s)")
    add("--parallel", type=_positive, default=1, metavar="N", help="stages that run side by side (default %(default)s)")
    add("--minutes", action="append", default=[], metavar="TASK=M", help=f"train by time: {trained}; repeatable")
    add("--steps", type=_positive, metavar="N", help="the same number of steps for every stage: a short run to try the recipe")
    add("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="override a config's key; all.KEY: of every stage; repeatable")
    add("--prepared", action="store_true", help="take the shards in RUNS/data as they are, look at no audio and make no songs")
    add("--only", metavar="TASK,...", help=f"these tasks: {', '.join(TASKS)}; the bundle is made when {LAST} is among them")
    add("--bundle", type=Path, metavar="FOLDER", help="where the bundle goes (default RUNS/bundle)")
    add("--name", default="duotok-mini", help="the model's name, as token files will know it (default %(default)s)")
    # fmt: on
    return parser


def check_places(audio: Sequence[Path], runs: Path, bundle: Path | None) -> None:
    """Raises ConfigError where audio is missing, or where the recipe would have to replace existing files."""
    for folder in audio:
        _check_audio(folder)
        if folder.resolve().is_relative_to(runs.resolve()):
            raise ConfigError(f"--audio {folder}: lies in {runs}, where the recipe writes; name another --runs")
    for folder in (runs, *(runs / name for name in ("songs", "data", "logs"))):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder}: is a file, and the recipe's folder would be there; name another --runs")
    if bundle is None or not bundle.exists():
        return
    if not bundle.is_dir():
        raise ConfigError(f"{bundle}: is a file, and the bundle's folder would be there; name another --bundle")
    if any(bundle.iterdir()) and not is_bundle(bundle):
        raise ConfigError(f"{bundle}: holds other files and no bundle; name another --bundle")


def check_outside(audio: Path, place: Path, option: str) -> None:
    """Raises ConfigError where all sound below `audio` is taken and `place` lies there: what is written would be trained on."""
    if not (audio / "INDEX.tsv").is_file() and place.resolve().is_relative_to(audio.resolve()):
        raise ConfigError(
            f"--audio {audio}: {place} lies in it, whose songs would be taken for yours; name another {option}"
        )


def _check_audio(folder: Path) -> None:
    if not folder.is_dir():
        state = "is a file; name the folder it lies in" if folder.exists() else "no such folder; name a folder of audio"
        raise ConfigError(f"--audio {folder}: {state}")


def _names(only: str | None) -> list[str]:
    """The tasks of `--only`, all when it is not given. Raises ConfigError for an unknown one."""
    names = [name.strip() for name in only.split(",") if name.strip()] if only is not None else list(TASKS)
    unknown = next((name for name in names if name not in TASKS), None if names else only)
    if unknown is not None:
        raise ConfigError(f"--only: '{unknown}' is no task; there are {', '.join(TASKS)}")
    return names


def _minutes(texts: Sequence[str]) -> dict[str, float]:
    """`TASK=M` as numbers. Raises ConfigError."""
    minutes = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in TASKS or TASKS[name].prepare:
            trained = ", ".join(task_name for task_name, task in TASKS.items() if not task.prepare)
            raise ConfigError(f"--minutes {text}: '{name}' is no task that trains; there are {trained}")
        try:
            minutes[name] = float(value)
        except ValueError:
            minutes[name] = math.nan
        if not 0 < minutes[name] < math.inf:
            raise ConfigError(f"--minutes {text}: write TASK=MINUTES, e.g. stage1=90")
    return minutes


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: 0 or more")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())

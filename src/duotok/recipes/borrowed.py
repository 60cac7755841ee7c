"""The recipe on a borrowed GPU that takes a few files a call and has no network: everything that goes there, and the calls to paste.

    python -m duotok.recipes.borrowed -o borrowed --audio music --songs 100 --minutes 13 --parts 3 --call-size 64MiB --have torch,numpy

It generates songs, fetches wheels, copies as many recordings and songs as fit (as Opus), divides the minutes among the stages,
makes the kit (docs/kit.md) in OUT/kit, cut into one part for each call, and prints the calls, which OUT/calls.md keeps. It goes
on where it stopped; the kit is made anew.

From the released weights instead of nothing: --released mini --stages stage2,stage3,stage4.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.config import config_folder
from duotok.errors import ConfigError, DuoTokError, of_system
from duotok.files import write_bytes
from duotok.recipes import door
from duotok.recipes.mini_bundle import INTERRUPTED, LISTS, check_outside, corpora_of
from duotok.recipes.sized import sizes_of, write_config
from duotok.recipes.small_corpora import SmallCorpora, make_small_corpora, packed
from duotok.training.kit import contents
from duotok.training.kit.collect import parse_size
from duotok.training.kit.make import SPARE, KitOptions, make_kit
from duotok.training.kit.trainings import parse_stages, plan_trainings
from duotok.training.kit.wheels import Resolver, Sources, Target, parse_have
from duotok.training.stages.registry import NAMES, config_class

MODEL = "src/duotok/bundles/mini"
ALL = "separator,autoencoder,stage1,stage2,stage3,stage4,adversarial,adapt"
MARGIN = 1 << 20  # bytes for configs, lists of hashes and what a call has besides
RELEASED = "released"  # in OUT of that machine: the runs of an unpacked bundle
HELD = ("songs", "opus", "audio", "wheels", "configs", "kit", "calls.md", "back", "bundle", "results")
"""What OUT may hold: all but the last three are written here."""
SHARES = ", ".join(f"{run} {share:g}" for run, share in door.SHARES.items())
NAMED = {
    "separator": {"start_from": "separator"},
    "autoencoder": {"start_from": "autoencoder"},
    "stage2": {"start_from": "stage2"},
    "stage3": {"start_from": "stage2"},
    "stage4": {"start_from": "{run}", "tokenizer_from": "stage3", "autoencoder_from": "autoencoder"},
    "adversarial": {"start_from": "autoencoder"},
    "adapt": {
        "autoencoder_from": "autoencoder", "tokenizer_from": "stage3", "renderer_from.vocals": "stage4.vocals",
        "renderer_from.accompaniment": "stage4.accompaniment",
    },
}  # fmt: skip
"""Stage -> config key -> the released run that it starts from, where that run is not trained anew before it."""


def main() -> int:
    try:
        print(borrow(arguments().parse_args()), end="")
    except (DuoTokError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {of_system(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


def borrow(options: argparse.Namespace) -> str:
    """Prepare everything in OUT; returns the page of calls. Raises DuoTokError, OSError."""
    out: Path = options.out
    top = work_tree(Path.cwd())
    check_out(out, top)
    if not (options.audio or options.songs):
        raise ConfigError("--audio and --songs: neither is given; name folders of audio, or how many songs to generate")
    check_options(options)
    hidden = hidden_paths(options.hide, top)
    names = [run for run, _, _ in parse_stages([name for name in options.stages.split(",") if name], NAMES)]
    if not names:
        raise ConfigError(f"--stages '{options.stages}': names no run; leave it out for {ALL}")
    shares = door.parse_shares(options.share)
    machine = door_of(options)
    configs, overrides, bundle_words = released(options, names, out)
    # Before hours of sound are encoded: do the runs fit together, is there any time for them?
    plan_trainings(names, configs, (), [*overrides, *options.train_set], config_class, NAMES, ())
    door.schedule(machine, options.parts, 0.0, options.hour_minutes, names, shares)
    if options.songs:
        from duotok.songs import generate_many

        tell(f"songs: {options.songs} from seed {options.first_song}, those that are there are kept")
        seeds = range(options.first_song, options.first_song + options.songs)
        generate_many(
            seeds, out / "songs", workers=options.workers, seconds=options.song_seconds, mono=True, format="opus",
            tracks=tuple(options.song_tracks.split(",")),
        )  # fmt: skip
    wheels = fetch_wheels(options, out / "wheels")
    room, part = room_for_sound(options, tree_bytes(top, hidden) if top is not None else 0, wheels)
    folders = [*options.audio, *([out / "songs"] if options.songs else [])]
    small = make_small_corpora(
        folders, out / "audio", out / "opus", room, options.kbps, options.lists, options.corpus_set, tell=tell
    )
    plan = door.schedule(machine, options.parts, small.hours, options.hour_minutes, names, shares)
    kit = KitOptions(
        stages=names, configs=configs, minutes=[f"{run}={m:g}" for run, m in plan.runs.items()],
        overrides=[*overrides, *options.train_set], corpora=small.corpora, settings=small.settings, separator="none",
        segment=["whole_seconds=1"], shard_segments=64, bundle=bool(options.released),
        target=Target(options.python, options.platform) if options.wheels else None, have=options.have,
        sources=Sources([str(out / "wheels")], no_index=True), part_size=part, max_size=1 << 40,
    )  # fmt: skip
    facts = make_kit(out / "kit", kit, config_class, NAMES, tell)
    made = door.calls(
        machine, plan, named(out / "kit", top), facts["parts"], options.name, bundle_words, options.released
    )
    text = door.page(machine, plan, made, hidden, str(out), joining(out, options.name))
    write_bytes(out / "calls.md", text.encode())
    tell(summary(small, facts, out))
    return text


def check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for a number, size or folder with which nothing can be made, before songs are."""
    above = ("minutes", "song_seconds", "kbps", "limit_minutes")
    for name in (*above, "start_minutes", "call_minutes", "hour_minutes"):
        value = getattr(options, name)
        if not (math.isfinite(value) and (value > 0 if name in above else value >= 0)):
            wanted = "a number above 0" if name in above else "a number, 0 or more"
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: give {wanted}")
    least = {"songs": 0, "first_song": 0, "back_calls": 0}
    for name in (
        "songs",
        "first_song",
        "back_calls",
        "workers",
        "parallel",
        "parts",
        "cores",
        "command_length",
        "back_files",
    ):
        if getattr(options, name) < least.get(name, 1):
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: give {least.get(name, 1)} or more")
    parse_size(options.call_size)
    for folder in options.audio:
        if not folder.is_dir():
            raise ConfigError(f"--audio {folder}: no such folder; name a folder of audio")
        check_outside(folder, options.out, "-o")
    corpora_of(options.audio, options.lists)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def summary(small: SmallCorpora, facts: dict[str, Any], out: Path) -> str:
    size, parts = facts["bytes"] / 2**20, len(facts["parts"])
    return f"{out / 'kit'}: {small.hours:.1f} hours of sound, {size:.1f} MiB in {parts} parts; {out / 'calls.md'} has the calls"


def joining(out: Path, name: str) -> list[str]:
    """What is done here with what came back."""
    return [
        f"cat {out}/back/bundle.tar.* | tar -x -C {out}/back     # the bundle that was made there",
        f"duotok info {out}/back/bundle",
        f"duotok kit join {out}/back --runs runs/{name}     # once all of results.NNN are there: the weights of every run",
        f"duotok bundle --runs runs/{name} --data {out}/back/work -o {out}/bundle --name {name}     # the same bundle from them",
    ]


# -- places ------------------------------------------------------------------------------------------------------------


def work_tree(folder: Path) -> Path | None:
    """The top folder of the git checkout that `folder` lies in; None outside of one."""
    done = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=folder, capture_output=True, text=True)
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def tree_bytes(top: Path, hidden: Sequence[str]) -> int:
    """Bytes of the files of a checkout that git tracks or does not ignore, without those below `hidden`."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=top, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [path for path in done.stdout.split("\0") if path]
    kept = [path for path in paths if not any(path.startswith(f"{folder}/") for folder in hidden)]
    return sum(os.lstat(top / path).st_size for path in dict.fromkeys(kept) if os.path.lexists(top / path))


def hidden_paths(asked: Sequence[str] | None, top: Path | None) -> list[str]:
    """The folders of `--hide`, from the top of the checkout; the packaged model where none is given. Raises ConfigError."""
    if top is None:
        return []
    paths = (
        [path.strip("/") for path in (MODEL,) if (top / path).is_dir()]
        if asked is None
        else [path.strip("/") for path in asked]
    )
    for path in paths:
        if not (top / path).is_dir():
            raise ConfigError(f"--hide {path}: no such folder in {top}; write it as from there")
    return paths


def check_out(out: Path, top: Path | None) -> None:
    """Raises ConfigError when OUT holds anything else, or git would count it as part of the checkout."""
    foreign = [path for path in sorted(out.iterdir()) if path.name not in HELD] if out.is_dir() else []
    if foreign or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{(foreign or [out])[0]}: was not made by this command; name another folder with -o")
    if top is None:
        return
    if not out.resolve().is_relative_to(top):
        raise ConfigError(f"-o {out}: outside of {top}, from where the calls bring files; name a folder inside of it")
    ignored = subprocess.run(["git", "check-ignore", "-q", str(out.resolve() / "kit")], cwd=top).returncode == 0
    if not ignored:
        path = out.resolve().relative_to(top).as_posix()
        raise ConfigError(
            f"-o {out}: git does not ignore it, so every call would bring all of it: echo /{path}/ >> "
            '"$(git rev-parse --git-path info/exclude)"'
        )


def named(path: Path, top: Path | None) -> str:
    """A path as a call names it: from the top of the checkout."""
    return os.path.relpath(path.resolve(), top if top is not None else Path.cwd())


def runs_back(options: argparse.Namespace) -> list[str]:
    """The runs of `--back-runs`. Raises ConfigError for one that is not trained."""
    trained, named = ([run for run, _, _ in parse_stages([n for n in text.split(",") if n], NAMES)]
                      for text in (options.stages, options.back_runs))  # fmt: skip
    for run in named:
        if run not in trained:
            raise ConfigError(f"--back-runs {run}: it is not trained; --stages has {', '.join(trained)}")
    return named


def door_of(options: argparse.Namespace) -> door.Door:
    return door.Door(
        minutes=options.minutes, start=options.start_minutes, call=options.call_minutes, limit=options.limit_minutes,
        length=options.command_length, piece=parse_size(options.piece_size), back=parse_size(options.back_size),
        files=options.back_files, calls_back=options.back_calls, runs_back=",".join(runs_back(options)), there=options.there, outbox=options.outbox,
        python=options.python_there, workers=options.cores, parallel=options.parallel,
    )  # fmt: skip


# -- what goes there ---------------------------------------------------------------------------------------------------


def fetch_wheels(options: argparse.Namespace, folder: Path) -> int:
    """The wheels that the machine lacks, in `folder`; their bytes in a tar."""
    shutil.rmtree(folder, ignore_errors=True)
    if not options.wheels:
        return 0
    folder.mkdir(parents=True)
    sources = Sources(options.find_links, options.no_index)
    resolver = Resolver(Target(options.python, options.platform), parse_have(options.have), folder, sources, tell)
    wheels = resolver.resolve(["train"])
    size = sum(packed(wheel.path.stat().st_size) for wheel in wheels)
    tell(f"wheels: {len(wheels)}, {size / 2**20:.1f} MiB; that machine has {', '.join(sorted(resolver.used))}")
    return size


def room_for_sound(options: argparse.Namespace, tree: int, wheels: int) -> tuple[int, int]:
    """Bytes for the corpora, and the size of a part; tree, wheels: bytes of these. Raises ConfigError when nothing is left."""
    part = parse_size(options.call_size) - tree - MARGIN
    code = sum(packed(item.size) for item in contents.code(bool(options.released)))
    room = options.parts * (part - SPARE) - wheels - code - MARGIN
    rows = f"work tree {tree / 2**20:.1f} MiB in each call, wheels {wheels / 2**20:.1f}, code {code / 2**20:.1f}"
    tell(f"{options.parts} parts of {part / 2**20:.1f} MiB; {rows}; left for sound: {room / 2**20:.1f} MiB")
    if part < 4 * SPARE or room <= 0:
        raise ConfigError(
            f"--parts {options.parts} of --call-size {options.call_size}: nothing is left for sound ({rows}); take more parts, or hide "
            "more of the work tree with --hide"
        )
    return room, part


def released(options: argparse.Namespace, runs: Sequence[str], out: Path) -> tuple[Path, list[str], list[str] | None]:
    """Configs, overrides, and further options of `duotok bundle` (None: the runs make none).

    With --released the configs get the sizes of that bundle, and each run starts from its part of it, which that machine unpacks.
    """
    folder = config_folder(options.configs)
    words: list[str] | None = [] if {"stage4.vocals", "stage4.accompaniment"} <= {*runs} else None
    if words is not None and "adapt" not in runs and "adversarial" in runs:
        words += ["--set", "autoencoder_from=adversarial"]
    if not options.released:
        return folder, [], words if "separator" in runs else None
    if words is not None and "separator" not in runs:
        words += ["--set", f"separator_from={{out}}/{RELEASED}/separator"]
    sizes = sizes_of(options.released)
    place = out / "configs"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    overrides = []
    for run in runs:
        stage = run.partition(".")[0]
        own = {key: value for key, value in sizes.get(run, {}).items() if key != "track"}
        write_config(place / f"{run}.yaml", folder / f"{stage}.yaml", own)
        for key, source in NAMED.get(stage, {}).items():
            source = source.format(run=run)
            # A run that is trained before this one is what it starts from by default.
            if source == run or source not in runs:
                overrides.append(f"{run}.{key}={{out}}/{RELEASED}/{source}")
    return place, overrides, words


# -- command line ------------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(
        prog="python -m duotok.recipes.borrowed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for all of it, inside the checkout and ignored by git")
    add = parser.add_argument_group("sound").add_argument
    add("--audio", type=Path, action="append", default=[], metavar="FOLDER", help="with INDEX.tsv, of generated songs, or of any audio; repeatable")
    add("--lists", type=Path, default=LISTS, metavar="FOLDER", help="of held_out.txt and test.txt (default: the bundled model's)")
    add("--corpus-set", action="append", default=[], metavar="CORPUS.OPTION=VALUE", help="as folder.kind=voice, folder.licence=CC0")
    add("--songs", type=int, default=0, metavar="N", help="songs to generate here (default %(default)s)")
    add("--first-song", type=int, default=0, metavar="SEED", help="seed of the first; the next ones count on")
    add("--song-seconds", type=float, default=30.0, metavar="S", help="length of each (default %(default)g)")
    add("--song-tracks", default="vocals,drums,bass,other", metavar="TRACK,...", help="vocals,accompaniment: half the size, no separator learns")
    add("--kbps", type=float, default=48, metavar="K", help="kbit/s for a channel of what is encoded (default %(default)g)")
    add("--workers", type=int, default=1, metavar="N", help="processes that generate songs here")
    add = parser.add_argument_group("training").add_argument
    add("--stages", default=ALL, metavar="RUN,...", help="default %(default)s")
    add("--configs", default="gpu", metavar="SET", help="set of recipes, or a folder (default %(default)s)")
    add("--train-set", action="append", default=[], metavar="[RUN.]KEY=VALUE", help="override a key; repeatable")
    add("--share", action="append", default=[], metavar="RUN=X", help=f"of the training time, instead of {SHARES}")
    add("--released", default="", metavar="MODEL", help="start from its weights, as mini, instead of nothing")
    add("--name", default="borrowed", help="of the model (default %(default)s)")
    add("--parallel", type=int, default=8, metavar="N", help="runs side by side (default %(default)s)")
    add = parser.add_argument_group("the machine").add_argument
    add("--minutes", type=float, required=True, metavar="M", help="that it is lent, transfers and all")
    add("--parts", type=int, default=3, metavar="K", help="calls that bring something (default %(default)s)")
    add("--call-size", default="64MiB", metavar="SIZE", help="that one call takes, the work tree included (default %(default)s)")
    add("--hide", action="append", metavar="PATH", help=f"of the checkout, hidden meanwhile; repeatable (default {MODEL})")
    add("--python", default="3.12", help="of that machine (default %(default)s)")
    add("--platform", default="linux-x86_64", help="of that machine (default %(default)s)")
    add("--have", action="append", default=[], metavar="NAME,...", help="distributions that it has, as for `duotok kit make`")
    add("--find-links", action="append", default=[], metavar="FOLDER", help="a folder of wheels where pip looks too")
    add("--no-index", action="store_true", help="pip asks no index, only --find-links")
    add("--no-wheels", dest="wheels", action="store_false", help="that machine has every package")
    add("--cores", type=int, default=14, metavar="N", help="processes that prepare there (default %(default)s)")
    add("--there", default="/tmp/duotok-kit", metavar="FOLDER", help="of that machine, kept between calls (default %(default)s)")
    add("--python-there", default="python3", metavar="COMMAND", help="default %(default)s")
    add("--outbox", default='"$OUT"', metavar="FOLDER", help="whose files come back, as its shell writes it (default %(default)s)")
    add("--start-minutes", type=float, default=1.0, metavar="M", help="until it is there (default %(default)g)")
    add("--call-minutes", type=float, default=0.15, metavar="M", help="of a call besides its command (default %(default)g)")
    add("--limit-minutes", type=float, default=10.0, metavar="M", help="of one command (default %(default)g)")
    add("--hour-minutes", type=float, default=0.25, metavar="M", help="to prepare an hour of sound there, arrays included (default %(default)g)")
    add("--command-length", type=int, default=2000, metavar="N", help="longest command (default %(default)s)")
    add("--piece-size", default="15MiB", metavar="SIZE", help="largest file that comes back (default %(default)s)")
    add("--back-size", default="60MiB", metavar="SIZE", help="of all that come back in one call (default %(default)s)")
    add("--back-files", type=int, default=8, metavar="N", help="files that come back in one call (default %(default)s)")
    add("--back-calls", type=int, default=3, metavar="N", help="calls for more pieces after the first (default %(default)s)")
    add("--back-runs", default="", metavar="RUN,...", help="whose weights come back beside the bundle (default: all)")
    # fmt: on
    return parser


if __name__ == "__main__":
    sys.exit(main())

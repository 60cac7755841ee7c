"""A kit: code, configs, data and wheels in one folder with one script (docs/kit.md)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from duotok.config import Config, override, parse
from duotok.data.segments import SegmentConfig
from duotok.data.sharding import SHARD_SEGMENTS
from duotok.errors import FULL, ConfigError, DuoTokError
from duotok.files import temporary_folder
from duotok.training.kit import contents, start
from duotok.training.kit.contents import KitItem
from duotok.training.kit.pieces import cut, entries
from duotok.training.kit.plan import FILE, KitPlan, Training
from duotok.training.kit.trainings import plan_trainings
from duotok.training.kit.wheels import Resolver, Sources, Target, Wheel, from_list, parse_have

FORMAT = 1
SCRIPT = "run.py"
SPARE = 1 << 19  # bytes of a part's size that are reserved for the script and PARTS.json beside it
README_TEXT = """# A training kit of DuoTok

    python run.py --workers 16            set up, prepare, train; again after a stop: it goes on
    python run.py --status                what is done
    python run.py --collect FOLDER        the newest checkpoints, in pieces with hashes, for the way back
    python run.py duotok COMMAND ...      any command of DuoTok in the kit's environment
    python run.py --help                  everything else

It needs no network. Everything is written into the folder `out` beside the script, or into another one (`--out FOLDER`).
{trainings}
"""


@dataclass(frozen=True)
class KitOptions:
    """Options of a kit.

    stages, configs, minutes, overrides: see `plan_trainings`; data: WORK whose shards are included; corpora, settings,
    licences: as `duotok data prepare` takes them; songs: number of songs to generate there; runs: RUNS whose checkpoints are
    included; have: see `parse_have`; target: None includes no wheels.
    """

    stages: Sequence[str] = ()
    configs: Path = Path("mini")
    minutes: Sequence[str] = ()
    overrides: Sequence[str] = ()
    data: Path | None = None
    corpora: Sequence[str] = ()
    settings: Sequence[str] = ()
    licences: Sequence[str] = ()
    separator: str = "mini"
    segment: Sequence[str] = ()
    shard_segments: int = SHARD_SEGMENTS
    songs: int = 0
    runs: Path | None = None
    include: Sequence[Path] = ()
    bundle: bool = False
    target: Target | None = None
    extras: Sequence[str] = ()
    have: Sequence[str] = ()
    requirement: Path | None = None
    sources: Sources = field(default_factory=Sources)
    max_size: int = 2 << 30
    part_size: int | None = None


def make_kit(
    folder: Path, options: KitOptions, class_of: Callable[[str], type[Config]], stages: Sequence[str], tell: Callable[[str], None]
) -> dict[str, Any]:  # fmt: skip
    """Write a kit into `folder`, which appears whole or not at all; returns its facts. Raises DuoTokError.

    class_of: the config class of a stage; stages: the names of all stages. An existing kit is replaced, unless it has
    run, or contains files that were added or changed since.
    """
    _check_place(folder)
    if options.part_size is not None and options.part_size < 4 * SPARE:
        raise ConfigError(f"--part-size {options.part_size} bytes: at least {4 * SPARE // 2**20} MiB")
    items, plan = gather(options, class_of, stages)
    contents.check_size(items, options.max_size)  # before wheels are fetched
    partial = folder.absolute().parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        with temporary_folder("duotok-wheels-") as place:

            def check(wheels: Sequence[Wheel]) -> None:
                contents.check_size([*items, *_items(wheels)], options.max_size)

            wheels, requires = _wheels(options, place, tell, check)
            plan = _with_wheels(plan, wheels, requires, options.target)
            items += _items(wheels)
            items += [KitItem(FILE, plan.text()), KitItem(contents.README, _readme(plan))]
            items.append(KitItem(SCRIPT, Path(start.__file__)))
            size, sums = contents.check_size(items, options.max_size), contents.groups(items)
            tell(f"{folder}: {len(items):,} files, {size / 2**20:.1f} MiB")
            manifest = _copy(items, partial)
        facts = {"folder": str(folder), "files": len(items), "bytes": size, "groups": sums}
        facts |= {"seal": manifest["seal"], "wheels": [wheel.path.name for wheel in wheels], "parts": []}
        if options.part_size is not None:
            facts["parts"] = _cut(partial, manifest, options.part_size - SPARE)
        _check_place(folder)  # again, since fetching the wheels takes a while
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(folder)  # not flushed: the hashes show whether it reached the disk
    except OSError as error:
        place = folder if error.errno in FULL else error.filename or folder  # copying names what is read
        raise DuoTokError(f"{place}: {error.strerror}; nothing was written") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def gather(
    options: KitOptions, class_of: Callable[[str], type[Config]], stages: Sequence[str]
) -> tuple[list[KitItem], KitPlan]:  # fmt: skip
    """All files but the wheels, and the plan. Raises DuoTokError for options that do not fit together."""
    run_files = list(contents.runs(options.runs)) if options.runs is not None else []
    trainings, configs, parsed = plan_trainings(
        options.stages, options.configs, options.minutes, options.overrides, class_of, stages,
        sorted({item.name.split("/")[1] for item in run_files}),
    )  # fmt: skip
    prepared = bool(options.corpora or options.songs)
    if options.data is not None and prepared:
        raise ConfigError("--data brings shards, --corpus and --songs are prepared there; give one or the other")
    if any(training.stage != "lm" for training in trainings) and options.data is None and not prepared:
        raise ConfigError("--stages without data: name shards by --data WORK, or recordings by --corpus NAME=FOLDER")
    if (options.settings or options.licences) and not options.corpora:
        raise ConfigError("--set and --licences are about --corpus, and there is none; add it or leave them out")
    data, prepare = _data(options)
    bundle = options.bundle or _needs_bundle(options, parsed.values(), prepared)
    items = [*contents.code(bundle), *configs, *data, *run_files, *contents.included(options.include)]
    shards = "shards" if options.data is not None else ""
    return items, KitPlan(trainings=tuple(trainings), shards=shards, prepare=tuple(prepare), songs=options.songs)


def _data(options: KitOptions) -> tuple[list[KitItem], list[str]]:
    """Files of data, and the arguments of `duotok data prepare` there."""
    if options.data is not None:
        return list(contents.shards(options.data)), []
    if not (options.corpora or options.songs):
        return [], []
    parse(SegmentConfig, override({}, list(options.segment)), "--segment")
    items, arguments = (
        contents.recordings(options.corpora, options.settings, options.licences) if options.corpora else ([], [])
    )
    if options.songs:
        arguments += ["--corpus", "generated:songs={out}/songs"]
    for setting in options.settings:
        arguments += ["--set", setting]
    for setting in options.segment:
        arguments += ["--segment", setting]
    if options.licences:
        arguments += ["--licences", ",".join(options.licences)]
    return items, [*arguments, "--separator", options.separator, "--shard-segments", str(options.shard_segments)]


def _needs_bundle(options: KitOptions, configs: Any, prepared: bool) -> bool:
    return (prepared and options.separator == "mini") or any(getattr(c, "teacher", "") == "mini" for c in configs)


def _items(wheels: Sequence[Wheel]) -> list[KitItem]:
    return [KitItem(f"{contents.WHEELS}/{wheel.path.name}", wheel.path) for wheel in wheels]


def _wheels(
    options: KitOptions, place: Path, tell: Callable[[str], None], check: Callable[[Sequence[Wheel]], None]
) -> tuple[list[Wheel], list[str]]:
    """The wheels, and every distribution that the kit needs, including those that the machine has. check: see `Resolver`."""
    if options.target is None:
        return [], []
    have = parse_have(options.have)
    if options.requirement is not None:
        wheels = from_list(options.requirement, options.target, place, options.sources)
        return wheels, sorted({*have, *(wheel.name for wheel in wheels)})
    extras = ["train", *(["songs"] if options.songs else []), *options.extras]
    resolver = Resolver(options.target, have, place, options.sources, tell, check)
    wheels = resolver.resolve(list(dict.fromkeys(extras)))
    return wheels, sorted({*resolver.used, *(wheel.name for wheel in wheels)})


def _with_wheels(plan: KitPlan, wheels: Sequence[Wheel], requires: Sequence[str], target: Target | None) -> KitPlan:
    if target is None:
        return plan
    names = tuple(f"wheels/{wheel.path.name}" for wheel in wheels)
    return replace(
        plan, python=target.python, system=target.system, machine=target.machine, wheels=names, requires=tuple(requires)
    )


def _readme(plan: KitPlan) -> str:
    def line(training: Training) -> str:
        return f"    {training.run}" + (f", {training.minutes:g} minutes" if training.minutes is not None else "")

    listed = "\n".join(["", "It trains, in this order:", "", *(line(training) for training in plan.trainings)])
    return README_TEXT.format(trainings=listed if plan.trainings else "")


def _check_place(folder: Path) -> None:
    kit_files: dict[str, str | None] = {}
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; name a folder for the kit")
    if folder.is_dir() and any(folder.iterdir()):
        kit_files = _kit_files(folder)
        if not kit_files:
            raise ConfigError(f"{folder}: holds other files and no kit; name a new or an empty folder")
    if (folder / "out").exists():
        raise ConfigError(
            f"{folder}: the kit has run there, in {folder / 'out'}; move that away, or name another folder"
        )
    if folder.is_dir() and (foreign := _foreign_file(folder, kit_files)):
        raise ConfigError(
            f"{foreign}: not as the kit in {folder} was made, and would be deleted with it; move it away, or name another folder"
        )


def _kit_files(folder: Path) -> dict[str, str | None]:
    """Name -> hash of the files of a kit, or of its parts; {} for any other folder."""
    manifest, parts = start.read(folder / start.MANIFEST), start.read(folder / start.PARTS)
    listed = manifest.get("files") if "seal" in manifest else parts.get("parts") if "kit" in parts else None
    try:
        files: dict[str, str | None] = {entry["name"]: entry["sha256"] for entry in listed or ()}
    except (KeyError, TypeError):
        return {}
    if files:
        files = {**dict.fromkeys((start.MANIFEST, start.PARTS, SCRIPT, contents.README)), **files}
    return files


def _foreign_file(folder: Path, kit_files: Mapping[str, str | None]) -> Path | None:
    """A file in a kit's folder that was added or changed since the kit was made; Python's caches do not count."""
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if (path.is_dir() and not path.is_symlink()) or "__pycache__" in below.parts:
            continue
        name = below.as_posix()
        if name not in kit_files or path.is_symlink() or kit_files[name] not in (None, start.digest(path)):
            return path
    return None


def _copy(items: Sequence[KitItem], folder: Path) -> dict[str, Any]:
    """Write the files and the list of their hashes."""
    for item in items:
        path = folder / item.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(item.source, Path):
            shutil.copyfile(item.source, path)
        else:
            path.write_text(item.source, encoding="utf-8")
    files = entries(folder, sorted(item.name for item in items))
    manifest = {"format": FORMAT, "seal": start.seal(files), "files": files}
    (folder / start.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _cut(folder: Path, manifest: dict[str, Any], size: int) -> list[str]:
    """Turn the files in `folder` into parts of at most `size` bytes, with the script beside them."""
    names = [entry["name"] for entry in manifest["files"]] + [start.MANIFEST]
    complete = folder.with_name(f"{folder.name}.whole")
    try:
        folder.rename(complete)
        folder.mkdir()
        parts = cut(((name, complete / name) for name in names), folder, "part-", size)
        table = {"format": FORMAT, "kit": manifest["seal"], "parts": parts}
        (folder / start.PARTS).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(complete / SCRIPT, folder / SCRIPT)
        shutil.copyfile(complete / contents.README, folder / contents.README)
    finally:
        shutil.rmtree(complete, ignore_errors=True)
    return [part["name"] for part in parts]

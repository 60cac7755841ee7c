"""The contents of a kit: each file's name in the kit, and its source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duotok
from duotok.data import catalog
from duotok.errors import ConfigError, DuoTokError
from duotok.training.kit import collect

README = "README.md"
WHEELS = "wheels"


@dataclass(frozen=True)
class KitItem:
    """A file of the kit; source: a local file, or a text."""

    name: str
    source: Path | str

    @property
    def size(self) -> int:
        return self.source.stat().st_size if isinstance(self.source, Path) else len(self.source.encode())


def tree(folder: Path, name: str) -> Iterator[KitItem]:
    """All files of a folder under another name, without hidden ones and caches."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield KitItem(f"{name}/{'/'.join(parts)}", path)


def code(bundle: bool) -> Iterator[KitItem]:
    """The installed package; the packaged model only where it is needed, and without its language model."""
    for item in tree(Path(duotok.__file__).parent, "code/duotok"):
        parts = item.name.split("/")
        if parts[2] == "bundles" and (not bundle or "lm" in parts):
            continue
        yield item


def shards(work: Path) -> Iterator[KitItem]:
    """The shards of a WORK. Raises ConfigError when they are missing or not finished."""
    folder = work / "shards"
    if not (folder / "shards.json").is_file():
        state = "not finished" if folder.is_dir() else "missing"
        raise ConfigError(
            f"{folder}: {state}; run `duotok data prepare --work {work}` first, or name recordings by --corpus"
        )
    return tree(folder, "shards")


def recordings(
    corpora: Sequence[str], settings: Sequence[str], licences: Sequence[str]
) -> tuple[list[KitItem], list[str]]:
    """The files of corpora, and the `--corpus` arguments that read them in the kit.

    Sound is taken only where a recording with an allowed licence uses it; all other files of a corpus are taken, since
    adapters read many kinds of tables and lyrics. Raises CorpusError as the catalog does, ConfigError for sound outside of
    the corpus.
    """
    from duotok.audio.finding import AUDIO_SUFFIXES

    opened = catalog.open_corpora(corpora, settings)
    listed = catalog.build(opened, licences).recordings
    used: dict[str, set[str]] = {}
    for recording in listed:
        used.setdefault(recording.corpus, set()).update(os.path.normpath(path) for path in recording.audio.values())
    items: list[KitItem] = []
    arguments: list[str] = []
    for corpus in opened:
        used_files = used.get(corpus.name, set())
        root = Path(os.path.normpath(corpus.root))  # as the recordings' paths, where the folder was named with `..`
        outside = next((path for path in sorted(used_files) if not Path(path).is_relative_to(root)), None)
        if outside is not None:
            raise ConfigError(
                f"{outside}: not below {corpus.root}, so a kit cannot take it along; make shards and name them by --data"
            )
        works = {table.parent for table in corpus.root.rglob(catalog.TABLE)}
        for item in tree(corpus.root, f"audio/{corpus.name}"):
            path = corpus.root / item.name.split("/", 2)[2]
            if works.intersection(path.parents) or (
                path.suffix.lower() in AUDIO_SUFFIXES and os.path.normpath(path) not in used_files
            ):
                continue
            items.append(item)
        arguments += ["--corpus", f"{corpus.name}:{corpus.info.name}={{kit}}/audio/{corpus.name}"]
    return items, arguments


def runs(folder: Path) -> Iterator[KitItem]:
    """The newest and the best checkpoint of each run in a folder RUNS. Raises ConfigError when there is none."""
    trained = [run for run in sorted(folder.iterdir()) if collect.checkpoints(run)] if folder.is_dir() else []
    if not trained:
        raise ConfigError(f"--runs {folder}: no run with a checkpoint in it; name the folder of all runs")
    for run in trained:
        for name in collect.chosen(run, weights_only=False):
            yield KitItem(f"runs/{run.name}/{name}", run / name)


def included(paths: Sequence[Path]) -> Iterator[KitItem]:
    """Further files and folders, in `extra/`. Raises ConfigError for a missing file and for equal names."""
    names: set[str] = set()
    for path in paths:
        name = path.resolve().name
        if not path.exists():
            raise ConfigError(f"--include {path}: no such file or folder; check the path")
        if name in names:
            raise ConfigError(f"--include {path}: there is another '{name}'; rename one")
        names.add(name)
        yield from tree(path, f"extra/{name}") if path.is_dir() else [KitItem(f"extra/{name}", path)]


def groups(items: Iterable[KitItem]) -> dict[str, int]:
    """Bytes of the kit's parts, the largest first: what could be left out."""
    sums: dict[str, int] = {}
    for item in items:
        parts = item.name.split("/")
        key = "/".join(parts[:2]) if len(parts) > 1 and parts[0] in ("audio", "runs", "wheels", "extra") else parts[0]
        sums[key] = sums.get(key, 0) + item.size
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def _distribution(wheel: str) -> str:
    """The name, as `--have` takes it, of a wheel in the kit."""
    return wheel.removeprefix(f"{WHEELS}/").partition("-")[0].replace("_", "-").lower()


def check_size(items: Sequence[KitItem], limit: int) -> int:
    """Bytes in all. Raises DuoTokError that names the largest parts when it is over the limit, and what to name in --have
    where most of it is wheels.
    """
    sums = groups(items)
    total = sum(sums.values())
    if total > limit:
        largest = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in list(sums.items())[:5])
        wheels = {_distribution(name): size for name, size in sums.items() if name.startswith(f"{WHEELS}/")}
        remedy = "leave some out or raise --max-size"
        if 2 * sum(wheels.values()) > total:
            names = ["torch"] if "torch" in wheels else list(wheels)[:3]  # what only torch needs goes with it
            remedy = f"--have {','.join(names)} leaves out what that machine has already; or raise --max-size"
        raise DuoTokError(
            f"the kit would have {total / 2**20:.1f} MiB, over --max-size {limit / 2**20:.1f} MiB; its largest parts: {largest}; {remedy}"
        )
    return total

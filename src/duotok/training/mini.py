"""The whole recipe from audio and the song generator to a bundle: `make mini`. Every step resumes where it was stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from duotok.errors import DuoTokError
from duotok.training.assemble import assemble
from duotok.training.corpus import Corpus, prepare
from duotok.training.engine import train
from duotok.training.stages import build_stage

RECIPE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("separator", ()),
    ("autoencoder", ()),
    ("stage1", ()),
    ("stage2", ()),
    ("stage3", ()),
    ("stage4", ("track=accompaniment",)),
    ("stage4", ("track=vocals", "start_from={runs}/stage4.accompaniment")),
    ("adapt", ()),
)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--audio", type=Path, action="append", required=True, help="folder of training audio; repeatable"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/mini"), help="where everything is kept (default %(default)s)"
    )
    parser.add_argument("--configs", type=Path, default=Path("configs/mini"), help="one YAML for each stage")
    parser.add_argument(
        "--songs", type=int, default=120, help="generated songs of 30 s added to the audio (default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that generate songs")
    parser.add_argument(
        "--steps", type=int, help="the same number of steps for every stage: a short run to try the recipe"
    )
    parser.add_argument("--bundle", type=Path, help="where the bundle goes (default RUNS/bundle)")
    parser.add_argument("--name", default="duotok-mini")
    return parser


def make_mini(options: argparse.Namespace) -> Path:
    """Run the recipe; returns the bundle's folder."""
    runs: Path = options.runs
    folders = list(options.audio)
    if options.songs:
        from duotok.songs import generate_many

        folder = runs / "songs"
        generate_many(range(options.songs), folder, workers=options.workers)
        folders.append(folder)
    prepare(folders, runs / "cache")
    corpus = Corpus(runs / "cache")
    for name, overrides in RECIPE:
        extra = [] if options.steps is None else [f"steps={options.steps}"]
        chosen = [override.format(runs=runs) for override in overrides]
        stage = build_stage(name, options.configs / f"{name}.yaml", [*chosen, *extra], runs, corpus)
        train(stage, runs / stage.name)
    bundle = options.bundle or runs / "bundle"
    assemble(runs, corpus, bundle, options.name, f"make mini AUDIO={options.audio[0]}")
    return Path(bundle)


def main() -> int:
    try:
        print(f"bundle: {make_mini(arguments().parse_args())}")
    except DuoTokError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

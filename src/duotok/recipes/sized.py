"""Recipes with the sizes of a bundle: what trains on from released weights has its sizes, over the rates and batches of a set.

python -m duotok.recipes.sized mini -o runs/configs              a config for each part of the bundle, from the set `gpu`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from duotok.codec.bundle import Bundle
from duotok.codec.hub import find_bundle
from duotok.config import config_folder
from duotok.errors import DuoTokError, of_system
from duotok.files import write_bytes

MODEL_OF = {"adversarial": "autoencoder", "adapt": "autoencoder"}
"""Stages whose model is that of another run of a bundle."""


def sizes_of(bundle: str) -> dict[str, dict[str, Any]]:
    """Run -> the keys of its config that the weights of a bundle settle. Raises BundleError."""
    from duotok.training.unpack import settings_of

    sizes = settings_of(Bundle(find_bundle(bundle)), Path())
    own = {
        run: {key: value for key, value in values.items() if not key.endswith("_from")} for run, values in sizes.items()
    }
    return own | {run: own[source] for run, source in MODEL_OF.items() if source in own}


def write_config(place: Path, recipe: Path, values: dict[str, Any]) -> None:
    """Write a config that extends a recipe. Raises OSError."""
    text = yaml.safe_dump({"extends": str(recipe.resolve()), **values}, sort_keys=False)
    write_bytes(place, text.encode())


def write_configs(bundle: str, configs: str | Path, out: Path, runs: Iterable[str] | None = None) -> list[Path]:
    """OUT/RUN.yaml for each of `runs` (default: those of the bundle). configs: a set of recipes, or a folder. Raises BundleError,
    ConfigError, OSError."""
    folder, sizes, written = config_folder(configs), sizes_of(bundle), []
    for run in sizes if runs is None else runs:
        recipe = folder / f"{run.partition('.')[0]}.yaml"
        if recipe.is_file() or runs is not None:
            written.append(out / f"{run}.yaml")
            write_config(written[-1], recipe, sizes.get(run, {}))
    return written


def main() -> int:
    # fmt: off
    parser = argparse.ArgumentParser(
        prog="python -m duotok.recipes.sized", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", metavar="MODEL", help="its folder, its name, or owner/name on the hub")
    parser.add_argument("--configs", default="gpu", metavar="SET", help="set of recipes, or a folder (default %(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the configs; those of the same names are replaced")
    # fmt: on
    options = parser.parse_args()
    try:
        for path in write_configs(options.bundle, options.configs, options.out):
            print(path)
    except DuoTokError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {of_system(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

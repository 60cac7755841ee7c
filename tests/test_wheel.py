"""What is released: a wheel that works where there is no checkout, and an sdist that is the checkout.

The wheel is built from a copy of the tree and installed into an environment of its own. That sees the libraries of the
environment that runs this test, but not its duotok.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import soundfile
from tests.shards.shard_maker import make_shards, small_songs

from duotok.clock import SAMPLE_RATE
from duotok.config import RECIPES
from duotok.files import PACKAGE

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 3
# The wheel as it is released, but not compressed: that takes longest, and tells nothing.
STORED = {"--build-option": ["--compression=stored"]}
BUILD = f"import sys, setuptools.build_meta as b; out = sys.argv[1]; b.build_wheel(out, {STORED}); b.build_sdist(out)"
# Commands of duotok, one after the other in one process: each of its own would import torch for two seconds.
EACH = """
import json, sys
from duotok.cli.main import app
for words in json.loads(sys.argv[1]):
    code = app(words, standalone_mode=False)
    assert not code, (words, code)
"""
PREFIX = PACKAGE.relative_to(ROOT / "src")
TEMPLATES = (("pages", "page.html.j2"), ("demo", "demo.js"), ("data", "corpus.css"))
FOLDERS = ("docs", "tests", "benchmarks")


def sources(folder: Path) -> list[Path]:
    """The files of a folder but caches."""
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist; setuptools writes into the tree that it builds, so that is a copy."""
    place = tmp_path_factory.mktemp("build")
    tree, out = place / "tree", place / "dist"
    for path in (*ROOT.iterdir(), PACKAGE):
        target = tree / path.relative_to(ROOT)
        if path.is_dir() and (path == PACKAGE or path.name in (*FOLDERS, ".ci")):
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif path.is_file() and path.name != ".git":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    out.mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def scripts(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of python and duotok of an environment with the wheel in it."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    python = next(path for path in place.glob("*/python*") if path.stem == "python")
    # Its site-packages go on a list; .pth files in them, as those of editable installs, are not read.
    (libraries,) = place.rglob("site-packages")
    here = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (libraries / "libraries.pth").write_text("\n".join(here) + "\n")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-compile",
    ]
    subprocess.run([*install, "--ignore-installed", *map(str, built.glob("*.whl"))], check=True, cwd=place)
    return python.parent


def call(scripts: Path, cwd: Path, command: str, *words: object) -> str:
    """stdout of a command of the environment, in another folder, without the checkout in PYTHONPATH."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(scripts / command), *map(str, words)], cwd=cwd, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} {words}: {done.stderr}"
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {(PREFIX / path.relative_to(PACKAGE)).as_posix() for path in sources(PACKAGE)}
    assert {"duotok/recipes/mini/held_out.txt", "duotok/bundles/mini/lm/model.safetensors", "duotok/py.typed"} <= held
    assert {f"duotok/{room}/templates/{name}" for room, name in TEMPLATES} <= held


def test_the_sdist_is_the_checkout(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = {path.relative_to(ROOT).as_posix() for name in (*FOLDERS, "src/duotok") for path in sources(ROOT / name)}
    assert needed - held == set()
    assert {
        "CHANGELOG.md",
        "Dockerfile",
        ".pre-commit-config.yaml",
        "constraints.in",
        "CONTRIBUTING.md",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
        "LICENSE",
        "NOTICE",
    } <= held


def test_the_installed_wheel_encodes_decodes_and_trains(scripts: Path, tmp_path: Path) -> None:
    found = Path(call(scripts, tmp_path, "python", "-c", "import duotok; print(duotok.__file__)").strip()).parent
    assert found.is_relative_to(scripts.parent), "the checkout was imported, not the wheel"
    assert (
        call(scripts, tmp_path, "duotok", "recipes", "show", "mini/stage1")
        == (RECIPES / "mini/stage1.yaml").read_text()
    )

    samples, rate = soundfile.read(found / "songs" / "data" / "demo" / "mix.ogg", SECONDS * SAMPLE_RATE)
    soundfile.write(tmp_path / "song.wav", samples, rate)
    make_shards(tmp_path / "work" / "shards", small_songs(8))
    tiny = [
        "steps=3", "batch_size=2", "crops.frames=20", "crops.pseudo_mix.share=0", "bestrq.codebook_size=16",
        "model.width=16", "model.heads=2", "model.lower_blocks=1", "model.upper_blocks=1", "model.ffn=16", "model.conv_channels=8",
        "device=cpu",
    ]  # fmt: skip
    words = [word for setting in tiny for word in ("--set", setting)]
    commands = (
        ["encode", "song.wav", "-o", "song.duotok"],
        ["decode", "song.duotok", "-o", "again.wav", "--steps", "1"],
        ["train", "stage1", "-c", "mini/stage1", "--data", "work", "--runs", "runs", *words],
    )
    call(scripts, tmp_path, "python", "-c", EACH, json.dumps(commands))
    again = soundfile.info(tmp_path / "again.wav")
    assert (again.samplerate, again.frames) == (SAMPLE_RATE, len(samples) * SAMPLE_RATE // rate)
    assert (tmp_path / "runs" / "stage1" / "checkpoint-00000003").is_dir()

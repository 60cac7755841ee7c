"""The shape of the house: which room may import which, and what nobody may do."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "duotok"
FILES = sorted(SOURCE.rglob("*.py"))

LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0][
    "layers"
]
"""The rooms, the highest first; a bar stands between rooms of one floor."""
# Not on every machine, slow, or broken: inside functions only, or not at all.
LAZY = {
    "pystoi",
    "pesq",
    "visqol",
    "pyloudnorm",
    "espeakng_loader",
    "pyworld",
    "matplotlib",
    "tokenizers",
    "huggingface_hub",
    "transformers",
    "accelerate",
    "webdataset",
    "pyarrow",
    "fsspec",
    "tensorboard",
    "torch.utils.tensorboard",
    "ray",
    "demucs",
    "starlette",
    "uvicorn",
}
# A command of its own that turns a published pickle into safetensors; no load path calls it.
CONVERTER = SOURCE / "convert.py"
NEVER = {
    "torchaudio",
    "torchvision",
    "librosa",
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
}


def room(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST, top_level: bool = False) -> Iterator[str]:
    """Full names of imported modules; with `top_level` only what importing the file itself imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (top_level and _later(node)):
            yield from imports(node, top_level)


def _later(node: ast.AST) -> bool:
    """Whether a statement does not run on import: functions, and what only type checkers see."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def converts(path: Path, called: str, node: ast.Call) -> bool:
    """Whether this is the one explicit conversion of a published checkpoint, by torch's restricted reader."""
    restricted = any(
        k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True for k in node.keywords
    )
    return path == CONVERTER and called == "torch.load" and restricted


def problems(path: Path) -> Iterator[str]:
    tree = parsed(path)
    own = room(path)
    for name in imports(tree):
        if name.split(".")[0] in (*NEVER, "tests", "benchmarks"):
            yield f"imports {name}"
    for name in imports(tree, top_level=True):
        if name.split(".")[0] in LAZY:
            yield f"imports {name} at its top level"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        if own != "files" and called in ("os.replace", "os.rename"):
            yield f"line {node.lineno}: {called}; use files.put, which waits for the disk"
        if own != "pool" and called.split(".")[-1] in ("ProcessPoolExecutor", "Pool", "ThreadPool"):
            yield f"line {node.lineno}: {called}; use pool.pool, whose workers leave with their parent"
        if called in ("torch.load", "torch.save", "torch.hub.load") and not converts(path, called, node):
            yield f"line {node.lineno}: {called} (pickle); use safetensors"
        if called in ("np.load", "numpy.load") and not any(
            k.arg == "allow_pickle" and isinstance(k.value, ast.Constant) and k.value.value is False
            for k in node.keywords
        ):
            yield f"line {node.lineno}: {called} without allow_pickle=False"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_file_keeps_to_its_room(path: Path) -> None:
    assert list(problems(path)) == []


def linted(root: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` of pyproject.toml over `root`/duotok."""
    code = "import sys; sys.path.insert(0, sys.argv.pop()); from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", str(ROOT / "pyproject.toml"), str(root)]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)


def test_imports_go_downward_and_never_in_circles() -> None:
    done = linted(SOURCE.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_has_no_exceptions() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert "ignore_imports" not in str(contracts) and "exclude_type_checking_imports" not in contracts


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("model/noise.py", "from duotok.training.engine import train", "rooms import downward only BROKEN"),
        (
            "training/batches/remix.py",
            "def f():\n    import duotok.training.kit.plan",
            "inside training: downward only BROKEN",
        ),
        ("songs/theory.py", "if TYPE_CHECKING:\n    import duotok.songs.score", "nor inside one BROKEN"),
    ],
)
def test_the_linter_sees(file: str, line: str, told: str, tmp_path: Path) -> None:
    """Imports at the top, inside functions and for type checkers alike."""
    shutil.copytree(SOURCE, tmp_path / "duotok", ignore=shutil.ignore_patterns("bundles", "data", "__pycache__"))
    for room in ("songs/data", "data"):
        if (SOURCE / room / "__init__.py").is_file():
            shutil.copytree(SOURCE / room, tmp_path / "duotok" / room)
    with (tmp_path / "duotok" / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    done = linted(tmp_path)
    assert done.returncode == 1 and told in " ".join(done.stdout.split()), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import torch\ntorch.load('x')", "line 2: torch.load"),
        (
            "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor(2)",
            "line 2: ProcessPoolExecutor; use pool",
        ),
        ("import os\nos.replace('x', 'y')", "line 2: os.replace; use files.put"),
        ("import numpy as np\nnp.load('x')", "line 2: np.load without"),
        ("def f():\n    import pickle", "imports pickle"),
        ("import pyworld", "imports pyworld at its top level"),
    ],
)
def test_the_test_sees(code: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "training"):
        (tmp_path / name).mkdir()
    path = tmp_path / "model" / "bad.py"
    path.write_text(code)
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    assert any(found.startswith(problem) for found in problems(path))


def test_commands_import_nothing_heavy() -> None:
    """`duotok --help` answers at once: the command line itself loads no torch and no plotting."""
    code = (
        "import sys, duotok.cli.main; print(*(m for m in ('torch', 'scipy', 'matplotlib', 'av') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

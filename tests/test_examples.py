"""Examples that need a cluster, as far as one process can try them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def opened(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_mistake_ends_a_ray_worker_without_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would take what is raised for a worker that died, and try it again: the code of the command is returned instead."""
    pytest.importorskip("ray")
    monkeypatch.chdir(Path.cwd())
    work = opened("ray_train").work
    assert work({"words": ["train", "stage9"], "folder": str(tmp_path)}) != 0
    assert Path.cwd() == tmp_path, "it works in the folder of the one who asked"
    assert work({"words": ["recipes", "list"], "folder": str(tmp_path)}) == 0


def test_without_ray_the_example_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('No module named ray', name='ray')")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "ray_train.py", "train", "stage1"], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 1 and "pip install 'duotok[ray,train]'" in done.stderr and "Traceback" not in done.stderr

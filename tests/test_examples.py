"""Examples that need a cluster, as far as one process can try them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from duotok.config import config_file, load_config
from duotok.training.stages.registry import config_class

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


def test_the_script_that_trains_on_names_recipes_and_keys_that_there_are() -> None:
    """It ran on a GPU; here: that it is read by bash, and that each of its overrides is taken by the config that it is for."""
    script = (EXAMPLES / "train_on.sh").read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", EXAMPLES / "train_on.sh"], check=False).returncode == 0
    defaults = dict(re.findall(r"^([A-Z0-9]+)=\$\{\1:-(--set .*)\}$", script, re.M))
    assert set(defaults) == {"ADVERSARIAL", "SEPARATOR", "STAGE2", "STAGE3", "STAGE4"}
    for name, words in defaults.items():
        stage = name.lower()
        overrides = words.replace("--set ", "").split()
        config = load_config(config_class(stage), config_file(f"gpu/{stage}"), [*overrides, "start_from=run"])
        assert str(config.start_from) == "run"
        assert f"run {stage} {stage} " in script or stage == "stage4"


def test_the_script_that_trains_on_says_how_it_is_called() -> None:
    done = subprocess.run(["bash", EXAMPLES / "train_on.sh", "580"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "SECONDS WORK RUNS BUNDLE OUT" in done.stdout

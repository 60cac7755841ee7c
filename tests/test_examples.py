"""The examples; those that need a cluster as far as one process can try them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner

from duotok.cli.eval.options import _has_several
from duotok.cli.main import app
from duotok.codec.external.codec import ExternalCodec
from duotok.config import config_file, load_config
from duotok.errors import ConfigError
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
        assert f" {stage} {stage} {stage} " in script or stage == "stage4"


def test_the_script_that_trains_on_says_how_it_is_called() -> None:
    done = subprocess.run(["bash", EXAMPLES / "train_on.sh", "580"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "SECONDS WORK RUNS BUNDLE OUT" in done.stdout


@pytest.fixture
def train_on(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls the script; its commands are written to `commands` instead of run. Runs side by side last until they are ended, and
    write to `ended` then; the one that is named by FAILING fails."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/bash
if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
echo "$@" >> {tmp_path}/commands
echo "the words of $3 $4"
case "$FAILING:$*" in
stage*:*" train $FAILING "*--minutes*|autoencoder:*" train autoencoder "*|codes:*"--workers 8"*|latents:*"--workers 4"*|unpack:*--unpack*)
  [ "$FAILING" = unpack ] || [ "$FAILING" = autoencoder ] || until [ "$(wc -l < {tmp_path}/began)" = 2 ]; do sleep 0.05; done
  exit 3
esac
case "$*" in *" train adversarial "*|*" train separator "*--minutes*)
  [ -n "$FAILING" ] || exit 0
  trap 'echo ended >> {tmp_path}/ended; exit 1' TERM
  echo began >> {tmp_path}/began
  sleep 60 & wait
esac
""")
    python.chmod(0o755)
    (tmp_path / "work").mkdir()
    (tmp_path / "began").touch()

    def call(failing: str = "", seconds: int = 100, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, "PYTHON": str(python), "FAILING": failing, **environment}
        words = [str(seconds), *(str(tmp_path / name) for name in ("work", "runs")), "mini", str(tmp_path / "out")]
        script = ["bash", str(EXAMPLES / "train_on.sh"), *words]
        return subprocess.run(script, env=given, capture_output=True, text=True, check=False, timeout=50)

    return call


def commands_in(folder: Path) -> list[str]:
    return (folder / "commands").read_text().splitlines()


def test_the_script_that_trains_on_gives_each_run_the_sizes_of_the_bundle(
    tmp_path: Path, train_on: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = train_on()
    assert done.returncode == 0, done.stdout + done.stderr
    commands = commands_in(tmp_path)
    assert [line.split()[1] for line in commands[:2]] == ["duotok", "duotok.recipes.sized"]
    assert " bundle --runs " in commands[-1]
    trained = [line for line in commands if " train " in line]
    assert all(f" -c {tmp_path}/runs/configs/{line.split()[3]}" in line for line in trained)
    for track in ("vocals", "accompaniment"):
        (line,) = [line for line in trained if f"configs/stage4.{track}.yaml" in line and "--minutes" in line]
        assert f"start_from={tmp_path}/runs/released/stage4.{track} " in line


def test_the_script_that_trains_on_can_begin_with_the_encoder_of_the_latents(
    tmp_path: Path, train_on: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = dict(re.findall(r"^# +([A-Z0-9]+)='(--set .*)'$", (EXAMPLES / "train_on.sh").read_text(), re.M))
    assert words.keys() == {"AUTOENCODER", "ADVERSARIAL", "STAGE4"}
    for stage, told in words.items():
        load_config(
            config_class(stage.lower()), config_file(f"gpu/{stage.lower()}"), told.replace("--set ", "").split()
        )
    done = train_on(AUTOENCODER="--set fit_iterations=0")
    assert done.returncode == 0, done.stdout + done.stderr
    commands = commands_in(tmp_path)
    (first,) = [line for line in commands if " train autoencoder " in line]
    assert f"start_from={tmp_path}/runs/released/autoencoder --set fit_iterations=0" in first
    later = [line for line in commands if " train adversarial " in line or " train stage4 " in line]
    assert len(later) == 5 and all(f"_from={tmp_path}/runs/autoencoder" in line for line in later)
    assert commands.index(first) < min(commands.index(line) for line in later)
    assert train_on("autoencoder", AUTOENCODER="--set fit_iterations=0").returncode == 1


@pytest.mark.parametrize("failing", ["stage2", "stage3", "codes", "latents"])
def test_the_script_that_trains_on_ends_when_a_run_fails_that_others_need(
    failing: str, tmp_path: Path, train_on: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = train_on(failing)
    assert done.returncode == 1 and f"{failing}: the words of train " in done.stdout, done.stdout + done.stderr
    commands = commands_in(tmp_path)
    assert not any("/released/stage4." in line or " bundle --runs" in line for line in commands)
    assert failing != "stage2" or not any(" train stage3 " in line for line in commands)
    ended, until = tmp_path / "ended", time.monotonic() + 30
    while not (ended.exists() and ended.read_text() == "ended\n" * 2):  # they end in their own time
        assert time.monotonic() < until, "decoder and separator go on"
        time.sleep(0.05)


def test_the_script_that_trains_on_ends_before_it_began(
    tmp_path: Path, train_on: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = train_on("unpack")
    assert done.returncode == 1 and len(commands_in(tmp_path)) == 1 and "the words of bundle" in done.stdout


VERIFIED = ("bulk", "codecs", "steps", "language", "generation", "sound")


@pytest.fixture
def verify(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls the script; its commands are written to `commands` instead of run, and one of them fails."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/commands\n[ "$2" != benchmarks.generation ] || exit 3\n')
    python.chmod(0o755)

    def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, "PYTHON": str(python), **environment}
        script = ["bash", str(EXAMPLES / "verify_on.sh"), *words]
        return subprocess.run(script, env=given, capture_output=True, text=True, check=False)

    return call


def test_the_script_that_verifies_names_benchmarks_and_options_that_there_are(
    tmp_path: Path,
    verify: Callable[..., subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verify("600", str(tmp_path / "out"), "cpu")
    commands = [line.split() for line in (tmp_path / "commands").read_text().splitlines()]
    assert len(commands) == len(VERIFIED)
    for _, module, *words in commands:
        if module == "duotok":
            told = CliRunner().invoke(app, [words.pop(0), "--help"], env={"COLUMNS": "200"}).stdout
        else:
            monkeypatch.setattr(sys, "argv", [module, "--help"])
            with pytest.raises(SystemExit):
                importlib.import_module(module).main()
            told = capsys.readouterr().out
        for word in words:
            assert not word.startswith("-") or re.search(rf"(^|\s){word}\b", told), (module, word)


def test_the_script_that_verifies_tells_what_failed_and_what_had_no_time(
    tmp_path: Path, verify: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    def summary() -> list[list[str]]:
        return [line.split("\t")[:2] for line in (tmp_path / "out/summary.tsv").read_text().splitlines()]

    done = verify("600", str(tmp_path / "out"), "cpu")
    assert summary() == [[name, "3" if name == "generation" else "0"] for name in VERIFIED], done.stdout
    assert done.returncode == 1 and "generation: exit code 3" in done.stdout
    done = verify("600", str(tmp_path / "out"), CHECKS="codecs")
    assert done.returncode == 0 and summary() == [["codecs", "0"]]
    done = verify("3", str(tmp_path / "out"), CHECKS="codecs")
    assert done.returncode == 1 and "codecs: no time left" in done.stdout and summary() == [["codecs", "124"]]
    for words in (["soon", "out"], ["600"]):
        done = verify(*words)
        assert done.returncode == 2 and done.stdout


def test_a_tokenizer_of_ones_own_is_one_among_the_others(tmp_path: Path) -> None:
    """The example as it stands, with a table of frames that it finds again exactly."""
    random = np.random.default_rng(0)
    table = random.normal(size=(50, 320)).astype(np.float32) / 10
    save_file({"table": table}, tmp_path / "waves.safetensors")
    adapter = tmp_path / "own_tokenizer.py"
    adapter.write_bytes((EXAMPLES / "own_tokenizer.py").read_bytes())
    values = {"codec": "waves", "adapter": "own_tokenizer.py", "python": sys.executable, "weights": "waves.safetensors"}
    settings = tmp_path / "own.yaml"
    settings.write_text(yaml.safe_dump(values))
    codes = {track: random.integers(0, 50, (1, 70)) for track in ("vocals", "accompaniment")}
    sounds = {track: table[rows[0]].reshape(1, -1) for track, rows in codes.items()}
    with ExternalCodec.open(settings) as codec:
        tokens = codec.encode(rate=16_000, **sounds)
        assert all(np.array_equal(tokens[track].numpy(), rows) for track, rows in codes.items())
        assert np.allclose(codec.decode(tokens).numpy(), sounds["vocals"] + sounds["accompaniment"], atol=1e-6)
        assert np.array_equal(codec.codebook_vectors()["vocals"][0].numpy(), table - table[0])
        assert (codec.model_id, codec.frame_rate, codec.sample_rate) == ("waves", 50.0, 16_000)
        assert (codec.entry.codebooks, codec.entry.codebook_size, codec.entry.sample_rate) == (1, 50, 16_000)
        first = codec.model_hash
    assert not _has_several(f"external:{settings}"), "--codebooks of an evaluation is for those that can choose"
    adapter.write_text(adapter.read_text() + "# another\n")
    with ExternalCodec.open(settings) as codec:
        assert codec.model_hash != first, "another adapter may give other codes"
    for changes, told in (
        ({"codec": "mucodec"}, "codec 'mucodec' is a published one; give your own another name"),
        ({"adapter": "nothing.py"}, "nothing.py: no such file; check the path"),
        ({"adapter": ""}, "codec 'waves' is not known; .*; for one of your own name its adapter"),
    ):
        settings.write_text(yaml.safe_dump({**values, **changes}))
        with pytest.raises(ConfigError, match=told):
            ExternalCodec.open(settings)

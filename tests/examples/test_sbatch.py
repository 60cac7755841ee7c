"""`examples/train.sbatch` with SLURM's commands played: what it starts exists, and when the job goes back into the queue."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser
from typer.main import get_command

from duotok.cli.main import app
from duotok.config import config_file, load_config
from duotok.training.stages.registry import config_class

SCRIPT = Path(__file__).resolve().parents[2] / "examples/train.sbatch"


def usage() -> list[str]:
    """The words after the script in its own example: the run, then those of duotok."""
    (line,) = re.findall(r"^#   sbatch .*train\.sbatch (.*)$", SCRIPT.read_text(encoding="utf-8"), re.M)
    return shlex.split(line)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Commands on PATH: srun runs what it is given, scontrol names hosts and notes what else it is asked, python notes its words and ends
    as the test says (`ends`), after a checkpoint if it says so."""
    commands = {
        "srun": 'shift; export SLURM_NODEID=0; "$@"',
        "scontrol": f'if [ "$1" = show ]; then echo one; echo two; else echo "$@" >> {tmp_path}/asked; fi',
        "scancel": f'echo "$@" >> {tmp_path}/asked',
        "python": f'printf "%s\\n" "$@" > {tmp_path}/words; env > {tmp_path}/env; read -r code new < {tmp_path}/ends\n'
        f'[ -z "$new" ] || mkdir -p "{tmp_path}/run/$new"; exit "$code"',
    }
    for name, text in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "run/checkpoint-00000004").mkdir(parents=True)
    return tmp_path


def job(cluster: Path, *words: str) -> subprocess.CompletedProcess[str]:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    return subprocess.run(
        ["bash", SCRIPT, *words],
        cwd=cluster,
        env={**os.environ, **slurm, "PATH": f"{cluster / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_bash_reads_it() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0


def test_what_it_starts_is_a_launcher_and_a_command_that_exist(cluster: Path) -> None:
    run, *words = usage()
    (cluster / "ends").write_text("0\n")
    done = job(cluster, run, *words)
    assert done.returncode == 0 and not (cluster / "asked").exists(), done.stderr
    module, name, *rest = (cluster / "words").read_text().splitlines()
    assert (module, name) == ("-m", "torch.distributed.run")
    told = get_args_parser().parse_args(rest)
    assert (told.nnodes, told.nproc_per_node, told.rdzv_backend, told.rdzv_endpoint) == ("2", "8", "c10d", "one:20007")
    assert told.module and (told.training_script, told.training_script_args) == ("duotok", words)
    environment = dict(line.partition("=")[::2] for line in (cluster / "env").read_text().splitlines())
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "120"

    command, stage, *options = words
    train = get_command(app).commands[command]  # type: ignore[attr-defined]
    with train.make_context(command, [stage, *options]) as context:
        given = context.params
    assert str(load_config(config_class(stage), config_file(str(given["config"])), []).precision)
    assert run == f"{given['runs']}/{stage}", "where the script looks for checkpoints"


@pytest.mark.parametrize(
    ("ends", "code", "asked"),
    [
        ("0", 0, None),
        ("1", 1, None),  # a mistake: it would end so again
        ("1 checkpoint-00000008", 1, "requeue 7\n"),
        ("0 checkpoint-00000008", 0, None),
    ],
)
def test_a_job_that_fails_goes_back_into_the_queue_where_it_came_on(
    ends: str, code: int, asked: str | None, cluster: Path
) -> None:
    (cluster / "ends").write_text(f"{ends}\n")
    done = job(cluster, "run", "train", "lm")
    assert done.returncode == code, done.stderr
    assert ((cluster / "asked").read_text() if (cluster / "asked").exists() else None) == asked


def test_a_job_whose_time_is_nearly_over_is_told_to_save_and_goes_back(cluster: Path) -> None:
    """SLURM tells the shell alone (B:USR1); the step has SIGTERM through scancel, here noted, and ends by itself."""
    (cluster / "ends").write_text("1\n")
    step = cluster / "bin/python"
    step.write_text(step.read_text().replace("read -r", f"kill -USR1 $(cat {cluster}/shell); sleep 0.2; read -r"))
    (cluster / "bin/srun").write_text(
        f'#!/bin/bash\nps -o ppid= $$ > {cluster}/shell\nshift; export SLURM_NODEID=0; "$@"\n'
    )
    done = job(cluster, "run", "train", "lm")
    assert done.returncode == 1 and "back into the queue" in done.stdout
    assert (cluster / "asked").read_text() == "--signal=TERM 7\nrequeue 7\n"
    assert "#SBATCH --signal=B:USR1@" in SCRIPT.read_text(encoding="utf-8")

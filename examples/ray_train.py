"""Training on a Ray cluster with Ray Train: a stage of `duotok train` in every worker, on again from its checkpoint when one dies.

    python examples/ray_train.py --workers 2 -- train lm -c lm.yaml --runs runs/lm
    python examples/ray_train.py --address auto --workers 16 --gpu -- train stage1 -c paper/stage1 --data work --runs runs/paper
    python examples/ray_train.py --address auto --workers 8 --gpu -- train lm -c lm.yaml --runs runs/lm --set sharding=fsdp

What follows `--` are words of `duotok`. All machines must have duotok, and see this folder, the data and the runs under the same paths.
Ray Train gives each worker its rank and joins them; checkpoints are those of `duotok train`, in its run's folder, so nothing of Ray's
own is stored but its records (--records). Needs `pip install 'duotok[ray,train]'`, and Ray 2.60 or newer.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

try:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
except ModuleNotFoundError as error:
    sys.exit(f"error: this needs {error.name}, which is not installed: pip install 'duotok[ray,train]'")


def work(config: dict[str, Any]) -> int:
    """One process of the run: the code with which `duotok` ended."""
    from duotok.cli.main import app

    os.chdir(config["folder"])  # Ray starts workers in a folder of its own
    try:
        app(config["words"])
    except SystemExit as end:  # Raised, a mistake in words or data would be tried again as if the worker had died.
        return int(end.code or 0)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a Ray cluster, or auto; default: one that is started on this machine")
    parser.add_argument("--workers", type=int, default=2, help="processes that train together")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each")
    parser.add_argument("--cpus", type=float, default=1, help="CPU cores for each")
    parser.add_argument("--failures", type=int, default=10, help="times that the run may lose a worker")
    parser.add_argument("--records", type=Path, default=Path("runs/ray"), help="folder for Ray's records, seen by all")
    parser.add_argument("words", nargs="+", help="train STAGE ...")
    options = parser.parse_args()
    if options.address:
        ray.init(address=options.address)
    else:
        ray.init(address="local", num_cpus=max(1, round(options.workers * options.cpus)), include_dashboard=False)
    trainer: Any = TorchTrainer  # its types know nothing of what a worker returns
    result = trainer(
        work,
        train_loop_config={"words": options.words, "folder": os.getcwd()},
        # both, because what a run counts lies on the CPU
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if options.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=options.workers, use_gpu=options.gpu, resources_per_worker={"CPU": options.cpus}
        ),
        run_config=RunConfig(
            storage_path=str(options.records.resolve()), failure_config=FailureConfig(max_failures=options.failures)
        ),
    ).fit()
    if code := result.return_value:
        sys.exit(f"duotok {' '.join(options.words)}: ended with code {code}; it said why above")


if __name__ == "__main__":
    main()

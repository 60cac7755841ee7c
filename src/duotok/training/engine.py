"""The training loop: one engine for every stage, on one CPU or many GPUs, resumable to the bit.

What a step learns from is a pure function of (seed, step, item), so a batch cut over processes is the batch of one process.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from duotok.distributed import alone, barrier, of_first, rank, total, world
from duotok.errors import ConfigError, DuoTokError
from duotok.files import hold, naming, put, short_hash, temporary_folder, write_bytes
from duotok.training.budget import Budget, learning_rate, timed_rate
from duotok.training.checkpoint import BEST, best_so_far, every_checkpoint, newest_whole
from duotok.training.leaving import Leaving, deaf
from duotok.training.logs import Log, Sums
from duotok.training.parts import Batches, shares_of
from duotok.training.processes import Trained, join, shard
from duotok.training.saving import load_checkpoint, remove_unfinished, save_checkpoint
from duotok.training.stage import Batch, Stage, evaluate, to_device
from duotok.training.watch import Watch, out_of_memory, stop

if TYPE_CHECKING:
    from accelerate import Accelerator

ENDLESS = 2**40
"""Steps of a run with a time budget."""


def seed_step(seed: int, step: int) -> None:
    """Seed torch's global generator (dropout draws from it) from (seed, step, process)."""
    torch.manual_seed(((seed * 1_000_003 + step) * 4093 + rank()) % (2**63))


@contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; the system releases it when the process ends, however it ends."""
    with (run / ".lock").open("w") as file:
        if rank() == 0 and not hold(file):
            raise DuoTokError(f"{run}: another process is training there; wait for it or choose other --runs")
        yield


def train(stage: Stage, run: Path, stop_after: int | None = None) -> dict[str, float]:
    """Train `stage` in folder `run`, going on from its newest checkpoint. Returns the last held-out losses.

    stop_after: stop (with a checkpoint) once that many steps are done in all. On SIGTERM or Ctrl-C, to any of its processes, a run
    writes a checkpoint, one process after the step, several after their next look at the loss (`check_every`), and raises DuoTokError
    or KeyboardInterrupt. A second Ctrl-C stops at once.
    """
    if stage.config.threads:
        torch.set_num_threads(stage.config.threads)
    run.mkdir(parents=True, exist_ok=True)
    accelerator = join(stage.config)
    with only_one(run), Leaving() as leaving:
        running = None
        try:
            running = Run(stage, run, accelerator, stop_after, leaving)
            return running.go()
        except torch.OutOfMemoryError:
            raise out_of_memory(run, stage.config, running.at if running else None) from None
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"compile: torch.compile cannot compile {stage.name} here ({reason}); --set compile=false"
            ) from None


def _check_songs(stage: Stage, run: Path) -> None:
    """Raises ConfigError in all processes where some have other songs: each opens them by itself, and a token store may grow meanwhile."""
    mine = float(int(short_hash(json.dumps(dict(stage.songs_hashes), sort_keys=True), 12), 16))
    if float(total(torch.tensor(float(of_first(mine) != mine)))):
        raise ConfigError(f"{run}: its songs changed while the processes opened them; start it again")


class Run:
    """Trains one stage from its newest checkpoint to its last step."""

    def __init__(
        self, stage: Stage, run: Path, accelerator: Accelerator, stop_after: int | None, leaving: Leaving
    ) -> None:
        self.stage, self.run, self.accelerator, self.config = stage, run, accelerator, stage.config
        self.leaving = leaving
        timed = self.config.minutes is not None
        self.last = stop_after or ENDLESS if timed else min(self.config.steps, stop_after or self.config.steps)
        self.main = accelerator.is_main_process
        self.device = stage.device = accelerator.device
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        stage.check(world())
        _check_songs(stage, run)
        self.batches = Batches(stage, world(), rank())
        self._prepare()
        damaged: list[str] = []
        newest = newest_whole(run, damaged.append)
        state: dict[str, Any] = load_checkpoint(newest, stage, self.plain) if newest else {"step": 0}
        self.first = self.at = int(state["step"])
        if accelerator.scaler is not None and state.get("scaler"):
            accelerator.scaler.load_state_dict(state["scaler"])
        self.budget.go_on(float(state.get("seconds", 0.0)), float(state.get("reserve", 0.0)))
        if newest:
            stage.go_on(state.get("share"))
        steps = None if self.budget.timed else self.config.steps
        if self.main:
            remove_unfinished(run)
        self.log = Log(run, stage.name, self.first, steps) if self.main else None
        if damaged:
            barrier()  # all processes have read the checkpoints
        if self.main and damaged:
            barred = [path for path in every_checkpoint(run) if newest is None or path > newest]
            for path in barred:  # renamed, so that neither new checkpoints nor later stages meet them; not deleted
                put(path, path.with_name(f"damaged-{path.name}"))
        if self.log is not None:
            for problem in damaged:
                self.log.note(f"{problem.split('; ')[0]}: goes on from the one before")
        self.best = best_so_far(run)
        # Figures of other latents or tokens, or of other songs, cannot be compared with those of these. A run that is over makes none.
        others = (state.get("other_parents") or "validation" in state.get("other_songs", ())) and not self._over()
        if self.best.get("figure") != self.config.best or others:
            self.best = {}
            if self.main:
                (run / BEST).unlink(missing_ok=True)

    def _over(self) -> bool:
        """Whether there is no step to take."""
        return self.first >= self.last or (self.budget.timed and self.first > 0 and self.budget.over(self.first))

    def _prepare(self) -> None:
        """Put the stage on its device, copied (DDP) or sharded (FSDP) over the processes, and make its optimizer."""
        config, trained = self.config, Trained(self.stage)
        self.budget = Budget(config.steps, config.minutes, config.checks)
        if config.sharding == "fsdp" and world() > 1:
            self.trained = shard(trained.to(self.device), self.stage.blocks, config.precision)
        else:
            if self.accelerator.ddp_handler is not None:
                self.accelerator.ddp_handler.find_unused_parameters = self.stage.idle_parameters
            self.trained = self.accelerator.prepare_model(trained)
        groups = self.stage.parameter_groups()
        self.scales = [float(group.pop("scale", 1.0)) for group in groups]
        clips = [group.pop("clip", None) for group in groups]
        self.plain = torch.optim.AdamW(
            groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay,
            fused=config.sharding == "none",  # one pass over the weights
        )  # fmt: skip
        self.optimizer = self.accelerator.prepare_optimizer(self.plain)
        clipped = [(group["params"], clip) for group, clip in zip(self.plain.param_groups, clips, strict=True)]
        self.parameters = [p for parameters, clip in clipped if clip is None for p in parameters]
        self.clipped_apart = [(parameters, float(clip)) for parameters, clip in clipped if clip is not None]

    def go(self) -> dict[str, float]:
        stage, config = self.stage, self.config
        try:
            if self.main:
                write_bytes(self.run / "config.json", json.dumps(config.model_dump(mode="json"), indent=1).encode())
            if self.log is not None:
                self.log.write(self.first, "start", processes=world(), device=str(self.device))
                if self.first:
                    self.log.note(f"goes on from step {self.first}")
            if not self.first:
                with self._gathered():
                    stage.start()
            with self.leaving.after_a_step():
                return self._steps()
        finally:
            if self.log is not None:
                self.log.close()

    def _loader(self) -> Iterator[list[Batch]]:
        workers = self.config.loader_workers
        return iter(
            DataLoader(
                self.batches, batch_size=None, sampler=range(self.first, self.last), num_workers=workers,
                prefetch_factor=4 if workers else None, multiprocessing_context="fork" if workers else None,
                worker_init_fn=deaf if workers else None, pin_memory=self.device.type == "cuda",
            )
        )  # fmt: skip

    def _steps(self) -> dict[str, float]:
        stage, config, budget = self.stage, self.config, self.budget
        loader, watch, sums = self._loader(), Watch(config.explode), Sums()
        held_out: dict[str, float] = {}
        done, ending = self.first, self._over()
        while not ending:
            step = self.at = done
            before = time.monotonic()
            parts = next(loader)
            waited = time.monotonic() - before
            seed_step(config.seed, step)
            stage.share = budget.share(step)
            lr = self._set_rate(step)
            losses = self._backward(parts, step)
            done = step + 1
            budget.tick()
            ending = done >= self.last or budget.over(done)
            logging = done % config.log_every == 0 or ending
            norms = self._norms() if logging else {}
            norm = self._clip()
            leaving = False
            saving = ending or budget.due(done, config.save_every) or budget.due(done, config.held_out_every)
            asked = self.leaving.asked and world() == 1  # several agree on it in a look
            if done % config.check_every == 0 or logging or saving or asked:  # what is saved has been looked at
                leaving = self._check(watch, step, lr, losses, norm, parts) and not ending
            self.optimizer.step()
            stage.after_step(step)
            sums.add({**losses, "gradient": norm[0]}, waited)
            figures = None
            if logging:
                figures = sums.means() | stage.report() | norms | self._speed(sums)
                sums = Sums()
            if self.log is not None:
                self.log.step(done, figures, lr, budget.minutes_left())
            if leaving:
                self._leave(done)
            looked, improved = time.monotonic(), False
            # Of one moment, so asked before a look that takes long: it may leave no time for another.
            saves = budget.due(done, config.save_every)
            samples = config.sample_every > 0 and budget.due(done, config.sample_every)
            if ending or budget.due(done, config.held_out_every):
                with self._gathered():
                    held_out = evaluate(stage)
                improved = self._compare(done, held_out)
                if budget.timed and not ending:
                    budget.took(time.monotonic() - looked)
                    budget.tick()
                    ending = budget.over(done)  # so this was the last look
                    if ending and not logging:
                        figures = sums.means() | stage.report() | self._speed(sums)
                        if self.log is not None:
                            self.log.step(done, figures, lr, budget.minutes_left())
            if ending or improved or saves:
                self._save(done, improved, held_out)
            if samples or (ending and config.sample_every):
                self._sample(done)
            if budget.timed and not ending and saves:
                budget.checked(time.monotonic() - looked)
        if budget.timed and self.log is not None and done == self.first + 1:
            self.log.note(f"minutes {config.minutes:g} are over after one step; give it more to learn anything")
        return held_out

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        """For what calls parts of a sharded stage and not the whole: weights outside of its blocks are gathered in the whole's forward only."""
        from torch.distributed.fsdp import FSDPModule

        if not isinstance(self.trained, FSDPModule):
            yield
            return
        self.trained.unshard()
        try:
            yield
        finally:
            self.trained.reshard()

    def _clip(self) -> Tensor:
        """Clip the gradients. Returns their norms before that: of all groups without a limit of their own together, then of the others."""
        norms = [_local(self.accelerator.clip_grad_norm_(self.parameters, self.config.clip))]
        norms += [_local(nn.utils.clip_grad_norm_(parameters, limit)) for parameters, limit in self.clipped_apart]
        return torch.stack(norms)

    def _speed(self, sums: Sums) -> dict[str, float]:
        """Items per second over all processes since the last figures, and on a GPU the peak memory."""
        figures = {"items_per_second": self.config.batch_size * sums.count / max(1e-9, time.monotonic() - sums.since)}
        if self.device.type == "cuda":
            figures["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return figures

    def _set_rate(self, step: int) -> float:
        c = self.config
        if self.budget.timed:
            lr = timed_rate(step, self.budget.share(step), peak=c.lr, warmup=c.warmup, floor=c.floor)
        else:
            lr = learning_rate(step, peak=c.lr, warmup=c.warmup, steps=c.steps, floor=c.floor)
        for group, scale in zip(self.plain.param_groups, self.scales, strict=True):
            group["lr"] = lr * scale
        return lr

    def _backward(self, parts: list[Batch], step: int) -> dict[str, Tensor]:
        """Gradients of one step; the losses are means over its parts."""
        for module in self.stage.modules.values():
            module.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        if len(parts) > 1:
            parts = [
                {**part, "shares": shares} for part, shares in zip(parts, shares_of(self.stage, parts), strict=True)
            ]
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.trained):
                losses = self.trained(to_device(part, self.device), step)
                self.accelerator.backward(losses["loss"] / len(parts))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(parts)
        return sums

    def _norms(self) -> dict[str, float]:
        """Gradient norms by part, before clipping."""
        scaler = self.accelerator.scaler  # of fp16: clipping, which comes later, takes its scale out
        scale = 1.0 if scaler is None else scaler.get_scale()
        norms = {}
        for name, parameters in self.stage.parts().items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                norms[f"gradient.{name}"] = float(_local(nn.utils.get_total_norm(gradients))) / scale
        return norms

    def _check(
        self, watch: Watch, step: int, lr: float, losses: dict[str, Tensor], norms: Tensor, parts: list[Batch]
    ) -> bool:
        """Stop a run that goes wrong. Returns whether any process was told to end; then all of them are."""
        value = losses["loss"].float()
        told = value.new_tensor([float(self.leaving.terminated), float(self.leaving.interrupted)])
        loss, terminated, interrupted = total(torch.cat([value.reshape(1), told])).tolist()
        self.leaving.terminated |= terminated > 0
        self.leaving.interrupted |= interrupted > 0
        loss /= world()
        norm = float(norms.max()) if self.config.precision != "fp16" else 0.0  # the scaler skips steps that overflow
        problem = watch.problem(loss, norm)
        if problem:
            values = {name: float(value) for name, value in losses.items()}
            raise stop(self.run, step, problem, lr, values, self._norms(), parts)
        return bool(terminated or interrupted)

    def _leave(self, done: int) -> None:
        """Write a checkpoint and nothing else, since there may be seconds left. Raises DuoTokError, or KeyboardInterrupt."""
        self._save(done, False, {})
        then = f"saved at step {done}; the same command goes on from there"
        if self.leaving.interrupted:
            raise KeyboardInterrupt(f"{self.run}: interrupted, {then}")
        raise DuoTokError(f"{self.run}: told to end (SIGTERM), {then}")

    def _compare(self, done: int, held_out: dict[str, float]) -> bool:
        """Log the held-out figures. Returns whether they are the best so far."""
        if self.log is not None:
            text = "  ".join(f"{k} {v:.4g}" for k, v in held_out.items()) or "nothing long enough to judge by"
            self.log.note(f"held out at {done}: {text}")
            self.log.write(done, "held_out", **held_out)
        if self.config.best is None:
            return False
        if held_out and self.config.best not in held_out and self.log is not None:
            self.log.note(f"best: there is no figure {self.config.best}, so the newest checkpoint is what will be used")
        value = held_out.get(self.config.best)
        better = value is not None and value < self.best.get("value", float("inf"))
        return of_first(float(better)) > 0  # figures of two GPUs may differ in the last digit, and all save or none

    def _save(self, done: int, improved: bool, held_out: dict[str, float]) -> None:
        scaler = self.accelerator.scaler
        if improved and self.config.best is not None:
            self.best = {"step": done, "figure": self.config.best, "value": held_out[self.config.best]}
        scaling = scaler.state_dict() if scaler is not None else None
        best = self.best if improved else None
        save_checkpoint(self.run, self.stage, self.plain, done, scaling, self._progress(), best)

    def _progress(self) -> dict[str, float]:
        """Beside the step: seconds that the run has trained, seconds that the last look needs, and the share before the last step."""
        # Rounded up: with less than it was a run that is over would go on.
        seconds, reserve = (math.ceil(1000 * value) / 1000 for value in (self.budget.used, self.budget.reserve))
        return {"seconds": seconds, "reserve": reserve, "share": self.stage.share}

    def _sample(self, done: int) -> None:
        if not self.main and self.config.sharding == "none":
            return
        for module in self.stage.modules.values():
            module.eval()
        with contextlib.ExitStack() as stack:
            if self.main:
                folder = self.run / "samples" / f"{done:08d}"
                folder.mkdir(parents=True, exist_ok=True)
            else:  # sharded weights need every process, and two must not write the same files
                folder = stack.enter_context(temporary_folder("duotok-samples-"))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._gathered())
            if self.config.sharding == "none":
                stack.enter_context(alone())
            stack.enter_context(naming(folder))
            self.stage.sample(folder)
        if self.log is not None:
            self.log.pictures(folder, done)


def _local(value: Any) -> Tensor:
    """A norm as a plain tensor; FSDP returns it sharded over the processes."""
    full = value.full_tensor() if hasattr(value, "full_tensor") else value
    return torch.as_tensor(full).detach()

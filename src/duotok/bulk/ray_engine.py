"""The same two steps on a Ray cluster: Ray Data streams songs through a pool of readers and a pool of actors that compute.

Ray Data bounds what is read ahead, starts actors again when they or their machine die, and does their songs again. Each actor
computes in a process of its own, so that a song that ends it is named instead of tried for ever. All machines must see the store,
whose scratch folder holds the prepared sounds, and local sources under the same paths.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from duotok.bulk.encoding import encode_group
from duotok.bulk.engines import TRIES, Job, Model, Result, Times, told
from duotok.bulk.preparing import prepare
from duotok.data.engines import JobError, Outcome, Worker, connected, name_of
from duotok.errors import one_line

WINDOW = 2000
"""Songs that Ray gets at a time; the driver holds no more."""
log = logging.getLogger(__name__)


class RayPipeline:
    """device: of every actor; share: of a GPU, for one actor; readers, actors: how many at most."""

    def __init__(
        self, model: Model, device: str, actors: int, readers: int, share: float, address: str | None = None
    ) -> None:
        self.model, self.device, self.actors, self.readers, self.share, self.address = (
            model,
            device,
            actors,
            readers,
            share,
            address,
        )
        self.times = Times()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        """Raises JobError when the cluster cannot be joined, or fails."""
        ray = connected(self.address)
        if self.share and not ray.cluster_resources().get("GPU"):
            log.warning("Ray: the cluster has no GPU now; waiting for one, as an autoscaler may bring it (Ctrl-C ends)")
        waiting = iter(jobs)
        while window := list(itertools.islice(waiting, WINDOW)):
            try:
                yield from self._window(ray, window)
            except ray.exceptions.RayError as error:
                raise JobError(
                    f"Ray: {one_line(error, 200)}; fix the cluster, then run the same command again"
                ) from None

    def _window(self, ray: Any, window: list[Job]) -> Iterator[tuple[int, Result]]:
        items = [
            {"number": job.number, "job": json.dumps({"name": job.name, "payload": job.payload})} for job in window
        ]
        actors = min(self.actors, len(items))
        strategy = ray.data.ActorPoolStrategy
        computing: dict[str, Any] = {"num_gpus": self.share} if self.share else {"num_cpus": 1}
        rows = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map(_Reader, compute=strategy(min_size=1, max_size=min(self.readers, len(items))), num_cpus=0.5)
            .map_batches(
                _Computer, batch_size=self.model.batch_size, compute=strategy(min_size=1, max_size=actors),
                fn_constructor_kwargs={"model": vars(self.model), "device": self.device}, **computing,
            )
        )  # fmt: skip
        for row in rows.iter_rows():
            result = json.loads(str(row["result"]))
            for line in result.pop("warnings", ()):
                log.warning("%s", line)
            times = result.pop("times", None)
            if times:
                self.times.model += times[0]
                self.times.encoding += times[1]
            if "fatal" in result:
                raise JobError(f"{result['fatal']}; fix that, then run the same command again")
            for file in result.pop("files", ()):
                with contextlib.suppress(OSError):
                    Path(file).unlink()
            yield int(row["number"]), result


class _Reader:
    """An actor that prepares one song at a time."""

    def __init__(self) -> None:
        self.worker = Worker(name_of(prepare))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        job = json.loads(row["job"])
        outcome = self.worker.run(job["payload"])
        if outcome is not None and self.worker.died:
            outcome = self.worker.run(job["payload"])
        assert outcome is not None
        facts = {"name": job["name"], "warnings": outcome.warnings, **_facts(outcome)}
        return {"number": row["number"], "job": json.dumps(facts)}


def _facts(outcome: Outcome) -> dict[str, Any]:
    if outcome.fatal:
        return {"result": {"fatal": outcome.error}}
    if outcome.result is None:
        return {"result": {"error": outcome.error}}
    return {"prepared" if "file" in outcome.result else "result": outcome.result}


class _Computer:
    """An actor that encodes groups of prepared songs."""

    def __init__(self, model: dict[str, Any], device: str) -> None:
        self.model, self.device = Model(**model), device
        self.worker = Worker(name_of(encode_group))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [json.loads(str(job)) for job in batch["job"]]
        results = [row.get("result") for row in rows]
        waiting = [number for number, result in enumerate(results) if result is None]
        self._encode(rows, results, waiting)
        for number in waiting:
            for _ in range(TRIES):
                if results[number] is None:
                    self._encode(rows, results, [number])
        results = [{**result, "warnings": row["warnings"]} for row, result in zip(rows, results, strict=True)]
        return {"number": list(batch["number"]), "result": [json.dumps(result) for result in results]}

    def _encode(self, rows: list[dict[str, Any]], results: list[Any], numbers: list[int]) -> None:
        """Fill in the results of these rows; of those that may be done again only the last time."""
        if not numbers:
            return
        songs = [{"name": rows[n]["name"], **rows[n]["prepared"]} for n in numbers]
        try:
            outcome = self.worker.run(self.model.payload(songs, self.device))
        except JobError as error:
            outcome = Outcome(error=str(error), fatal=True)
        assert outcome is not None
        rows[numbers[0]]["warnings"].extend(outcome.warnings)
        if outcome.fatal:
            for n in numbers:
                results[n] = {"fatal": outcome.error}
            return
        if outcome.result is None:
            done: list[dict[str, Any]] = [{"error": outcome.error, "again": True} for _ in numbers]
            times = None
        else:
            done, times = outcome.result["songs"], [outcome.result["model"], outcome.result["all"]]
        for n, result in zip(numbers, done, strict=True):
            tries = rows[n]["tries"] = rows[n].get("tries", 0) + 1
            if not result.get("again") or tries > TRIES:
                prepared = rows[n]["prepared"]
                results[n] = {**told(rows[n]["name"], prepared, result), "files": [prepared["file"]], "times": times}
                times = None

"""Work of several songs on one device at once: each song goes its own way in a thread, and asks here for what the device does.

Requests of one kind and one length make a batch (chunks of the separator and windows of the encoder have few lengths: all
but the ends of songs are equally long). A song's code is the same as alone; nothing is padded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

WAIT = 0.005
"""Seconds that an unfilled batch waits for songs that are still reading."""

Work = Callable[..., Tensor]


class Device:
    """Runs functions of tensors at once, in the calling thread, and counts the seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def ask(self, work: Work, *tensors: Tensor, extra: Any = None) -> Tensor:
        """`work(*tensors)`, or `work(*tensors, extra)`; the first dimension is that of the batch, in the result as well."""
        began = time.perf_counter()
        try:
            return work(*tensors) if extra is None else work(*tensors, extra)
        finally:
            self.seconds += time.perf_counter() - began


class Batches(Device):
    """The same for songs in threads (`lanes`): requests of one bucket go through `work` together, at most `rows` items.

    A batch that fails is done again one request at a time, so that an error finds its own song.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self._asked: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._waiting: dict[Any, list[_Request]] = {}

    def ask(self, work: Work, *tensors: Tensor, extra: Any = None) -> Tensor:
        request = _Request(work, tensors, extra)
        self._asked.put(request)
        return request.answer.result()

    def run(self, lanes: Sequence[Callable[[], None]]) -> None:
        """Run the lanes to their ends, one thread each, and what they ask for in this thread. Lanes raise nothing."""

        def lane(work: Callable[[], None]) -> None:
            try:
                work()
            finally:
                self._asked.put(None)

        threads = [threading.Thread(target=lane, args=(work,), daemon=True) for work in lanes]
        for thread in threads:
            thread.start()
        alive = len(threads)
        while alive:
            alive -= self._gather(alive)
            if self._waiting:
                self._do(max(self._waiting, key=lambda bucket: sum(r.rows for r in self._waiting[bucket])))
        for thread in threads:
            thread.join()

    def _gather(self, alive: int) -> int:
        """Take what was asked until a batch is full, all lanes wait, or none comes; returns how many lanes ended."""
        ended = 0
        while True:
            asked = sum(len(requests) for requests in self._waiting.values())
            full = any(sum(r.rows for r in requests) >= self.rows for requests in self._waiting.values())
            if asked >= alive - ended or full:
                return ended
            try:
                request = self._asked.get(timeout=WAIT if asked else None)
            except queue.Empty:
                return ended
            if request is None:
                ended += 1
            else:
                self._waiting.setdefault(request.bucket, []).append(request)

    def _do(self, bucket: Any) -> None:
        requests = self._waiting.pop(bucket)
        batch: list[_Request] = []
        while requests and (not batch or sum(r.rows for r in batch) + requests[0].rows <= self.rows):
            batch.append(requests.pop(0))
        if requests:
            self._waiting[bucket] = requests
        try:
            tensors = (
                batch[0].tensors
                if len(batch) == 1
                else [torch.cat(parts) for parts in zip(*(r.tensors for r in batch), strict=True)]
            )
            result = super().ask(batch[0].work, *tensors, extra=batch[0].extra)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error.with_traceback(None))  # its frames would keep the batch alive
                return
            for request in batch:
                self._waiting.setdefault((bucket, id(request)), []).append(request)
            return
        for request, part in zip(batch, torch.split(result, [r.rows for r in batch]), strict=True):
            request.answer.set_result(part)


class _Request:
    def __init__(self, work: Work, tensors: tuple[Tensor, ...], extra: Any) -> None:
        self.work, self.tensors, self.extra = work, tensors, extra
        self.rows = tensors[0].shape[0]
        self.answer: Future[Tensor] = Future()

    @property
    def bucket(self) -> Any:
        return getattr(self.work, "__qualname__", ""), tuple(t.shape[1:] for t in self.tensors), self.extra

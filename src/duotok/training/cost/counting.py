"""One training step without its arithmetic: floating-point operations and memory of any model at any batch size.

Large floating tensors become outlines: shape and type, no data. Everything else (lengths, tracks, masks, small tables) is
real, so that what depends on data takes its usual course. The paper's stages are counted in seconds on a laptop.

Operations are counted by torch's own FlopCounterMode; here are the outlines that let it run without arithmetic, the memory,
and the one operation that it does not know (attention on a CPU; its registry in torch 2.13 has the kernels of a GPU only).
"""

# mypy: disallow-untyped-calls=False
# torch's modes and counters are not annotated

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from duotok.training.stage import Batch, Stage

LARGE = 1 << 20  # elements
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index_put.default}
ITEMS = {aten._local_scalar_dense.default, aten.item.default}


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, q, k, v))


CPU_ATTENTION = {  # torch's counter knows only those of a GPU
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class Counted:
    """Of one part of a batch: floating-point operations (a multiply-add is two), and the most bytes that what is neither
    weight, gradient nor optimizer state takes at a time."""

    forward: int
    backward: int
    activations: int

    @property
    def flops(self) -> int:
        return self.forward + self.backward


class Outlines(TorchDispatchMode):
    """Floating tensors of at least `large` elements have no data, nor has what is computed from them.

    Whole numbers and truth values that would follow from them are zeros.
    """

    def __init__(self, large: int = LARGE) -> None:
        super().__init__()
        self.large, self.fake = large, FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        if not any(isinstance(value, FakeTensor) for value in given) and (
            given or not self._is_large(func, args, kwargs)
        ):
            return func(*args, **kwargs)
        if func in ITEMS:
            return 0.0
        if func in INDEXED:
            indexed, places, *others = args
            args = (indexed, _as_places(places), *others)
        if func is aten._ctc_loss.Tensor:
            return self._ctc(*args)
        if func is aten._ctc_loss_backward.Tensor:
            return self.outline(args[1])
        with self.fake:
            made = func(*args, **kwargs)
        return tree_map(_real_if_whole, made)

    def _is_large(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether a call that is given no tensor makes a large floating one."""
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        if not dtype.is_floating_point or not args or not isinstance(args[0], list | tuple):
            return False
        return math.prod(args[0]) >= self.large

    def outline(self, like: Tensor) -> Tensor:
        """No data, in the shape of `like`."""
        with self.fake:
            return torch.empty(like.shape, dtype=like.dtype)

    def _ctc(self, log_probs: Tensor, targets: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        """Loss and forward variables; there is no kernel without data."""
        frames, items = log_probs.shape[:2]
        longest = targets.shape[1] if targets.dim() == 2 else len(targets)
        with self.fake:
            return log_probs.new_empty(items), log_probs.new_empty(items, frames, 2 * longest + 1)


def _as_places(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Truth values as the places of the true ones."""
    places: list[Tensor | None] = []
    for index in indices:
        places += [index] if index is None or index.dtype is not torch.bool else index.nonzero(as_tuple=True)
    return places


def _real_if_whole(value: Any) -> Any:
    if isinstance(value, FakeTensor) and not (value.is_floating_point() or value.is_complex()):
        return torch.zeros(value.shape, dtype=value.dtype)
    return value


class Memory(TorchDispatchMode):
    """The most bytes of floating tensors alive at a time, of those made inside; gradients of `parameters` do not count."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.live = self.most = 0
        self.sizes: dict[int, int] = {}  # storage -> bytes
        self.hooks = [p.register_post_accumulate_grad_hook(self._becomes_gradient) for p in parameters]

    def __exit__(self, *exception: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        before = {value.untyped_storage()._cdata for value in given}
        made = func(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
                storage = value.untyped_storage()
                if storage._cdata not in before | self.sizes.keys():  # neither a view nor changed in place
                    self._add(storage)
        return made

    def _add(self, storage: Any) -> None:
        self.sizes[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self._forget, storage._cdata)
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)

    def _forget(self, storage: int) -> None:
        self.live -= self.sizes.pop(storage, 0)

    def _becomes_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._forget(parameter.grad.untyped_storage()._cdata)


class AsOnGpu(TorchFunctionMode):
    """What memory depends on, as a GPU does it: attention is one fused kernel (a CPU with dropout keeps the weights of
    every pair), and in mixed precision norms come out in fp32 (a CPU leaves them in half)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            kwargs = {**kwargs, "dropout_p": 0.0}
        if func in (F.layer_norm, torch.layer_norm) and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def grown(batch: Batch, items: int, outlines: Outlines) -> Batch:
    """A batch of `items` items like those of `batch`, repeated in turn."""
    some = len(batch["seeds"])
    order = torch.arange(items) % some
    result: Batch = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() * items // some >= outlines.large:
            result[name] = outlines.outline(value[:1].expand(items, *value.shape[1:]))
        elif isinstance(value, Tensor):
            result[name] = value[order]
        else:
            result[name] = [value[i] for i in order.tolist()]
    return result


def count(
    build: Callable[[], Stage], items: int, precision: str = "fp32", on_gpu: bool = True, large: int = LARGE
) -> tuple[Counted, Stage]:
    """Forward and backward of a part of a batch of `items` items, and the stage without data that was counted.

    build: makes the stage, whose `batch` is asked for at most 8 items; on_gpu: see AsOnGpu.
    """
    outlines = Outlines(large)
    with warnings.catch_warnings():  # deepcopy and caches ask where the data are
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        with outlines:
            stage = build()
        return _count(stage, items, precision, on_gpu, outlines), stage


def _count(stage: Stage, items: int, precision: str, on_gpu: bool, outlines: Outlines) -> Counted:
    some = range(min(items, 8))
    batch = grown({**stage.batch(0, some), "seeds": stage.seeds(0, some)}, items, outlines)
    parameters = [p for module in stage.modules.values() for p in module.parameters() if p.requires_grad]
    for module in stage.modules.values():
        module.train()
    flops = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    memory = Memory(parameters)
    modes: list[Any] = [outlines, flops, memory, *([AsOnGpu()] if on_gpu else [])]
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        with _half(precision):
            loss = stage.losses(batch, 0)["loss"]
        forward = flops.get_total_flops()
        loss.backward()
    for parameter in parameters:
        parameter.grad = None
    return Counted(forward, flops.get_total_flops() - forward, memory.most)


@contextmanager
def _half(precision: str) -> Iterator[None]:
    """Mixed precision as accelerate does it."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        yield

"""The model computes as it would alone, whatever its caller has set in torch: float32, tensors on the CPU unless it says otherwise, no autocast.

Nothing here changes what another thread sees: torch's modes and autocast belong to a thread, and its default type of numbers, which belongs to the
process, is read and never set.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

F = TypeVar("F", bound=Callable[..., Any])
KINDS = ("cpu", "cuda")
"""Devices whose autocast is switched off."""
MAKERS = frozenset(
    {
        torch.arange, torch.as_tensor, torch.blackman_window, torch.empty, torch.eye, torch.fft.fftfreq, torch.fft.rfftfreq, torch.full,
        torch.hamming_window, torch.hann_window, torch.kaiser_window, torch.linspace, torch.logspace, torch.ones, torch.rand, torch.randn,
        torch.tensor, torch.zeros,
    }
)  # fmt: skip
"""What makes tensors of the default type, where it is asked for none."""
DRAWS = frozenset(
    {
        Tensor.bernoulli_, Tensor.exponential_, Tensor.normal_, Tensor.uniform_, init.kaiming_normal_, init.kaiming_uniform_, init.normal_,
        init.orthogonal_, init.trunc_normal_, init.uniform_, init.xavier_normal_, init.xavier_uniform_, torch.normal, torch.rand, torch.randint,
        torch.randn, torch.randperm,
    }
)  # fmt: skip
_here = threading.local()


class _Float32(TorchFunctionMode):
    """Tensors that are made without a type of numbers are float32, whatever the default; whole numbers stay whole."""

    paused = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in MAKERS or kwargs.get("dtype") is not None or self.paused:
            return func(*args, **kwargs)
        if func in DRAWS or func is torch.empty:
            return func(*args, **{**kwargs, "dtype": torch.float32})
        made = func(*args, **kwargs)
        given = args[0] if args else None
        if made.dtype != torch.get_default_dtype() or isinstance(given, Tensor) or hasattr(given, "dtype"):
            return made
        return func(*args, **{**kwargs, "dtype": torch.float32})


class _OwnDraws(TorchFunctionMode):
    """Random numbers come from a generator of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


@contextmanager
def own_settings() -> Iterator[None]:
    """Inside, tensors are float32 and on the CPU unless the code says otherwise, and no autocast is on."""
    if getattr(_here, "outer", None) is not None:
        yield
        return
    device, casts = torch.get_default_device(), [kind for kind in KINDS if torch.is_autocast_enabled(kind)]
    foreign = torch.get_default_dtype() != torch.float32
    if device.type == "cpu" and not casts and not foreign:
        yield
        return
    mode = _Float32() if foreign else None
    with ExitStack() as stack:
        stack.callback(setattr, _here, "outer", None)
        _here.outer = device, [(kind, torch.get_autocast_dtype(kind)) for kind in casts], mode
        if mode is not None:
            stack.enter_context(mode)
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in casts:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def callers_settings() -> Iterator[None]:
    """Inside `own_settings`: what the caller had set, for code of the caller's that is called back."""
    outer = getattr(_here, "outer", None)
    if outer is None:
        yield
        return
    device, casts, mode = outer
    _here.outer = None
    try:
        with ExitStack() as stack:
            if mode is not None:
                mode.paused = True
                stack.callback(setattr, mode, "paused", False)
            stack.enter_context(torch.device(device))
            for kind, dtype in casts:
                stack.enter_context(torch.autocast(kind, dtype))
            yield
    finally:
        _here.outer = outer


@contextmanager
def building_modules() -> Iterator[None]:
    """For making modules whose weights are then read: besides `own_settings`, the process's random numbers are left alone, and the
    weights can serve a training, even where the caller is in inference mode."""
    with own_settings(), torch.inference_mode(False), _OwnDraws():
        yield


def each(settings: Callable[[], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The same items, each of them made within `settings()`; what is done between them is not."""
    iterator, end = iter(items), object()
    while True:
        with settings():
            item = next(iterator, end)
        if item is end:
            return
        yield item


def with_own_settings(function: F) -> F:
    """A function, or one that yields, that runs within `own_settings`."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stepwise(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with closing(function(*args, **kwargs)) as items:
                yield from each(own_settings, items)

        return cast(F, stepwise)

    @functools.wraps(function)
    def whole(*args: Any, **kwargs: Any) -> Any:
        with own_settings():
            return function(*args, **kwargs)

    return cast(F, whole)

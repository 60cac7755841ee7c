"""Which device computes: the one that a user named, checked before anything long begins, or the GPU where there is one."""

from __future__ import annotations

import torch

from duotok.errors import ConfigError, one_line


def check_device(device: str | torch.device, option: str = "") -> None:
    """Raises ConfigError for a device that torch does not know or cannot use here. option: how a command names devices."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error, None).split(". ")[0][:100]
        raise ConfigError(f"device '{device}': not usable here ({reason}); use {option}cpu") from None


def answers(device: torch.device) -> bool:
    """Whether a device still computes: after a failed kernel a GPU does nothing more for its process."""
    try:
        return float(torch.ones(1, device=device).sum()) == 1
    except RuntimeError:
        return False


def reason_of(error: RuntimeError) -> str:
    """What torch says of a device; the lines behind the first are advice for programmers."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def is_of_device(error: RuntimeError) -> bool:
    """Whether torch tells of a device or its memory rather than of a mistake in the program."""
    return type(error).__name__ in ("AcceleratorError", "OutOfMemoryError") or any(
        word in str(error) for word in ("CUDA", "cuDNN", "cuFFT", "HIP error", "MPS backend", "out of memory")
    )


def gpu_or_cpu(device: str) -> torch.device:
    """Where a config with `device: auto | cuda | cpu` computes on this machine: a GPU if there is one, unless it says cpu."""
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")

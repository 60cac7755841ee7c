"""How benchmarks are called: the numbers that their options take, and a user's mistake as one line. Imports nothing heavy."""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path

from duotok.errors import DuoTokError, of_system, one_line

INTERRUPTED = 130


def mistakes_in_one_line(main: Callable[[], int | None]) -> Callable[[], int | None]:
    """For the `main` of a benchmark: a user's mistake ends it with one line on stderr and exit code 1, as the commands do."""

    @functools.wraps(main)
    def wrapped() -> int | None:
        try:
            return main()
        except DuoTokError as error:
            sys.exit(f"error: {one_line(error, None)}")
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            sys.exit(f"error: {of_system(error)}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("", "benchmarks", "duotok"):
                raise
            sys.exit(f"error: this needs {error.name}, which is not installed, or not in the checkout that was named")
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    return wrapped


def _number(text: str, kind: type[int] | type[float], fits: Callable[[float], bool], wanted: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"{text}: give {wanted}")
    return value


def existing_folder(text: str) -> Path:
    """For argparse: a folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder; check the name")
    return Path(text)


def positive_number(text: str) -> float:
    """For argparse: a number above 0."""
    return _number(text, float, lambda value: value > 0, "a number above 0")


def number_from_0(text: str) -> float:
    """For argparse: a number, 0 or more."""
    return _number(text, float, lambda value: value >= 0, "a number, 0 or more")


def share_of_1(text: str) -> float:
    """For argparse: a number from 0 to 1."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def positive_int(text: str) -> int:
    """For argparse: a whole number, 1 or more."""
    return int(_number(text, int, lambda value: value >= 1, "a whole number, 1 or more"))


def int_from_0(text: str) -> int:
    """For argparse: a whole number, 0 or more."""
    return int(_number(text, int, lambda value: value >= 0, "a whole number, 0 or more"))

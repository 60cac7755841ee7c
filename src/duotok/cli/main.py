"""`duotok`: the commands, one file each. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from duotok import __version__
from duotok.cli.console import say
from duotok.errors import DuoTokError, of_system
from duotok.files import naming

INTERRUPTED = 130
STANDARD_OUTPUT = "standard output"
LOOP = "Symlink loop from "

# Command -> the module that has it as a function of that name. Commands without a module are left out of the help.
COMMANDS = {
    "encode": "duotok.cli.encode",
    "decode": "duotok.cli.decode",
    "separate": "duotok.cli.separate",
    "info": "duotok.cli.info",
    "demo": "duotok.cli.demo",
    "songs": "duotok.cli.songs",
    "tokenize": "duotok.cli.tokenize",
    "pack": "duotok.cli.pack",
    "generate": "duotok.cli.generate",
    "train": "duotok.cli.train",
    "plot": "duotok.cli.plot",
    "bundle": "duotok.cli.bundle",
    "report": "duotok.cli.report",
}
# Group of commands -> the module that has it as `app`.
GROUPS = {
    "codecs": "duotok.cli.codecs",
    "data": "duotok.cli.data",
    "edit": "duotok.cli.edit",
    "recipes": "duotok.cli.recipes",
    "kit": "duotok.cli.kit",
    "eval": "duotok.cli.eval",
    "tokens": "duotok.cli.tokens",
    "listen": "duotok.cli.listen",
}


def extra_of(module: str) -> str:
    """The extra of this package that brings a module, by the package's own metadata; empty where none does."""
    from importlib.metadata import requires

    wanted, found = module.partition(".")[0].replace("_", "-").lower(), []
    for requirement in requires("duotok") or ():
        name = re.match(r"[A-Za-z0-9_.-]*", requirement)
        extra = re.search(r"extra == ['\"]([a-z]+)['\"]", requirement)
        if name and extra and extra[1] != "dev" and name[0].replace("_", "-").lower() == wanted:
            found.append(extra[1])
    # pyarrow comes with two: who lacks it is mostly about to prepare or train.
    return "train" if "train" in found else next(iter(found), "")


class CommandGroup(TyperGroup):
    """Turns a user's mistake into one line on stderr and exit code 1, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DuoTokError as error:
            say(f"error: {' '.join(str(error).split())}")
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            say(f"error: {of_system(error)}")
        except RuntimeError as error:
            line = _line_of(error)
            if not line:
                raise
            say(f"error: {line}")
        except ModuleNotFoundError as error:
            extra = extra_of(error.name or "")
            if not extra:
                raise
            say(f"error: this needs {error.name}, which is not installed: pip install 'duotok[{extra}]'")
        except KeyboardInterrupt as interrupt:
            say(str(interrupt) or "interrupted; what was finished is kept")
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(1)


def _line_of(error: RuntimeError) -> str:
    """An error that is no mistake in the program as one line; "" for all others."""
    if str(error).startswith(LOOP):  # of pathlib, up to Python 3.12
        return f"{str(error).removeprefix(LOOP).strip()}: is a link to itself; choose another name"
    if "torch" not in sys.modules:
        return ""
    from duotok.devices import is_of_device, reason_of

    if not is_of_device(error):
        return ""
    return f"{reason_of(error)}; look at the device (its memory, other programs), or use another device"


HELP = """
A song in, two time-aligned token streams out (vocals, accompaniment), 48 kHz music back.

\b
  duotok encode song.mp3 -o song.duotok     25 tokens a second for each track
  duotok info song.duotok                   what is in it
  duotok decode song.duotok -o song.wav     music again; --track vocals for one track
  duotok separate song.mp3 -o stems         its two tracks as sound
  duotok demo song.mp3 -o report            all of it on one page, to hear and to see

Each command has its own --help with examples.
"""

app = typer.Typer(
    name="duotok",
    cls=CommandGroup,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"duotok {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    warn_in_lines()


def warn_in_lines() -> None:
    """Print the package's warnings to stderr, a line each."""
    ours = logging.getLogger("duotok")
    if not any(isinstance(handler, _Warnings) for handler in ours.handlers):
        ours.addHandler(_Warnings(logging.WARNING))


class _Warnings(logging.Handler):
    """The package's warnings as single lines that do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def _register() -> None:
    for name, module in COMMANDS.items():
        try:
            function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        app.command(name)(function)
    for name, module in GROUPS.items():
        app.add_typer(importlib.import_module(module).app, name=name)


_register()


class _Output(io.TextIOWrapper):
    """Standard output, which is named by its errors, as when it goes into a file on a full disk."""

    failed = False

    def write(self, text: str) -> int:
        with self._named():
            return super().write(text)

    def flush(self) -> None:
        with self._named():
            super().flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            with naming(STANDARD_OUTPUT):
                yield
        except OSError:
            self.failed = True
            raise

    def close(self) -> None:
        """Nothing: what it writes into belongs to the stream whose place it takes."""


@contextlib.contextmanager
def _named_output() -> Iterator[None]:
    """`_Output` in place of standard output. That stays as it is, as others may have it: a log, or who called `main`."""
    before = sys.stdout
    if type(before) is not io.TextIOWrapper:
        yield
        return
    named = _Output(
        before.buffer,
        before.encoding,
        before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    sys.stdout = named
    try:
        yield
    finally:
        if sys.stdout is named:
            sys.stdout = before
            try:
                if not named.failed:  # also before an exit: what it still holds would be lost with it
                    named.flush()
            finally:
                if named.failed:
                    _drop(before)


def _drop(output: TextIO) -> None:
    """What a stream holds that takes no more goes nowhere: the end of Python would try once more, and tell it in its own words."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output.fileno())
    os.close(nowhere)


def main() -> None:
    """The entry point of the `duotok` script."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: else the next file that is opened gets its number, and what libraries print
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # else `print` takes standard output for it, into which sound and tokens may go
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):  # file names may have characters that the terminal cannot show
            output.reconfigure(errors="backslashreplace")
    try:
        with _named_output():
            app()
    except BrokenPipeError:  # who reads wants no more
        sys.exit(1)
    except OSError as error:  # of the words of --help and --version, which come before any command
        say(f"error: {of_system(error)}")
        sys.exit(1)


if __name__ == "__main__":
    main()

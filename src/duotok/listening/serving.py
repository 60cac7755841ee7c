"""Runs the server of a listening test on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from duotok.errors import DuoTokError, MissingExtraError

if TYPE_CHECKING:
    from starlette.applications import Starlette

LOCAL = ("127.0.0.1", "localhost", "::1")
LAST_SECONDS = 3


def listen_on(host: str, port: int) -> socket.socket:
    """A socket for the server; port 0 takes any free one. Raises DuoTokError when the port is in use or not allowed."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise DuoTokError(f"--host {host}: no such address ({error}); leave it out for this machine alone") from None
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "in use"
        elif error.errno == errno.EACCES:
            why = "not allowed to you"
        else:
            raise DuoTokError(f"--host {host} --port {port}: {error.strerror}; choose others") from None
        raise DuoTokError(
            f"port {port} on {host}: {why}; choose another with --port, or 0 for any that is free"
        ) from None


def address_of(opened: socket.socket) -> str:
    """What to open in a browser on this machine."""
    host, port = opened.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def run(application: Starlette, opened: socket.socket, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are under way get 3 s to end. No request is logged.

    ready: called with the address when requests will be answered. Raises MissingExtraError without uvicorn.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError(
            "listening tests are served by starlette and uvicorn: pip install 'duotok[listen]'"
        ) from None
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=LAST_SECONDS,
    )  # fmt: skip
    with opened, contextlib.suppress(KeyboardInterrupt):
        ready(address_of(opened))
        uvicorn.Server(config).run(sockets=[opened])

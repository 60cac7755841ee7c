"""A process that forks while another of its threads opens a file: the child can open files, and has its stderr."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

from duotok.audio.decoders import _quiet

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def test_a_child_forked_while_a_file_is_opened_opens_files_and_has_stderr() -> None:
    entered = threading.Event()

    def opens() -> None:
        with _quiet():
            entered.set()
            time.sleep(0.3)

    own = os.fstat(2)
    thread = threading.Thread(target=opens)
    thread.start()
    assert entered.wait(30)
    said, says = os.pipe()
    child = os.fork()
    if child == 0:
        with _quiet():
            pass
        os.write(says, b"1" if os.path.samestat(own, os.fstat(2)) else b"0")
        os._exit(0)
    thread.join()
    os.close(says)
    answers = bool(select.select([said], [], [], 10)[0])
    if not answers:
        os.kill(child, 9)
    os.waitpid(child, 0)
    answer = os.read(said, 1) if answers else b"hangs"
    os.close(said)
    assert answer == b"1"

"""Full precision is the process's setting: threads inside of it must not take it from each other, and it comes back."""

from __future__ import annotations

import os
import sys
import threading

import pytest
import torch

from duotok.nn.precision import full_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def allowed() -> object:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def inside(entered: threading.Event, leave: threading.Event) -> None:
    with full_precision(CPU):
        entered.set()
        leave.wait(30)


def test_a_thread_that_leaves_takes_it_from_no_other() -> None:
    entered, leave = threading.Event(), threading.Event()
    other = threading.Thread(target=inside, args=(entered, leave))
    other.start()
    assert entered.wait(30)
    with full_precision(CPU):
        leave.set()
        other.join(30)
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_has_what_the_process_allows() -> None:
    entered, leave = threading.Event(), threading.Event()
    other = threading.Thread(target=inside, args=(entered, leave))
    other.start()
    assert entered.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.get_float32_matmul_precision() == "high" else 1)
    leave.set()
    other.join(30)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_was_made_inside_leaves_it_like_its_parent() -> None:
    child = -1
    try:
        with full_precision(CPU):
            child = os.fork()
        allowed = torch.get_float32_matmul_precision()
    finally:
        if child == 0:
            os._exit(0 if sys.exception() is None and allowed == "high" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert allowed == "high"

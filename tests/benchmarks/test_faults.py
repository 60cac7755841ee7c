"""The named faults follow the code: each text that a fault replaces stands in its file exactly once, and its tests are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.fault_list import FAULTS, Fault

ROOT = Path(__file__).parent.parent.parent


def test_no_two_faults_have_one_name() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) > 100


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_text_of_a_fault_stands_in_its_file_once(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    assert fault.old != fault.new
    assert all((ROOT / test).is_file() for test in fault.tests)

"""Why tests were skipped, by number: most of them need recordings, which no clone has."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    reasons = Counter(where[2].removeprefix("Skipped: ") for where in told if isinstance(where, tuple))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped, {count}: {reason}")

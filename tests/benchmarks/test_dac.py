"""`benchmarks.dac`: the codec takes no place that is taken."""

from pathlib import Path

import pytest

from duotok.errors import DuoTokError


def test_a_folder_that_holds_something_stays(tmp_path: Path) -> None:
    dac = pytest.importorskip("benchmarks.dac")
    dac.check_out(tmp_path / "new")
    dac.check_out(tmp_path)
    (tmp_path / "config.json").write_text("mine")
    for place in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(DuoTokError, match="is already there; name a new folder"):
            dac.check_out(place)

"""`duotok bundle`: runs that are not there are named; trained ones become a bundle (tests/training/batches/test_derive.py has such runs)."""

from pathlib import Path

import pytest
from tests.shards.shard_maker import make_shards, small_songs
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.records import CorpusError
from duotok.shards.index import SegmentIndex


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    make_shards(tmp_path / "work" / "shards", small_songs(3))
    (tmp_path / "runs").mkdir()
    done = CliRunner().invoke(
        app, ["bundle", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "work"), "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_the_tables_of_the_shards_are_enough(tmp_path: Path) -> None:
    """After a training elsewhere the sound is not here: a model card needs names and licences only."""
    shards = tmp_path / "work" / "shards"
    make_shards(shards, small_songs(3))
    for tar in shards.glob("*.tar"):
        tar.unlink()
    words = ["bundle", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "work"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "stage4.vocals: no checkpoint" in done.output and ".tar" not in done.output
    assert SegmentIndex(shards, tables_only=True).segments
    with pytest.raises(CorpusError, match="copy it there"):
        SegmentIndex(shards)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--seal", "x", "--unpack", "mini"], "--seal and --unpack"), (["--seal", "x", "-o", "y"], "--seal and --out"),
        (["--unpack", "mini", "--tokens-only"], "--unpack and --tokens-only"),
        (["--unpack", "mini", "--name", "mine"], "--unpack and --name"), (["--seal", "x", "--runs", "y"], "--seal and --runs"),
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_named(words: list[str], options: str) -> None:
    done = CliRunner().invoke(app, ["bundle", *words])
    assert done.exit_code == 1 and f"error: {options}: one of them" in done.output

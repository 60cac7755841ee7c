"""`duotok bundle`: runs that are not there are named; trained ones become a bundle (tests/training/batches/test_derive.py has such runs)."""

from pathlib import Path

from tests.shards.shard_maker import make_shards, small_songs
from typer.testing import CliRunner

from duotok.cli.main import app


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    make_shards(tmp_path / "work" / "shards", small_songs(3))
    (tmp_path / "runs").mkdir()
    done = CliRunner().invoke(
        app, ["bundle", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "work"), "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 1
    assert not (tmp_path / "out").exists()

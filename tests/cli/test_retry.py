"""`duotok tokenize --retry`: a failed song whose files tell nothing new stays failed until it is asked for."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import fsspec
import soundfile
from tests.tiny import song
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.lm.token_store import TokenStore


def test_a_failed_song_is_tried_again_with_retry_and_only_then(tmp_path: Path, bundle: Path) -> None:
    """Files of a bucket, named by a list: only when their turn comes are they asked for their state."""
    bucket, store = f"/{uuid.uuid4().hex}", tmp_path / "tokens"
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", song(0.5, seed=ord(name)).numpy().T, 48_000)
    system = fsspec.filesystem("memory")
    system.pipe(f"{bucket}/a.wav", (tmp_path / "a.wav").read_bytes())
    listing = tmp_path / "songs.csv"
    listing.write_text(f"id,path,split\na,memory:/{bucket}/a.wav,train\nb,memory:/{bucket}/b.wav,train\n")

    def tokenized(*more: str) -> tuple[int, dict[str, int], list[str]]:
        done = CliRunner().invoke(
            app, ["tokenize", str(listing), "-o", str(store), "--model", str(bundle), "--json", *more]
        )
        failures = [json.loads(line) for line in (store / "failures.jsonl").read_text().splitlines()]
        facts = json.loads(done.stdout)
        return done.exit_code, {k: facts[k] for k in ("encoded", "kept", "failed")}, [row["id"] for row in failures]

    assert tokenized() == (1, {"encoded": 1, "kept": 0, "failed": 1}, ["b"])
    assert tokenized("--retry") == (1, {"encoded": 0, "kept": 1, "failed": 1}, ["b"])
    system.pipe(f"{bucket}/b.wav", (tmp_path / "b.wav").read_bytes())
    assert tokenized() == (1, {"encoded": 0, "kept": 1, "failed": 1}, ["b"])
    assert tokenized("--retry") == (0, {"encoded": 1, "kept": 1, "failed": 0}, [])
    assert tokenized("--retry") == (0, {"encoded": 0, "kept": 2, "failed": 0}, [])
    assert [found.id for found in TokenStore(store).songs("train")] == ["a", "b"]

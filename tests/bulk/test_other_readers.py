"""A store's shards are plain Parquet: others read the same tokens from them, without this package."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.bulk.conftest import Run

from duotok.lm.token_store import TokenStore

SPLITS = {"train": 3, "validation": 1}


@pytest.fixture
def store(music: Path, tmp_path: Path, run: Run) -> Path:
    run(music, tmp_path / "store")
    return tmp_path / "store"


def expected(store: Path, split: str) -> dict[str, dict[str, list[int]]]:
    """Id -> track -> codes."""
    return {
        song.id: {f"{track}.0": codes[0].tolist() for track, codes in song.tokens.items()}
        for song in TokenStore(store).songs(split)  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("split", SPLITS)
def test_a_row_is_a_song_and_a_column_a_codebook(store: Path, split: str) -> None:
    rows = [row for path in sorted(store.glob(f"{split}-*.parquet")) for row in pq.read_table(path).to_pylist()]
    wanted = expected(store, split)
    assert len(rows) == len(wanted) == SPLITS[split]
    assert {row["id"]: {column: row[column] for column in wanted[row["id"]]} for row in rows} == wanted


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets_reads_the_same_tokens(
    store: Path, tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets = pytest.importorskip("datasets", reason="no Hugging Face datasets here")
    found = datasets.load_dataset(
        "parquet",
        data_files={split: str(store / f"{split}-*.parquet") for split in SPLITS},
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    )
    assert set(found) == set(SPLITS)
    for split in SPLITS:
        wanted = expected(store, split)
        rows = list(found[split])
        assert [row["id"] for row in rows] == list(wanted)
        assert {row["id"]: {column: row[column] for column in wanted[row["id"]]} for row in rows} == wanted

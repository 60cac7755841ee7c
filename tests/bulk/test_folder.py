"""A store is made in a place that is free for it, goes on whole or not at all, and what lies elsewhere is left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.bulk.conftest import Run, files, put

from duotok.bulk.settings import Settings
from duotok.bulk.tokenizing import preview
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError
from duotok.lm.token_store import TokenStore

PARTIAL = ".0123456789abcdef.01234567.partial"


@pytest.mark.parametrize("names", [("readme", "scratch/notes"), ("scratch/notes",), (".draft.partial",)])
def test_a_folder_that_is_no_store_stays_as_it_was(
    music: Path, tmp_path: Path, run: Run, names: tuple[str, ...]
) -> None:
    """Its scratch folder had been removed before it was looked at."""
    folder = tmp_path / "project"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"mine")
    for act in (lambda: run(music, folder), lambda: preview([music], folder, Settings())):
        with pytest.raises(DuoTokError, match=rf"project: holds {names[0].split('/')[0]}, and is no store"):
            act()
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == sorted(names)


def test_what_a_killed_first_run_left_is_taken_over(music: Path, tmp_path: Path, run: Run) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name in ("lock", "vectors.safetensors", PARTIAL):
        (store / name).write_bytes(b"")
    assert run(music, store).encoded == 4 and not (store / PARTIAL).exists()
    run(music, tmp_path / "new")
    assert files(store) == files(tmp_path / "new")


@pytest.mark.parametrize("gone", ["ledger", "ledger/train-000001.jsonl", "plan.parquet"])
def test_a_part_of_a_store_is_refused_and_keeps_its_shards(music: Path, tmp_path: Path, run: Run, gone: str) -> None:
    """A copy without its ledgers had lost all shards, without a word."""
    store = tmp_path / "store"
    run(music, store)
    if gone == "ledger":
        shutil.rmtree(store / gone)
    else:
        (store / gone).unlink()
    before = files(store)
    with pytest.raises(DuoTokError, match=r"is missing, so this is a part of a store; copy all of it"):
        run(put(tmp_path / "new/x.wav").parent, store)
    assert files(store) == before


def test_a_plan_of_another_store_is_refused(music: Path, tmp_path: Path, run: Run) -> None:
    """Its songs had come in the places of others."""
    store = tmp_path / "store"
    run(music, store, split="train")
    other = put(tmp_path / "other/x.wav").parent
    run(other, tmp_path / "another", split="train")
    shutil.copy(tmp_path / "another/plan.parquet", store / "plan.parquet")
    before = files(store)
    with pytest.raises(DuoTokError, match=r"music/train/\w+ stands where plan.parquet has other/x"):
        run(other, store, split="train")
    assert files(store) == before


def test_a_store_lies_in_a_folder(music: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DuoTokError, match=r"^s3:/bucket/tokens: a store is written into a folder"):
        run(music, Path("s3://bucket/tokens"))
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DuoTokError, match=r"^file: is a file"):
        run(music, Path("file"))
    assert not Path("s3:").exists() and Path("file").read_bytes() == b"mine"
    run(music, Path("disco:tokens"))  # Arrow takes such a name for a URL
    assert run(music, Path("disco:tokens"), verify=1).kept == 4
    assert len(next(iter(TokenStore("disco:tokens").songs("train"))).tokens["vocals"]) == 1


def test_a_dry_run_refuses_what_a_run_would(music: Path, tmp_path: Path, run: Run, bundle: Path) -> None:
    run(music, tmp_path / "store")
    other = DuoTok.from_pretrained(bundle, precision="bf16")
    with pytest.raises(DuoTokError, match="made with precision fp32, now it is bf16"):
        preview([music], tmp_path / "store", Settings(), other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DuoTokError, match="empty: no songs there"):
        preview([tmp_path / "empty"], tmp_path / "store", Settings())


def test_a_store_that_cannot_be_read_is_not_called_damaged(music: Path, tmp_path: Path, run: Run) -> None:
    run(music, tmp_path / "store")
    (tmp_path / "store/store.json").unlink()
    (tmp_path / "store/store.json").mkdir()
    with pytest.raises(DuoTokError, match=r"store.json: cannot be read \(Is a directory\); check its permissions"):
        run(music, tmp_path / "store")

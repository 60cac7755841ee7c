"""Bundles on the hub: as its cache lays them out, and what is given to it. No network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny import song

from duotok import files
from duotok.codec.duotok import DuoTok
from duotok.codec.hub import find_bundle
from duotok.errors import BundleError, ConfigError

MAIN, OLD = "a" * 40, "b" * 40


@pytest.fixture
def cache(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one repository: main, and a tag `v1` at another commit, without its renderer."""
    place = tmp_path / "hub" / "models--someone--model"
    for name, commit in (("main", MAIN), ("v1", OLD)):
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / name).write_text(commit)
        blobs = place / "blobs"
        blobs.mkdir(exist_ok=True)
        snapshot = place / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for path in bundle.iterdir():
            shutil.copy(path, blobs / f"{path.name}.{name}")
            (snapshot / path.name).symlink_to(Path("../../blobs") / f"{path.name}.{name}")
    (place / "snapshots" / OLD / "dit.vocals.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return place


def test_a_bundle_in_the_cache_opens_without_a_network(cache: Path, bundle: Path) -> None:
    model = DuoTok.from_pretrained("someone/model", local_files_only=True)
    assert model.encode(song(1.0)) == DuoTok.from_pretrained(bundle).encode(song(1.0))
    for revision in ("main", MAIN):
        assert find_bundle("someone/model", revision, local_files_only=True) == cache / "snapshots" / MAIN


def test_a_revision_is_that_revision(cache: Path) -> None:
    with pytest.raises(BundleError, match=r"dit\.vocals\.safetensors: missing"):
        DuoTok.from_pretrained("someone/model", revision="v1", local_files_only=True)
    for wrong in ("v2", "c" * 40):
        with pytest.raises(BundleError, match=f"not in the hub's cache here at '{wrong}'"):
            DuoTok.from_pretrained("someone/model", revision=wrong, local_files_only=True)
    with pytest.raises(BundleError, match="someone/other: no such folder, and not in the hub's cache"):
        DuoTok.from_pretrained("someone/other", local_files_only=True)


@pytest.mark.parametrize("part", ["tokenizer", "autoencoder", "dit.accompaniment", "separator"])
def test_a_foreign_file_is_named(part: str, cache: Path) -> None:
    blob = cache / "blobs" / f"{part}.safetensors.main"
    data = blob.read_bytes()
    blob.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    model = DuoTok.from_pretrained("someone/model", local_files_only=True)
    with pytest.raises(BundleError, match=f"{part}.safetensors: not as it was written"):
        model._part(part)


def test_a_bundle_whose_replacement_was_killed_opens_again(bundle: Path, tmp_path: Path) -> None:
    """Where two folders cannot change places in one step."""
    shutil.copytree(bundle, files.temporary(tmp_path / "mine", files.ASIDE))
    assert find_bundle(tmp_path / "mine") == tmp_path / "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_has_no_revision(bundle: Path) -> None:
    for name in (bundle, "mini"):
        with pytest.raises(ConfigError, match="a folder has no revision 'v1'"):
            DuoTok.from_pretrained(name, revision="v1")


class Hub:
    """Keeps what it is given."""

    calls: list[tuple[str, dict[str, object]]] = []
    files: dict[str, bytes] = {}

    def __init__(self, token: str | None = None) -> None:
        Hub.calls = [("token", {"token": token})]

    def create_repo(self, name: str, **options: object) -> None:
        Hub.calls.append(("create_repo", {"name": name, **options}))

    def create_branch(self, name: str, **options: object) -> None:
        Hub.calls.append(("create_branch", {"name": name, **options}))

    def upload_folder(self, **options: object) -> str:
        Hub.files = {path.name: path.read_bytes() for path in Path(str(options["folder_path"])).iterdir()}
        Hub.calls.append(("upload_folder", options))
        return "https://hub/commit/1"


def test_what_is_pushed_is_the_bundle_with_its_card(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    DuoTok.from_pretrained(bundle).save_pretrained(tmp_path / "mine", card="# Mine\n")
    model = DuoTok.from_pretrained(tmp_path / "mine")
    address = model.push_to_hub("someone/model", private=True, revision="next", token="secret", message="first")
    assert address == "https://hub/commit/1"
    names = [name for name, _ in Hub.calls]
    options = dict(Hub.calls)
    assert names == ["token", "create_repo", "create_branch", "upload_folder"] and options["token"] == {
        "token": "secret"
    }
    assert options["create_repo"] == {"name": "someone/model", "private": True, "exist_ok": True}
    assert options["upload_folder"]["revision"] == "next" and options["upload_folder"]["commit_message"] == "first"
    assert sorted(Hub.files) == sorted(options["upload_folder"]["allow_patterns"])  # type: ignore[call-overload]
    for name, data in Hub.files.items():
        (tmp_path / "pushed").mkdir(exist_ok=True)
        (tmp_path / "pushed" / name).write_bytes(data)
    again = DuoTok.from_pretrained(tmp_path / "pushed")
    assert Hub.files["README.md"] == b"# Mine\n" and again.model_hash == model.model_hash
    tokens = model.encode(song(1.0))
    assert torch.equal(again.decode(tokens), model.decode(tokens))


def test_what_the_hub_does_not_take(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Hub, **options: object) -> str:
        raise OSError("401 Unauthorized\nInvalid token")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "upload_folder", refuse)
    model = DuoTok.from_pretrained(bundle)
    with pytest.raises(
        BundleError, match=r"did not take it \(401 Unauthorized Invalid token\); log in with: hf auth login"
    ):
        model.push_to_hub("someone/model")
    for name in ("model", "a/b/c", "/b", "a/"):
        with pytest.raises(ConfigError, match="write owner/name"):
            model.push_to_hub(name)


@pytest.mark.parametrize("name", ["external:wavtokenizer.yaml", "transformers:models/dac", "opus:6000"])
def test_other_tokenizers_are_sent_where_they_are_taken(name: str) -> None:
    with pytest.raises(BundleError, match=f"^{name}: not a bundle of DuoTok.*duotok pack"):
        find_bundle(name)

"""Bundles by name: folders, bundles of the package, and repositories of the Hugging Face hub (download and upload)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.errors import BundleError, ConfigError
from duotok.files import PACKAGE, recover

CONFIG_FILE = "config.json"
PACKAGED = PACKAGE / "bundles"


def find_bundle(name: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a bundle: a local folder, the name of one that came with the package ("mini"), or `owner/name` on
    the Hugging Face hub, fetched into its cache.

    revision, local_files_only: as for `fetch`. Raises BundleError when there is no such bundle, and ConfigError when a revision
    is given for anything but a repository.
    """
    path = Path(name)
    recover(path)
    if (path / CONFIG_FILE).is_file():
        _refuse_revision(path, revision)
        return path
    text = str(name)
    simple = "/" not in text and "\\" not in text and text not in ("", ".", "..")
    if simple and (PACKAGED / text / CONFIG_FILE).is_file():
        _refuse_revision(text, revision)
        return PACKAGED / text
    kind, colon, _ = text.partition(":")
    if colon and kind.isalpha() and len(kind) > 1:  # one letter is a drive
        raise BundleError(
            f"{text}: not a bundle of DuoTok, which this takes; `duotok pack`, `eval` and `codecs check` take other tokenizers"
        )
    if path.is_dir():
        raise BundleError(f"{path}: no bundle, it has no {CONFIG_FILE}; name the folder that holds the weights")
    if simple:
        known = sorted(p.parent.name for p in PACKAGED.glob(f"*/{CONFIG_FILE}"))
        hint = f"this package brings {', '.join(known)}" if known else "this package brings none; train one: make mini"
        raise BundleError(f"{text}: no such bundle; name a folder or owner/name on the hub ({hint})")
    if text.count("/") != 1 or text.startswith(("/", ".", "~")) or text.endswith("/"):
        raise BundleError(f"{text}: no such folder; check the name")
    return fetch(text, ("*.json", "*.safetensors", "*.md"), revision, local_files_only)


def _refuse_revision(name: str | Path, revision: str | None) -> None:
    if revision is not None:
        raise ConfigError(f"{name}: a folder has no revision '{revision}'; leave it out, or name owner/name on the hub")


def fetch(name: str, patterns: Sequence[str], revision: str | None = None, local_files_only: bool = False) -> Path:
    """The files of a repository (`owner/name`) that match `patterns`, in the hub's cache.

    revision: branch, tag or commit; local_files_only: use the cache alone, without the network. Raises BundleError when the
    files cannot be fetched.
    """
    try:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=local_files_only)
        )
    except Exception as error:  # the hub client raises dozens of kinds, all with long messages
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        place = "not in the hub's cache here" if local_files_only else "not fetched from the hub"
        at = f" at '{revision}'" if revision is not None else ""
        raise BundleError(f"{name}: no such folder, and {place}{at} ({reason}); check the name") from None


def push(folder: Path, repository: str, files: Sequence[str], *, private: bool | None = None, revision: str | None = None,
         message: str = "", token: str | None = None) -> str:  # fmt: skip
    """Upload files of a folder to a repository (`owner/name`) of the hub, which is created if necessary. Returns its address.

    revision: a branch other than the main one. Raises BundleError when the upload fails.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConfigError(f"repository '{repository}': write owner/name")
    try:
        from huggingface_hub import HfApi

        api: Any = HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        address = api.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=list(files), revision=revision,
            commit_message=message or f"DuoTok bundle {folder.name}",
        )  # fmt: skip
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise BundleError(f"{repository}: the hub did not take it ({reason}); log in with: hf auth login") from None
    return str(address)

"""Packed tokens as files that other programs read, and back: `duotok tokens export` and `import`.

FOLDER/layout.json      how to read the sequences: layout, offsets, special numbers, codec; hashes of all files; sealed, written last
FOLDER/vectors.safetensors   the vectors of the codec's codes, where the corpus has them
parquet                 SPLIT.parquet
hf                      data/SPLIT-00000-of-00001.parquet and README.md, for `datasets.load_dataset(FOLDER)`
npy                     SPLIT.tokens.npy, all songs concatenated; SPLIT.starts.npy, where each begins; SPLIT.songs.jsonl
webdataset              SPLIT-000000.tar ...: KEY.tokens.npy and KEY.json for each song
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from duotok import __version__
from duotok.errors import ConfigError, DuoTokError, TokenFileError
from duotok.files import sha256, writing
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.layouts import Layout
from duotok.lm.song import TokenizedSong
from duotok.lm.start import Vectors
from duotok.lm.token_store import TokenStore
from duotok.records import SPLITS, Split
from duotok.seals import is_sealed, read_json, seal

FORMAT = 1
LAYOUT, VECTORS, README = "layout.json", "vectors.safetensors", "README.md"
TAR_SONGS = 1000
"""Songs in one tar."""
BLOCK_SONGS = 64
"""Songs in a row group of Parquet."""

To = Literal["parquet", "npy", "webdataset", "hf"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """What an export holds, by split."""

    songs: dict[str, int]
    frames: dict[str, int]
    files: list[str]


def export_tokens(corpus: TokenCorpus | TokenStore, folder: Path, layout: Layout, to: To) -> Exported:
    """Write all songs of a corpus into `folder`, which must be new or empty; it appears complete or not at all.

    The same corpus and layout give the same bytes. Raises DuoTokError when the folder holds something or cannot be written,
    TokenFileError for a damaged corpus.
    """
    if to not in WRITERS:
        raise ConfigError(f"--to {to}: choose {', '.join(WRITERS)}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DuoTokError(f"{folder}: is there already; name a new folder, or an empty one")
    layout.codec.require(corpus.identity, str(corpus.path))
    songs: dict[str, int] = {}
    frames: dict[str, int] = {}
    try:
        with writing(folder) as partial:
            partial.mkdir()
            for split, counted in corpus.counts.items():
                songs[split], frames[split] = counted
                WRITERS[to](partial, split, _rows(corpus, split, layout), layout)
            if corpus.vectors is not None:
                vectors = {name: np.ascontiguousarray(table) for name, table in sorted(corpus.vectors.items())}
                (partial / VECTORS).write_bytes(safetensors.numpy.save(vectors))
            if to == "hf":
                (partial / README).write_text(_card(corpus, layout, songs), encoding="utf-8")
            files = sorted(str(path.relative_to(partial)) for path in partial.rglob("*") if path.is_file())
            facts = layout.as_json() | {
                "format": FORMAT, "to": to, "made_by": f"duotok {__version__}", "corpus": corpus.hash, "songs": songs, "frames": frames,
                "sha256": {name: sha256(partial / name) for name in files},
            }  # fmt: skip
            (partial / LAYOUT).write_text(json.dumps(seal(facts), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from None
    return Exported(songs, frames, [*files, LAYOUT])


def _rows(corpus: TokenCorpus | TokenStore, split: str, layout: Layout) -> Iterator[Row]:
    for song in corpus.songs(split):  # type: ignore[arg-type]
        facts = {
            "id": song.id, "split": song.split, "identity": song.identity, "recording": song.recording,
            "start_frame": song.start_frame, "n_frames": song.frames, "sha256": song.sha256,
        }  # fmt: skip
        yield facts | {"input_ids": layout.lay_out(song.tokens)}


# -- writing -----------------------------------------------------------------------------------------------------------


def _schema(layout: Layout) -> Any:
    import pyarrow as pa

    ids = pa.list_(pa.int32()) if not layout.width else pa.list_(pa.list_(pa.int32(), layout.width))
    text = [("id", pa.string()), ("split", pa.string()), ("identity", pa.string()), ("recording", pa.string())]
    return pa.schema(
        [*text, ("start_frame", pa.int64()), ("n_frames", pa.int64()), ("sha256", pa.string()), ("input_ids", ids)]
    )


def _write_parquet(path: Path, rows: Iterator[Row], layout: Layout) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        block: list[Row] = []
        for row in rows:
            block.append(row | {"input_ids": row["input_ids"].tolist()})
            if len(block) == BLOCK_SONGS:
                writer.write_table(pa.Table.from_pylist(block, schema))
                block = []
        if block:
            writer.write_table(pa.Table.from_pylist(block, schema))


def _to_parquet(folder: Path, split: str, rows: Iterator[Row], layout: Layout) -> None:
    _write_parquet(folder / f"{split}.parquet", rows, layout)


def _to_hf(folder: Path, split: str, rows: Iterator[Row], layout: Layout) -> None:
    _write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows, layout)


def _to_npy(folder: Path, split: str, rows: Iterator[Row], layout: Layout) -> None:
    starts, pieces = [0], []
    with (folder / f"{split}.songs.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            ids = row.pop("input_ids")
            pieces.append(ids)
            starts.append(starts[-1] + len(ids))
            file.write(json.dumps(row) + "\n")
    np.save(folder / f"{split}.tokens.npy", np.concatenate(pieces), allow_pickle=False)
    np.save(folder / f"{split}.starts.npy", np.array(starts, np.int64), allow_pickle=False)


def _tar(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:06d}.tar"


def _to_tars(folder: Path, split: str, rows: Iterator[Row], layout: Layout) -> None:
    tar: tarfile.TarFile | None = None
    for number, row in enumerate(rows):
        if number % TAR_SONGS == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(_tar(folder, split, number // TAR_SONGS), "w")  # noqa: SIM115
        assert tar is not None
        ids, array = row.pop("input_ids"), io.BytesIO()
        np.save(array, ids, allow_pickle=False)
        for ending, data in (("json", json.dumps(row).encode()), ("tokens.npy", array.getvalue())):
            member = tarfile.TarInfo(f"{number:09d}.{ending}")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    if tar is not None:
        tar.close()


WRITERS: dict[str, Callable[[Path, str, Iterator[Row], Layout], None]] = {
    "parquet": _to_parquet, "npy": _to_npy, "webdataset": _to_tars, "hf": _to_hf,
}  # fmt: skip


def _card(corpus: TokenCorpus | TokenStore, layout: Layout, songs: Mapping[str, int]) -> str:
    """A dataset card with the names of the splits, as the hub and `datasets` read it."""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in songs)
    columns = "".join(f"| {c.stream} {c.codebook} | {c.size:,} | {offset} |\n" for c, offset in
                      zip(corpus.identity.columns, layout.offsets, strict=True))  # fmt: skip
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"# Tokens of {corpus.identity.name}\n\nLayout {layout.kind}, {corpus.identity.frame_rate:g} frames a second. "
        f"{layout.as_json()['how']} All of it for programs: `layout.json`.\n\n"
        f"| codebook | codes | offset |\n|---|---|---|\n{columns}"
    )


# -- reading -----------------------------------------------------------------------------------------------------------


def read_layout(path: Path) -> tuple[Layout, dict[str, Any]]:
    """The layout of an export, and all values of its `layout.json`. Raises TokenFileError when it is missing, foreign or damaged."""
    try:
        values = read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenFileError(
            f"{path}: cannot be read ({error.strerror}); name a folder of: duotok tokens export"
        ) from None
    except ValueError:
        raise TokenFileError(f"{path}: damaged, no JSON; export the tokens again") from None
    if not isinstance(values, dict) or "layout" not in values or "codec" not in values:
        raise TokenFileError(f"{path}: not the layout of exported tokens; name a folder of: duotok tokens export")
    if values.get("format") != FORMAT:
        raise TokenFileError(
            f"{path}: exported in format {values.get('format')}, this DuoTok reads {FORMAT}; export the tokens again"
        )
    if not is_sealed(values):
        raise TokenFileError(f"{path}: was changed since it was written; export the tokens again")
    try:
        return Layout.from_json(values), values
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise TokenFileError(f"{path}: no layout ({error}); export the tokens again") from None


def import_tokens(folder: Path, path: Path) -> int:
    """Pack an export again as `path`: the same songs in the same order. Returns how many.

    Raises TokenFileError for a folder that is no export, or one with a missing, foreign or altered file, which it names.
    """
    layout, facts = read_layout(folder / LAYOUT)
    hashes: Mapping[str, str] = facts["sha256"]
    for name, expected in hashes.items():
        try:
            actual = sha256(folder / name)
        except OSError as error:
            raise TokenFileError(f"{folder / name}: cannot be read ({error.strerror}); copy the export again") from None
        if actual != expected:
            raise TokenFileError(f"{folder / name}: was changed since it was written; copy the export again")
    vectors: Vectors | None = None
    try:
        if VECTORS in hashes:
            vectors = safetensors.numpy.load_file(folder / VECTORS)
        rows = READERS[facts["to"]](folder, facts["songs"])
    except (SafetensorError, KeyError) as error:
        raise TokenFileError(
            f"{folder}: not an export that this DuoTok reads ({error}); export the tokens again"
        ) from None

    def songs() -> Iterator[TokenizedSong]:
        for row in rows:
            tokens = layout.read_back(row.pop("input_ids"), f"{folder}: song '{row['id']}'")
            expected, frames = row.pop("sha256"), row.pop("n_frames")
            song = TokenizedSong(tokens=tokens, **row)
            if song.sha256 != expected or song.frames != frames:
                raise TokenFileError(f"{folder}: song '{song.id}' is not what was exported; export the tokens again")
            yield song

    return write_tokens(path, layout.codec, songs(), str(facts["corpus"]), vectors)


def _splits(songs: Mapping[str, int]) -> list[Split]:
    return [split for split in SPLITS if split in songs]


def _from_parquet_file(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                yield row | {"input_ids": np.array(row["input_ids"], np.int32)}


def _from_parquet(folder: Path, songs: Mapping[str, int]) -> Iterator[Row]:
    for split in _splits(songs):
        yield from _from_parquet_file(folder / f"{split}.parquet")


def _from_hf(folder: Path, songs: Mapping[str, int]) -> Iterator[Row]:
    for split in _splits(songs):
        yield from _from_parquet_file(folder / "data" / f"{split}-00000-of-00001.parquet")


def _from_npy(folder: Path, songs: Mapping[str, int]) -> Iterator[Row]:
    for split in _splits(songs):
        ids: NDArray[np.int32] = np.load(folder / f"{split}.tokens.npy", mmap_mode="r", allow_pickle=False)
        starts = np.load(folder / f"{split}.starts.npy", allow_pickle=False)
        with (folder / f"{split}.songs.jsonl").open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                yield read_json(line) | {"input_ids": np.asarray(ids[starts[number] : starts[number + 1]])}


def _from_tars(folder: Path, songs: Mapping[str, int]) -> Iterator[Row]:
    for split in _splits(songs):
        for number in range(-(-songs[split] // TAR_SONGS)):  # and no other tar that lies there
            with tarfile.open(_tar(folder, split, number)) as tar:
                row: Row = {}
                for member in tar:
                    data = tar.extractfile(member)
                    assert data is not None
                    if member.name.endswith(".json"):
                        row = read_json(data.read())
                    else:
                        yield row | {"input_ids": np.load(io.BytesIO(data.read()), allow_pickle=False)}


READERS: dict[str, Callable[[Path, Mapping[str, int]], Iterator[Row]]] = {
    "parquet": _from_parquet, "npy": _from_npy, "webdataset": _from_tars, "hf": _from_hf,
}  # fmt: skip

"""Check every byte of shards against the manifest and the summary, on a disk or behind an fsspec URL."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import soundfile

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.data.jobs import Engine
from duotok.errors import DuoTokError
from duotok.records import CorpusError
from duotok.shards.index import MANIFEST, SUMMARY
from duotok.shards.ranges import Ranges
from duotok.shards.store import ShardStore

BLOCK = 1 << 22


class _Stream(io.RawIOBase):
    """A file read once from the start to the end in ranges, hashed on the way."""

    def __init__(self, ranges: Ranges, name: str, size: int) -> None:
        super().__init__()
        self.ranges, self.file, self.size = ranges, name, size
        self.position, self.digest = 0, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.size - self.position)
        if count == 0:
            return 0
        block = self.ranges.read(self.file, self.position, count)
        self.digest.update(block)
        self.position += count
        buffer[:count] = block
        return count


def check_shard(payload: dict[str, Any]) -> dict[str, Any]:
    """The problems of one shard, none when it is as it was written: {"problems": [...]}."""
    ranges, name = Ranges(payload["url"]), payload["shard"]
    problems: list[str] = []
    stream = _Stream(ranges, name, payload["bytes"])
    file = io.BufferedReader(stream, BLOCK)
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            members = ((member, tar.extractfile(member)) for member in tar)
            for segment in payload["segments"]:
                for stem, place in segment["stems"].items():
                    file_name = f"{segment['key']}.{stem}.{payload['format']}"
                    problems += _check_sound(next(members, None), file_name, place, segment["frames"])
                problems += _check_json(next(members, None), segment)
            problems += [f"{member.name}: not in the manifest" for member, _ in members]
        while file.read(BLOCK):
            pass
    except (tarfile.TarError, DuoTokError, OSError) as error:
        problems.append(f"cannot be read to its end ({' '.join(str(error).split())})")
    if stream.digest.hexdigest() != payload["sha256"]:
        problems.append(f"other bytes than {SUMMARY} says")
    return {"problems": [f"{ranges.place(name)}: {problem}" for problem in problems]}


def _check_sound(entry: Any, name: str, place: dict[str, Any], frames: int) -> list[str]:
    if entry is None or entry[0].name != name:
        return [f"{name}: missing, or not in its place"]
    member, data = entry[0], entry[1].read()
    if member.offset_data != place["offset"] or member.size != place["size"]:
        return [f"{name}: lies elsewhere than the manifest says"]
    if hashlib.sha256(data).hexdigest() != place["sha256"]:
        return [f"{name}: other bytes than the manifest says"]
    info = soundfile.info(io.BytesIO(data))
    if (info.samplerate, info.frames) != (SAMPLE_RATE, frames * FRAME_SAMPLES) or info.channels > 2:
        return [f"{name}: {info.frames} samples at {info.samplerate} Hz, {info.channels} channels"]
    return []


def _check_json(entry: Any, segment: dict[str, Any]) -> list[str]:
    name = f"{segment['key']}.json"
    if entry is None or entry[0].name != name:
        return [f"{name}: missing, or not in its place"]
    values = json.loads(entry[1].read())
    return [] if values["frames"] == segment["frames"] else [f"{name}: says otherwise than the manifest"]


def check_shards(url: str | Path, engine: Engine, derived: Path | None = None) -> list[str]:
    """Read all shards of a folder and compare every hash, place and length; the problems, none when all is well.

    derived: the folder of the arrays derived from them, which are checked as well.

    Raises CorpusError when there are no finished shards at all.
    """
    store = ShardStore(url, derived)
    place = store.ranges.url
    if store.ranges.local is not None:
        place = str(store.ranges.local.absolute())
    payloads = []
    for shard, indices in store.shards.items():
        segments = []
        for index in indices.tolist():
            stored = store.segments[index]
            stems = {
                stem: {"offset": stored.offsets[stem], "size": stored.sizes[stem], "sha256": stored.sha256[stem]}
                for stem in stored.segment.stems
            }
            segments.append({"key": stored.segment.key, "frames": stored.segment.frames, "stems": stems})
        payloads.append(
            {
                "url": place, "shard": shard, "segments": segments,
                "bytes": store.summary["bytes"][shard], "sha256": store.summary["sha256"][shard],
                "format": store.summary.get("format", "flac"),
            }
        )  # fmt: skip
    problems = []
    for name in sorted(set(store.summary["sha256"]) - {MANIFEST} - set(store.shards)):
        problems.append(f"{store.ranges.place(name)}: in {SUMMARY} but not in the manifest")
    for index, outcome in engine.map(check_shard, payloads):
        if outcome.result is None:
            raise CorpusError(f"{payloads[index]['shard']}: cannot be checked ({outcome.error})")
        problems += outcome.result["problems"]
    return sorted(problems) + (store.derived.damaged() if store.derived is not None else [])

"""Shards: tars of segments in the WebDataset layout, a manifest that says where the sound lies, and a summary of hashes.

Every byte is a function of the segments and the sound, so a resumed job, another engine or another machine gives the same
files (for one version of libsndfile and pyarrow).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from duotok.audio.channels import fix_polarity
from duotok.audio.io import probe, stream
from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.data.jobs import Engine, JobError, Pending, Results, Unit, atomic_write, pending, read_ledger, run_units
from duotok.data.scan import pending_scan, read_scan
from duotok.data.segmenting import LEDGER as SEGMENT_LEDGER
from duotok.data.segmenting import sound_of
from duotok.data.segments import stem_sources
from duotok.data.sources import local
from duotok.data.stem_files import OpusFile
from duotok.errors import AudioError, ConfigError
from duotok.files import sha256
from duotok.records import SPLITS, CorpusError, Recording, Segment, table_row, table_schema
from duotok.seals import seal

VERSION = 1
SHARD_SEGMENTS = 256
MANIFEST, SUMMARY = "manifest.parquet", "shards.json"
# Token frames that are decoded before a cut and dropped: decoders and the resampler settle within them.
SETTLE = 4
# 0 (fast) to 1 (small): the smallest files are 3 % smaller than these and cost three times the time.
FLAC_LEVEL = 0.5
OPUS_KBPS = 48  # a channel
LEDGER = Path("ledger") / "shard.jsonl"
_TAR = re.compile(rf"(?:{'|'.join(SPLITS)})-\d{{6}}\.tar")


def plan_shards(
    segments: Sequence[Segment],
    recordings: Iterable[Recording],
    work: Path,
    seed: int = 0,
    shard_segments: int = SHARD_SEGMENTS,
    audio: str = "flac",
) -> list[Unit]:
    """Assign segments to shards: those of a split, ordered by sha256(seed:key), in runs of equal length. One unit a shard.

    audio: how sound is stored: flac, opus, or opus:KBPS. Raises ConfigError otherwise, CorpusError for two segments of one key, or a
    segment of a recording that is unknown, not scanned, or lacks one of its stems.
    """
    if shard_segments < 1:
        raise CorpusError(f"--shard-segments {shard_segments}: must be at least 1")
    stored = _format(audio)
    by_id = {recording.id: recording for recording in recordings}
    _check_segments(segments, by_id)
    used = {segment.recording for segment in segments}
    # Files that are not as the scan found them, by size, time or place: their bytes decide.
    seen = pending_scan([by_id[name] for name in sorted(used)], work).done
    scans = {name: read_scan(work, name)[0] for name in sorted(used)}
    _check_scans(work, scans)
    units = []
    for split in SPLITS:
        order = sorted(
            (segment for segment in segments if segment.split == split),
            key=lambda segment: hashlib.sha256(f"{seed}:{segment.key}".encode()).digest(),
        )
        for number, first in enumerate(range(0, len(order), shard_segments)):
            chosen = order[first : first + shard_segments]
            sources, places = {}, {}
            for name in sorted({segment.recording for segment in chosen}):
                recording = by_id[name]
                scan = scans[name]
                stems = stem_sources(recording.kind, scan["stems"])
                sources[name] = {
                    "start": recording.start, "samples": scan["samples"],
                    "sha256": {stem: scan["sha256"][source] for stem, source in stems.items()},
                }  # fmt: skip
                places[name] = {stem: recording.audio[source] for stem, source in stems.items()}
            shard = f"{split}-{number:06d}.tar"
            payload = {
                "version": VERSION, "shard": shard,
                "segments": [dataclasses.asdict(segment) for segment in chosen], "sources": sources,
                **stored,
            }  # fmt: skip
            place = {
                "audio": places, "folder": str(work.absolute() / "shards"),
                "unsure": [name for name in sources if name not in seen],
            }  # fmt: skip
            units.append(Unit(shard, payload, place))
    return units


def _check_scans(work: Path, scans: Mapping[str, dict[str, Any]]) -> None:
    """Segments of the sound that was scanned before would have its gains, words and borders."""
    made = read_ledger(work / SEGMENT_LEDGER)
    for name, scan in scans.items():
        entry = made.get(name)
        # Ledgers of an earlier DuoTok do not say it.
        if entry is not None and entry.result and entry.result.get("sound") not in (None, sound_of(scan)):
            raise CorpusError(
                f"{name}: was scanned again, as other sound, since its segments were made; run: duotok data segment --work {work}"
            )


def _check_segments(segments: Sequence[Segment], recordings: Mapping[str, Recording]) -> None:
    keys: set[str] = set()
    for segment in segments:
        if segment.key in keys:
            raise CorpusError(f"{segment.key}: two segments of this key; make the segments again")
        keys.add(segment.key)
        recording = recordings.get(segment.recording)
        if recording is None:
            raise CorpusError(f"{segment.key}: its recording is not in the catalog; make the segments again")
        missing = sorted(set(segment.stems) - stem_sources(recording.kind, recording.audio).keys())
        if missing or not segment.stems:
            lost = ", ".join(missing) or "stems"
            raise CorpusError(f"{segment.key}: its recording has no {lost}; make the segments again")


def _format(audio: str) -> dict[str, Any]:
    """What plan and summary say of other files than FLAC, which they do not mention. Raises ConfigError."""
    name, colon, text = audio.partition(":")
    with contextlib.suppress(ValueError):
        kbps = float(text) if colon else OPUS_KBPS
        if audio == "flac":
            return {}
        if name == "opus" and 6 <= kbps <= 256:
            return {"format": name, "bits": round(1000 * kbps)}
    raise ConfigError(f"shards of {audio}: use flac, opus, or opus:KBPS with 6 to 256 kbit/s a channel")


def write_shard(payload: dict[str, Any]) -> dict[str, Any]:
    """The unit of work: cut, encode and write one shard; returns its size and hash, and where each stem lies in it.

    Raises AudioError when a source has changed since the scan; OSError when the shard cannot be written.
    """
    shard = Path(payload["folder"]) / payload["shard"]
    for name in payload["unsure"]:
        for stem, place in payload["audio"][name].items():
            with local(place) as path:
                if sha256(path) != payload["sources"][name]["sha256"][stem]:
                    raise AudioError(f"{place}: other bytes than when it was scanned; run the scan again")
    rows = []
    with atomic_write(shard) as file:
        hashed = _Hashed(file)
        # pax, because a key may be longer than the 100 characters of a plain header.
        with tarfile.open(fileobj=hashed, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for segment in payload["segments"]:
                rows.append(_write_segment(tar, segment, payload))
    return {"bytes": hashed.size, "sha256": hashed.digest.hexdigest(), "rows": rows}


def _write_segment(tar: tarfile.TarFile, segment: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    name = segment["recording"]
    source, audio = payload["sources"][name], payload["audio"][name]
    row: dict[str, Any] = {"offsets": {}, "sizes": {}, "sha256": {}}
    for stem in segment["stems"]:
        with local(audio[stem]) as path:
            samples = cut(path, source["start"], source["samples"], segment["start_frame"], segment["frames"])
        form = payload.get("format", "flac")
        data = encode(samples) if form == "flac" else encode_opus(samples, payload["bits"])
        row["offsets"][stem] = _add(tar, f"{segment['key']}.{stem}.{form}", data)
        row["sizes"][stem] = len(data)
        row["sha256"][stem] = hashlib.sha256(data).hexdigest()
    _add(tar, f"{segment['key']}.json", json.dumps(segment).encode())
    return row


def cut(path: Path, start: float, length: int, start_frame: int, frames: int) -> NDArray[np.int16]:
    """`[frames x 1920, channels]` at 48 kHz from token frame `start_frame` of a recording; zeros beyond its end.

    start: where the recording begins in its file, in seconds; length: the recording's samples at 48 kHz. A channel of inverted
    polarity is corrected. Raises AudioError when the file ends too early.
    """
    before = min(SETTLE, start_frame)
    begin = (start_frame - before) * FRAME_SAMPLES
    samples = min((start_frame + frames) * FRAME_SAMPLES, length) - begin
    if samples <= before * FRAME_SAMPLES:
        raise AudioError(f"{path}: frame {start_frame} is past its end; make the segments again")
    # Read one frame more, so that the resampler need not extrapolate at the end.
    after = min(FRAME_SAMPLES, length - begin - samples)
    channels = None if probe(path).channels <= 2 else 2
    blocks = stream(
        path, SAMPLE_RATE, channels, 60.0, start + begin / SAMPLE_RATE, (samples + after) / SAMPLE_RATE, strict=True
    )
    sound = torch.cat(list(blocks), dim=1)
    if sound.shape[1] < samples:
        raise AudioError(f"{path}: shorter than when it was scanned; run the scan again")
    out = np.zeros((frames * FRAME_SAMPLES, sound.shape[0]), np.int16)
    inside = fix_polarity(sound)[:, before * FRAME_SAMPLES : samples]
    out[: inside.shape[1]] = (inside * 32768.0).round_().clamp_(-32768, 32767).to(torch.int16).T.numpy()
    return out


def encode(samples: NDArray[np.int16]) -> bytes:
    """int16 `[samples, channels]` as a FLAC file."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=FLAC_LEVEL)
    return file.getvalue()


def encode_opus(samples: NDArray[np.int16], bits: int) -> bytes:
    """int16 `[samples, channels]` as an Opus file of about `bits` a second and channel; it decodes to as many samples."""
    file = io.BytesIO()
    opus = OpusFile(file, samples.shape[1], bits)
    opus.write(samples.astype(np.float32) / np.float32(32768))
    opus.close()
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member without date, owner and mode of a source; returns the offset of its data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class _Hashed:
    """A file to write to that keeps track of its length and hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


def pending_shards(
    segments: Sequence[Segment],
    recordings: Iterable[Recording],
    work: Path,
    seed: int = 0,
    shard_segments: int = SHARD_SEGMENTS,
    retry: bool = False,
    audio: str = "flac",
) -> Pending:
    """What `run_shards` would do; writes nothing."""
    units = plan_shards(segments, recordings, work, seed, shard_segments, audio)
    return pending(units, work / LEDGER, retry=retry, intact=_intact)


def run_shards(
    segments: Sequence[Segment],
    recordings: Iterable[Recording],
    work: Path,
    engine: Engine,
    *,
    seed: int = 0,
    shard_segments: int = SHARD_SEGMENTS,
    retry: bool = False,
    audio: str = "flac",
) -> Results:
    """Write all shards, then manifest.parquet, then shards.json: a folder without shards.json is not finished.

    Raises JobError when a shard could not be written, CorpusError when there is nothing to write.
    """
    units = plan_shards(segments, recordings, work, seed, shard_segments, audio)
    if not units:
        raise CorpusError(f"{work}: no segments, so there is nothing to put into shards; see {work}/ledger")
    folder = work / "shards"
    if pending(units, work / LEDGER, retry=retry, intact=_intact).todo:
        (folder / SUMMARY).unlink(missing_ok=True)
    results = run_units(
        write_shard, units, work / LEDGER, engine, "shards", retry=retry, intact=_intact, folders=[folder]
    )
    if results.failed:
        name, reason = next(iter(results.failed.items()))
        raise JobError(
            f"{len(results.failed)} of {len(units)} shards failed, first {name}: {reason}. Its source was whole when it was "
            "scanned: scan again (duotok data prepare does it all), or --retry"
        )
    for path in folder.iterdir():
        if _TAR.fullmatch(path.name) and path.name not in results.done:
            path.unlink()  # of an older plan
    _write_manifest(folder / MANIFEST, units, results)
    _write_summary(folder, units, results, {"seed": seed, "shard_segments": shard_segments, **_format(audio)})
    return results


def _intact(unit: Unit, result: dict[str, Any]) -> bool:
    path = Path(unit.place["folder"]) / unit.id
    return path.is_file() and path.stat().st_size == result["bytes"]


def _write_manifest(path: Path, units: Sequence[Unit], results: Results) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for unit in units:
        for index, (values, place) in enumerate(
            zip(unit.payload["segments"], results.done[unit.id]["rows"], strict=True)
        ):
            maps = {name: sorted(place[name].items()) for name in ("offsets", "sizes", "sha256")}
            rows.append({**table_row(Segment(**values)), "shard": unit.id, "index": index, **maps})
    integers, texts = pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.string())
    schema = table_schema(Segment)
    for name, kind in (
        ("shard", pa.string()), ("index", pa.int64()), ("offsets", integers), ("sizes", integers), ("sha256", texts),
    ):  # fmt: skip
        schema = schema.append(pa.field(name, kind))
    with atomic_write(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def _write_summary(folder: Path, units: Sequence[Unit], results: Results, chosen: dict[str, Any]) -> None:
    splits: dict[str, dict[str, Any]] = {}
    for unit in units:
        segments = unit.payload["segments"]
        counts = splits.setdefault(segments[0]["split"], {"shards": 0, "segments": 0, "frames": 0})
        counts["shards"] += 1
        counts["segments"] += len(segments)
        counts["frames"] += sum(segment["frames"] for segment in segments)
    for counts in splits.values():
        counts["seconds"] = counts["frames"] * FRAME_SAMPLES / SAMPLE_RATE
    hashes = {name: result["sha256"] for name, result in results.done.items()}
    summary = {
        "version": VERSION, **chosen, "splits": splits,
        "bytes": {name: result["bytes"] for name, result in results.done.items()},
        "sha256": {**hashes, MANIFEST: sha256(folder / MANIFEST)},
    }  # fmt: skip
    with atomic_write(folder / SUMMARY) as file:
        file.write(json.dumps(seal(summary), indent=1).encode())

"""All steps of the data path, one after the other, in one folder WORK: corpora in, shards and a report out.

Each step reads what the steps before it wrote, does only what is not done, and can be run alone, so a run that was stopped
at any moment can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from duotok.data import catalog, scan, segmenting, separate, transcribe
from duotok.data import corpus_report as report
from duotok.data import sharding as shards
from duotok.data.jobs import Engine, LocalEngine, Pending, Results
from duotok.data.segments import SegmentConfig
from duotok.records import CorpusError, Recording, Segment, read_table


def catalogued(work: Path) -> list[Recording]:
    """The recordings of WORK with the stems that were separated for them. Raises CorpusError when there is no catalog."""
    return separate.with_stems(catalog.read(work), work)


def segmented(work: Path) -> list[Segment]:
    """The segments of WORK. Raises CorpusError when there are none."""
    return read_table(work / segmenting.TABLE, Segment)


@dataclass(frozen=True)
class PipelineOptions:
    """corpora: NAME=ROOT, none to use the existing catalog; settings: CORPUS.OPTION=VALUE; licences: classes that are let
    through (all if none); separate: None separates nothing.
    """

    corpora: Sequence[str] = ()
    settings: Sequence[str] = ()
    licences: Sequence[str] = ()
    separate: separate.SeparationOptions | None = None
    transcribe: transcribe.TranscriptionOptions = field(default_factory=transcribe.TranscriptionOptions)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    seed: int = 0
    shard_segments: int = shards.SHARD_SEGMENTS
    shard_format: str = "flac"
    retry: bool = False


@dataclass(frozen=True)
class Step:
    """The result of one step. done: units that are done, kept: those of them from an earlier run; failed: unit -> error; warning:
    a line each."""

    name: str
    took: float
    done: int
    kept: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    ledger: Path | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    warning: str = ""


def prepare(work: Path, options: PipelineOptions, engine: Engine) -> Iterator[Step]:
    """Run all steps; yields each when it has ended. Raises what the steps raise; units that fail stop nothing."""
    yield _catalog(work, options)
    if options.separate is not None:
        yield _separate(work, options, options.separate, engine)
    yield _transcribe(work, options, engine)
    yield _scan(work, options, engine)
    yield _segment(work, options, engine)
    yield _shard(work, options, engine)
    began = time.perf_counter()
    report.make_report(work)
    yield Step("report", time.perf_counter() - began, 1)


def preview(work: Path, options: PipelineOptions) -> dict[str, dict[str, int]]:
    """What `prepare` would do, as far as that is known in advance; writes nothing."""
    recordings = _listed(work, options).recordings
    counts = {"catalog": {"recordings": len(recordings)}}
    if options.separate is not None:
        counts["separate"] = _counts(separate.pending_separate(recordings, work, options.separate, options.retry))
    recordings = separate.with_stems(recordings, work)
    counts["transcribe"] = _counts(transcribe.pending_transcribe(recordings, work, options.transcribe, options.retry))
    counts["scan"] = _counts(scan.pending_scan(recordings, work, options.retry))
    return counts


def _counts(before: Pending) -> dict[str, int]:
    return {"to do": len(before.todo), "kept": len(before.done), "failed": len(before.failed)}


def _listed(work: Path, options: PipelineOptions) -> catalog.Catalog:
    if options.corpora:
        return catalog.build(catalog.open_corpora(options.corpora, options.settings), options.licences)
    if not (work / catalog.TABLE).is_file():
        raise CorpusError(f"{work}: no catalog there yet; name a corpus: --corpus NAME=FOLDER")
    return catalog.Catalog(catalog.read(work))


def _catalog(work: Path, options: PipelineOptions) -> Step:
    began = time.perf_counter()
    listed = _listed(work, options)
    if options.corpora:
        catalog.write(work, listed)
    hours = sum(recording.seconds or 0.0 for recording in listed.recordings) / 3600
    facts = {"hours by the metadata": hours, "left out by licence": sum(listed.left_out.values())}
    took = time.perf_counter() - began
    warning = catalog.validation_warning(listed.recordings)
    return Step(
        "catalog",
        took,
        len(listed.recordings),
        failed=listed.problems,
        ledger=work / catalog.LEDGER,
        facts=facts,
        warning=warning,
    )


def _unit_step(name: str, work: Path, ledger: Path, run: Callable[[], Results], hours: bool = False) -> Step:
    began = time.perf_counter()
    results = run()
    facts: dict[str, float] = {}
    if hours:
        facts["hours"] = sum(result["seconds"] for result in results.done.values()) / 3600
    took = time.perf_counter() - began
    return Step(name, took, len(results.done), results.kept, results.failed, work / ledger, facts)


def _separate(work: Path, options: PipelineOptions, chosen: separate.SeparationOptions, engine: Engine) -> Step:
    # Several processes would each load the model onto the same GPU.
    step_engine = LocalEngine(1) if isinstance(engine, LocalEngine) and chosen.device != "cpu" else engine
    recordings = catalog.read(work)

    def run() -> Results:
        return separate.run_separate(recordings, work, chosen, step_engine, options.retry)

    return _unit_step("separate", work, separate.LEDGER, run, hours=True)


def _transcribe(work: Path, options: PipelineOptions, engine: Engine) -> Step:
    # Every worker would load the models of the transcriber again.
    step_engine = LocalEngine(1) if isinstance(engine, LocalEngine) else engine
    recordings = catalogued(work)

    def run() -> Results:
        return transcribe.run_transcribe(recordings, work, options.transcribe, step_engine, options.retry)

    return _unit_step("transcribe", work, transcribe.LEDGER, run)


def _scan(work: Path, options: PipelineOptions, engine: Engine) -> Step:
    recordings = catalogued(work)
    step = _unit_step(
        "scan", work, scan.LEDGER, lambda: scan.run_scan(recordings, work, engine, options.retry), hours=True
    )
    separated = sum(len(new.audio) > len(old.audio) for new, old in zip(recordings, catalog.read(work), strict=True))
    if options.separate is None and separated:
        warning = (
            f"stems of {separated} recordings were separated earlier and are used; to go without, remove {work / 'stems'} "
            "and run the same command again"
        )
        return replace(step, warning=warning)
    return step


def _segment(work: Path, options: PipelineOptions, engine: Engine) -> Step:
    began = time.perf_counter()
    # A few milliseconds a recording, so starting processes pays for large catalogs only.
    step_engine = LocalEngine(1) if isinstance(engine, LocalEngine) and len(catalog.read(work)) < 2000 else engine
    segmentation = segmenting.segment_all(work, options.segment, options.licences, step_engine)
    facts: dict[str, Any] = {
        "hours": sum(segment.seconds for segment in segmentation.segments) / 3600,
        "with words": sum(bool(segment.text) for segment in segmentation.segments),
        "recordings left out": len(segmentation.left_out),
    }
    ledger = work / segmenting.LEDGER
    warnings = (segmenting.lyrics_warning(segmentation.notes), segmenting.validation_warning(segmentation.segments))
    return Step(
        "segment",
        time.perf_counter() - began,
        len(segmentation.segments),
        ledger=ledger,
        facts=facts,
        warning="\n".join(filter(None, warnings)),
    )


def _shard(work: Path, options: PipelineOptions, engine: Engine) -> Step:
    began = time.perf_counter()
    results = shards.run_shards(
        segmented(work), catalogued(work), work, engine,
        seed=options.seed, shard_segments=options.shard_segments, retry=options.retry, audio=options.shard_format,
    )  # fmt: skip
    facts = {"GB": sum(result["bytes"] for result in results.done.values()) / 1e9}
    took = time.perf_counter() - began
    return Step("shard", took, len(results.done), results.kept, results.failed, work / shards.LEDGER, facts)

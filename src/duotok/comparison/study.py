"""Several tokenizers under one language model: everything but the tokens is held constant (paper 4.2, B.1.1).

One config describes all of it. For every tokenizer, protocol and seed a model is trained and scores the same moments of the
same songs. Each such run is a folder, and results in the folder are not computed again:

    FOLDER/runs/TOKENIZER/PROTOCOL/seed-0/   settings.json, the training run, scores.safetensors, corruption/, context/
    FOLDER/table.md, table.json, *.png       `table.py`
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from duotok.comparison.context import Point, curve, tails, target_frames, windows
from duotok.comparison.corpora import Moment, check_same, cut, moments
from duotok.comparison.corruption import Corruption, CorruptionCost, corrupt, costs, mismatched
from duotok.comparison.intervals import difference, estimate
from duotok.comparison.metrics import Measured, measure
from duotok.comparison.plan import ComparisonConfig
from duotok.comparison.run import ModelRun, Runner, check_folder
from duotok.config import base_folder, load_config, parse
from duotok.errors import ConfigError, MetricError, TokenFileError
from duotok.evaluation.intervals import Intervals, minimum_songs
from duotok.files import write_bytes
from duotok.lm import protocols
from duotok.lm.corpus import TokenCorpus
from duotok.lm.pieces import check_lengths
from duotok.lm.scores import load_scores, save_scores
from duotok.lm.song import TokenizedSong
from duotok.lm.stage import LMStageConfig
from duotok.lm.streams import CodecIdentity
from duotok.lm.unigram import Unigram, count_songs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Everything that the table and the pictures show. Keys: protocol, then tokenizer; differences: to the reference.

    books: code counts of the scored songs, learned: of the training songs.
    """

    config: ComparisonConfig
    codecs: dict[str, CodecIdentity]
    books: dict[str, dict[str, tuple[Unigram, ...]]]
    learned: dict[str, dict[str, tuple[Unigram, ...]]]
    songs: int
    hours: float
    values: dict[str, dict[str, Intervals]]
    differences: dict[str, dict[str, Intervals]]
    costs: dict[str, dict[str, list[CorruptionCost]]]
    contexts: dict[str, dict[str, list[Point]]]
    groups: dict[str, dict[str, SongGroup]]


@dataclass(frozen=True)
class SongGroup:
    """Some of the songs. values: by tokenizer; differences: to the reference, paired."""

    songs: int
    values: dict[str, Intervals]
    differences: dict[str, Intervals]


class Comparison:
    """A config with its corpora opened, checked as far as possible before the first model is trained.

    Raises ConfigError for settings that do not fit, TokenFileError for a corpus that cannot be read, MetricError for corpora
    whose songs, splits or durations differ and for fewer songs than an interval needs.
    """

    def __init__(self, path: str | Path, folder: str | Path, overrides: Sequence[str] = ()) -> None:
        self.arguments = Path(path), Path(folder), tuple(overrides)
        self.config = load_config(ComparisonConfig, path, list(overrides))
        self.folder = Path(folder)
        tokens = base_folder(path) / self.config.tokens
        self.trained = {
            name: tuple(TokenCorpus(tokens / place) for place in self.config.files(name))
            for name in self.config.tokenizers
        }
        self.corpora = {name: corpora[0] for name, corpora in self.trained.items()}
        self.rows = check_same(
            {
                f"{name}, training {number + 1}" if number else name: corpus
                for name, corpora in self.trained.items()
                for number, corpus in enumerate(corpora)
            }
        )
        self._check_trainings()
        self._entropy: dict[Path, dict[str, float]] = {}
        self.runs = [
            self._run(name, corpora[number % len(corpora)], protocol, seed, str(path))
            for name, corpora in self.trained.items()
            for protocol in self.config.protocols
            for number, seed in enumerate(self.config.seeds)
        ]
        lm = self.runs[0].config
        self.moments = moments(self.rows, self.config.split, lm.seconds, lm.shortest)
        if self.config.split == "train":
            log.warning(
                "%s: split 'train': songs are scored that the models learn from; validation or test tells how they predict others",
                path,
            )
        self._check_songs()
        self._check_contexts()

    def _check_trainings(self) -> None:
        """Raises ConfigError when the trainings of a tokenizer differ in more than their weights, or one is named twice."""
        for name, corpora in self.trained.items():
            for other in corpora[1:]:
                codec, other_codec = corpora[0].identity, other.identity
                if (codec.streams, codec.frame_rate) != (other_codec.streams, other_codec.frame_rate):
                    raise ConfigError(
                        f"{other.path} ({name}): other codebooks or frames than {corpora[0].path}; name it apart"
                    )
            if len({corpus.identity.hash for corpus in corpora}) < len(corpora):
                raise ConfigError(
                    f"tokenizer '{name}': two of its files are of the same training; name one file for all seeds"
                )

    def _run(self, name: str, corpus: TokenCorpus, protocol: str, seed: int, source: str) -> ModelRun:
        codec = corpus.identity
        kind, streams = _kind_of(protocol, source)
        values = {**self.config.lm, **streams, "data": corpus.path, "codec": codec, "protocol": kind, "seed": seed}
        config = parse(LMStageConfig, values, f"{source}: lm")
        lm_protocol = protocols.protocol_by_name(codec, kind, config.source, config.target, config.prefix_seconds)
        check_lengths(lm_protocol, config.seconds, config.shortest)
        missing = [split for split in ("train", "validation", self.config.split) if split not in corpus.counts]
        if missing:
            raise ConfigError(f"{corpus.path}: no songs of split '{missing[0]}'; a comparison needs them")
        folder = self.folder / "runs" / name / protocol / f"seed-{seed}"
        return ModelRun(
            name, corpus, protocol, lm_protocol, config, self.config.checkpoint, self.config.batch_size, folder
        )

    def _unit(self, moment: Moment) -> str:
        row = self.rows[moment.row]
        return row.identity or row.recording_id if self.config.intervals.over == "identities" else row.recording_id

    def _check_songs(self) -> None:
        """Raises MetricError when a part has fewer songs than its intervals need, or no partners for mismatched sources."""
        least, over = minimum_songs(self.config.intervals.level), self.config.intervals.over
        parts: dict[str, Iterable[Moment]] = {"the evaluation": self.moments}
        if self.config.corruption is not None:
            parts["corruption"] = self._long_pieces()
        if self.config.context is not None:
            parts["context"] = self._whole_songs(max(self.config.context.seconds))
        for name, corpora in self.config.groups.items():
            parts[f"group '{name}' ({', '.join(corpora)})"] = self._of_corpora(corpora)
        for name, chosen in parts.items():
            count = len({self._unit(moment) for moment in chosen})
            if count < least:
                raise MetricError(
                    f"{name} has {count} {over} of split '{self.config.split}' that are long enough; a "
                    f"{100 * self.config.intervals.level:g}% interval needs at least {least}"
                )
        if self.config.corruption is not None and self.config.corruption.mismatch:
            mismatched([self._identity(moment) for moment in self._long_pieces()], self.config.corruption.seed)

    def _check_contexts(self) -> None:
        """Raises ConfigError when the prefix of a protocol reaches into the target of the shortest context."""
        for run in self.runs if self.config.context is not None else ():
            lengths, rate = self.config.context, run.protocol.codec.frame_rate
            assert lengths is not None
            least = run.protocol.prefix + target_frames(rate, lengths.target)
            if run.protocol_name == lengths.protocol and round(min(lengths.seconds) * rate) < least:
                raise ConfigError(
                    f"context {min(lengths.seconds):g} s: a prefix of {run.protocol.prefix_seconds:g} s leaves less than the "
                    f"target of {lengths.target:g} s; take longer contexts or a shorter target"
                )

    def _identity(self, moment: Moment) -> str:
        row = self.rows[moment.row]
        return row.identity or row.recording_id

    def _long_pieces(self) -> list[Moment]:
        """Pieces long enough for the longest shift."""
        assert self.config.corruption is not None
        longest = 1.5 * max(self.config.corruption.shifts, default=0.0)
        return [moment for moment in self.moments if moment.stop - moment.start >= longest - 1e-6]

    def _whole_songs(self, least: float = 0.0) -> list[Moment]:
        """Whole songs of at least so many seconds."""
        return [
            Moment(i, 0.0, row.seconds)
            for i, row in enumerate(self.rows)
            if row.split == self.config.split and row.seconds >= least
        ]

    def _of_corpora(self, corpora: Sequence[str]) -> list[Moment]:
        """Pieces of the songs of some corpora; the id of a song begins with its corpus."""
        return [moment for moment in self.moments if self.rows[moment.row].recording_id.partition("/")[0] in corpora]

    def _songs(self, run: ModelRun, chosen: Sequence[Moment]) -> list[TokenizedSong]:
        return cut(run.corpus, self.config.split, self.rows, chosen)

    def tasks(self, run: ModelRun) -> dict[str, Callable[[], list[TokenizedSong]]]:
        """What a run has to score, by the name of its score file (without ending)."""
        tasks: dict[str, Callable[[], list[TokenizedSong]]] = {"scores": partial(self._songs, run, self.moments)}
        part, lengths = self.config.corruption, self.config.context
        if part is not None and run.protocol.directed:
            for corruption in part.listed():
                tasks[f"corruption/{corruption.slug}"] = partial(self._corrupted, run, corruption)
        if lengths is not None and lengths.protocol == run.protocol_name:
            for seconds in lengths.seconds:
                tasks[f"context/{seconds:g}s"] = partial(self._windows, run, seconds)
        return tasks

    def _corrupted(self, run: ModelRun, corruption: Corruption) -> list[TokenizedSong]:
        assert self.config.corruption is not None
        chosen = self._long_pieces()
        identities = {moment.id(self.rows): self._identity(moment) for moment in chosen}
        sizes = run.protocol.codec.stream(run.protocol.source).codebook_sizes
        return corrupt(
            self._songs(run, chosen), run.protocol.source, sizes, run.protocol.codec.frame_rate, corruption,
            self.config.corruption.seed, lambda song: identities[song.id],
        )  # fmt: skip

    def _windows(self, run: ModelRun, seconds: float) -> list[TokenizedSong]:
        lengths = self.config.context
        assert lengths is not None
        songs = self._songs(run, self._whole_songs(max(lengths.seconds)))
        return windows(songs, run.protocol.codec.frame_rate, seconds, lengths.seconds, lengths.target, lengths.blocks)

    def _last(self, run: ModelRun, name: str) -> int | None:
        """How many frames at the end of each piece are scored; None: all."""
        if self.config.context is None or not name.startswith("context/"):
            return None
        return target_frames(run.protocol.codec.frame_rate, self.config.context.target)

    def _facts(self, run: ModelRun, name: str) -> dict[str, Any]:
        part = name.partition("/")[0]
        part_config = getattr(self.config, part).model_dump(mode="json") if part in ("corruption", "context") else {}
        chosen = self.moments
        if part == "corruption":
            chosen = self._long_pieces()
        elif part == "context" and self.config.context is not None:
            chosen = self._whole_songs(max(self.config.context.seconds))
        places = json.dumps([[moment.id(self.rows), moment.start, moment.stop] for moment in chosen])
        digest = hashlib.sha256(places.encode()).hexdigest()  # another tokenizer in the table may change them
        return {
            "settings": run.settings(),
            "split": self.config.split,
            "scored": name,
            "moments": digest,
            **{part: part_config},
        }

    def todo(self, run: ModelRun) -> list[str]:
        """The tasks of a run without scores so far. Raises ConfigError when its folder belongs to another run."""
        check_folder(run)
        return [name for name in self.tasks(run) if not self._done(run, name)]

    def _done(self, run: ModelRun, name: str) -> bool:
        """Whether its scores are there, as they were written; others are scored again with the trained model."""
        try:
            facts = load_scores(run.folder / f"{name}.safetensors")[1]
        except TokenFileError:
            return False
        return bool(facts == json.loads(json.dumps(self._facts(run, name))))

    def title(self, number: int) -> str:
        run = self.runs[number]
        return f"{number + 1}/{len(self.runs)} {run.tokenizer}, {run.protocol_name}, seed {run.config.seed}"

    def do(self, number: int, runner: Runner) -> None:
        """Train the model of one run and score its missing tasks."""
        run = self.runs[number]
        todo = self.todo(run)
        write_bytes(run.folder / "settings.json", json.dumps(run.settings(), indent=1, sort_keys=True).encode())
        scorer = runner(run)
        for name in todo:
            scores = scorer(self.tasks(run)[name](), self._last(run, name))
            save_scores(run.folder / f"{name}.safetensors", scores, self._facts(run, name))

    # Results from the score files.

    def _measured(self, name: str, protocol: str, task: str, keep: set[str] | None = None) -> list[Measured]:
        """One for each seed. The pieces of a song (or of an identity) count as one song."""
        units = {moment.id(self.rows): self._unit(moment) for moment in (*self.moments, *self._whole_songs())}
        lengths = self.config.context
        measured = []
        for run in self.runs:
            if (run.tokenizer, run.protocol_name) != (name, protocol):
                continue
            scores, _ = load_scores(run.folder / f"{task}.safetensors")
            if task.startswith("context/") and lengths is not None:
                scores = tails(scores, run.protocol.codec.frame_rate, lengths.target)
            pieces = [replace(score, song=units[score.song]) for score in scores if keep is None or score.song in keep]
            measured.append(measure(pieces, run.protocol.codec.frame_rate, self._entropies(run)))
        return measured

    def measured(self, name: str, protocol: str) -> list[Measured]:
        """The scores of one tokenizer under one protocol, one for each seed. Raises TokenFileError when a run is not scored."""
        return self._measured(name, protocol, "scores")

    def _entropies(self, run: ModelRun) -> dict[str, float]:
        """Bits of the codes of each stream by their frequencies in the songs that are scored, the mean over its codebooks."""
        path = run.corpus.path
        if path not in self._entropy:
            books = count_songs(run.corpus.identity, self._songs(run, self.moments))
            self._entropy[path] = {stream: sum(u.entropy() for u in us) / len(us) for stream, us in books.items()}
        return self._entropy[path]

    def result(self) -> Result:
        """The result once all runs are scored. Raises TokenFileError when one is not."""
        config, resampling = self.config, self.config.intervals.resampling()
        first = {run.tokenizer: run for run in self.runs if run.config.seed == config.seeds[0]}
        books = {name: count_songs(run.corpus.identity, self._songs(run, self.moments)) for name, run in first.items()}
        learned = {name: count_songs(corpus.identity, corpus.songs("train")) for name, corpus in self.corpora.items()}
        result = Result(
            config, {name: corpus.identity for name, corpus in self.corpora.items()}, books, learned,
            len({self._unit(moment) for moment in self.moments}),
            sum(moment.stop - moment.start for moment in self.moments) / 3600, {}, {}, {}, {}, {},
        )  # fmt: skip
        for protocol in config.protocols:
            runs = {name: self._measured(name, protocol, "scores") for name in self.corpora}
            result.values[protocol] = {name: estimate(runs[name], resampling) for name in runs}
            result.differences[protocol] = {
                name: difference(runs[name], runs[config.compared_with], resampling, config.intervals.paired_seeds)
                for name in runs
                if name != config.compared_with
            }
            result.groups[protocol] = {
                group: self._group(corpora, protocol) for group, corpora in config.groups.items()
            }
            if config.corruption is not None and protocol != "parallel":
                result.costs[protocol] = {name: self._costs(name, protocol) for name in self.corpora}
            if config.context is not None and protocol == config.context.protocol:
                result.contexts[protocol] = {name: self._curve(name) for name in self.corpora}
        return result

    def _group(self, corpora: Sequence[str], protocol: str) -> SongGroup:
        chosen, resampling = self._of_corpora(corpora), self.config.intervals.resampling()
        keep = {moment.id(self.rows) for moment in chosen}
        runs = {name: self._measured(name, protocol, "scores", keep) for name in self.corpora}
        reference = self.config.compared_with
        return SongGroup(
            len({self._unit(moment) for moment in chosen}),
            {name: estimate(measured, resampling) for name, measured in runs.items()},
            {
                name: difference(measured, runs[reference], resampling, self.config.intervals.paired_seeds)
                for name, measured in runs.items()
                if name != reference
            },
        )

    def _costs(self, name: str, protocol: str) -> list[CorruptionCost]:
        assert self.config.corruption is not None
        keep = {moment.id(self.rows) for moment in self._long_pieces()}
        clean = self._measured(name, protocol, "scores", keep)
        spoiled = {c: self._measured(name, protocol, f"corruption/{c.slug}") for c in self.config.corruption.listed()}
        return costs(clean, spoiled, self.config.intervals.resampling())

    def _curve(self, name: str) -> list[Point]:
        part = self.config.context
        assert part is not None
        runs = {s: self._measured(name, part.protocol, f"context/{s:g}s") for s in part.seconds}
        return curve(runs, self.config.intervals.resampling())


def _kind_of(protocol: str, config: str) -> tuple[protocols.Name, dict[str, str]]:
    """The protocol that a comparison's name of it means, and its source and target."""
    kinds: dict[str, protocols.Name] = {"-to-": "track_to_track", "-beside-": "aligned"}
    for between, kind in kinds.items():
        first, _, second = protocol.partition(between)
        if second:
            return kind, {"source": first, "target": second}
    if protocol != "parallel":
        raise ConfigError(
            f"{config}: protocol '{protocol}' is unknown; write parallel, vocals-to-accompaniment, or vocals-beside-accompaniment"
        )
    return "parallel", {}

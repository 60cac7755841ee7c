"""Stages without data: noise in the shapes that shards and earlier runs would give. For dry runs and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.errors import ConfigError, MissingExtraError
from duotok.records import KINDS, Kind, SampleType, Segment, segment_key, table_row, table_schema
from duotok.shards.derived import possible_rows
from duotok.shards.index import Segments
from duotok.shards.mixture import Component
from duotok.shards.ranges import Ranges
from duotok.shards.store import ShardStore
from duotok.training.stage import Stage, StageConfig

CODES = 1024
EACH = 4  # segments of each kind, of each component of a mixture, in each split
SECONDS_A_WORD = 0.4
STEMS: dict[Kind, tuple[str, ...]] = {
    "song": ("accompaniment", "bass", "drums", "vocals"), "music": ("mix",), "instrumental": ("accompaniment",),
    "voice": ("vocals",), "speech": ("vocals",), "sound": ("mix",),
}  # fmt: skip
TYPES: dict[Kind, tuple[SampleType, ...]] = {
    "song": ("mix", "vocals", "accompaniment"), "music": ("other",), "instrumental": ("instrumental",),
    "voice": ("vocals",), "speech": ("other",), "sound": ("other",),
}  # fmt: skip


class SyntheticStore(ShardStore):
    """Segments of `frames` token frames of every kind and for every component of a mixture; all sound is noise.

    widths: derived array -> numbers in a row (0: a row is one number); those named are there for every track.
    latents_per_frame: rows of latents for each token frame.
    """

    def __init__(
        self, frames: int, components: list[Component], widths: dict[str, int], latents_per_frame: int = 2
    ) -> None:
        try:
            import pyarrow as pa
        except ImportError:
            raise MissingExtraError("training needs pyarrow: pip install 'duotok[train]'") from None
        made = list(segments(frames, components))
        table = pa.Table.from_pylist([table_row(segment) for segment in made], schema=table_schema(Segment))
        places: list[tuple[str, Any]] = [
            ("shard", pa.array(["synthetic"] * len(made))),
            ("index", pa.array(range(len(made)))),
            *(
                (name, pa.array([[(stem, 0) for stem in s.stems] for s in made], pa.map_(pa.string(), pa.int64())))
                for name in ("offsets", "sizes")
            ),
            ("sha256", pa.array([[] for _ in made], pa.map_(pa.string(), pa.string()))),
        ]
        for name, column in places:
            table = table.append_column(name, column)
        self._arguments = (frames, components, widths, latents_per_frame)  # type: ignore[assignment]
        self.latents_per_frame = latents_per_frame
        self.ranges, self.verify, self.summary, self.derived = Ranges("synthetic"), False, {}, None
        self.segments = Segments(table, np.arange(len(made)))
        self.frames = self.segments.column("frames")
        self.widths = widths
        self.noise = (0.1 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)).astype(np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return (SyntheticStore, self._arguments)

    def _sound(self, index: int, stem: str, start: int, frames: int, channels: int | None) -> np.ndarray:
        return np.resize(self.noise, (frames * FRAME_SAMPLES, channels or 2))

    def has(self, index: int, track: str, name: str, made_by: str | None = None) -> bool:
        return name in self.widths

    def rows_per_frame(self, index: int, track: str, name: str) -> int:
        return self.latents_per_frame if name == "latents" else possible_rows(name)[-1]

    def rows(self, index: int, track: str, name: str, start: int = 0, count: int | None = None) -> np.ndarray:
        count = int(self.frames[index]) * self.rows_per_frame(index, track, name) - start if count is None else count
        if name == "codes":
            return np.arange(start, start + count, dtype=np.int32) % CODES
        return np.resize(self.noise.astype(np.float16), (count, self.widths[name]) if self.widths[name] else (count,))


def segments(frames: int, components: list[Component]) -> Iterator[Segment]:
    """Train and validation segments for every kind and component, all full of words."""
    every = [Component(kinds=(kind,)) for kind in KINDS] + components
    seconds = frames * FRAME_SAMPLES / SAMPLE_RATE
    starts = np.arange(0, seconds - SECONDS_A_WORD, SECONDS_A_WORD).tolist()
    words = tuple(("word", start, start + SECONDS_A_WORD) for start in starts)
    for number, component in enumerate(every):
        kind = component.kinds[0] if component.kinds else kind_of(component.types)
        types = component.types or TYPES[kind]
        corpus = component.corpora[0] if component.corpora else "synthetic"
        stems = tuple(sorted({*STEMS[kind], *component.needs} - {"mix"})) or ("mix",)
        for i in range(2 * EACH):
            name = f"{corpus}/{number}.{i}"
            yield Segment(
                key=segment_key(name, 0), recording=name, corpus=corpus, kind=kind,
                split="train" if i < EACH else "validation", identity=name, start_frame=0, frames=frames,
                activity="lyrics", types=types, stems=stems, gain_db=0.0, loudness=-18.0,
                text=" ".join(text for text, _, _ in words), words=words,
            )  # fmt: skip


def kind_of(types: tuple[SampleType, ...]) -> Kind:
    """A kind that gives samples of one of these types."""
    return next((kind for kind in KINDS if not types or {*types} & {*TYPES[kind]}), "song")


def components_of(config: BaseModel) -> list[Component]:
    """Every component of a mixture that a config names, however deep."""
    components: list[Component] = []
    for _, value in config:
        for part in value.values() if isinstance(value, dict) else (value,):
            if isinstance(part, Component):
                components.append(Component(**part.model_dump(include=set(Component.model_fields))))
            elif isinstance(part, BaseModel):
                components += components_of(part)
    return components


def _crops(config: Any, masks: bool = False) -> tuple[Any, SyntheticStore]:
    """A config that needs no vocabulary from the net, and its store."""
    config = config.model_copy(update={"crops": config.crops.model_copy(update={"vocabulary": "characters"})})
    widths = {"mel": config.model.n_mels, "chroma": config.model.chroma}
    if masks:
        widths["masks"] = len(config.model.stems) * config.model.mask_bins
    return config, SyntheticStore(config.crops.frames, components_of(config), widths)


def _audio(config: Any) -> SyntheticStore:
    seconds = max(1.3 * config.crop_seconds, config.held_out_seconds)
    return SyntheticStore(int(seconds * SAMPLE_RATE / FRAME_SAMPLES) + 2, components_of(config), {})


def _separator(config: Any) -> Stage:
    from duotok.training.stages.separator import SeparatorStage

    return SeparatorStage(config, _audio(config))


def _autoencoder(config: Any) -> Stage:
    from duotok.training.stages.autoencoder import AutoencoderStage

    return AutoencoderStage(config, _audio(config))


def _adversarial(config: Any) -> Stage:
    from duotok.training.stages.autoencoder import AutoencoderStage

    return AutoencoderStage(config, _audio(config), "adversarial")


def _stage1(config: Any) -> Stage:
    from duotok.training.stages.stage1 import Stage1

    return Stage1(*_crops(config))


def _stage2(config: Any) -> Stage:
    from duotok.training.stages.stage2 import Stage2

    return Stage2(*_crops(config, masks=bool(config.model.mask_head and config.mask_seconds)), None)


def _stage3(config: Any) -> Stage:
    from duotok.training.stages.stage3 import Stage3

    return Stage3(*_crops(config), None)


def _stage4(config: Any) -> Stage:
    from duotok.training.stages.stage4 import Stage4

    widths = {"latents": config.dit.latent_dim, "codes": 0, "levels": 0}
    store = SyntheticStore(config.crop_frames, components_of(config), widths, config.dit.latents_per_frame)
    return Stage4(config, store, torch.randn(CODES, config.dit.condition_dim))


SKETCHES: dict[str, Callable[[Any], Stage]] = {
    "separator": _separator,
    "autoencoder": _autoencoder,
    "stage1": _stage1,
    "stage2": _stage2,
    "stage3": _stage3,
    "stage4": _stage4,
    "adversarial": _adversarial,
}


def sketch(name: str, config: StageConfig) -> Stage:
    """A stage with new weights on noise: all it does is take the time and memory of the true one. Crops are full length.

    Raises ConfigError for a stage that begins with the work of earlier ones.
    """
    if name not in SKETCHES:
        raise ConfigError(f"{name}: starts from what earlier runs render, so it cannot be counted without them")
    return SKETCHES[name](config)

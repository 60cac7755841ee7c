"""What stages 1 to 3 have in common: crops of segments, drawn from an exact mixture."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import Field, model_validator
from torch import Tensor

from duotok.audio.features import CHROMA_BINS, MEL_BINS
from duotok.clock import FRAME_RATE
from duotok.distributed import rank
from duotok.errors import ConfigError
from duotok.model.config import TokenizerConfig
from duotok.model.losses import ctc_items
from duotok.records import Split
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.training.batches.crop_batches import CropBatches, CropConfig
from duotok.training.batches.resident import Resident
from duotok.training.stage import Batch, Stage, StageConfig, to_device

log = logging.getLogger(__name__)

ENCODER = ("downsampling", "lower_blocks", "upper_blocks", "upper_norm")
"""The parts of the tokenizer that stage 1 trains; stages 2 and 3 start from them."""
BOTTLENECK = ("projection_in", "projection_out")
ADAPTED = (*ENCODER, *BOTTLENECK, "output")
"""The parts that stage 2 trains; in stage 3 the quantizers are new."""
MASK_HEAD = ("output.mask_upsampling.", "output.masks.")
"""A part of stage 2 that only training needs: a bundle has none."""
BRANCHES = ("branches", "router")
"""The parts that stage 3 adds."""
ENCODER_SETTINGS = (
    "n_mels", "downsampling", "conv_channels", "width", "heads", "lower_blocks", "upper_blocks", "ffn", "activation", "rope_base",
)  # fmt: skip
"""Keys of `model` that define these parts. Another value changes the meaning of weights, even where the sizes fit."""
BOTTLENECK_SETTINGS = (
    *ENCODER_SETTINGS,
    "code_dim",
    "bottleneck_norm",
    "head_blocks",
    "head_hidden",
    "chroma",
    "vocabulary",
)
"""The same, with the bottleneck and the heads that stage 2 adds."""
QUANTIZER_SETTINGS = (*BOTTLENECK_SETTINGS, "codebook_size", "quantizer", "map_bias", "shared_codebook", "routing")
"""The same, with the quantizers of stage 3."""


class CropStageConfig(StageConfig):
    """The data settings of stages 1 to 3."""

    model: TokenizerConfig = TokenizerConfig()
    crops: CropConfig = CropConfig()
    mixture: dict[str, Component]
    store_features: bool = Field(
        default=True, description="keep mel and chroma beside the shards; false: the loader's workers compute them anew"
    )
    resident: bool = Field(
        default=False,
        description="keep the training features on the device and cut crops there: 0.1 GB an hour and track, for a GPU "
        "that trains faster than workers can copy",
    )

    @model_validator(mode="after")
    def _hears_the_front_end(self) -> CropStageConfig:
        for name, found, given in (("n_mels", self.model.n_mels, MEL_BINS), ("chroma", self.model.chroma, CHROMA_BINS)):
            if found != given:
                raise ValueError(f"model.{name} {found} must be {given}, as many as the front end gives; leave it out")
        return self

    def drawn_as_mixes(self, store: ShardStore) -> list[int]:
        """Segments that the mixture may draw as mixes, of both splits, whether a teacher has made their masks or not yet."""
        found: set[int] = set()
        for name, component in self.mixture.items():
            if component.weight and (not component.types or "mix" in component.types):
                any_masks = component.model_copy(update={"masks": False, "optional": True, "types": ("mix",)})
                for split in ("train", "validation"):
                    found.update(any_masks.find(store, split, name).tolist())
        return sorted(found)

    def batches(
        self, store: ShardStore, split: Split, masks: bool = False, masks_made_by: str | None = None
    ) -> CropBatches:
        """Crops of a split, with teacher masks if `masks` is set (only those that were made by `masks_made_by`, None: any).

        Held-out splits may lack components of the mixture.
        """
        mixture = self.mixture
        if split != "train":
            mixture = {name: part.model_copy(update={"optional": True}) for name, part in mixture.items()}
        bins = self.model.mask_bins if masks and self.model.mask_head else 0
        config = self.crops.model_copy(update={"mask_bins": bins})
        if split != "train":
            config = config.model_copy(update={"pseudo_mix": config.pseudo_mix.model_copy(update={"share": 0.0})})
        crops = CropBatches(
            store, split, mixture, seed=self.seed, batch_size=self.batch_size, config=config,
            masks_made_by=masks_made_by,
        )  # fmt: skip
        if self.resident and split == "train":
            crops.resident = Resident(store, crops.cut_from(), crops.made_by, bins, masks_made_by)
        return crops


class CropStage(Stage):
    """A stage that learns from crops: `train_crops`, judged by `held_out_crops`."""

    train_crops: CropBatches
    held_out_crops: CropBatches
    of_frames: tuple[str, ...] = ()
    """Losses besides those of heads that are means over frames."""

    def check_words(self, config: CropStageConfig) -> None:
        """Raises ConfigError where the text head has too few classes: CTC reads what lies behind them in memory, or the blank. Warns of
        words that no crop can have, because it is shorter than their segment and nobody knows when each is sung."""
        size, classes, frames = self.train_crops.vocabulary.size, config.model.vocabulary, config.crops.frames
        segments = self.train_crops.store.segments
        if not config.model.text_head or not (worded := segments.filled("text")).any():
            return
        if size > classes:
            raise ConfigError(
                f"model.vocabulary {classes}: crops.vocabulary {config.crops.vocabulary} has {size} classes; --set model.vocabulary={size}"
            )
        unheard = int((worded & (segments.column("frames") > frames) & ~segments.filled("words")).sum())
        if unheard and not rank():
            longest = frames / FRAME_RATE
            log.warning(
                "words of %d of %d segments teach nothing: they have no times within the segment, and a crop of %g s is shorter than it; "
                "cut anew with duotok data prepare --segment min_seconds=%g --segment max_seconds=%g, or --set crops.frames=%d",
                unheard, int(worded.sum()), longest, min(5.0, longest / 2), longest, int(segments.column("frames")[worded].max()),
            )  # fmt: skip

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        return self.train_crops.batch(step, items)

    def filled(self, batch: Batch) -> Batch:
        """The batch on the device, with its features."""
        return self.train_crops.filled(batch, self.device)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Of the heads' losses, and of those `of_frames`: frames, and items with words that fit."""
        if self.train_crops.config.mask_bins and "masks_items" not in batch:
            batch = self.filled(to_device(batch, self.device))
        frames = batch["lengths"]
        words = ctc_items(batch["text"], batch["text_lengths"], frames).sum()
        counts = {**dict.fromkeys(("mel", "chroma", *self.of_frames), frames.sum()), "text": words}
        if "masks_items" in batch:
            counts["masks"] = (frames * batch["masks_items"]).sum()
        return counts

    def drawn(self, step: int) -> Batch:
        """A whole batch of training crops on the device, to initialise a stage; steps below 0 are reserved for this."""
        return self.filled(to_device(self.train_crops.batch(step, range(self.config.batch_size)), self.device))

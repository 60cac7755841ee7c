"""The features of a whole split on one device, from which crops are cut there.

Ten hours are 1 GB of mel and chroma in half precision. On a GPU that holds them a batch is a few numbers for each item:
no worker copies arrays, and thousands of crops a second cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from duotok.clock import MEL_PER_FRAME
from duotok.errors import ConfigError
from duotok.shards.store import ShardStore
from duotok.tracks import STEMS
from duotok.training.batches.crop_batches import FLOOR, MEL_A_DB, Batch, CropPlan, mix_mels

NOWHERE = -1


class Resident:
    """Mel and chroma of `cut_from` (segment, track), and the masks of their mixes, read when the first crop is cut.

    made_by: identifies the stored features; bins: of a stem's mask, 0 for no masks; masks_made_by: identifies the masks,
    None for any. Raises ConfigError for features that are not stored.
    """

    def __init__(
        self, store: ShardStore, cut_from: Sequence[tuple[int, str]], made_by: str, bins: int,
        masks_made_by: str | None = None,
    ) -> None:  # fmt: skip
        self.store, self.bins = store, bins
        for index, track in cut_from:
            if not all(store.has(index, track, name, made_by) for name in ("mel", "chroma")):
                raise ConfigError(
                    f"resident: {store.segments[index].segment.key} has no stored mel and chroma of {track}; "
                    "leave store_features on, or --set resident=false"
                )
        self.places_of, self.rows = self._layout(cut_from)
        masked = [
            (index, track)
            for index, track in cut_from
            if bins and track == "mix" and store.has(index, track, "masks", masks_made_by)
        ]
        self.masks_of, self.mask_rows = self._layout(masked)
        self.arrays: dict[str, Tensor] = {}

    def _layout(self, parts: Sequence[tuple[int, str]]) -> tuple[dict[tuple[int, str], int], int]:
        """The first row of each part in one array of all parts, and the number of its rows."""
        sizes = [MEL_PER_FRAME * int(self.store.frames[index]) for index, _ in parts]
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        return {part: end - size for part, end, size in zip(parts, ends, sizes, strict=True)}, sum(sizes)

    def places(self, plans: Sequence[CropPlan]) -> Batch:
        """The places of crops, as `cut` needs them.

        first `[items, 2]`: row where each part begins (-1: there is no second), louder `[items, 2]`: added to its
        normalised log-mel, chroma_part `[items]`: whose chroma it is, mask_first `[items]` (-1: no mask), rows: of the
        longest.
        """
        first = [
            [self.places_of[part.index, part.track] + MEL_PER_FRAME * part.start for part in plan.parts]
            for plan in plans
        ]
        louder = [[part.gain_db * MEL_A_DB for part in plan.parts] for plan in plans]
        masks = [
            self.masks_of[first_part.index, "mix"] + MEL_PER_FRAME * first_part.start
            if plan.type == "mix" and len(plan.parts) == 1 and (first_part.index, "mix") in self.masks_of
            else NOWHERE
            for plan in plans
            for first_part in plan.parts[:1]
        ]
        return {
            "first": torch.tensor([([*row, NOWHERE])[:2] for row in first]),
            "louder": torch.tensor([([*row, 0.0])[:2] for row in louder], dtype=torch.float32),
            "chroma_part": torch.tensor([plan.chroma for plan in plans]),
            "mask_first": torch.tensor(masks),
            "rows": MEL_PER_FRAME * max(plan.count for plan in plans),
        }

    def cut(self, batch: Batch, device: torch.device) -> Batch:
        """mel, chroma, masks and masks_items of a batch of `places`, exactly as CropBatches.batch makes them."""
        if not self.arrays:
            self.arrays = self._read(device)
        steps = torch.arange(batch["rows"], device=device)
        inside = (steps < MEL_PER_FRAME * batch["lengths"][:, None])[..., None]

        def rows(name: str, first: Tensor) -> Tensor:
            array = self.arrays[name]
            return array[(first[:, None] + steps).clamp(0, len(array) - 1)].float()

        mels = [
            (rows("mel", batch["first"][:, part]) + batch["louder"][:, part, None, None]).clamp_min(FLOOR)
            for part in range(2)
        ]
        mixed = (batch["first"][:, 1] != NOWHERE)[:, None, None]
        chosen = batch["first"].gather(1, batch["chroma_part"][:, None])[:, 0]
        features = {
            "mel": torch.where(mixed, mix_mels(*mels), mels[0]) * inside,
            "chroma": rows("chroma", chosen) * inside,
        }
        if self.bins:
            has_masks = batch["mask_first"] != NOWHERE
            shape = (*inside.shape[:2], len(STEMS), self.bins)
            masks = rows("masks", batch["mask_first"]) * (inside & has_masks[:, None, None]) if self.mask_rows else None
            features["masks"] = torch.zeros(shape, device=device) if masks is None else masks.view(shape)
            features["masks_items"] = has_masks
        return features

    def _read(self, device: torch.device) -> dict[str, Tensor]:
        """All arrays, float16, on the device. Raises ConfigError where they do not fit."""
        try:
            arrays = {name: self._array(name, self.places_of, self.rows, device) for name in ("mel", "chroma")}
            if self.mask_rows:
                arrays["masks"] = self._array("masks", self.masks_of, self.mask_rows, device)
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"resident: {self.rows:,} rows of features do not fit on {device}; --set resident=false"
            ) from None
        return arrays

    def _array(self, name: str, places: dict[tuple[int, str], int], rows: int, device: torch.device) -> Tensor:
        array: Tensor | None = None
        for (index, track), first in places.items():
            part = torch.from_numpy(np.array(self.store.rows(index, track, name)))
            if array is None:
                array = torch.empty(rows, part.shape[1], dtype=torch.float16, device=device)
            array[first : first + len(part)] = part.to(device, torch.float16)
        assert array is not None
        return array
